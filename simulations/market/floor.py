"""What every policy shares: virtual time, the machines with production's admission, and what became of each job.

A policy is told of each job when its client wants it done, and brings it to a machine with :meth:`Floor.start`.
Machines vanish and come back as the workload says; a job that was there is asked for again half a second later.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from compute.admission import Admission, SchedulerBusy
from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from simulations.market.workload import Job, Provider, Workload

TASK, MODEL, UNIT = Task.EMBED, "demo", Unit.EMBEDDING
"""What is traded: embeddings have one unit, hence one price, as theory has it."""

ROUND_TRIP_S = 0.1
"""Between any two; connections stand already."""

NOTICED_S = 0.5
"""After its provider vanished, a client asks anew."""

RETRIES = 2
RETRY_S = (1.5, 4.5)
"""A client that found nobody tries again after a while, as the users of an API do, if the deadline leaves room."""

QUEUE = 64
"""Jobs that may wait at a provider: the default of ``node.queue_per_engine``."""


@dataclass(slots=True)
class Outcome:
    """What became of a job so far. Money is integer nanoTON; times are virtual seconds, NaN for what did not happen."""

    provider: int = -1
    price_nanoton_per_munit: int = 0
    paid_nanoton: int = 0
    cost_nanoton: int = 0
    setup_nanoton: int = 0
    agreed_s: float = math.nan
    started_s: float = math.nan
    finished_s: float = math.nan
    messages: int = 0
    tries: int = 0
    restarts: int = 0


@dataclass
class Machine:
    """One provider's slots and queue."""

    provider: Provider
    admission: Admission[int]
    up: bool = True
    jobs: dict[int, float] = field(default_factory=dict)
    """Jobs there, running or waiting, each with its finish (NaN while it waits)."""


def _admission(provider: Provider) -> Admission[int]:
    return Admission(provider.slots, QUEUE, 1 / provider.units_per_s)


@dataclass(frozen=True)
class Prices1s:
    """What was seen in one second: the capacity-weighted mean of the asks and of the share of busy slots."""

    ask: float
    busy: float


class Policy(ABC):
    """How jobs and machines find each other."""

    name: str

    @abstractmethod
    def begin(self, floor: Floor) -> None:
        """Called once, before the first job."""

    @abstractmethod
    def want(self, job: Job, now: float) -> None:
        """``job``'s client wants it done, for the first time or again."""

    def returned(self, machine: Machine, now: float) -> None:  # noqa: B027 — most have nothing to do
        """A machine is there again, empty."""

    @abstractmethod
    def asks(self, machine: Machine) -> float:
        """What it asks at this moment, nanoTON per million tokens: for the record of prices."""


