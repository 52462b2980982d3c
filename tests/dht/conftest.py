"""A network in memory for the tests of directories: hosts that find each other, gossip and open streams, and a hash
table that all of them share. Everything takes no time, so that trio's MockClock decides what is late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import trio

from dht.limits import PROVIDER_TTL_S
from transport.host import DialError, EventKind, GossipMessage, HostEvent, PeerInfo, StreamError
from transport.identity import Identity, PeerId


@dataclass
class MemoryStream:
    peer_id: PeerId
    inbox: trio.MemoryReceiveChannel[bytes]
    outbox: trio.MemorySendChannel[bytes]

    async def send(self, message: bytes) -> None:
        try:
            await self.outbox.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamError("closed") from error

    async def receive(self, max_bytes: int) -> bytes:
        try:
            message = await self.inbox.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise StreamError("closed") from error
        if len(message) > max_bytes:
            raise StreamError("too long")
        return message

    async def aclose(self) -> None:
        self.inbox.close()
        self.outbox.close()

    async def reset(self) -> None:
        await self.aclose()


class MemoryHost:
    def __init__(self, net: MemoryNet, identity: Identity) -> None:
        self.net = net
        self.identity = identity
        self.peer_id = identity.peer_id
        self.addrs = [f"/memory/{identity.peer_id[-6:]}/p2p/{identity.peer_id}"]
        self.handlers: dict[str, Callable[[Any], Any]] = {}
        self.validators: dict[str, Callable[[GossipMessage], bool | None]] = {}
        self.connected: dict[PeerId, None] = {}
        self.followers: list[trio.MemorySendChannel[HostEvent]] = []
        self.dropped: list[tuple[PeerId, str]] = []
        self.dialled: list[tuple[PeerId, tuple[str, ...]]] = []
        self.published = 0
        self.deaf = False
        """Accepts streams and never answers."""

    def set_handler(self, protocol: str, handler: Callable[[Any], Any]) -> None:
        self.handlers[protocol] = handler

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo(peer, "/memory", False, False) for peer in self.connected]

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        self.dialled.append((peer, tuple(addrs)))
        other = self.net.hosts.get(peer)
        if other is None:
            await trio.sleep(self.net.dial_timeout_s)
            raise DialError(f"{peer} is not there")
        handler = other.handlers.get(protocol)
        if handler is None and not other.deaf:
            raise StreamError(f"{peer} does not speak {protocol}")
        there, here = trio.open_memory_channel[bytes](16), trio.open_memory_channel[bytes](16)
        if other.deaf:
            self.net.kept.append((there, here))
        else:
            assert handler is not None
            self.net.nursery.start_soon(self._run, handler, MemoryStream(self.peer_id, there[1], here[0]))
        return MemoryStream(peer, here[1], there[0])

    @staticmethod
    async def _run(handler: Callable[[Any], Any], stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except (StreamError, trio.TooSlowError):
            pass
        finally:
            await stream.aclose()

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.published += 1
        for host in list(self.net.hosts.values()):
            if host is not self and topic in host.validators:
                host.validators[topic](GossipMessage(topic, self.peer_id, data))

    @asynccontextmanager
    async def subscribe(self, topic: str, validator: Any) -> AsyncIterator[Any]:
        self.validators[topic] = validator
        yield _never()

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Any]:
        send, receive = trio.open_memory_channel[HostEvent](1000)
        self.followers.append(send)
        async with receive:
            yield receive
        self.followers.remove(send)

    async def drop(self, peer: PeerId, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.dropped.append((peer, reason))

    def meet(self, other: MemoryHost) -> None:
        for one, two in ((self, other), (other, self)):
            one.connected[two.peer_id] = None
            for follower in one.followers:
                follower.send_nowait(HostEvent(EventKind.CONNECTED, two.peer_id, "/memory"))


async def _never() -> AsyncIterator[Any]:
    await trio.sleep_forever()
    yield


@dataclass(frozen=True)
class Listed:
    peer_id: PeerId
    addrs: tuple[str, ...]


class MemoryTable:
    """One node's view of the common hash table."""

    def __init__(self, net: MemoryNet, host: MemoryHost) -> None:
        self.net = net
        self.host = host
        self.asked: list[bytes] = []
        self.provided: list[tuple[float, bytes]] = []

    async def provide(self, key: bytes) -> int:
        await trio.sleep(self.net.latency_s)
        self.provided.append((trio.current_time() - self.net.started_at, key))
        if not self.net.works:
            return 0
        until = trio.current_time() + PROVIDER_TTL_S
        self.net.listings.setdefault(key, {})[self.host.peer_id] = (until, tuple(self.host.addrs))
        return 20

    def withdraw(self, key: bytes) -> None:
        pass

    async def find_providers(self, key: bytes, limit: int) -> list[Listed]:
        self.asked.append(key)
        await trio.sleep(self.net.latency_s)
        listings = self.net.listings.get(key, {}) if self.net.works else {}
        standing = [
            Listed(peer, addrs)
            for peer, (until, addrs) in listings.items()
            if until > trio.current_time() and peer != self.host.peer_id
        ]
        return standing if len(standing) <= limit else self.net.rng.sample(standing, limit)


class MemoryNet:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: dict[PeerId, MemoryHost] = {}
        self.listings: dict[bytes, dict[PeerId, tuple[float, tuple[str, ...]]]] = {}
        self.kept: list[Any] = []
        self.rng = Random(1)
        self.latency_s = 0.2
        self.dial_timeout_s = 5.0
        self.works = True
        self.started_at = trio.current_time()

    def host(self, number: int) -> MemoryHost:
        host = MemoryHost(self, Identity(number.to_bytes(32, "big")))
        self.hosts[host.peer_id] = host
        return host

    def table(self, host: MemoryHost) -> MemoryTable:
        return MemoryTable(self, host)

    def wall(self) -> float:
        """Unix seconds."""
        return 1_000_000 + trio.current_time() - self.started_at


@pytest.fixture
async def net(nursery: trio.Nursery) -> MemoryNet:
    return MemoryNet(nursery)
