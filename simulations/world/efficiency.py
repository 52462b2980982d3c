"""How much of the competitive optimum a run reached, and where the rest of it went.

What is gained is the worth of the answers to their users, less what the waiting was worth to them beyond the time that
the quickest machine of the run takes, less what the work cost its providers; prices only say who gets it. It is held
against :mod:`simulations.world.bound`. Fees of the chain are counted on neither side: a channel lives for a week.

The optimum comes with prices λ for the time of each class of machine in each minute, and these say what each part of
the difference is due to (complementary slackness). With b_j what a job has of its best option at these prices, and a
job that took S seconds of a machine and was late by its parts,

    bound − gained = Σ_jobs [b_j − (worth − hurry · late − λ S)] + Σ_places [capacity (λ − rate) − used (λ − rate)]

Each bracket is at least 0: the first is what a job lost by going elsewhere, late or nowhere, the second time of
machines that nobody used although it was worth more than it costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compute.tasks import Task
from compute.usage import UNITS_PER_PRICE
from simulations.results import Job, Provider, RunResult
from simulations.world.bound import MINUTE_S, PATIENCE, Floats, Fluid, least
from simulations.world.hardware import HARDWARE, NANOTON_PER_USD, Offering, offering

LEAST_JOBS = 100
"""Fewer say nothing about a market."""

TAIL_S = 120.0
"""Jobs asked for so shortly before the end are left out: most of them could not be done any more."""

CAUSES = (
    "too_dear", "no_room", "failed", "unfinished", "channel", "dealing", "queue", "sharing", "machine", "displaced",
    "idle", "outside",
)  # fmt: skip
"""What kept a market from the optimum:

too_dear    refused: everybody asked more than the client pays
no_room     refused: everybody was full, or nobody was known
failed      failed, and what had been made until then
unfinished  not ended when the run did, or its client stopped
channel     waited for a payment channel to be opened
dealing     waited for quotes and awards, or for another try
queue       waited at its provider, its prompt not read yet
sharing     made more slowly than by a machine of its own, or held up on its way
machine     made by another machine, or at another time, than would have been best
displaced   done, although it was worth less than what its machine's time was worth to others
idle        time of machines that stood still although others would have paid more than it costs
outside     time of machines that went to jobs of before the span and of its end
"""


@dataclass(frozen=True)
class Reached:
    """Of one span: the bound, what was gained, and by cause what lies between the two, in nanoTON."""

    bound_nanoton: float
    gained_nanoton: float
    lost_nanoton: dict[str, float]

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.gained_nanoton / self.bound_nanoton

    @property
    def losses(self) -> dict[str, float]:
        """Shares of the bound by cause, in the order of :data:`CAUSES`; with :attr:`share` they add up to 1."""
        return {cause: self.lost_nanoton.get(cause, 0.0) / self.bound_nanoton for cause in CAUSES}


@dataclass(frozen=True)
class _Kind:
    """Machines that are alike."""

    hardware: str
    sold: tuple[Offering, ...]

    @property
    def rate(self) -> float:
        """nanoTON that a second under load costs."""
        return float(HARDWARE[self.hardware].usd_per_h * NANOTON_PER_USD / 3600)

    def serves(self, job: Job) -> Offering | None:
        """What serves the job, if anything does."""
        for each in self.sold:
            if Task(job.task) in each.tasks and job.model in ("", each.model):
                return each
        return None


def _seconds(what: Offering, prompt: int, units: int) -> float:
    """Time of the machine, all slots busy."""
    return prompt * what.pace.prompt_token_s + units / what.most_units_per_s


def _reading_s(what: Offering, job: Job) -> float:
    """From the beginning to the first token, alone."""
    return job.prompt * what.pace.prompt_token_s


def _alone_s(what: Offering, job: Job) -> float:
    """From the beginning to the end, alone."""
    return _reading_s(what, job) + job.wanted * what.pace.step_s(1)


def reached(result: RunResult, from_s: float | None = None, until_s: float = math.inf) -> Reached | None:
    """What the jobs asked for between two seconds reached (from the end of the warm-up to the end of the run, if not
    said otherwise). The optimum is that of the whole run. ``None`` when there are too few jobs, or nothing was to be
    had."""
    from_s = result.warmup_s if from_s is None else from_s
    until_s = min(until_s, result.virtual_s - TAIL_S)
    account = _Account(result)
    counted = [n for n, job in enumerate(account.jobs) if from_s <= job.asked_at_s < until_s]
    if len(counted) < LEAST_JOBS:
        return None
    found = account.reached(counted, from_s, until_s)
    return found if found.bound_nanoton > 0 else None


class _Account:
    """The optimum of a run, and its jobs held against it."""

    def __init__(self, result: RunResult) -> None:
        self._kinds: list[_Kind] = []
        self._kind: dict[int, int] = {}
        self._minutes = max(1, math.ceil(result.virtual_s / MINUTE_S))
        capacity = self._count(result.providers)
        self.jobs = [job for job in result.jobs if job.wanted and any(kind.serves(job) for kind in self._kinds)]
        self._quickest = [
            min(_alone_s(what, job) for kind in self._kinds if (what := kind.serves(job))) for job in self.jobs
        ]
        rate = np.repeat(np.array([kind.rate for kind in self._kinds]), self._minutes)
        self._program = self._fluid(capacity.ravel(), rate)
        self._prices = least(self._program).prices
        self._best, _ = self._program.best(self._prices)
        self._rent = (self._prices - rate).reshape(len(self._kinds), self._minutes)
        self._capacity = capacity
        self._opened = _openings(self.jobs)

    def _count(self, providers: Sequence[Provider]) -> Floats:
        """Seconds of each kind in each minute."""
        rows: list[Floats] = []
        for provider in providers:
            sold = tuple(offering(provider.hardware, model, slots) for model, slots in provider.sells)
            kind = _Kind(provider.hardware, sold)
            if kind not in self._kinds:
                self._kinds.append(kind)
                rows.append(np.zeros(self._minutes))
            self._kind[provider.number] = number = self._kinds.index(kind)
            for begins_s, ends_s in provider.shifts:
                for minute, seconds in _minutes(begins_s, ends_s, self._minutes):
                    rows[number][minute] += seconds
        return np.array(rows).reshape(len(self._kinds), self._minutes)

    def _fluid(self, capacity_s: Floats, rate: Floats) -> Fluid:
        count = len(self.jobs)
        asked = np.array([job.asked_at_s for job in self.jobs])
        value = np.array([job.value_per_million * job.wanted / UNITS_PER_PRICE for job in self.jobs])
        hurry = np.array([job.value_of_time for job in self.jobs], dtype=np.float64)
        quickest = np.array(self._quickest)
        first = np.minimum((asked / MINUTE_S).astype(np.intp), self._minutes - 1) if count else np.zeros(0, np.intp)
        worths, seconds, places = [], [], []
        for number, kind in enumerate(self._kinds):
            sold = [kind.serves(job) for job in self.jobs]
            alone = np.array([_alone_s(w, j) if w else 0.0 for w, j in zip(sold, self.jobs, strict=True)])
            takes = np.array([_seconds(w, j.prompt, j.wanted) if w else 1.0 for w, j in zip(sold, self.jobs, strict=True)])
            serves = np.array([w is not None for w in sold], dtype=bool)
            for later in range(PATIENCE):
                minute = first + later
                there = serves & (minute < self._minutes)
                late = np.maximum(alone, minute * MINUTE_S - asked) - quickest
                worths.append(np.where(there, value - hurry * late, -np.inf))
                seconds.append(takes)
                places.append(number * self._minutes + np.minimum(minute, self._minutes - 1))
        shape = (len(worths), count)
        return Fluid(
            np.array(worths).reshape(shape).T, np.array(seconds).reshape(shape).T,
            np.array(places, dtype=np.intp).reshape(shape).T, capacity_s, rate,
        )  # fmt: skip

    # --- what became of it --------------------------------------------------------------------------------------------

    def reached(self, counted: Sequence[int], from_s: float, until_s: float) -> Reached:
        """Of these jobs, against the machines' time between two seconds."""
        span = np.zeros(self._minutes)
        for minute, seconds in _minutes(from_s, until_s, self._minutes):
            span[minute] = seconds / MINUTE_S
        rent = float((self._capacity * self._rent * span).sum())
        lost: Counter[str] = Counter()
        gained, earned = 0.0, 0.0
        for number in counted:
            job = self.jobs[number]
            used, at_prices = self._used(job)
            gained += self._worth(number) - used
            earned += at_prices
            for cause, nanoton in self._lost(number, used + at_prices):
                lost[cause] += nanoton
        inside = sum(self._inside(job, span) for job in self.jobs)
        lost["outside"] += inside - earned
        lost["idle"] += rent - inside
        bound = float(self._best[list(counted)].sum()) + rent
        return Reached(bound, gained, dict(lost))

    def _worth(self, number: int) -> float:
        job = self.jobs[number]
        if job.outcome != "done" or job.ended_at_s is None:
            return 0.0
        return job.value_nanoton - job.value_of_time * (job.ended_at_s - job.asked_at_s - self._quickest[number])

    def _work(self, job: Job) -> tuple[int, Offering, float, float] | None:
        """On which kind of machine it was made, by what, and from when to when."""
        number = None if job.provider is None else self._kind.get(job.provider)
        what = None if number is None else self._kinds[number].serves(job)
        if number is None or what is None or job.first_token_at_s is None or not job.units:
            return None
        ends_s = self._minutes * MINUTE_S if job.ended_at_s is None else job.ended_at_s
        return number, what, max(0.0, job.first_token_at_s - _reading_s(what, job)), ends_s

    def _spent(self, job: Job) -> Iterator[tuple[int, int, float]]:
        """Kind, minute, and seconds of the machine's time that went into a job."""
        work = self._work(job)
        if work is None:
            return
        number, what, begins_s, ends_s = work
        takes, lasts = _seconds(what, job.prompt, job.units), max(1e-9, ends_s - begins_s)
        for minute, seconds in _minutes(begins_s, ends_s, self._minutes):
            yield number, minute, takes * seconds / lasts

    def _used(self, job: Job) -> tuple[float, float]:
        """What its work cost, and what the machine's time was worth beyond that."""
        cost = worth = 0.0
        for number, minute, seconds in self._spent(job):
            cost += self._kinds[number].rate * seconds
            worth += float(self._rent[number, minute]) * seconds
        return cost, worth

    def _inside(self, job: Job, span: Floats) -> float:
        """What the time that it took of the span was worth beyond its cost."""
        return sum(float(self._rent[n, minute] * span[minute]) * seconds for n, minute, seconds in self._spent(job))

    def _lost(self, number: int, price: float) -> Iterator[tuple[str, float]]:
        """By cause, what a job lost against its best; ``price`` is what the machine's time is worth that it took."""
        job, best = self.jobs[number], float(self._best[number])
        if job.outcome == "refused":
            yield "too_dear" if job.error == "TooExpensive" else "no_room", best + price
            return
        work = self._work(job)
        if job.outcome != "done" or job.ended_at_s is None or work is None or job.first_token_at_s is None:
            yield "unfinished" if job.outcome == "running" else "failed", best + price - self._worth(number)
            return
        what, hurry = work[1], job.value_of_time
        sent_s = min(max(job.asked_at_s, job.sent_at_s or job.asked_at_s), job.first_token_at_s)
        reading_s, alone_s = _reading_s(what, job), _alone_s(what, job)
        opens = job.asked_at_s < self._opened[job.client, job.provider]
        yield "channel" if opens else "dealing", hurry * (sent_s - job.asked_at_s)
        yield "queue", hurry * (job.first_token_at_s - sent_s - reading_s)
        yield "sharing", hurry * (job.ended_at_s - job.first_token_at_s - alone_s + reading_s)
        undisturbed = job.value_nanoton - hurry * (alone_s - self._quickest[number])
        yield "machine" if best > 0 else "displaced", best - undisturbed + price


def _minutes(begins_s: float, ends_s: float, count: int) -> Iterator[tuple[int, float]]:
    """The minutes that a stretch of time touches, with the seconds that lie in each."""
    minute = int(begins_s / MINUTE_S)
    while minute < count and minute * MINUTE_S < ends_s:
        within = min(ends_s, (minute + 1) * MINUTE_S) - max(begins_s, minute * MINUTE_S)
        if within > 0:
            yield minute, within
        minute += 1


def _openings(jobs: Sequence[Job]) -> dict[tuple[int, int | None], float]:
    """When a client first had a channel to a provider, as far as its jobs tell: as the first of them was sent."""
    first: dict[tuple[int, int | None], float] = {}
    for job in jobs:
        if job.sent_at_s is not None and job.provider is not None:
            key = (job.client, job.provider)
            first[key] = min(job.sent_at_s, first.get(key, math.inf))
    return first
