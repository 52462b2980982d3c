"""Answering strangers: streams of requests, each peer within its budget, each step with a deadline."""

from __future__ import annotations

from collections.abc import Callable

import trio

from dht.announcing import Allowance
from dht.kad.answers import Answers
from dht.kad.errors import BadMessage, InvalidRecord, KadError, StoreRefused
from dht.kad.limits import (
    IDLE_STREAM_S,
    INVALID_RECORD_COST,
    MAX_DELAY_S,
    MAX_OFFENCES,
    MAX_REQUEST_BYTES,
    MAX_STREAMS,
    MAX_STREAMS_PER_PEER,
    OFFENCES_PER_S,
    REQUESTS_BURST,
    REQUESTS_PER_S,
    SEND_S,
    START_S,
)
from dht.kad.messages import MessageType, encode_message, parse_request
from dht.kad.neighbours import Neighbours
from dht.kad.rates import PeerBudget
from transport.host import Host, HostStream
from transport.identity import PeerId


class Server:
    """Serves the protocol, between :meth:`begin` and :meth:`end`: it is the host's handler of it (a
    :class:`transport.host.PromptHandler`). ``clock`` gives Unix seconds, by which records end."""

    def __init__(self, host: Host, answers: Answers, neighbours: Neighbours, clock: Callable[[], float]) -> None:
        self._host = host
        self._answers = answers
        self._neighbours = neighbours
        self._clock = clock
        self._budget = PeerBudget(REQUESTS_BURST, REQUESTS_PER_S)
        self._offences = Allowance(MAX_OFFENCES, OFFENCES_PER_S)
        self._streams: dict[PeerId, int] = {}
        self._open = 0
        self._running = False
        self._begun = trio.Event()
        self.served: dict[MessageType, int] = dict.fromkeys(MessageType, 0)
        """Requests answered, by type."""
        self.refused = 0
        """Requests and streams not answered: malformed, invalid, or over a limit."""

    def begin(self) -> None:
        """Answer from now on; who asked before has waited for it."""
        self._running = True
        self._begun.set()

    def end(self) -> None:
        """Reset the streams that come from now on."""
        self._running = False

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        """The reply to a request that is within the peer's budget and in order; None for all others, which
        :meth:`__call__` has a stream to refuse by."""
        now = trio.current_time()
        if not self._running or len(request) > MAX_REQUEST_BYTES:
            return None
        if self._streams.get(peer, 0) >= MAX_STREAMS_PER_PEER or self._open >= MAX_STREAMS:
            return None
        reply = None
        if self._budget.charge(peer, now) == 0:
            try:
                parsed = parse_request(request)
                if parsed.type is not MessageType.ADD_PROVIDER:  # which has no reply
                    reply = self._answers.answer(peer, parsed, self._clock())
            except KadError:
                reply = None
        if reply is None:
            self._budget.charge(peer, now, -1.0)
            return None
        self.served[parsed.type] += 1
        self._neighbours.met(peer)
        return encode_message(reply)

    async def __call__(self, stream: HostStream) -> None:
        """Handle one inbound stream, request after request (kad-dht §RPC messages allows several)."""
        if not self._begun.is_set():
            with trio.move_on_after(START_S):
                await self._begun.wait()
        if not self._running:
            await stream.reset()
            return
        peer = stream.peer_id
        count = self._streams.get(peer, 0)
        if count >= MAX_STREAMS_PER_PEER or self._open >= MAX_STREAMS:
            self.refused += 1
            await stream.reset()
            return
        self._streams[peer] = count + 1
        self._open += 1
        try:
            with trio.CancelScope() as scope:  # one for the stream, since a scope for each message costs more than it
                while await self._serve_one(stream, peer, scope):
                    pass
            if scope.cancelled_caught:
                await stream.reset()
        finally:
            self._open -= 1
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _serve_one(self, stream: HostStream, peer: PeerId, scope: trio.CancelScope) -> bool:
        """Answer one request; False when the stream is over. Raises StreamError at its end, as the host expects."""
        scope.deadline = trio.current_time() + IDLE_STREAM_S
        data = await stream.receive(MAX_REQUEST_BYTES)
        now = trio.current_time()
        scope.deadline = now + SEND_S
        if (wait_s := self._budget.charge(peer, now)) > 0:
            if wait_s > MAX_DELAY_S:
                return await self._refuse(stream)
            await trio.sleep(wait_s)
        try:
            request = parse_request(data)
            reply = self._answers.answer(peer, request, self._clock())
        except KadError as error:
            await self._hold_against(peer, error)
            return await self._refuse(stream)
        self.served[request.type] += 1
        if reply is not None:
            await stream.send(encode_message(reply))
        self._neighbours.met(peer)
        return True

    async def _refuse(self, stream: HostStream) -> bool:
        self.refused += 1
        await stream.reset()
        return False

    async def _hold_against(self, peer: PeerId, error: KadError) -> None:
        now = trio.current_time()
        match error:
            case BadMessage():
                if not self._offences.take(peer, now):
                    self._neighbours.table.remove(peer)
                    await self._host.drop(peer, f"kad: {error}")
            case InvalidRecord():
                self._budget.charge(peer, now, INVALID_RECORD_COST - 1)
            case StoreRefused():
                pass
