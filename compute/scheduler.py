"""The scheduler: requests in, events out, engines behind.

It owns the engines (a driver each: in production a thread, :mod:`compute.worker`), admits jobs
(:mod:`compute.admission`) and hands each job's events to whoever asked, in lists of what arrived together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import trio

from compute import limits
from compute.admission import Admission, SchedulerBusy
from compute.driver import Item, MakeDriver
from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId
from compute.estimate import expected_work
from compute.tasks import Embedding, Event, Finished, RawDelta, Request, Task, TaskError
from compute.worker import EngineThread


class ConsumerTooSlow(Exception):
    """The job was cancelled because its events were not read and its buffer was full."""


@dataclass(frozen=True)
class Load:
    """How full the engines of a (task, model) are: running jobs, slots, waiting jobs, a newcomer's expected wait."""

    busy: int
    slots: int
    queued: int
    wait_s: float


class JobEvents:
    """The events of one job: an async iterator over non-empty lists of events that arrived together.

    It ends after the list that holds ``Finished``. It raises what ended the job otherwise
    (:class:`~compute.tasks.TaskError`, :class:`~compute.engines.base.EngineFailure` or :class:`ConsumerTooSlow`) once
    the events before it were read. On cancellation no event is lost.
    """

    def __init__(self, job: EngineJobId, request: Request) -> None:
        self.id = job
        self.request = request
        self._buffer: list[Event] = []
        self._bytes = 0
        self._error: Exception | None = None
        self._done = False
        self._news: trio.Event | None = None

    def __aiter__(self) -> JobEvents:
        return self

    async def __anext__(self) -> list[Event]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._done:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        events, self._buffer, self._bytes = self._buffer, [], 0
        return events

    def _push(self, item: Event | Exception) -> bool:
        """Add an event or the error that ends the job; false when the buffer is full."""
        if isinstance(item, Exception):
            self._error = item
            self._done = True
        else:
            self._buffer.append(item)
            self._bytes += _size(item)
            self._done = isinstance(item, Finished)
        if self._news is not None:
            self._news.set()
            self._news = None
        return len(self._buffer) <= limits.JOB_BUFFER_EVENTS and self._bytes <= limits.JOB_BUFFER_BYTES


def _size(event: Event) -> int:
    if isinstance(event, RawDelta):
        return len(event.json)
    if isinstance(event, Embedding):
        return len(event.vector)
    return len(getattr(event, "text", ""))


class _Station:
    """One engine with its driver, its admission and its jobs."""

    def __init__(self, engine: Engine, driver: MakeDriver, max_queue: int) -> None:
        self.driver = driver(engine, self._on_items, self._on_dead)
        self.admission: Admission[EngineJobId] = Admission(1, max_queue)
        self.alive = False
        self._max_queue = max_queue
        self._jobs: dict[EngineJobId, JobEvents] = {}

    def loaded(self) -> None:
        """Take over what the engine said about itself."""
        self.alive = not self.driver.failure
        slots = max((c.max_batch for c in self.driver.capabilities), default=1)
        speeds = [c.units_per_s for c in self.driver.capabilities if c.units_per_s > 0]
        self.admission = Admission(slots, self._max_queue, 1 / min(speeds) if speeds else 0.0)

    def enter(self, job: JobEvents) -> None:
        """Start or queue a job. Raises :class:`SchedulerBusy`."""
        runs = self.admission.arrive(job.id, trio.current_time(), expected_work(job.request))
        self._jobs[job.id] = job
        if runs:
            self.driver.post(("submit", job.id, job.request))

    def leave(self, job: EngineJobId, *, served: bool = False, tell_engine: bool = True) -> None:
        """Drop a job, and start those that waited for its place; the engine is told unless it ended the job."""
        known = self._jobs.pop(job, None) is not None
        if known and tell_engine:
            self.driver.post(("cancel", job, None))
        for following in self.admission.leave(job, trio.current_time(), served=served):
            self.driver.post(("submit", following, self._jobs[following].request))

    def _on_items(self, items: list[Item]) -> None:
        for job_id, item in items:
            job = self._jobs.get(job_id)
            if job is None:
                continue  # cancelled meanwhile
            fits = job._push(item)
            if job._done:
                self.leave(job_id, served=isinstance(item, Finished), tell_engine=False)
            elif not fits:
                job._push(ConsumerTooSlow("the answer was not read in time: its buffer is full"))
                self.leave(job_id)

    def _on_dead(self, reason: str) -> None:
        self.alive = False
        for job in list(self._jobs.values()):
            job._push(EngineFailure(reason))
            self._jobs.pop(job.id)
            self.admission.leave(job.id, trio.current_time(), served=False)