class Floor:
    """One run of one policy on one workload."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self.workload = workload
        self.policy = policy
        self.machines = [Machine(p, _admission(p)) for p in workload.providers]
        self.outcomes = [Outcome() for _ in workload.jobs]
        self.usages = [Usage.of(UNIT, job.units) for job in workload.jobs]
        self.seconds: list[Prices1s] = []
        self._costs = [Prices({UNIT: p.cost_nanoton_per_munit}) for p in workload.providers]
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call ``call(*arguments, now)`` at ``when``. What is due at one time happens in the order of these calls."""
        heapq.heappush(self._heap, (when, next(self._order), call, arguments))

    def run(self) -> Floor:
        """Play the whole workload. Jobs that run or wait when it ends are still done: nothing can happen to them."""
        workload = self.workload
        for before, segment in zip((None, *workload.segments), workload.segments, strict=False):
            gone = bool(segment.lost)
            if gone != bool(before is not None and before.lost):
                self.at(segment.starts_s, self._vanish if gone else self._return)
        self.policy.begin(self)
        self.at(0.0, self._sample)
        if workload.jobs:
            self.at(workload.jobs[0].at_s, self._arrive, 0)
        heap, ends = self._heap, workload.ends_s
        while heap and heap[0][0] < ends:
            self.now, _, call, arguments = heapq.heappop(heap)
            call(*arguments, self.now)
        while heap:
            self.now, _, call, arguments = heapq.heappop(heap)
            if call == self._finish:
                call(*arguments, self.now)
        return self

    def rng(self, job: Job, salt: int = 0) -> Random:
        """Randomness of one attempt at one job: a deviation and what it deviates from draw the same."""
        outcome = self.outcomes[job.number]
        seed = ((self.workload.seed * 1_000_003 + job.number) * 64 + outcome.tries + 8 * outcome.restarts) * 16 + salt
        return Random(seed)  # noqa: S311  # a model, no secret

    def start(self, job: Job, provider: int, price_nanoton_per_munit: int, agreed_s: float, now: float) -> bool:
        """Bring a job to a machine; false when it is gone or turns it away."""
        machine = self.machines[provider]
        if not machine.up:
            return False
        try:
            runs = machine.admission.arrive(job.number, now, job.units)
        except SchedulerBusy:
            return False
        outcome = self.outcomes[job.number]
        outcome.provider, outcome.price_nanoton_per_munit, outcome.agreed_s = (
            provider, price_nanoton_per_munit, agreed_s,
        )  # fmt: skip
        machine.jobs[job.number] = math.nan
        if runs:
            self._runs(machine, job.number, now)
        return True

    def nobody(self, job: Job, now: float) -> None:
        """``job`` found nobody: its client tries again later, or gives up."""
        outcome = self.outcomes[job.number]
        left = job.at_s + job.deadline_s - now
        if outcome.tries < RETRIES and left > RETRY_S[1] + job.units / 3000:
            pause = self.rng(job, 1).uniform(*RETRY_S)
            outcome.tries += 1
            self.at(now + pause, self.policy.want, job)

    # ---- the machines ----

    def _arrive(self, number: int, now: float) -> None:
        jobs = self.workload.jobs
        if number + 1 < len(jobs):
            self.at(jobs[number + 1].at_s, self._arrive, number + 1)
        self.policy.want(jobs[number], now)

    def _runs(self, machine: Machine, number: int, now: float) -> None:
        job = self.workload.jobs[number]
        ends = now + job.units / machine.provider.units_per_s
        machine.jobs[number] = ends
        self.outcomes[number].started_s = now
        self.at(ends, self._finish, machine, number)

    def _finish(self, machine: Machine, number: int, now: float) -> None:
        if machine.jobs.get(number) != now:
            return  # it vanished with the machine, and may have come back to it
        del machine.jobs[number]
        outcome = self.outcomes[number]
        usage = self.usages[number]
        outcome.finished_s = now
        outcome.paid_nanoton = Prices({UNIT: outcome.price_nanoton_per_munit}).cost_nanoton(usage)
        outcome.cost_nanoton = self._costs[machine.provider.number].cost_nanoton(usage)
        for following in machine.admission.leave(number, now, served=True):
            self._runs(machine, following, now)

    def _vanish(self, now: float) -> None:
        for number in sorted(self.workload.lost):
            machine = self.machines[number]
            machine.up = False
            for job in sorted(machine.jobs):
                outcome = self.outcomes[job]
                outcome.provider, outcome.started_s = -1, math.nan
                outcome.tries, outcome.restarts = 0, outcome.restarts + 1
                self.at(now + NOTICED_S, self.policy.want, self.workload.jobs[job])
            machine.jobs.clear()

    def _return(self, now: float) -> None:
        for number in sorted(self.workload.lost):
            machine = self.machines[number]
            machine.admission = _admission(machine.provider)
            machine.up = True
            self.policy.returned(machine, now)

    def _sample(self, now: float) -> None:
        capacity = ask = busy = 0.0
        for machine in self.machines:
            if machine.up:
                c = machine.provider.capacity
                capacity += c
                ask += c * self.policy.asks(machine)
                busy += c * machine.admission.busy / machine.provider.slots
        self.seconds.append(Prices1s(ask / max(capacity, 1e-9), busy / max(capacity, 1e-9)))
        self.at(now + 1.0, self._sample)


def surplus_nanoton(job: Job, outcome: Outcome) -> float:
    """What the job was worth to its client, less what it cost its provider and less what opening a channel for it
    cost; who paid whom does not matter."""
    if math.isnan(outcome.finished_s):
        return 0.0
    return job.value_nanoton(outcome.finished_s - job.at_s) - outcome.cost_nanoton - outcome.setup_nanoton
