"""Happy eyeballs (RFC 8305) with several callers: the addresses of one peer, each with a head start over the next; the
first connection wins for everybody.

A caller that comes later brings addresses of its own (RFC 8305 §3: the list may grow while attempts run), so nobody
waits for another's dead address while he knows one that works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Any

import trio
from multiaddr import Multiaddr

from transport.host.addresses import is_circuit
from transport.host.interface import DialError
from transport.host.limits import DIAL_STAGGER_S, MAX_RACE_ADDRS


class Race:
    """One race. ``attempt`` returns the connection or raises :class:`DialError`; :meth:`run` is a task of its own."""

    def __init__(self, attempt: Callable[[Multiaddr], Awaitable[Any]]) -> None:
        self.failures: list[str] = []
        """Why each attempt that ended did not lead there."""
        self._attempt = attempt
        self._entered: dict[Multiaddr, None] = {}
        self._waiting: list[Multiaddr] = []
        self._running = 0
        self._latest: Multiaddr | None = None
        self._head_start_until = -inf
        self._news = trio.Event()
        self._winner: Any = None
        self._callers = 0
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    def enter(self, addrs: Iterable[Multiaddr]) -> bool:
        """Let these addresses take part. False when there was no room for all of them, or the race has been given up:
        then its end says nothing about them."""
        if self._scope.cancel_called:
            return False
        fresh = [addr for addr in addrs if addr not in self._entered]
        room = MAX_RACE_ADDRS - len(self._entered)
        self._entered.update(dict.fromkeys(fresh[:room]))
        self._waiting = sorted([*self._waiting, *fresh[:room]], key=is_circuit)  # direct ones first
        self._news.set()
        return len(fresh) <= room

    async def result(self) -> Any | None:
        """The connection, ``None`` when no address led to one. When the last who waits is cancelled, so is the race,
        and nothing of it is left."""
        self._callers += 1
        try:
            await self._over.wait()
        finally:
            self._callers -= 1
            if not self._callers:
                self._scope.cancel()
                with trio.CancelScope(shield=True):
                    await self._over.wait()
        return self._winner

    async def run(self) -> None:
        """Run it to its end."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    while self._waiting or self._running:
                        await self._step(nursery)
        finally:
            self._over.set()

    async def _step(self, nursery: trio.Nursery) -> None:
        if self._waiting and trio.current_time() >= self._head_start_until:
            self._latest = self._waiting.pop(0)
            self._head_start_until = trio.current_time() + DIAL_STAGGER_S
            self._running += 1
            nursery.start_soon(self._try, self._latest, nursery)
            return
        self._news = trio.Event()
        with trio.move_on_at(self._head_start_until if self._waiting else inf):
            await self._news.wait()

    async def _try(self, addr: Multiaddr, nursery: trio.Nursery) -> None:
        try:
            self._winner = await self._attempt(addr)
        except DialError as error:
            self.failures.append(str(error))
            self._running -= 1
            if addr is self._latest:
                self._head_start_until = -inf
            self._news.set()
        else:
            nursery.cancel_scope.cancel()
