"""Being a relay for others, within bounds: so many reservations, circuits, bytes and seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from multiaddr import Multiaddr

from transport.host.interface import HostError, StreamError
from transport.host.limits import (
    RELAY_BURST_BYTES,
    RELAY_BYTES,
    RELAY_BYTES_PER_S,
    RELAY_CIRCUITS,
    RELAY_CIRCUITS_PER_PEER,
    RELAY_CONNECT_S,
    RELAY_RESERVATION_S,
    RELAY_RESERVATIONS,
    RELAY_RESERVATIONS_PER_ADDRESS,
    RELAY_SECONDS,
)
from transport.host.relay.messages import (
    STOP,
    HopMessage,
    Limit,
    Reservation,
    Status,
    StopMessage,
    named,
    peer_in,
    read,
    reply,
    send,
)
from transport.host.streams import Libp2pStream
from transport.identity import PeerId

_CHUNK_BYTES = 16 * 1024


@dataclass(frozen=True)
class RelayLimits:
    """What a relay gives away. Bytes count both directions of a circuit together."""

    reservations: int = RELAY_RESERVATIONS
    reservations_per_address: int = RELAY_RESERVATIONS_PER_ADDRESS
    reservation_s: float = RELAY_RESERVATION_S
    circuits: int = RELAY_CIRCUITS
    circuits_per_peer: int = RELAY_CIRCUITS_PER_PEER
    circuit_bytes: int = RELAY_BYTES
    circuit_s: float = RELAY_SECONDS
    bytes_per_s: int = RELAY_BYTES_PER_S
    """Of all circuits together."""


class Pace:
    """How fast all circuits together may go: a token bucket that may be overdrawn, and is then waited for. Pure."""

    def __init__(self, bytes_per_s: float, burst: float) -> None:
        self._bytes_per_s, self._burst = bytes_per_s, burst
        self._level, self._since = burst, 0.0

    def delay_s(self, count: int, now: float) -> float:
        """How long to wait after ``count`` bytes more."""
        self._level = min(self._burst, self._level + max(0.0, now - self._since) * self._bytes_per_s) - count
        self._since = now
        return max(0.0, -self._level / self._bytes_per_s)


class RelayService:
    """The hop protocol's handler. ``origin`` gives the address behind a peer's direct connection, None without one;
    ``open_stop`` opens a stream over a connection that stands; ``now`` gives Unix seconds."""

    def __init__(
        self,
        limits: RelayLimits,
        addrs: Callable[[], Sequence[str]],
        origin: Callable[[PeerId], str | None],
        open_stop: Callable[[PeerId, str], Awaitable[Libp2pStream]],
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._addrs = addrs
        self._origin = origin
        self._open_stop = open_stop
        self._now = now
        self._reserved: dict[PeerId, tuple[str, float]] = {}
        self._circuits: Counter[PeerId] = Counter()
        self._open = 0
        self._pace = Pace(limits.bytes_per_s, min(RELAY_BURST_BYTES, 4 * limits.bytes_per_s))

    async def serve(self, stream: Libp2pStream) -> None:
        """One request on one stream. A stream that carries a circuit stays until the circuit ends."""
        with trio.fail_after(RELAY_CONNECT_S):
            request = await read(stream, HopMessage)
        if (origin := self._origin(stream.peer_id)) is None:
            await reply(stream, HopMessage, Status.PERMISSION_DENIED)  # over a relay itself (spec, "Reservation")
        elif request.type == HopMessage.RESERVE:
            await self._reserve(stream, origin)
        elif request.type == HopMessage.CONNECT:
            await self._connect(stream, peer_in(request))
        else:
            await reply(stream, HopMessage, Status.UNEXPECTED_MESSAGE)

    def forget(self, peer: PeerId) -> None:
        """A peer is gone, and its reservation with it (spec, "Reservation")."""
        self._reserved.pop(peer, None)

    async def _reserve(self, stream: Libp2pStream, origin: str) -> None:
        now = trio.current_time()
        for peer in [peer for peer, (_, ends) in self._reserved.items() if ends <= now]:
            del self._reserved[peer]
        peer = stream.peer_id  # never whom the message names: a reservation is for who asks
        others = [where for other, (where, _) in self._reserved.items() if other != peer]
        if len(others) >= self._limits.reservations or others.count(origin) >= self._limits.reservations_per_address:
            await reply(stream, HopMessage, Status.RESERVATION_REFUSED)
            return
        self._reserved[peer] = (origin, now + self._limits.reservation_s)
        addrs = [Multiaddr(addr).to_bytes() for addr in self._addrs()]
        until = int(self._now() + self._limits.reservation_s)
        await reply(
            stream, HopMessage, Status.OK, reservation=Reservation(expire=until, addrs=addrs), limit=self._limit()
        )

    def _limit(self) -> Limit:
        return Limit(duration=int(self._limits.circuit_s), data=self._limits.circuit_bytes)

    async def _connect(self, stream: Libp2pStream, target: PeerId) -> None:
        source = stream.peer_id
        if self._reserved.get(target, ("", 0.0))[1] <= trio.current_time() or source == target:
            await reply(stream, HopMessage, Status.NO_RESERVATION)
            return
        crowded = max(self._circuits[source], self._circuits[target]) >= self._limits.circuits_per_peer
        if crowded or self._open >= self._limits.circuits:
            await reply(stream, HopMessage, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        async with self._place(source, target):
            try:
                with trio.fail_after(RELAY_CONNECT_S):
                    far = await self._open_stop(target, STOP)
                    await self._ask(far, source)
            except (HostError, trio.TooSlowError):
                await reply(stream, HopMessage, Status.CONNECTION_FAILED)
                return
            try:
                await reply(stream, HopMessage, Status.OK, limit=self._limit())
                await self._pump(stream, far)
            finally:
                await far.reset()

    async def _ask(self, far: Libp2pStream, source: PeerId) -> None:
        try:
            await send(
                far,
                StopMessage(type=StopMessage.CONNECT, peer=named(source), limit=self._limit()),
            )
            answer = await read(far, StopMessage)
            if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                raise StreamError(f"{far.peer_id} refused the circuit")
        except BaseException:
            await far.reset()
            raise

    @asynccontextmanager
    async def _place(self, source: PeerId, target: PeerId) -> AsyncIterator[None]:
        self._open += 1
        self._circuits.update((source, target))
        try:
            yield
        finally:
            self._open -= 1
            self._circuits.subtract((source, target))
            self._circuits += Counter()  # without those at zero

    async def _pump(self, near: Libp2pStream, far: Libp2pStream) -> None:
        """Carry bytes both ways until one side ends, or the circuit's bytes or seconds are used up."""
        left = self._limits.circuit_bytes
        with trio.move_on_after(self._limits.circuit_s):
            async with trio.open_nursery() as nursery:

                async def carry(source: Libp2pStream, sink: Libp2pStream) -> None:
                    nonlocal left
                    try:
                        while data := await source.receive_bytes(_CHUNK_BYTES):
                            left -= len(data)
                            if left < 0:
                                break
                            await sink.send_bytes(data)
                            if pause_s := self._pace.delay_s(len(data), trio.current_time()):
                                await trio.sleep(pause_s)
                        else:
                            await sink.aclose()
                    except StreamError:
                        pass  # one side is gone; the other is reset
                    nursery.cancel_scope.cancel()

                nursery.start_soon(carry, near, far)
                nursery.start_soon(carry, far, near)
