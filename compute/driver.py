"""Who drives an engine: what the scheduler expects of a driver, and the part of driving that needs neither thread nor
clock.

In production a thread of its own drives each engine (:mod:`compute.worker`); a simulation calls engines when they are
due, in virtual time. Both go through :class:`EngineOperator`, so that commands, events and crashes mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import trio

from compute import limits
from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId, EngineUnavailable
from compute.tasks import Event, Finished, Request, TaskError

Item = tuple[EngineJobId, Event | Exception]
Command = tuple[Literal["submit"], EngineJobId, Request] | tuple[Literal["cancel"], EngineJobId, None]
OnItems = Callable[[list[Item]], None]
OnDead = Callable[[str], None]


class Driver(Protocol):
    """Drives one engine for the scheduler, which uses it from trio.

    ``ready`` is set once the engine has loaded (``capabilities``) or failed to (``failure``), ``ended`` when it is
    closed. A command never reports back before :meth:`post` has returned.
    """

    engine: Engine
    capabilities: Sequence[Capability]
    failure: str
    ready: trio.Event
    ended: trio.Event

    def start(self) -> None:
        """Begin to load the engine."""

    def post(self, command: Command) -> None:
        """Hand a command over."""

    def stop(self) -> None:
        """Close the engine soon; nothing is reported any more once ``ended`` is set."""


MakeDriver = Callable[[Engine, OnItems, OnDead], Driver]
"""Makes the driver of an engine. The functions are called in trio with what happened, and when it is given up."""


class EngineOperator:
    """Operates one engine for a driver: commands in, events out, crashes counted. All calls come from one place."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.capabilities: Sequence[Capability] = ()
        self.failure = ""
        """Why the engine does not serve, empty while it does."""
        self.active: dict[EngineJobId, None] = {}
        """Jobs that the engine has."""
        self.given_up = False
        """Whether it crashed too often in a row."""
        self._crashes = 0

    def load(self) -> None:
        """Load the engine; :attr:`failure` says if that was in vain."""
        try:
            self.engine.load()
            self.capabilities = tuple(self.engine.capabilities())
        except EngineUnavailable as error:
            self.failure = str(error)
        except Exception as error:  # any engine may raise anything; the node goes on without this one
            self.failure = f"the engine crashed while loading: {type(error).__name__}: {error}"

    def obey(self, command: Command) -> list[Item]:
        """Carry a command out; returns the error of a job that could not begin."""
        kind, job, request = command
        try:
            if kind == "submit":
                assert request is not None
                self.engine.submit(job, request)
                self.active[job] = None
            else:
                self.active.pop(job, None)
                self.engine.cancel(job)
        except TaskError as error:
            self.active.pop(job, None)
            return [(job, error)]
        except Exception as error:  # a crash in one job's submission is that job's
            self.active.pop(job, None)
            return [(job, EngineFailure(f"the engine failed: {type(error).__name__}: {error}"))]
        return []

    def step(self) -> list[Item]:
        """Let the engine step. If it crashes its jobs fail, and after several times in a row it is given up."""
        try:
            items = self.engine.step()
            self._crashes = 0
        except Exception as error:  # the jobs fail, the engine gets another chance
            self._crashes += 1
            items = self._fail_all(error)
        for job, item in items:
            if isinstance(item, Finished | Exception):
                self.active.pop(job, None)
        if self._crashes == limits.MAX_ENGINE_CRASHES:
            self.given_up = True
            self.failure = "the engine crashed several times in a row and was given up"
        return items

    def _fail_all(self, error: Exception) -> list[Item]:
        failed, self.active = list(self.active), {}
        for job in failed:
            try:
                self.engine.cancel(job)
            except Exception:  # noqa: S112  # the engine is broken already; the next job would tell
                continue
        return [(job, EngineFailure(f"the engine failed: {type(error).__name__}: {error}")) for job in failed]

    def close(self) -> None:
        """Close the engine. Never raises."""
        try:
            self.engine.close()
        except Exception as error:  # there is nobody left to tell but the report
            self.failure = self.failure or f"the engine crashed while closing: {type(error).__name__}: {error}"
