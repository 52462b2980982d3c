"""Admission to one engine: who runs, who waits, who is turned away, and how long a newcomer would wait.

Pure: time is an argument. The scheduler holds one for each engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from compute import limits

JobT = TypeVar("JobT", bound=Hashable)


class SchedulerBusy(Exception):
    """Every slot is taken and the queue is full. ``retry_after_s`` is when a place should be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"all slots are taken and the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class Admission(Generic[JobT]):
    """``slots`` jobs run, up to ``max_queue`` wait in the order of arrival.

    Invariant: nobody waits while a slot is free.
    """

    def __init__(self, slots: int, max_queue: int = limits.MAX_QUEUE_PER_ENGINE) -> None:
        assert slots >= 1
        assert max_queue >= 0
        self.slots = slots
        self._max_queue = max_queue
        self._running: dict[JobT, float] = {}
        self._began_s = 0.0
        """The sum of the times at which those that run began."""
        self._queue: dict[JobT, None] = {}
        self._service_s: deque[float] = deque(maxlen=limits.SERVICE_TIME_SAMPLES)

    @property
    def busy(self) -> int:
        """Jobs that run."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    def arrive(self, job: JobT, now_s: float) -> bool:
        """Admit ``job``: true when it runs at once, false when it waits. Raises :class:`SchedulerBusy`."""
        assert job not in self._running
        assert job not in self._queue
        if len(self._running) < self.slots:
            self._begin(job, now_s)
            return True
        if len(self._queue) >= self._max_queue:
            raise SchedulerBusy(self.wait_s(now_s))
        self._queue[job] = None
        return False

    def leave(self, job: JobT, now_s: float, *, served: bool) -> list[JobT]:
        """Take ``job`` out, running or waiting; unknown jobs are ignored. Returns the jobs that run now instead.

        ``served`` tells whether it ran to its end: only then does its time count as service time.
        """
        began_s = self._running.pop(job, None)
        self._queue.pop(job, None)
        if began_s is not None:
            self._began_s = self._began_s - began_s if self._running else 0.0  # so that no rounding adds up
            if served:
                self._service_s.append(max(0.0, now_s - began_s))
        started: list[JobT] = []
        while self._queue and len(self._running) < self.slots:
            following = next(iter(self._queue))
            del self._queue[following]
            self._begin(following, now_s)
            started.append(following)
        return started

    def _begin(self, job: JobT, now_s: float) -> None:
        self._running[job] = now_s
        self._began_s += now_s

    def service_s(self, now_s: float) -> float:
        """Mean time from slot to end of the last jobs, or what those that run have taken so far in the mean where that
        is more: before the first has ended, and when jobs hang, the past says too little. 0 when nothing ever ran."""
        ended_s = sum(self._service_s) / len(self._service_s) if self._service_s else 0.0
        if not self._running:
            return ended_s
        return max(ended_s, now_s - self._began_s / len(self._running))

    def wait_s(self, now_s: float) -> float:
        """Expected wait of a job that arrives now: slots free up at ``slots / service time``, in turn."""
        if len(self._running) < self.slots:
            return 0.0
        return (len(self._queue) + 1) * self.service_s(now_s) / self.slots
