"""A network in memory for the Kademlia: hosts with latency on trio's clock, that can be down, mute or malicious."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
import trio

from dht.kad import InvalidRecord, Kademlia
from transport.host import DialError, EventKind, HostEvent, PeerInfo, StreamError
from transport.host.queues import NewsQueue
from transport.identity import SIGNATURE_BYTES, Identity, PeerId, verify
from transport.wire import WireError, decode, encode

EPOCH = 1_800_000_000.0
SKEW_S = 60


def wall() -> float:
    """Unix seconds that follow trio's clock, which begins at 0 when it is a mock."""
    return EPOCH + trio.current_time()


class SignedValidator:
    """Keys ``/test/<public key>``; values [seq, issued_at, ttl, payload] behind a signature; the highest seq wins."""

    self_certifying = False

    @staticmethod
    def key(identity: Identity) -> bytes:
        return b"/test/" + identity.public_key

    @staticmethod
    def value(
        identity: Identity, seq: int, *, issued_at: float = EPOCH, ttl: int = 10**6, payload: bytes = b""
    ) -> bytes:
        body = encode([seq, int(issued_at), ttl, payload])
        return identity.sign("test/1", body) + body

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        body = value[SIGNATURE_BYTES:]
        try:
            seq, issued_at, ttl, _ = decode(body, max_bytes=8192)
        except (WireError, ValueError, TypeError) as error:
            raise InvalidRecord(f"malformed: {error}") from None
        if not verify(key.removeprefix(b"/test/"), "test/1", body, value[:SIGNATURE_BYTES]):
            raise InvalidRecord("signed by somebody else")
        if issued_at > now + SKEW_S:
            raise InvalidRecord("from the future")
        assert seq >= 0
        return float(issued_at + ttl)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        seqs = [decode(value[SIGNATURE_BYTES:], max_bytes=8192)[0] for value in values]
        return seqs.index(max(seqs))


class PlainValidator:
    """Anything goes; the greatest value wins."""

    self_certifying = False

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        return float("inf")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return list(values).index(max(values))


class HashValidator:
    """Keys ``/hash/<SHA-256 of the value>``."""

    self_certifying = True

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        if key != b"/hash/" + sha256(value).digest():
            raise InvalidRecord("other content")
        return float("inf")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return 0


VALIDATORS: dict[str, Any] = {"test": SignedValidator(), "plain": PlainValidator(), "hash": HashValidator()}