class Scheduler:
    """Serves requests on a set of engines; made by :meth:`run`."""

    def __init__(self, stations: Sequence[_Station]) -> None:
        self._stations = stations
        self._ids = count(1)

    @classmethod
    @asynccontextmanager
    async def run(
        cls,
        engines: Sequence[Engine],
        *,
        max_queue: int = limits.MAX_QUEUE_PER_ENGINE,
        driver: MakeDriver = EngineThread,
    ) -> AsyncIterator[Scheduler]:
        """Load ``engines`` in parallel and serve until the block is left. ``driver`` makes what drives each of them.

        An engine that cannot load is skipped and reported in :meth:`failures`. On leaving, jobs are cancelled, engines
        closed, and their drivers awaited for up to :data:`~compute.limits.ENGINE_CLOSE_S`.
        """
        stations = [_Station(engine, driver, max_queue) for engine in engines]
        try:
            for station in stations:
                station.driver.start()
            for station in stations:
                await station.driver.ready.wait()
                station.loaded()
            yield cls(stations)
        finally:
            for station in stations:
                station.alive = False
                station.driver.stop()
            with trio.move_on_after(limits.ENGINE_CLOSE_S, shield=True):
                for station in stations:
                    await station.driver.ended.wait()

    def failures(self) -> dict[str, str]:
        """Engines that do not serve, and why (what to install, what crashed)."""
        return {s.driver.engine.name: s.driver.failure for s in self._stations if s.driver.failure}

    def capabilities(self) -> list[Capability]:
        """What the live engines serve."""
        return [capability for station in self._stations if station.alive for capability in station.driver.capabilities]

    def load(self) -> dict[tuple[Task, str], Load]:
        """How full each (task, model) is. Engines that serve several share their slots between them."""
        loads: dict[tuple[Task, str], Load] = {}
        now_s = trio.current_time()
        for station in self._stations:
            if station.alive:
                a = station.admission
                wait_s = a.wait_s(now_s)
                for capability in station.driver.capabilities:
                    key = (capability.task, capability.model)
                    load = Load(a.taken(now_s), a.slots, a.queued, wait_s)
                    if (other := loads.get(key)) is not None:
                        load = Load(
                            load.busy + other.busy, load.slots + other.slots, load.queued + other.queued,
                            min(wait_s, other.wait_s),
                        )  # fmt: skip
                    loads[key] = load
        return loads

    def promise(self, task: Task, model: str) -> None:
        """Somebody was promised that a job starts here now: until it arrives, its place counts as taken."""
        station = self._least_loaded(task, model)
        if station is not None:
            station.admission.promise(trio.current_time())

    def _least_loaded(self, task: Task, model: str) -> _Station | None:
        now_s = trio.current_time()
        stations = [
            s
            for s in self._stations
            if s.alive and any(c.task is task and c.model == model for c in s.driver.capabilities)
        ]
        return min(
            stations, key=lambda s: (s.admission.wait_s(now_s), s.admission.queued, s.admission.busy), default=None
        )

    @asynccontextmanager
    async def submit(self, request: Request) -> AsyncIterator[JobEvents]:
        """Serve ``request``; leaving the block cancels the job in the engine if it still runs.

        Raises :class:`TaskError` when no engine serves the model and :class:`SchedulerBusy` when the queue is full.
        """
        station = self._least_loaded(request.task, request.model)
        if station is None:
            raise TaskError(f"no engine here serves the model {request.model!r} for {request.task}", param="model")
        job = JobEvents(EngineJobId(next(self._ids)), request)
        station.enter(job)
        try:
            yield job
        finally:
            station.leave(job.id)


__all__ = ["ConsumerTooSlow", "JobEvents", "Load", "Scheduler", "SchedulerBusy"]
