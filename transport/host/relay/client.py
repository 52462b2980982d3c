"""Using relays: a place reserved on some, circuits that come in through them, circuits dialled through any."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio
from multiaddr import Multiaddr

from transport.host.addresses import circuit_parts
from transport.host.bootstrap import retry_delays
from transport.host.interface import DialError, HostError, HostStream, StreamError
from transport.host.limits import BOOTSTRAP_RECHECK_S, RELAY_CONNECT_S, RELAY_RENEW_FRACTION
from transport.host.relay.circuit import CircuitStream
from transport.host.relay.messages import HOP, HopMessage, Status, StopMessage, named, peer_in, read, reply, send
from transport.host.streams import Libp2pStream
from transport.identity import PeerId


class RelayClient:
    """``open_stream(relay, protocol, addrs)`` connects to a relay and opens a stream there; ``spawn`` starts a task of
    the host; ``accept`` authenticates an incoming circuit; ``now`` gives Unix seconds."""

    def __init__(
        self,
        open_stream: Callable[[PeerId, str, list[str]], Awaitable[Libp2pStream]],
        accept: Callable[[CircuitStream], Awaitable[None]],
        spawn: Callable[..., object],
        psk: bytes | None,
        now: Callable[[], float],
    ) -> None:
        self._open_stream = open_stream
        self._accept = accept
        self._spawn = spawn
        self._psk = psk
        self._now = now
        self._reserved: dict[PeerId, Multiaddr] = {}

    def addrs(self) -> list[Multiaddr]:
        """Where we can be reached through relays that hold a place for us: ``/…/p2p/RELAY/p2p-circuit``."""
        return list(self._reserved.values())

    def relays(self) -> list[PeerId]:
        """The relays that hold a place for us."""
        return list(self._reserved)

    def forget(self, relay: PeerId) -> None:
        """A peer is gone; if it was a relay of ours, so is our place there."""
        self._reserved.pop(relay, None)

    async def keep_reserved(
        self,
        relay: PeerId,
        addr: Multiaddr,
        rng: random.Random,
        tell_reserved: Callable[[], None],
        tell_failed: Callable[[str], None],
    ) -> None:
        """Hold a place on the relay at ``addr``, for ever: reserve, renew in time, and again when it was lost."""
        delays, renew_at = retry_delays(rng), 0.0
        while True:
            held = relay in self._reserved
            if held and trio.current_time() < renew_at:
                await trio.sleep(BOOTSTRAP_RECHECK_S)
                continue
            try:
                expires_in = await self.reserve(relay, addr)
            except HostError as error:
                self._reserved.pop(relay, None)
                delay = next(delays)
                tell_failed(f"no place on the relay {relay}: {error}; next attempt in {delay:.0f} s")
                await trio.sleep(delay)
            else:
                delays, renew_at = retry_delays(rng), trio.current_time() + RELAY_RENEW_FRACTION * expires_in
                if not held:
                    tell_reserved()

    async def reserve(self, relay: PeerId, addr: Multiaddr) -> float:
        """Reserve a place on the relay at ``addr``, or renew it; for how many seconds. Raises :class:`HostError`."""
        stream = await self._open_stream(relay, HOP, [str(addr)])
        try:
            with trio.fail_after(RELAY_CONNECT_S):
                await send(stream, HopMessage(type=HopMessage.RESERVE))
                answer = await read(stream, HopMessage)
        except trio.TooSlowError:
            raise StreamError("it did not answer") from None
        finally:
            await stream.aclose()
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            raise StreamError(f"it refused with status {answer.status}")
        self._reserved[relay] = addr.encapsulate(Multiaddr(f"/p2p/{relay}/p2p-circuit"))
        return max(0.0, float(answer.reservation.expire) - self._now())

    async def serve_stop(self, stream: Libp2pStream) -> None:
        """A relay offers a circuit. Only those we reserved a place on may; who is at its other end, Noise will tell."""
        via = self._reserved.get(stream.peer_id)
        with trio.fail_after(RELAY_CONNECT_S):
            request = await read(stream, StopMessage)
        if via is None:
            await reply(stream, StopMessage, Status.PERMISSION_DENIED)
            return
        if request.type != StopMessage.CONNECT:
            await reply(stream, StopMessage, Status.UNEXPECTED_MESSAGE)
            return
        peer_in(request)
        await reply(stream, StopMessage, Status.OK)
        circuit = CircuitStream(stream, via, self._psk, self._spawn)
        await self._accept(circuit)
        await circuit.wait_closed()  # the stream lives as long as its handler

    async def dial(self, addr: Multiaddr, target: PeerId) -> CircuitStream:
        """A circuit to ``target`` through the relay in ``addr``. Raises :class:`DialError`."""
        relay, relay_addr = circuit_parts(addr)
        if relay == target:
            raise DialError("a relay does not relay to itself")
        try:
            stream = await self._open_stream(relay, HOP, [str(relay_addr)])
            try:
                await self._ask(stream, target)
            except BaseException:
                await stream.reset()
                raise
        except StreamError as error:
            raise DialError(f"the relay {relay}: {error}") from error
        return CircuitStream(stream, addr, self._psk, self._spawn)

    async def _ask(self, stream: HostStream, target: PeerId) -> None:
        await send(stream, HopMessage(type=HopMessage.CONNECT, peer=named(target)))
        answer = await read(stream, HopMessage)
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            names = {Status.NO_RESERVATION: "the peer holds no place there", Status.CONNECTION_FAILED: "no connection"}
            raise StreamError(names.get(answer.status, f"refused with status {answer.status}"))
