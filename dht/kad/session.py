"""Asking other peers: one request and its reply, each with a deadline that is learnt from the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import trio

from dht.kad.contacts import Contact
from dht.kad.errors import BadMessage, KadError
from dht.kad.limits import (
    FIRST_TIMEOUT_S,
    MAX_REPLY_BYTES,
    MAX_SESSION_STREAMS,
    MAX_TIMEOUT_S,
    MIN_TIMEOUT_S,
    OPEN_S,
    OUTAGE_FAILURES,
)
from dht.kad.messages import Message, MessageType, parse_message
from transport.host import DialError, HostError, HostStream, ProtocolRefused, StreamError
from transport.identity import PeerId

StreamOpener = Callable[[Contact], Awaitable[HostStream]]
"""Opens a stream of the protocol to a peer; raises as :meth:`transport.host.Host.open_stream` does."""

_RESET_S = 1.0  # what a stream may take to be reset when its request was given up


class NoAnswer(KadError):
    """A peer could not be reached or did not answer. ``refused``: it is there, and no stream of the protocol opened."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class AnswerTimes:
    """How long to wait for an answer, pure: mean and deviation of those before (the estimator of RFC 6298 §2)."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0
        self.missed_in_row = 0
        """Requests without an answer since the last answer."""

    @property
    def timeout_s(self) -> float:
        """Seconds that the next reply gets."""
        if not self._mean or self.missed_in_row >= OUTAGE_FAILURES:
            return FIRST_TIMEOUT_S
        return min(max(self._mean + 4 * self._deviation, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def answered(self, took_s: float) -> None:
        """An answer came after ``took_s``."""
        self.missed_in_row = 0
        if not self._mean:
            self._mean, self._deviation = took_s, took_s / 2
        self._deviation += (abs(took_s - self._mean) - self._deviation) / 4
        self._mean += (took_s - self._mean) / 8

    def missed(self) -> None:
        """None came."""
        self.missed_in_row += 1


class Wire:
    """What all requests of a node share: how streams open, how long answers take, and who is being asked."""

    def __init__(self, open_stream: StreamOpener) -> None:
        self.open_stream = open_stream
        self.times = AnswerTimes()
        self.asking: dict[PeerId, int] = {}
        """Requests in flight to each peer."""

    def begin(self, peer: PeerId) -> None:
        """A request to ``peer`` begins."""
        self.asking[peer] = self.asking.get(peer, 0) + 1

    def end(self, peer: PeerId) -> None:
        """It is over, whatever came of it."""
        if self.asking[peer] == 1:
            del self.asking[peer]
        else:
            self.asking[peer] -= 1


class Session:
    """The requests of one operation. With ``keep``, streams stay open for its next request to the same peer, since a
    put asks the same peers twice; leaving the block closes them. On cancellation no request is left in flight."""

    def __init__(self, wire: Wire, *, keep: bool = False) -> None:
        self._wire = wire
        self._times = wire.times
        self._keep = keep
        self._idle: dict[PeerId, HostStream] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        streams, self._idle = list(self._idle.values()), {}
        if not streams:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(_RESET_S):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(stream.aclose)

    async def ask(self, peer: Contact, kind: MessageType, request: bytes, *, last: bool = False) -> Message:
        """Send a request of ``kind`` and return its reply. ``last``: no other one to this peer follows.

        Raises :class:`NoAnswer`, or :class:`BadMessage` when the reply breaks the protocol."""
        with trio.CancelScope() as scope:  # fail_after costs twice as much
            return await self.ask_within(scope, peer, kind, request, last=last)
        raise self.overdue(peer)

    def overdue(self, peer: Contact) -> NoAnswer:
        """The scope of :meth:`ask_within` has ended the request to ``peer``: the error to that effect."""
        self._times.missed()
        return NoAnswer(f"{peer.peer_id} did not answer in time")

    async def ask_within(
        self, scope: trio.CancelScope, peer: Contact, kind: MessageType, request: bytes, *, last: bool = False
    ) -> Message:
        """As :meth:`ask`, in a scope of the caller's that may have served for other requests (a scope for each costs as
        much as a tenth of it). Its deadline is set for this one; if that ends it, the caller calls :meth:`overdue`."""
        self._wire.begin(peer.peer_id)
        scope.deadline = trio.current_time() + OPEN_S
        try:
            reply, took_s = await self._exchange(peer, request, scope, last=last)
        except DialError as error:
            self._times.missed()
            raise NoAnswer(str(error)) from error
        except ProtocolRefused as error:
            raise NoAnswer(str(error), refused=True) from error
        except StreamError as error:  # it is there, and broke off: no sign of a network that is down
            raise NoAnswer(str(error)) from error
        finally:
            self._wire.end(peer.peer_id)
        self._times.answered(took_s)
        if reply.type is not kind:
            raise BadMessage(f"a reply of type {reply.type.name} to {kind.name}")
        return reply

    async def tell(self, peer: Contact, message: bytes) -> None:
        """Send a message that has no reply. Raises :class:`NoAnswer` if it could not be sent or the peer does not speak
        the protocol."""
        try:
            with trio.fail_after(OPEN_S + self._times.timeout_s):
                stream = self._idle.pop(peer.peer_id, None) or await self._opened(peer)
                try:
                    await stream.send(message)
                    await stream.wait_opened()
                except BaseException:
                    await _reset(stream)
                    raise
                await stream.aclose()
        except (trio.TooSlowError, HostError) as error:
            raise NoAnswer(f"{peer.peer_id} could not be told: {error}") from error

    async def _exchange(
        self, peer: Contact, request: bytes, scope: trio.CancelScope, *, last: bool
    ) -> tuple[Message, float]:
        """A reply, and how long it took once there was a stream; from then on its deadline is that of replies."""
        if (kept := self._idle.pop(peer.peer_id, None)) is not None:
            try:
                return await self._on(kept, request, scope, last=last)
            except StreamError:
                pass  # others close a stream after its reply, as they may
            scope.deadline = trio.current_time() + OPEN_S
        return await self._on(await self._opened(peer), request, scope, last=last)

    async def _opened(self, peer: Contact) -> HostStream:
        try:
            return await self._wire.open_stream(peer)
        except StreamError as error:
            raise NoAnswer(str(error), refused=True) from error

    async def _on(
        self, stream: HostStream, request: bytes, scope: trio.CancelScope, *, last: bool
    ) -> tuple[Message, float]:
        began = trio.current_time()
        scope.deadline = began + self._times.timeout_s
        try:
            await stream.send(request)
            reply = parse_message(await stream.receive(MAX_REPLY_BYTES))
        except BaseException:
            await _reset(stream)
            raise
        if self._keep and not last and len(self._idle) < MAX_SESSION_STREAMS:
            self._idle[stream.peer_id] = stream
        else:
            await stream.aclose()
        return reply, trio.current_time() - began


async def _reset(stream: HostStream) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(_RESET_S):
        await stream.reset()
