"""The production host: py-libp2p with Noise, yamux, TCP and gossipsub, mended by :mod:`transport.host.hardening`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.rcmgr import Direction
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from transport.host import hardening
from transport.host.addresses import expand_wildcard, explain, parse_addr, split_peer
from transport.host.background import background
from transport.host.bootstrap import keep_connected
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
    StreamError,
    StreamHandler,
)
from transport.host.limits import (
    CLOSE_S,
    DIAL_S,
    DROPPED_PEER_S,
    EVENT_QUEUE,
    MAX_ADVERTISED_ADDRS,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_PEER,
    MAX_DIAL_ADDRS,
    MAX_DROPPED_PEERS,
    NEGOTIATE_S,
)
from transport.host.queues import NewsQueue
from transport.host.streams import Libp2pStream
from transport.host.tcp import AddressError, TcpTransport
from transport.identity import Identity, PeerId

_STAGGER_S = 0.25  # head start of each address over the next one (RFC 8305 §5)
_ADDR_TTL_S = 3600


class Libp2pHost:
    """A :class:`transport.host.interface.Host` on real sockets. Make one with :meth:`open`."""

    def __init__(
        self, identity: Identity, nursery: trio.Nursery, psk: bytes | None, announce: Sequence[str], rng: random.Random
    ) -> None:
        hardening.quiet_libp2p()
        hardening.enforce_receive_window()
        hardening.widen_gossip_queues()
        hardening.skip_sender_records()
        keys = hardening.libp2p_keys(identity.seed)
        self._peer_id = identity.peer_id
        self._nursery = nursery
        self._rng = rng
        self._announce = [str(parse_addr(addr)) for addr in announce]
        self._listening: list[Multiaddr] = []
        self._transport = TcpTransport(nursery, psk)
        self._swarm = _new_swarm(keys, self._transport)
        self._host = BasicHost(
            self._swarm, disable_identify_address_discovery=True, addrs_factory=lambda _: self._advertised()
        )
        hardening.guard_streams(self._swarm)
        hardening.forbid_hidden_dials(self._swarm)
        hardening.identify_in(self._host, nursery)
        self._gossip = Gossip(self._host, self._offend)
        self._swarm.register_notifee(_Notifee(self))
        self._budget = hardening.HalfOpenBudget()
        self._followers: set[NewsQueue[HostEvent]] = set()
        self._up: dict[PeerId, str] = {}
        self._dialling: dict[PeerId, trio.Event] = {}
        self._refused_until: dict[PeerId, float] = {}

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
        rng: random.Random | None = None,
    ) -> AsyncIterator[Libp2pHost]:
        """Run a host for the length of the block.

        ``listen`` and ``announce`` are multiaddrs such as ``/ip4/0.0.0.0/tcp/4001`` (port 0: any free one); announced
        addresses replace the listened ones in :attr:`addrs`. ``bootstrap`` are multiaddrs that end in ``/p2p/ID``, each
        kept connected with exponential back-off and reported in :meth:`events`; an unreachable one is no error. ``psk``
        is a private network's 32-byte key. Raises :class:`HostError` for a malformed or busy address.
        """
        targets = [(peer, addr) for addr in bootstrap for peer in (split_peer(addr)[0],) if peer != identity.peer_id]
        async with background() as nursery:
            host = cls(identity, nursery, psk, announce, rng or random.Random())  # noqa: S311  # jitter, no secret
            await host._start(listen)
            for peer, addr in targets:
                nursery.start_soon(host._keep_bootstrap, peer, addr)
            try:
                yield host
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(2 * CLOSE_S):
                    await host._stop()

    async def _start(self, listen: Iterable[str]) -> None:
        manager = hardening.ContainedManager(self._swarm)
        self._swarm._manager = manager
        self._nursery.start_soon(manager.run)
        await self._swarm.event_background_nursery_created.wait()
        await self._gossip.start(self._nursery)
        for text in listen:
            listener = self._transport.create_listener(hardening.accept_inbound(self._swarm, self._budget))
            addr = parse_addr(text)
            try:
                await listener.listen(addr)
            except (OSError, AddressError) as error:
                raise HostError(f"cannot listen on {text}: {explain(error)}. Choose another address or port") from error
            self._swarm.listeners[text] = listener
            self._listening += listener.get_addrs()
        for addr in self.addrs:
            self._tell(HostEvent(EventKind.LISTENING, None, addr))

    async def _stop(self) -> None:
        self._swarm._closing = True
        self._gossip.stop()
        for listener in self._swarm.listeners.values():
            await listener.close()
        async with trio.open_nursery() as nursery:
            for connection in self._connections():
                nursery.start_soon(connection.close)

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
            return [Multiaddr(addr) for addr in self._announce]
        return [expanded for addr in self._listening for expanded in expand_wildcard(addr)][:MAX_ADVERTISED_ADDRS]

    def peers(self) -> Sequence[PeerInfo]:
        """Who is connected now, one entry a peer."""
        found: dict[PeerId, PeerInfo] = {}
        for connection in self._connections():
            peer = PeerId(str(connection.muxed_conn.peer_id))
            inbound = connection.direction == Direction.INBOUND
            found.setdefault(peer, PeerInfo(peer, _addr_of(connection), inbound, relayed=False))
        return list(found.values())

    def _connections(self) -> list[Any]:
        return [c for conns in list(self._swarm.connections.values()) for c in conns if not c.is_closed]

    def _connection(self, peer: PeerId) -> Any | None:
        for connection in self._swarm.connections.get(ID.from_string(peer), ()):
            if not connection.is_closed:
                return connection
        return None

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def connect(self, addr: str) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``; at once if connected. Raises :class:`DialError`."""
        peer, plain = split_peer(addr)
        await self._ensure_connected(peer, [plain])
        return peer

    async def _ensure_connected(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> Any:
        if peer == self._peer_id:
            raise DialError("that is this node's own peer id")
        while True:
            if trio.current_time() < self._refused_until.get(peer, 0.0):
                raise DialError(f"{peer} broke a protocol a moment ago and is refused for up to {DROPPED_PEER_S:.0f} s")
            if (connection := self._connection(peer)) is not None:
                return connection
            if (other := self._dialling.get(peer)) is None:
                break
            await other.wait()
        done = self._dialling[peer] = trio.Event()
        try:
            return await self._race(peer, addrs)
        finally:
            del self._dialling[peer]
            done.set()

    async def _race(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> Any:
        """Dial the addresses one after another with a short head start each; the first connection wins."""
        known = [] if (target := ID.from_string(peer)) not in self._swarm.peerstore.peer_ids() else self._known(target)
        candidates = list(dict.fromkeys([*addrs, *known]))[:MAX_DIAL_ADDRS]
        if not candidates:
            raise DialError(f"no address of {peer} is known")
        failures: list[str] = []
        winner: list[Any] = []

        async def attempt(addr: Multiaddr, failed: trio.Event) -> None:
            try:
                with trio.fail_after(DIAL_S):
                    connection = await hardening.dial(self._swarm, addr, target)
            except Exception as error:
                failures.append(f"{addr}: {explain(error)}")
                failed.set()
                return
            winner.append(connection)
            self._swarm.peerstore.add_addrs(target, [addr], _ADDR_TTL_S)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for addr in candidates:
                failed = trio.Event()
                nursery.start_soon(attempt, addr, failed)
                with trio.move_on_after(_STAGGER_S):
                    await failed.wait()
        if not winner:
            raise DialError(f"cannot reach {peer} ({'; '.join(failures)})")
        return winner[0]

    def _known(self, peer: ID) -> list[Multiaddr]:
        return [addr for addr in self._swarm.peerstore.addrs(peer) if self._transport.can_dial(addr)]

    async def _keep_bootstrap(self, peer: PeerId, addr: str) -> None:
        await keep_connected(
            partial(self.connect, addr),
            lambda: self._connection(peer) is not None,
            lambda reason: self._tell(HostEvent(EventKind.UNREACHABLE, peer, addr, reason)),
            self._rng,
        )

    # --- streams ----------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> HostStream:
        """Open a stream for ``protocol``, dialling ``addrs`` and what is known of the peer if not connected."""
        hints = []
        for addr in addrs:
            try:
                hints.append(parse_addr(addr))
            except HostError:
                continue  # hints come from other people's records
        connection = await self._ensure_connected(peer, hints)
        try:
            raw = await hardening.open_muxed_stream(connection)
        except Exception as error:
            raise StreamError(f"cannot open a stream to {peer}: {explain(error)}") from error
        stream = Libp2pStream(raw, peer, self._nursery.start_soon)
        try:
            with trio.fail_after(NEGOTIATE_S):
                await stream.negotiate(protocol)
        except trio.TooSlowError:
            await stream.reset()
            raise StreamError(f"{peer} did not answer the negotiation of {protocol} in {NEGOTIATE_S:.0f} s") from None
        except BaseException:
            await stream.reset()
            raise
        return stream

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol``; at most one handler each."""
        if protocol in self._host.get_mux().handlers:
            raise ValueError(f"{protocol} has a handler already")

        async def serve(raw: Any) -> None:
            stream = Libp2pStream(raw, PeerId(str(raw.muxed_conn.peer_id)), self._nursery.start_soon)
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

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[HostEvent]]:
        """Follow events, beginning with the addresses listened on and the peers connected already."""
        queue: NewsQueue[HostEvent] = NewsQueue(EVENT_QUEUE)
        for addr in self.addrs:
            queue.put(HostEvent(EventKind.LISTENING, None, addr))
        for peer, addr in self._up.items():
            queue.put(HostEvent(EventKind.CONNECTED, peer, addr))
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)

    def _tell(self, event: HostEvent) -> None:
        for queue in self._followers:
            queue.put(event)

    async def drop(self, peer: PeerId, reason: str) -> None:
        """Disconnect a peer that broke a protocol and refuse it for :data:`DROPPED_PEER_S`."""
        while len(self._refused_until) >= MAX_DROPPED_PEERS:
            del self._refused_until[next(iter(self._refused_until))]
        self._refused_until[peer] = trio.current_time() + DROPPED_PEER_S
        self._tell(HostEvent(EventKind.DROPPED, peer, self._up.get(peer, ""), reason))
        self._nursery.start_soon(self._disconnect, peer)
        await trio.lowlevel.checkpoint()

    def _offend(self, peer: PeerId, reason: str) -> None:
        self._nursery.start_soon(self.drop, peer, reason)

    async def _disconnect(self, peer: PeerId) -> None:
        for connection in list(self._swarm.connections.get(ID.from_string(peer), ())):
            with trio.move_on_after(2 * CLOSE_S):
                await connection.close()

    def _on_connected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        if trio.current_time() < self._refused_until.get(peer, 0.0):
            self._nursery.start_soon(self._disconnect, peer)
            return
        self._host._schedule_identify(connection.muxed_conn.peer_id, reason="connected")
        if peer not in self._up:
            self._up[peer] = _addr_of(connection)
            self._tell(HostEvent(EventKind.CONNECTED, peer, self._up[peer]))

    def _on_disconnected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        if self._connection(peer) is None and peer in self._up:
            self._gossip.forget(peer)
            self._host._identified_peers.pop(connection.muxed_conn.peer_id, None)
            self._tell(HostEvent(EventKind.DISCONNECTED, peer, self._up.pop(peer)))


class _Notifee:
    """What the swarm calls when connections come and go."""

    def __init__(self, host: Libp2pHost) -> None:
        self._host = host

    async def connected(self, _network: Any, connection: Any) -> None:
        self._host._on_connected(connection)

    async def disconnected(self, _network: Any, connection: Any) -> None:
        self._host._on_disconnected(connection)

    async def opened_stream(self, _network: Any, _stream: Any) -> None:
        pass

    async def closed_stream(self, _network: Any, _stream: Any) -> None:
        pass

    async def listen(self, _network: Any, _addr: Any) -> None:
        pass

    async def listen_close(self, _network: Any, _addr: Any) -> None:
        pass


def _addr_of(connection: Any) -> str:
    peer = connection.muxed_conn.peer_id
    addrs = connection.get_transport_addresses()
    return f"{addrs[0]}/p2p/{peer}" if addrs else f"/p2p/{peer}"


def _new_swarm(keys: Any, transport: TcpTransport) -> Swarm:
    peer = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer, keys)
    upgrader = TransportUpgrader(hardening.noise_only(keys), {YAMUX_ID: Yamux}, int(NEGOTIATE_S))
    config = ConnectionConfig(
        max_connections=MAX_CONNECTIONS,
        max_connections_per_peer=MAX_CONNECTIONS_PER_PEER,
        # No watermarks: upstream would dial whatever the peer store holds to reach them.
        min_connections=0,
        low_watermark=0,
        high_watermark=MAX_CONNECTIONS,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
    )
    return Swarm(peer, peerstore, upgrader, [transport], RetryConfig(max_retries=0), config)
