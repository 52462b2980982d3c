"""The engine interface: a synchronous adapter that one worker thread drives (DESIGN: D13).

Engines know nothing of networks, money or trio. The scheduler owns the thread, calls :meth:`Engine.step` in a loop
while jobs are active, and carries the events to whoever asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, runtime_checkable

from compute.tasks import Event, Request, Task

EngineJobId = NewType("EngineJobId", int)


class EngineUnavailable(Exception):
    """The engine cannot run here; the message says exactly what to install or configure. The node goes on without."""


class EngineFailure(Exception):
    """The engine broke while serving; the job fails and is not charged beyond what was delivered."""


@dataclass(frozen=True)
class Capability:
    """One (task, model) that an engine serves.

    ``max_batch`` jobs run at once; ``context`` is in tokens (0 where it does not apply); ``units_per_s`` is the speed
    of one job in its main unit, measured or configured; ``note`` is shown to people (a demo model says so here).
    ``weights_hash`` names the weights (SHA-256 hex), empty when unknown, as behind an upstream.
    """

    task: Task
    model: str
    max_batch: int
    context: int = 0
    units_per_s: float = 0.0
    weights_hash: str = ""
    note: str = ""


class Engine(Protocol):
    """What every engine implements. All methods are called from the engine's own thread; cf. :class:`Wakeable`."""

    name: str

    def load(self) -> None:
        """Make ready: load weights, reach the upstream. Raises :class:`EngineUnavailable`."""

    def capabilities(self) -> Sequence[Capability]:
        """What is served, known after :meth:`load`."""

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Queue a job. Raises :class:`compute.tasks.TaskError` when the request cannot be served as written."""

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Advance the active jobs by one step and return what happened, in order. A job ends with ``Finished`` or with
        an exception (:class:`EngineFailure` or :class:`~compute.tasks.TaskError`), after which it is forgotten.
        May block for one step; returns an empty list when nothing happened."""

    def cancel(self, job: EngineJobId) -> None:
        """Stop a job and free what it holds; no event follows. Unknown ids are ignored."""

    def close(self) -> None:
        """Free everything; idempotent."""


@runtime_checkable
class Wakeable(Protocol):
    """An engine whose :meth:`Engine.step` may wait for something else than computation."""

    def wake(self) -> None:
        """Make a waiting :meth:`Engine.step` return soon. The only method that other threads may call."""
