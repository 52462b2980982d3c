"""Being reached although nobody can dial us: what a host finds out about itself, and what it does about it.

    AutoNAT ──▶ verdict ──▶ public:  tell the address at which others reached us; relay for others, if allowed
                        └─▶ private: withhold what nobody can dial; find relays
    a circuit comes in ──▶ dial its other end, or punch a hole (DCUtR)

Every part is off the path of ordinary connections: what fails here costs nothing but itself.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError as NotInPeerStore
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from transport.host.addresses import plain_ip
from transport.host.autonat import AUTONAT, AutonatClient, DialBackService, Seen, Server
from transport.host.dialler import Dialler
from transport.host.interface import EventKind, HostError, HostEvent, Reach, Reachability
from transport.host.limits import IDENTIFY_PUSH_AFTER_S
from transport.host.observed import observed_addr
from transport.host.origins import origin_of
from transport.host.punch import DCUTR, Puncher
from transport.host.relay import Candidate, RelayClient, RelayFinder, RelayLimits, RelayService
from transport.host.relay.messages import HOP, STOP
from transport.host.streams import Libp2pStream
from transport.host.swarm import addr_of, is_relayed, peer_of
from transport.host.tcp import TcpTransport
from transport.identity import PeerId


def of_the_internet(ip: str) -> bool:
    """Whether an IP address is one of the public internet."""
    try:
        return ip_address(ip).is_global
    except ValueError:
        return False


def of_any_network(ip: str) -> bool:
    """Whether an IP address leads out of this machine: the test for a network of its own, without internet."""
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


@dataclass(frozen=True)
class NatOptions:
    """What a host does to be reached. The default is everything but relaying for others."""

    probe: bool = True
    """Ask peers to dial back, and dial back for them."""
    find_relays: bool = True
    """Look for relays when nobody can dial us."""
    relay: RelayLimits | None = None
    """What we offer to others while we are public; None for nothing."""
    punch: bool = True
    """Turn circuits into direct connections where routers allow it."""
    assume: Reach = Reach.UNKNOWN
    """The verdict, for who knows it; unknown: find out."""
    outside: Callable[[str], bool] = of_the_internet
    """Whether an IP address is of the network from which we want to be reached."""


@dataclass(frozen=True)
class HostParts:
    """What :class:`Traversal` needs of its host. ``listening()`` are the addresses of our interfaces that are listened
    on; ``ports(family)`` those at which others may reach us. ``serve`` takes a handler, or None to serve no more.
    ``explore()`` connects to remembered peers; ``keep(peer, True)`` protects the connection to one of them from being
    trimmed. ``push(connection)`` sends our identify to one peer;
    ``accept(stream)`` authenticates a connection that came in; ``claims(peer)`` is where a peer says it listens."""

    peer_id: PeerId
    swarm: Any
    transport: TcpTransport
    dialler: Dialler
    relays: RelayClient
    rng: random.Random
    spawn: Callable[..., object]
    tell: Callable[[HostEvent], None]
    open_on: Callable[[Any, PeerId, str], Awaitable[Libp2pStream]]
    serve: Callable[[str, Callable[[Libp2pStream], Awaitable[None]] | None], None]
    listening: Callable[[], Sequence[Multiaddr]]
    ports: Callable[[str], Sequence[int]]
    addrs: Callable[[], Sequence[str]]
    explore: Callable[[], Awaitable[object]]
    keep: Callable[[PeerId, bool], None]
    push: Callable[[Any], Awaitable[None]]
    accept: Callable[[Any], Awaitable[None]]
    claims: Callable[[PeerId], Sequence[str]]


class Traversal:
    """Runs AutoNAT and the search for relays for one host; :meth:`start` it once the host listens."""

    def __init__(self, host: HostParts, options: NatOptions, service: RelayService | None) -> None:
        self._host = host
        self._options = options
        self._service = service
        self._relaying = self._pushing = False
        self._knocks = 0
        self._told: tuple[Reach, tuple[str, ...]] = (Reach.UNKNOWN, ())
        self._autonat = AutonatClient(
            host.peer_id, self._servers, self._open_at, host.ports, lambda: self._knocks,
            lambda: tuple(host.listening()), self.noticed, host.rng,
        )  # fmt: skip
        self._puncher = Puncher(
            host.swarm, host.transport, host.dialler, host.open_on, host.accept, host.spawn, host.claims,
            host.listening, options.outside,
        )  # fmt: skip
        self._finder = RelayFinder(
            host.relays, self._wants_relays, self._candidates, host.explore, host.keep, self.noticed, host.rng
        )

    def start(self) -> None:
        """Begin; a host that listens nowhere only answers others."""
        self._told = (Reach.UNKNOWN, tuple(self._host.addrs()))
        host, options = self._host, self._options
        if options.probe:
            host.serve(AUTONAT, DialBackService(options.outside, self._dial_back).serve)
        if options.punch:
            host.serve(DCUTR, self._puncher.serve)
        if not host.listening():
            return
        if options.probe and options.assume is Reach.UNKNOWN:
            host.spawn(self._autonat.run)
        if options.find_relays:
            host.serve(STOP, host.relays.serve_stop)
            host.spawn(self._finder.run)
        self.noticed()

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def verdict(self) -> Reach:
        """Whether strangers reach us, by either family of addresses."""
        if self._options.assume is not Reach.UNKNOWN:
            return self._options.assume
        families = {self._autonat.verdict("ip4"), self._autonat.verdict("ip6")}
        return next((reach for reach in (Reach.PUBLIC, Reach.PRIVATE) if reach in families), Reach.UNKNOWN)

    def report(self) -> Reachability:
        """How we are reached."""
        ip4, ip6 = self._autonat.verdict("ip4"), self._autonat.verdict("ip6")
        return Reachability(self.verdict, ip4, ip6, tuple(self._host.relays.relays()), self._relaying)

    def knocked(self, ip: str | None) -> None:
        """A connection is coming in from ``ip``."""
        self._knocks += ip is not None and self._options.outside(ip)

    def uses_relay(self, relay: PeerId, addrs: Sequence[str]) -> None:
        """A relay is asked to be one, for us or for a circuit of ours: holes will be punched with its help."""
        if self._options.punch and addrs and self.verdict is not Reach.PUBLIC:
            self._host.spawn(self._puncher.light, relay, Multiaddr(addrs[0]))

    def identified(self, peer: PeerId) -> None:
        """A peer has said who it is; if it came through a relay, it may be reached directly."""
        if self._options.punch:
            self._host.spawn(self._puncher.upgrade, peer)

    def connected(self, peer: PeerId) -> None:
        """A direct connection to ``peer`` stands."""
        self._puncher.connected(peer)

    def amended(self, own: Sequence[Multiaddr]) -> list[Multiaddr]:
        """Our interfaces' addresses as others should hear of them: those at which somebody reached us come first, and
        those of the internet at which nobody does are left out."""
        confirmed = self._autonat.confirmed()
        return list(dict.fromkeys([*confirmed, *(addr for addr in own if not self._is_shut(addr))]))

    def _is_shut(self, addr: Multiaddr) -> bool:
        ip = plain_ip(addr)
        if ip is None or not self._options.outside(ip):
            return False
        family = "ip6" if ":" in ip else "ip4"
        return Reach.PRIVATE in (self._options.assume, self._autonat.verdict(family))

    # --- AutoNAT ------------------------------------------------------------------------------------------------------

    def _direct(self) -> list[tuple[PeerId, Any, str]]:
        """Peers connected straight from or to the outside: the connection, and the other end's IP address."""
        found: dict[PeerId, tuple[Any, str]] = {}
        for connections in list(self._host.swarm.connections.values()):
            for connection in connections:
                if connection.is_closed or is_relayed(connection):
                    continue
                remote = connection.muxed_conn.get_remote_address()
                ip = str(remote[0]).partition("%")[0] if remote else ""
                if self._options.outside(ip):
                    found.setdefault(peer_of(connection), (connection, ip))
        return [(peer, connection, ip) for peer, (connection, ip) in found.items()]

    def _speaks(self, peer: PeerId, protocol: str) -> bool:
        with suppress(NotInPeerStore):
            return protocol in self._host.swarm.peerstore.get_protocols(ID.from_string(peer))
        return False

    def _servers(self) -> list[Server]:
        return [
            Server(peer, "ip6" if ":" in ip else "ip4", origin_of(ip).network, ip not in self._puncher.beacon_ips())
            for peer, _, ip in self._direct()
            if self._speaks(peer, AUTONAT)
        ]

    async def _open_at(self, server: Server) -> Seen | None:
        connection = self._host.dialler.direct(server.peer)
        if connection is None:
            return None
        observed = await observed_addr(self._host.open_on, connection)
        ip = None if observed is None else plain_ip(observed)
        if ip is None or not self._options.outside(ip) or (":" in ip) != (server.family == "ip6"):
            return None
        return Seen(ip, await self._host.open_on(connection, server.peer, AUTONAT))

    async def _dial_back(self, addr: Multiaddr, peer: PeerId) -> None:
        """A connection of its own, from a port of its own, closed once the peer has proved who it is."""
        raw = await self._host.transport.dial(addr)
        try:
            await self._host.swarm.upgrader.upgrade_security(raw, True, ID.from_string(peer))
        finally:
            raw.stream.abort()

    # --- relays -------------------------------------------------------------------------------------------------------

    def _wants_relays(self) -> bool | None:
        # Most peers have IPv4: who is open to IPv6 alone needs a relay as well.
        if Reach.PRIVATE in (self.verdict, self._autonat.verdict("ip4")):
            return True
        return False if self.verdict is Reach.PUBLIC else None

    def _candidates(self) -> list[Candidate]:
        return [
            Candidate(peer, Multiaddr(addr_of(connection).partition("/p2p/")[0]), origin_of(ip).network)
            for peer, connection, ip in self._direct()
            if connection.direction == Direction.OUTBOUND and self._speaks(peer, HOP)
        ]

    # --- what follows -------------------------------------------------------------------------------------------------

    def noticed(self) -> None:
        """The verdict, or where we are reached, is another than before."""
        self._offer(self._options.relay is not None and self.verdict is Reach.PUBLIC)
        verdict, addrs = self.verdict, tuple(self._host.addrs())
        before, self._told = self._told, (verdict, addrs)
        if verdict is not before[0]:
            self._host.tell(HostEvent(EventKind.REACHABILITY, None, "", verdict.value))
        for addr in addrs:
            if addr not in before[1]:
                self._host.tell(HostEvent(EventKind.LISTENING, None, addr))
        if (verdict, addrs) != before:
            self._push()

    def _offer(self, relaying: bool) -> None:
        if relaying != self._relaying and self._service is not None:
            self._relaying = relaying
            self._host.serve(HOP, self._service.serve if relaying else None)
            self._push()

    def _push(self) -> None:
        if not self._pushing:
            self._pushing = True
            self._host.spawn(self._push_soon)

    async def _push_soon(self) -> None:
        """Tell those who are connected what has changed (identify/push), once for all that changes at a time."""
        await trio.sleep(IDENTIFY_PUSH_AFTER_S)
        self._pushing = False
        for connection in [c for conns in list(self._host.swarm.connections.values()) for c in conns]:
            with suppress(HostError):
                await self._host.push(connection)


__all__ = ["HostParts", "NatOptions", "Traversal", "of_any_network", "of_the_internet"]