class MemoryStream:
    """One end of a stream; messages arrive ``latency_s`` after they were sent."""

    def __init__(self, peer: PeerId, latency_s: float) -> None:
        self.peer_id = peer
        self._latency_s = latency_s
        self._inbox: deque[tuple[float, bytes | None]] = deque()
        self._wake = trio.Event()
        self._broken = False
        self._closed = False
        self.other: MemoryStream

    def _deliver(self, message: bytes | None) -> None:
        self._inbox.append((trio.current_time() + self._latency_s, message))
        self._wake.set()

    async def wait_opened(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._broken or self._closed:
            raise StreamError("the stream is closed")
        self.other._deliver(message)

    async def receive(self, max_bytes: int) -> bytes:
        while not self._inbox and not self._broken:
            self._wake = trio.Event()
            await self._wake.wait()
        if self._broken:
            raise StreamError(f"the stream to {self.peer_id} was reset")
        at, message = self._inbox[0]
        await trio.sleep_until(at)
        if self._broken:
            raise StreamError(f"the stream to {self.peer_id} was reset")
        self._inbox.popleft()
        if message is None:
            self._inbox.append((at, None))
            raise StreamError(f"the stream to {self.peer_id} ended")
        if len(message) > max_bytes:
            await self.reset()
            raise StreamError(f"a message of {len(message)} bytes, where at most {max_bytes} are allowed")
        return message

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._closed and not self._broken:
            self._closed = True
            self.other._deliver(None)

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        for end in (self, self.other):
            end._broken = True
            end._wake.set()


class MemoryHost:
    """A :class:`transport.host.Host` on :class:`Network`."""

    def __init__(self, network: Network, identity: Identity, addr: str | None) -> None:
        self.network = network
        self.identity = identity
        self.peer_id = identity.peer_id
        self.addrs: list[str] = [f"{addr}/p2p/{self.peer_id}"] if addr else []
        self.down = False
        self.mute_s = 0.0
        """Every stream to this host hangs for so long before it opens."""
        self.dropped: dict[PeerId, str] = {}
        self.opened = 0
        self.inbound = 0
        self.handlers: dict[str, Callable[[MemoryStream], Awaitable[None]]] = {}
        self.up: dict[PeerId, PeerInfo] = {}
        self._followers: list[NewsQueue[HostEvent]] = []

    def set_handler(self, protocol: str, handler: Callable[[MemoryStream], Awaitable[None]]) -> None:
        assert protocol not in self.handlers
        self.handlers[protocol] = handler

    def peers(self) -> list[PeerInfo]:
        return list(self.up.values())

    @asynccontextmanager
    async def events(self) -> AsyncIterator[NewsQueue[HostEvent]]:
        queue: NewsQueue[HostEvent] = NewsQueue(128)
        for info in self.up.values():
            queue.put(HostEvent(EventKind.CONNECTED, info.peer_id, info.addr))
        self._followers.append(queue)
        yield queue
        self._followers.remove(queue)

    def _connected(self, peer: PeerId, addr: str, inbound: bool) -> None:
        if peer not in self.up:
            self.up[peer] = PeerInfo(peer, addr, inbound, False)
            for queue in self._followers:
                queue.put(HostEvent(EventKind.CONNECTED, peer, addr))

    def _disconnected(self, peer: PeerId) -> None:
        if (info := self.up.pop(peer, None)) is not None:
            for queue in self._followers:
                queue.put(HostEvent(EventKind.DISCONNECTED, peer, info.addr))

    async def connect(self, addr: str) -> PeerId:
        peer = PeerId(addr.rpartition("/p2p/")[2])
        await self._reach(peer, [addr])
        return peer

    async def _reach(self, peer: PeerId, addrs: Sequence[str]) -> MemoryHost:
        other = self.network.hosts.get(peer)
        if self.down:
            raise DialError("our network is down")
        if peer in self.up and other is not None and not other.down:
            return other
        self._disconnected(peer)
        await trio.sleep(2 * self.network.latency_s)
        addr = next((a for a in addrs if other is not None and a in other.addrs), None)
        if other is None or other.down or addr is None:
            if self.network.silent_failures:
                await trio.sleep_forever()
            raise DialError(f"cannot reach {peer}")
        self._connected(peer, addr, inbound=False)
        seen = self.addrs[0].partition("/tcp/")[0] if self.addrs else "/ip4/127.0.0.1"
        other._connected(self.peer_id, f"{seen}/tcp/{50000 + len(other.up)}/p2p/{self.peer_id}", inbound=True)
        return other

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> MemoryStream:
        self.opened += 1
        self.network.on_stream(self.peer_id, peer)
        other = await self._reach(peer, addrs)
        await trio.sleep(other.mute_s)
        if (handler := other.handlers.get(protocol)) is None:
            raise StreamError(f"{peer} does not speak {protocol}")
        mine, theirs = MemoryStream(peer, self.network.latency_s), MemoryStream(self.peer_id, self.network.latency_s)
        mine.other, theirs.other = theirs, mine
        other.inbound += 1
        self.network.nursery.start_soon(self._handle, handler, theirs)
        return mine

    @staticmethod
    async def _handle(handler: Callable[[MemoryStream], Awaitable[None]], stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except StreamError:
            await stream.reset()
        await stream.aclose()

    async def drop(self, peer: PeerId, reason: str) -> None:
        self.dropped[peer] = reason
        for queue in self._followers:
            queue.put(HostEvent(EventKind.DROPPED, peer, "", reason))
        self._disconnected(peer)
        await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Die without a word."""
        self.down = True
        for other in self.network.hosts.values():
            other._disconnected(self.peer_id)


class Network:
    """Hosts by number: number n has the identity of seed n and, by default, an address in a /16 of its own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.latency_s = 0.02
        self.silent_failures = False
        """Whether dialling a dead host hangs instead of failing at once."""
        self.hosts: dict[PeerId, MemoryHost] = {}
        self.on_stream: Callable[[PeerId, PeerId], None] = lambda _opener, _to: None

    @staticmethod
    def identity(number: int) -> Identity:
        return Identity(number.to_bytes(32, "big"))

    def host(self, number: int, *, ip: str | None = None, listening: bool = True) -> MemoryHost:
        ip = ip or f"{20 + number // 200}.{number % 200}.1.1"
        host = MemoryHost(self, self.identity(number), f"/ip4/{ip}/tcp/4001" if listening else None)
        self.hosts[host.peer_id] = host
        return host

    async def node(
        self, number: int, bootstrap: Kademlia | None = None, *, ip: str | None = None, **options: Any
    ) -> Any:
        """A running node; it ends with the test. ``bootstrap`` is a node to join through."""
        host = options.pop("host", None) or self.host(number, ip=ip, listening=not options.get("client_only"))
        options = {"validators": VALIDATORS, "clock": wall, "rng": random.Random(number), **options}
        node = Kademlia(host, "test", **options)
        await self.nursery.start(self._run, node)
        if bootstrap is not None:
            await host.connect(bootstrap._host.addrs[0])
            await node.bootstrap()
        return node

    @staticmethod
    async def _run(node: Kademlia, task_status: Any) -> None:
        async with node:
            task_status.started()
            await trio.sleep_forever()

    async def nodes(self, count: int, first: int = 1, **options: Any) -> list[Any]:
        """So many nodes, all joined through the first."""
        found = [await self.node(first, **options)]
        for number in range(first + 1, first + count):
            found.append(await self.node(number, found[0], **options))
        return found


@pytest.fixture
async def network(nursery: trio.Nursery) -> Network:
    return Network(nursery)


@pytest.fixture
def network_type() -> type[Network]:
    return Network


@pytest.fixture
def signed() -> type[SignedValidator]:
    return SignedValidator
