"""The provider's shell: serve the market's protocol on a host, and keep the prices moving.

A peer that sends anything that is not a proper message is dropped: its stream is reset and nothing is remembered of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import trio

from overlay.market import limits
from overlay.market.agreement import Agreement
from overlay.market.client import Clock, market_protocol
from overlay.market.controller import Load, PriceController
from overlay.market.messages import Award, unseal
from overlay.market.quoting import QuoteDesk
from transport.host.interface import Host, HostStream, StreamError
from transport.identity import PeerId
from transport.wire import WireError

_log = logging.getLogger(__name__)

StoreAgreement = Callable[[Agreement], Awaitable[None]]
"""Writes an agreement where a crash does not lose it; the acknowledgement leaves only after it returns."""

UPDATE_S = 1.0
"""How often a price takes a step."""


@dataclass(eq=False)
class MarketServer:
    """Answers every client of the market: the host's handler of its protocol (a ``transport.host.PromptHandler``).
    ``store`` is awaited before an acknowledgement leaves."""

    desk: QuoteDesk
    clock: Clock
    store: StoreAgreement
    _sessions: Counter[PeerId] = field(default_factory=Counter)

    def attach(self, host: Host) -> None:
        """Serve the market's protocol on ``host``."""
        host.set_handler(market_protocol(self.desk.subnet), self)

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        """The reply to a request or counter in order; None, and nothing was done, for what is to be stored or refused
        by :meth:`handle`, or when the peer has as many streams as it may."""
        busy = self._sessions.total() >= limits.MAX_SESSIONS
        if busy or self._sessions[peer] >= limits.MAX_SESSIONS_PER_PEER:
            return None
        try:
            sealed = unseal(request)
            if isinstance(sealed.message, Award):
                return None
            return self.desk.answer(peer, sealed, int(self.clock() * 1000)).data
        except WireError:
            return None

    async def __call__(self, stream: HostStream) -> None:
        """As :meth:`handle`."""
        await self.handle(stream)

    async def handle(self, stream: HostStream) -> None:
        """Serve one stream: a few messages, each answered, each within a deadline. Never raises on what a peer does."""
        peer = stream.peer_id
        full = self._sessions.total() >= limits.MAX_SESSIONS
        if full or self._sessions[peer] >= limits.MAX_SESSIONS_PER_PEER:
            await stream.reset()
            return
        self._sessions[peer] += 1
        try:
            await self._serve(stream)
        finally:
            self._sessions[peer] -= 1
            if not self._sessions[peer]:
                del self._sessions[peer]

    async def _serve(self, stream: HostStream) -> None:
        for _ in range(limits.MESSAGES_PER_SESSION):
            try:
                with trio.fail_after(limits.SESSION_IDLE_S):
                    data = await stream.receive(limits.MAX_MESSAGE_BYTES)
                    reply = self.desk.handle(stream.peer_id, data, int(self.clock() * 1000))
                    if reply.agreement is not None:
                        await self.store(reply.agreement)
                    await stream.send(reply.data)
            except (StreamError, trio.TooSlowError):
                await stream.reset()
                return
            except WireError as error:
                _log.debug("dropped a stream of %s: %s", stream.peer_id, error)
                await stream.reset()
                return
        await stream.aclose()


async def run_controllers(
    controllers: Callable[[], Sequence[tuple[PriceController, Load]]],
    rng: Random,
    *,
    after_update: Callable[[], None] = lambda: None,
) -> None:
    """Let every price take a step once a second, for ever. ``controllers`` gives each with its load at that moment;
    ``after_update`` may announce prices that moved. Starts at a random phase, so that providers do not move in step."""
    await trio.sleep(rng.random() * UPDATE_S)
    next_at = trio.current_time()
    while True:
        for controller, load in controllers():
            controller.update(load, trio.current_time())
        after_update()
        # A late step is not made up for: the controller counts the time that passed.
        next_at = max(next_at + UPDATE_S, trio.current_time())
        await trio.sleep_until(next_at)
