"""Everything that is under way in the network: one heap of deadlines, one task that waits for the next.

A sleeping task for each message would cost 57 µs; here a message is a pair in a list. Those that arrive in the same
tick share a list, the heap holds ticks, and the order within a tick is that in which they were sent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import trio

from simulations.determinism import JumpClock
from simulations.network.limits import TICK_S

_EPSILON = 1e-6  # ticks: what adding floating-point seconds may be off by


class Timeline:
    """Calls functions at ticks. They must neither wait nor raise."""

    def __init__(self) -> None:
        self.tick = 0
        """The tick delivered last."""
        self._due: dict[int, list[tuple[Callable[[Any], None], Any]]] = {}
        self._ticks: list[int] = []
        self._sleep = trio.CancelScope()
        self._task: trio.lowlevel.Task | None = None
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        """``trio.current_time`` without two of its three calls: it is asked for each message."""

    def at(self, when_s: float, act: Callable[[Any], None], argument: Any, not_before: int = 0) -> int:
        """Call ``act(argument)`` at ``when_s`` (trio's clock) rounded up to a tick, in the future and at ``not_before``
        at the earliest; returns the tick."""
        tick = math.ceil(when_s / TICK_S - _EPSILON)
        if tick < not_before:
            tick = not_before
        if tick <= self.tick:
            tick = self.tick + 1
        due = self._due.get(tick)
        if due is None:
            self._due[tick] = [(act, argument)]
            ticks = self._ticks
            heapq.heappush(ticks, tick)
            if ticks[0] == tick and self._task is None:
                self._sleep.deadline = tick * TICK_S
        else:
            due.append((act, argument))
        return tick

    async def run(self) -> None:
        """Deliver for ever."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, JumpClock) and clock.before is None:
            await self._run_before(clock)
        else:
            await self._run_asleep()

    async def _run_before(self, clock: JumpClock) -> None:
        """Without a scope and a deadline for each tick, which cost more than what happens in most: the clock asks."""
        self._task = trio.lowlevel.current_task()
        clock.before = self._next
        try:
            while True:
                await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
                self._deliver(math.floor(self.now() / TICK_S + _EPSILON))
        finally:
            clock.before = None

    def _next(self, deadline: float) -> float:
        """The next moment at which anything happens, a tick or ``deadline``; for a tick our task is woken."""
        if not self._ticks or (at := self._ticks[0] * TICK_S) > deadline:
            return deadline
        assert self._task is not None
        trio.lowlevel.reschedule(self._task)
        return at

    async def _run_asleep(self) -> None:
        task = trio.lowlevel.current_task()

        def wake(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            # At the deadline we go on without the exception, which would cost as much as all else that a tick takes.
            if trio.current_time() < self._sleep.deadline:
                return trio.lowlevel.Abort.SUCCEEDED
            trio.lowlevel.reschedule(task)
            return trio.lowlevel.Abort.FAILED

        while True:
            with trio.CancelScope() as self._sleep:
                self._sleep.deadline = self._ticks[0] * TICK_S if self._ticks else math.inf
                await trio.lowlevel.wait_task_rescheduled(wake)
            self._deliver(math.floor(trio.current_time() / TICK_S + _EPSILON))

    def _deliver(self, until: int) -> None:
        ticks, all_due = self._ticks, self._due
        while ticks and ticks[0] <= until:
            self.tick = tick = heapq.heappop(ticks)
            for act, argument in all_due.pop(tick):
                act(argument)
