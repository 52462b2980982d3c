"""Admission to one engine: who runs, who waits, who is turned away, and how long a newcomer would wait.

Pure: time is an argument. The scheduler holds one for each engine.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from compute import limits

JobT = TypeVar("JobT", bound=Hashable)

_OVERDUE = 0.1
"""The share of its expected time that a job is expected to need once that time is over."""


class SchedulerBusy(Exception):
    """Every slot is taken and the queue is full. ``retry_after_s`` is when a place should be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"all slots are taken and the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Running:
    """A job in a slot: since when, and how much work it is."""

    began_s: float
    work: float


class Admission(Generic[JobT]):
    """``slots`` jobs run, up to ``max_queue`` wait in the order of arrival.

    Each job has a ``work``: how much it is expected to be, in any one measure (tokens, milliseconds of audio). What a
    piece of work takes is learnt from the jobs that were served, so a wait can be told from what runs and waits now
    rather than from a mean: on a market full of long jobs that difference is worth 7 % of all there is to gain
    (docs/simulation.md, "The market alone"). ``pace_s`` is the seconds that one unit of work takes, as far as is known
    before any job was served: without it a full engine that has just started promises everybody to begin at once.

    Invariant: nobody waits while a slot is free.
    """

    def __init__(self, slots: int, max_queue: int = limits.MAX_QUEUE_PER_ENGINE, pace_s: float = 0.0) -> None:
        assert slots >= 1
        assert max_queue >= 0
        self.slots = slots
        self._max_queue = max_queue
        self._pace_s = pace_s
        self._running: dict[JobT, _Running] = {}
        self._queue: dict[JobT, float] = {}
        self._served: deque[tuple[float, float]] = deque(maxlen=limits.SERVICE_TIME_SAMPLES)
        self._seconds = self._work = 0.0
        self._promised: deque[float] = deque(maxlen=slots + max_queue)

    @property
    def busy(self) -> int:
        """Jobs that run."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    def arrive(self, job: JobT, now_s: float, work: float = 1.0) -> bool:
        """Admit ``job``: true when it runs at once, false when it waits. Raises :class:`SchedulerBusy`."""
        assert work > 0
        assert job not in self._running
        assert job not in self._queue
        if self._promises(now_s):
            self._promised.popleft()
        if len(self._running) < self.slots:
            self._running[job] = _Running(now_s, work)
            return True
        if len(self._queue) >= self._max_queue:
            raise SchedulerBusy(self.wait_s(now_s))
        self._queue[job] = work
        return False

    def leave(self, job: JobT, now_s: float, *, served: bool) -> list[JobT]:
        """Take ``job`` out, running or waiting; unknown jobs are ignored. Returns the jobs that run now instead.

        ``served`` tells whether it ran to its end: only then does its time count as service time.
        """
        ran = self._running.pop(job, None)
        self._queue.pop(job, None)
        if ran is not None and served:
            self._learn(max(0.0, now_s - ran.began_s), ran.work)
        started: list[JobT] = []
        while self._queue and len(self._running) < self.slots:
            following = next(iter(self._queue))
            self._running[following] = _Running(now_s, self._queue.pop(following))
            started.append(following)
        return started

    def promise(self, now_s: float) -> None:
        """Somebody was promised a place and is on the way: it counts as taken until the next job arrives, for at most
        :data:`~compute.limits.PROMISED_PLACE_S`. Nothing is kept free for it."""
        self._promised.append(now_s + limits.PROMISED_PLACE_S)

    def taken(self, now_s: float) -> int:
        """Slots in use or promised."""
        return min(self.slots, len(self._running) + self._promises(now_s))

    def service_s(self) -> float:
        """Mean time from slot to end of the last jobs, 0 before the first."""
        return self._seconds / len(self._served) if self._served else 0.0

    def wait_s(self, now_s: float) -> float:
        """Expected wait of a job that arrives now: those that run end in turn, and those that wait or were promised a
        place go before it."""
        promised = self._promises(now_s)
        if len(self._running) + promised < self.slots:
            return 0.0
        pace = self._seconds / self._work if self._served else self._pace_s
        ends = [self._left_s(running, pace, now_s) for running in self._running.values()]
        ahead = [work * pace for work in self._queue.values()] + promised * [self._typical_work() * pace]
        free = self.slots - len(ends)
        ends += ahead[:free]
        heapq.heapify(ends)
        for seconds in ahead[free:]:
            heapq.heapreplace(ends, ends[0] + seconds)
        return ends[0]

    def _promises(self, now_s: float) -> int:
        while self._promised and self._promised[0] <= now_s:
            self._promised.popleft()
        return len(self._promised)

    def _typical_work(self) -> float:
        if self._served:
            return self._work / len(self._served)
        return sum(running.work for running in self._running.values()) / max(1, len(self._running))

    def _left_s(self, running: _Running, pace: float, now_s: float) -> float:
        """How long a job is expected to run on. One that is overdue may end at any moment or not: it is given a share
        of its expected time, since to call it all but done would promise what nobody knows."""
        whole = running.work * pace
        return max(whole - (now_s - running.began_s), _OVERDUE * whole if now_s > running.began_s + whole else 0.0)

    def _learn(self, seconds: float, work: float) -> None:
        if len(self._served) == self._served.maxlen:
            oldest = self._served[0]
            self._seconds, self._work = self._seconds - oldest[0], self._work - oldest[1]
        self._served.append((seconds, work))
        self._seconds, self._work = self._seconds + seconds, self._work + work
