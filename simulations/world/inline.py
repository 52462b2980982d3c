"""Drives engines in virtual time, without threads: the scheduler of a simulated provider runs on this.

An engine is called in the ticks of the network's :class:`~simulations.network.timeline.Timeline`, when a command came
or when it is due by its own account. There is no task an engine and no polling: a thousand idle engines cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import trio

from compute.driver import Command, EngineOperator, MakeDriver, OnDead, OnItems
from compute.engines.base import Capability, Engine
from simulations.network.limits import TICK_S
from simulations.network.timeline import Timeline

POLL_S = 0.05
"""An engine that cannot say when it is due is stepped this often while it has jobs."""

_EPSILON_TICKS = 1e-6
_EPSILON_S = 1e-6
_NEVER = 1 << 62


@runtime_checkable
class Paced(Protocol):
    """An engine that lives in virtual time. Its :meth:`~compute.engines.base.Engine.step` never waits."""

    load_s: float
    """How long it takes to load."""
    on_change: Callable[[], None]
    """Set by the driver. The engine calls it when :meth:`due_s` came nearer and no command was the reason."""

    def due_s(self) -> float:
        """When it next has something to tell, by its clock; infinity when nothing comes without a command."""


class InlineDriver:
    """Drives ``engine`` (:class:`~compute.driver.Driver`). A command is carried out in the tick after it was posted."""

    def __init__(self, timeline: Timeline, engine: Engine, on_items: OnItems, on_dead: OnDead) -> None:
        self.engine = engine
        self.capabilities: Sequence[Capability] = ()
        self.failure = ""
        self.ready, self.ended = trio.Event(), trio.Event()
        self._paced = engine if isinstance(engine, Paced) else None
        if self._paced is not None:
            self._paced.on_change = self._nudge
        self._timeline = timeline
        self._on_items, self._on_dead = on_items, on_dead
        self._operator = EngineOperator(engine)
        self._commands: list[Command] = []
        self._armed = _NEVER
        """The tick of the next turn. Turns that were asked for before a nearer one came up find another tick here."""

    def start(self) -> None:
        """Load the engine, which takes its time; :attr:`ready` is set then."""
        load_s = 0.0 if self._paced is None else self._paced.load_s
        self._timeline.at(self._timeline.now() + load_s, self._load, None)

    def post(self, command: Command) -> None:
        """Hand a command over."""
        self._commands.append(command)
        self._nudge()

    def stop(self) -> None:
        """Close the engine."""
        if not self.ended.is_set():
            self._operator.close()
            self.failure = self._operator.failure
            self.ended.set()

    def _load(self, _: None) -> None:
        if self.ended.is_set():
            return
        operator = self._operator
        operator.load()
        self.capabilities, self.failure = operator.capabilities, operator.failure
        self.ready.set()
        if self.failure:
            self.stop()

    def _nudge(self) -> None:
        self._arm(self._timeline.tick + 1)

    def _arm(self, tick: int) -> None:
        if tick < self._armed:
            self._armed = self._timeline.at(0.0, self._turn, None, not_before=tick)

    def _turn(self, _: None) -> None:
        if self._timeline.tick != self._armed or self.ended.is_set():
            return
        self._armed = _NEVER
        operator = self._operator
        items = []
        commands, self._commands = self._commands, []
        for command in commands:
            items += operator.obey(command)
        if operator.active and (self._paced is None or self._paced.due_s() <= self._timeline.now() + _EPSILON_S):
            items += operator.step()
        if items:
            self._on_items(items)
        if operator.given_up:
            self.failure = operator.failure
            self._on_dead(self.failure)
            self.stop()
        elif operator.active:
            due_s = self._timeline.now() + POLL_S if self._paced is None else self._paced.due_s()
            if due_s != math.inf:
                self._arm(max(math.ceil(due_s / TICK_S - _EPSILON_TICKS), self._timeline.tick + 1))


def inline(timeline: Timeline) -> MakeDriver:
    """The ``driver`` of :meth:`compute.scheduler.Scheduler.run` for providers in the network of ``timeline``."""
    return partial(InlineDriver, timeline)
