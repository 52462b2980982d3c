"""The production host: py-libp2p with Noise, yamux, TCP and gossipsub, mended by :mod:`transport.host.hardening`."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError as NotInPeerStore
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from transport.host import hardening
from transport.host.addresses import (
    best_first,
    dialable,
    expand_all,
    explain,
    lacks_family,
    parse_addr,
    split_peer,
)
from transport.host.background import background
from transport.host.bootstrap import keep_connected
from transport.host.connections import ConnectionLimits
from transport.host.dialler import Dialler
from transport.host.events import EventFeed
from transport.host.gossip import Gossip
from transport.host.interface import (
    DialError,
    EventKind,
    GossipMessage,
    GossipValidator,
    HostError,
    HostEvent,
    HostStream,
    PeerInfo,
    Reachability,
    StreamError,
    StreamHandler,
)
from transport.host.limits import (
    BOOTSTRAP_ENOUGH,
    CLOSE_S,
    DIALLER_ENOUGH,
    NEGOTIATE_S,
    REJOIN_PEERS,
    REJOIN_TRIES,
    RELAY_EXPLORE_PEERS,
)
from transport.host.manager import ConnectionManager
from transport.host.observed import push_identify
from transport.host.peerbook import PeerBook
from transport.host.peerstore import PeerStoreError, opened
from transport.host.rejoin import keep_company, keep_saving
from transport.host.relay import RelayClient, RelayLimits, RelayService
from transport.host.relay.messages import HOP, STOP
from transport.host.streams import Libp2pStream
from transport.host.swarm import ConnectionNotifee, addr_of, is_relayed, new_swarm, peer_of
from transport.host.tcp import AddressError, TcpTransport, host_and_port
from transport.host.traversal import HostParts, NatOptions, Traversal
from transport.identity import Identity, PeerId


class Libp2pHost:
    """A :class:`transport.host.interface.Host` on real sockets. Make one with :meth:`open`."""

    def __init__(
        self,
        identity: Identity,
        nursery: trio.Nursery,
        psk: bytes | None,
        announce: Sequence[str],
        rng: random.Random,
        limits: ConnectionLimits,
        clock: Callable[[], float],
        relay: RelayLimits | None,
        nat: NatOptions,
    ) -> None:
        hardening.quiet_libp2p()
        hardening.mend_flow_control()
        hardening.bound_identify()
        hardening.widen_gossip_queues()
        hardening.skip_sender_records()
        keys = hardening.libp2p_keys(identity.seed)
        self._peer_id = identity.peer_id
        self._nursery = nursery
        self._rng = rng
        self._announce = [str(parse_addr(addr)) for addr in announce]
        self._listening: list[Multiaddr] = []
        self._transport = TcpTransport(nursery, psk)
        self._swarm = new_swarm(keys, self._transport, limits.total)
        self._clock = clock
        self._book = PeerBook()
        self._budget = hardening.HalfOpenBudget()
        self._handshakes = hardening.HandshakeRates()
        self._accept = hardening.accept_inbound(self._swarm, self._budget, self._handshakes, self._came)
        self._relays = RelayClient(self._open_at_relay, self._accept, nursery.start_soon, psk, clock)
        self._dialler = Dialler(self._swarm, self._peer_id, self._book, self._relays.dial, nursery.start_soon, clock)
        self._feed = EventFeed()
        self._always_relays = relay is not None
        limits_for_others = relay or nat.relay
        self._relay = None if limits_for_others is None else RelayService(
            limits_for_others, lambda: self.addrs, self._dialler.direct_origin, self._open_on_it, clock
        )  # fmt: skip
        self._nat = Traversal(self._parts(), nat, None if self._always_relays else self._relay)
        self._host = BasicHost(
            self._swarm, disable_identify_address_discovery=True, addrs_factory=lambda _: self._advertised()
        )
        hardening.guard_streams(self._swarm)  # after BasicHost, which sets the handler that this one guards
        hardening.identify_in(self._host, nursery, self._on_identified)
        self._gossip = Gossip(self._host, self._offend, clock())
        self._manager = ConnectionManager(limits, self._gossip.mesh, nursery.start_soon)
        self._swarm.register_notifee(ConnectionNotifee(self._on_connected, self._on_disconnected))
        self._up: dict[PeerId, str] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        identity: Identity,
        listen: Sequence[str] = (),
        *,
        bootstrap: Sequence[str] = (),
        psk: bytes | None = None,
        announce: Sequence[str] = (),
        peerstore: Path | None = None,
        limits: ConnectionLimits | None = None,
        relay: RelayLimits | None = None,
        relays: Sequence[str] = (),
        nat: NatOptions | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[Libp2pHost]:
        """Run a host for the length of the block.

        ``listen`` and ``announce`` are multiaddrs such as ``/ip4/0.0.0.0/tcp/4001`` or ``/ip6/::/tcp/4001`` (port 0:
        any free one; a wildcard of a family that the machine lacks is skipped if it is not the only one); announced
        addresses replace the listened ones in :attr:`addrs`. ``bootstrap`` are multiaddrs that end in ``/p2p/ID``, each
        kept connected with exponential back-off and reported in :meth:`events`; an unreachable one is no error. ``psk``
        is a private network's 32-byte key. ``peerstore`` is the file in which the host remembers where it reached its
        peers: with it, a host that has few peers dials those it remembers and needs no bootstrap peer. One file a
        network and process. With ``relay`` the host relays for others, within those limits; on each of ``relays``
        (addresses as of bootstrap peers) it keeps a place for itself and advertises it. ``nat`` is what it does by
        itself to be reached. ``clock`` gives Unix seconds. Raises :class:`HostError` for a malformed or busy address
        and a peer store that can be neither read nor replaced.
        """
        targets = [(peer, addr) for addr in bootstrap for peer in (split_peer(addr)[0],) if peer != identity.peer_id]
        rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        async with opened(peerstore) as store, background() as nursery:
            options = nat or NatOptions()
            host = cls(identity, nursery, psk, announce, rng, limits or ConnectionLimits(), clock, relay, options)
            if store is not None:
                store.load(host._book, clock())
            await host._start(listen)
            for peer, addr in targets:
                host._manager.protect(peer, "bootstrap")
                nursery.start_soon(host._keep_bootstrap, peer, addr)
            host._start_relaying([split_peer(addr) for addr in relays])
            host._nat.start()
            if store is not None:
                nursery.start_soon(keep_saving, host._book, store)
                nursery.start_soon(keep_company, host._lonely, host._acquaintances, host._try, rng)
            try:
                yield host
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(2 * CLOSE_S):
                    await host._stop()
                if store is not None:
                    with suppress(PeerStoreError):  # a full disk costs the last news only
                        store.save(host._book.take_changes())

    async def _start(self, listen: Sequence[str]) -> None:
        manager = hardening.ContainedManager(self._swarm)
        self._swarm._manager = manager
        self._nursery.start_soon(manager.run)
        await self._swarm.event_background_nursery_created.wait()
        await self._gossip.start(self._nursery)
        for text in listen:
            listener = self._transport.create_listener(self._accept)
            addr = parse_addr(text)
            try:
                await listener.listen(addr)
            except (OSError, AddressError) as error:
                if lacks_family(addr, error) and len(listen) > 1:
                    hardening.log.info("not listening on %s: this machine has no such addresses", text)
                    continue
                raise HostError(f"cannot listen on {text}: {explain(error)}. Choose another address or port") from error
            self._swarm.listeners[text] = listener
            self._listening += listener.get_addrs()
        for addr in self.addrs:
            self._feed.tell(HostEvent(EventKind.LISTENING, None, addr))

    def _parts(self) -> HostParts:
        async def explore() -> None:
            async with trio.open_nursery() as nursery:
                for peer in self._acquaintances()[:RELAY_EXPLORE_PEERS]:
                    nursery.start_soon(self._try, peer)

        return HostParts(
            self._peer_id, self._swarm, self._transport, self._dialler, self._relays, self._rng,
            self._nursery.start_soon, self._feed.tell, self._open_on, self._serve_or_not,
            lambda: expand_all(self._listening), self._ports, lambda: self.addrs, explore, self._keep,
            lambda connection: push_identify(self._host, self._open_on, connection), self._accept, self._book.addrs,
        )  # fmt: skip

    def _keep(self, peer: PeerId, kept: bool) -> None:
        (self._manager.protect if kept else self._manager.unprotect)(peer, "relay")

    def _ports(self, family: str) -> list[int]:
        """The ports at which others may find us from outside: those listened on, and those announced for a router."""
        reached = [addr for addr in self._listening if str(addr).startswith(f"/{family}/")]
        announced = [Multiaddr(addr) for addr in self._announce if "/p2p-circuit" not in addr] if reached else []
        return list(dict.fromkeys(host_and_port(addr)[1] for addr in [*announced, *reached]))

    def _came(self, address: str | None) -> None:
        self._nat.knocked(address)

    def _start_relaying(self, relays: Sequence[tuple[PeerId, Multiaddr]]) -> None:
        if self._always_relays and self._relay is not None:
            self._serve(HOP, self._relay.serve)
        if relays:
            self._serve_or_not(STOP, self._relays.serve_stop)
        for peer, addr in relays:
            self._manager.protect(peer, "relay")
            self._nursery.start_soon(
                self._relays.keep_reserved, peer, addr, self._rng, self._nat.noticed,
                partial(self._tell_unreachable, peer, str(addr)),
            )  # fmt: skip

    def _tell_unreachable(self, peer: PeerId, addr: str, reason: str) -> None:
        self._feed.tell(HostEvent(EventKind.UNREACHABLE, peer, addr, reason))

    async def _stop(self) -> None:
        self._swarm._closing = True
        self._gossip.stop()
        for listener in self._swarm.listeners.values():
            await listener.close()
        async with trio.open_nursery() as nursery:
            for connection in self._connections():
                nursery.start_soon(hardening.say_goodbye, connection)

    # --- who and where ----------------------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._peer_id

    @property
    def addrs(self) -> Sequence[str]:
        """The announced multiaddrs, else those listened on with wildcards expanded to our interfaces' addresses (four
        at most)."""
        return [f"{addr}/p2p/{self._peer_id}" for addr in self._advertised()]

    def _advertised(self) -> list[Multiaddr]:
        if self._announce:
            return [*map(Multiaddr, self._announce), *self._relays.addrs()]
        return best_first(self._nat.amended(expand_all(self._listening)), self._relays.addrs())

    @property
    def reachability(self) -> Reachability:
        """Whether others can dial us, and who relays for us."""
        report = self._nat.report()
        return replace(report, relaying=report.relaying or self._always_relays)

    def peers(self) -> Sequence[PeerInfo]:
        """Who is connected now, one entry a peer."""
        found: dict[PeerId, PeerInfo] = {}
        for connection in sorted(self._connections(), key=is_relayed):  # direct ones first
            peer = peer_of(connection)
            inbound = connection.direction == Direction.INBOUND
            found.setdefault(peer, PeerInfo(peer, addr_of(connection), inbound, is_relayed(connection)))
        return list(found.values())

    def _connections(self) -> list[Any]:
        return [c for conns in list(self._swarm.connections.values()) for c in conns if not c.is_closed]

    def _connection(self, peer: PeerId) -> Any | None:
        return self._dialler.connection(peer)

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def connect(self, addr: str) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``; at once if connected. Raises :class:`DialError`."""
        peer, plain = split_peer(addr)
        await self._dialler.ensure(peer, [plain])
        return peer

    async def _keep_bootstrap(self, peer: PeerId, addr: str) -> None:
        await keep_connected(
            partial(self.connect, addr),
            lambda: self._connection(peer) is not None or len(self._up) >= self._enough(BOOTSTRAP_ENOUGH),
            partial(self._tell_unreachable, peer, addr),
            self._rng,
        )

    def _enough(self, peers: int) -> int:
        """With how many peers nobody else has to be dialled: ``peers``, or fewer if nobody can dial us."""
        return peers if self.addrs else DIALLER_ENOUGH

    def _lonely(self) -> bool:
        return len(self._up) < self._enough(REJOIN_PEERS)

    def _acquaintances(self) -> list[PeerId]:
        known = self._book.candidates(self._clock())
        return [peer for peer in known if peer not in self._up and peer != self._peer_id][:REJOIN_TRIES]

    async def _try(self, peer: PeerId) -> None:
        with suppress(DialError):
            await self._dialler.ensure(peer, ())

    def protect(self, peer: PeerId, tag: str) -> bool:
        """Keep the connections of ``peer`` when the host is full, until :meth:`unprotect` was called for each tag it
        has. False, and nothing done, when 96 peers or half of all connections are protected already."""
        return self._manager.protect(peer, tag)

    def unprotect(self, peer: PeerId, tag: str) -> None:
        """Take back what :meth:`protect` gave. Idempotent."""
        self._manager.unprotect(peer, tag)

    # --- streams ----------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> HostStream:
        """Open a stream for ``protocol``, dialling ``addrs`` and what is known of the peer if not connected. On a
        connection that stands it takes no round trip; see :class:`transport.host.interface.Host`."""
        hints = [Multiaddr(addr) for addr in dialable(addrs)]  # they come from other people's records
        return await self._open_on(await self._dialler.ensure(peer, hints), peer, protocol)

    async def _open_at_relay(self, relay: PeerId, protocol: str, addrs: list[str]) -> Libp2pStream:
        """A stream to a relay, over a direct connection: circuits are not stacked."""
        connection = await self._dialler.ensure(relay, [Multiaddr(addr) for addr in addrs])
        self._nat.uses_relay(relay, addrs)
        if is_relayed(connection):
            raise StreamError(f"{relay} is itself reached through a relay")
        return await self._open_on(connection, relay, protocol)

    async def _open_on_it(self, peer: PeerId, protocol: str) -> Libp2pStream:
        if (connection := self._dialler.direct(peer)) is None:
            raise StreamError(f"{peer} is not connected")
        return await self._open_on(connection, peer, protocol)

    async def _open_on(self, connection: Any, peer: PeerId, protocol: str) -> Libp2pStream:
        try:
            raw = await hardening.open_muxed_stream(connection)
        except Exception as error:
            raise StreamError(f"cannot open a stream to {peer}: {explain(error)}") from error
        self._manager.used(connection)
        stream = Libp2pStream(raw, peer, self._nursery.start_soon, partial(self._ended, raw))
        try:
            with trio.fail_after(NEGOTIATE_S):
                await stream.propose(protocol)
        except trio.TooSlowError:
            await stream.reset()
            raise StreamError(f"the connection to {peer} took no byte for {NEGOTIATE_S:.0f} s") from None
        except BaseException:
            await stream.reset()
            raise
        return stream

    def _ended(self, raw: Any) -> None:
        hardening.forget(raw.muxed_stream)
        raw.swarm_conn.remove_stream(raw)
        self._manager.used(raw.swarm_conn)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol``; at most one handler each."""
        self._serve(protocol, handler)

    def _serve_or_not(self, protocol: str, handler: Callable[[Libp2pStream], Awaitable[None]] | None) -> None:
        """Serve ``protocol`` with this handler from now on, or no more."""
        self._host.remove_stream_handler(protocol)
        if handler is not None:
            self._serve(protocol, handler)

    def _serve(self, protocol: str, handler: Callable[[Libp2pStream], Awaitable[None]]) -> None:
        if protocol in self._host.get_mux().handlers:
            raise ValueError(f"{protocol} has a handler already")

        async def serve(raw: Any) -> None:
            self._manager.used(raw.swarm_conn)
            peer = PeerId(str(raw.muxed_conn.peer_id))
            stream = Libp2pStream(raw, peer, self._nursery.start_soon, partial(self._ended, raw))
            try:
                await handler(stream)
            except StreamError:
                await stream.reset()
            except BaseException:
                await stream.reset()
                raise
            await stream.aclose()

        self._host.set_stream_handler(protocol, serve)

    # --- gossip -----------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip ``data``, signed by our identity. Delivery is best effort."""
        await self._gossip.publish(topic, data)

    def subscribe(
        self, topic: str, validator: GossipValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[GossipMessage]]:
        """Join ``topic`` for the length of the block."""
        return self._gossip.subscribe(topic, validator)

    # --- events and offenders ---------------------------------------------------------------------------------------

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[HostEvent]]:
        """Follow events, beginning with the addresses listened on and the peers connected already."""
        listening = [HostEvent(EventKind.LISTENING, None, addr) for addr in self.addrs]
        return self._feed.follow([*listening, *(HostEvent(EventKind.CONNECTED, p, a) for p, a in self._up.items())])

    async def drop(self, peer: PeerId, reason: str) -> None:
        """Disconnect a peer that broke a protocol and refuse it for :data:`DROPPED_PEER_S`."""
        self._dialler.refuse(peer)
        self._feed.tell(HostEvent(EventKind.DROPPED, peer, self._up.get(peer, ""), reason))
        self._nursery.start_soon(self._disconnect, peer)
        await trio.lowlevel.checkpoint()

    def _offend(self, peer: PeerId, reason: str) -> None:
        self._nursery.start_soon(self.drop, peer, reason)

    async def _disconnect(self, peer: PeerId) -> None:
        async with trio.open_nursery() as nursery:
            for connection in list(self._swarm.connections.get(ID.from_string(peer), ())):
                nursery.start_soon(hardening.close_connection, connection)

    def _on_connected(self, connection: Any) -> None:
        peer = peer_of(connection)
        if self._dialler.refuses(peer):
            self._nursery.start_soon(hardening.close_connection, connection)
            return
        if not self._manager.opened(connection):
            return
        self._host._schedule_identify(connection.muxed_conn.peer_id, reason="connected")
        if not is_relayed(connection):
            self._nat.connected(peer)
        if peer not in self._up:
            self._up[peer] = addr_of(connection)
            self._feed.tell(HostEvent(EventKind.CONNECTED, peer, self._up[peer]))
        elif "/p2p-circuit" in self._up[peer] and not is_relayed(connection):
            self._up[peer] = addr_of(connection)
            self._feed.tell(HostEvent(EventKind.UPGRADED, peer, self._up[peer]))

    def _on_identified(self, peer: ID) -> None:
        with suppress(NotInPeerStore):
            claims = dialable(str(addr) for addr in self._swarm.peerstore.addrs(peer))
            self._book.claimed(PeerId(str(peer)), claims, self._clock())
            self._nat.identified(PeerId(str(peer)))

    def _on_disconnected(self, connection: Any) -> None:
        peer = peer_of(connection)
        self._manager.closed(connection)
        if self._connection(peer) is not None:
            self._gossip.connection_lost(connection)
            return
        with suppress(NotInPeerStore):  # upstream's own store keeps something of everybody who ever came
            self._swarm.peerstore.clear_peerdata(connection.muxed_conn.peer_id)
        if peer in self._up:
            self._gossip.forget(peer)
            if peer in self._relays.relays():
                self._relays.forget(peer)
                self._nat.noticed()
            if self._relay is not None:
                self._relay.forget(peer)
            self._host._identified_peers.pop(connection.muxed_conn.peer_id, None)
            self._feed.tell(HostEvent(EventKind.DISCONNECTED, peer, self._up.pop(peer)))
