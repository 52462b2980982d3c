"""How much of the competitive optimum a run reached, and where the rest of it went.

What is gained is the worth of the answers to their users, less what the waiting was worth to them beyond the time that
the quickest machine of the run takes, less what its providers would have done the work for at least (their floors, as a
share of electricity and wear: what a provider would do without is its own affair); prices only say who gets it. It is
held against :mod:`simulations.world.bound`. Fees of the chain are counted on neither side: a channel lives for a week.

The optimum comes with prices λ for the time of each class of machine in each minute, and these say what each part of
the difference is due to (complementary slackness). With b_j what a job has of its best option at these prices, and a
job that took S seconds of a machine and was late by its parts,

    bound − gained = Σ_jobs [b_j − (worth − hurry · late − λ S)]
                     + Σ_machines [capacity max(0, λ − rate) − used (λ − rate)]

Each bracket is at least 0: the first is what a job lost by going elsewhere, late or nowhere, the second time of
machines that nobody used although it was worth more than its owner wants, and work of those whose owners want more.
"""

from __future__ import annotations

import math
from collections import defaultdict
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

CHEATING = "cheating"
"""The behaviour of providers whose answers are not what was bought."""

CAUSES = (
    "too_dear", "no_room", "failed", "cheated", "unfinished", "channel", "dealing", "queue", "sharing", "machine",
    "dear", "displaced", "idle", "outside",
)  # fmt: skip
"""What kept a market from the optimum:

too_dear    refused: everybody asked more than the client pays
no_room     refused: everybody was full, or nobody was known
failed      failed, and what had been made until then
cheated     answered by a provider that cheats: such an answer counts for nothing, though parts of some would do
unfinished  not ended when the run did, or its client stopped
channel     waited for a payment channel to be opened
dealing     waited for quotes and awards, or for another try
queue       waited at its provider, its prompt not read yet
sharing     made more slowly than by a machine of its own, or held up on its way
machine     made by another machine, or at another time, than would have been best
dear        made by a machine whose owner wants more than others would have done it for
displaced   done, although it was worth less than what its machine's time was worth to others
idle        time of machines that stood still although others would have paid more than their owners want
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
    def cost(self) -> float:
        """nanoTON that a second under load costs: electricity and wear."""
        return float(HARDWARE[self.hardware].usd_per_h * NANOTON_PER_USD / 3600)

    def serves(self, job: Job) -> Offering | None:
        """What serves the job, if anything does."""
        for each in self.sold:
            if Task(job.task) in each.tasks and job.model in ("", each.model):
                return each
        return None


@dataclass(frozen=True)
class _Used:
    """Of a machine's time that a job took, in nanoTON: what its owner wants for it, what it was worth beyond that at
    the optimum's prices, and how much less it was worth where that is less."""

    cost: float
    rent: float
    dear: float


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
        self._minutes = max(1, math.ceil(result.virtual_s / MINUTE_S))
        self._kinds: list[_Kind] = []
        self._kind: dict[int, int] = {}
        """Of each provider, by number."""
        self._rate: dict[int, float] = {}
        """What its owner wants for a second, likewise."""
        self._capacity: dict[int, Floats] = {}
        """Its seconds in each minute, likewise."""
        self._cheats = {provider.number for provider in result.providers if provider.behaviour == CHEATING}
        for provider in result.providers:
            self._add(provider)
        self.jobs = [job for job in result.jobs if job.wanted and any(kind.serves(job) for kind in self._kinds)]
        self._quickest = [
            min(_alone_s(what, job) for kind in self._kinds if (what := kind.serves(job))) for job in self.jobs
        ]
        self._program = self._fluid()
        prices = least(self._program).prices
        self._best, _ = self._program.best(prices)
        self._prices = prices.reshape(len(self._kinds), self._minutes)
        self._opened = _openings(self.jobs)

    def _add(self, provider: Provider) -> None:
        kind = _Kind(provider.hardware, tuple(offering(provider.hardware, *each) for each in provider.sells))
        if kind not in self._kinds:
            self._kinds.append(kind)
        self._kind[provider.number] = self._kinds.index(kind)
        self._rate[provider.number] = kind.cost * provider.floor
        self._capacity[provider.number] = seconds = np.zeros(self._minutes)
        for begins_s, ends_s in provider.shifts:
            for minute, within in _minutes(begins_s, ends_s, self._minutes):
                seconds[minute] += within

    def _fluid(self) -> Fluid:
        count = len(self.jobs)
        asked = np.array([job.asked_at_s for job in self.jobs])
        value = np.array([job.value_per_million * job.wanted / UNITS_PER_PRICE for job in self.jobs])
        hurry = np.array([job.value_of_time for job in self.jobs], dtype=np.float64)
        quickest = np.array(self._quickest)
        first = np.minimum((asked / MINUTE_S).astype(np.intp), self._minutes - 1)
        worths, seconds, options = [], [], []
        for number, kind in enumerate(self._kinds):
            sold = [(kind.serves(job), job) for job in self.jobs]
            alone = np.array([_alone_s(what, job) if what else 0.0 for what, job in sold])
            takes = np.array([_seconds(what, job.prompt, job.wanted) if what else 1.0 for what, job in sold])
            serves = np.array([what is not None for what, _ in sold], dtype=bool)
            for later in range(PATIENCE):
                minute = first + later
                late = np.maximum(alone, minute * MINUTE_S - asked) - quickest
                worths.append(np.where(serves & (minute < self._minutes), value - hurry * late, -np.inf))
                seconds.append(takes)
                options.append(number * self._minutes + np.minimum(minute, self._minutes - 1))
        shape = (len(worths), count)
        minutes = np.arange(self._minutes)
        sellers = [self._kind[number] * self._minutes + minutes for number in self._capacity]
        return Fluid(
            np.array(worths).reshape(shape).T, np.array(seconds).reshape(shape).T,
            np.array(options, dtype=np.intp).reshape(shape).T, np.array(sellers, dtype=np.intp).ravel(),
            np.array(list(self._capacity.values())).ravel(), np.repeat(list(self._rate.values()), self._minutes),
            len(self._kinds) * self._minutes,
        )  # fmt: skip

    # --- what became of it --------------------------------------------------------------------------------------------

    def reached(self, counted: Sequence[int], from_s: float, until_s: float) -> Reached:
        """Of these jobs, against the machines' time between two seconds."""
        span = np.zeros(self._minutes)
        for minute, seconds in _minutes(from_s, until_s, self._minutes):
            span[minute] = seconds / MINUTE_S
        rent = sum(
            float((seconds * span * np.maximum(0.0, self._prices[self._kind[number]] - self._rate[number])).sum())
            for number, seconds in self._capacity.items()
        )
        lost: defaultdict[str, float] = defaultdict(float)
        gained = earned = 0.0
        for number in counted:
            used = self._used(self.jobs[number])
            gained += self._worth(number) - used.cost
            earned += used.rent
            for cause, nanoton in self._lost(number, used):
                lost[cause] += nanoton
        inside = sum(self._used(job, span).rent for job in self.jobs)
        lost["outside"] += inside - earned
        lost["idle"] += rent - inside
        bound = float(self._best[list(counted)].sum()) + rent
        return Reached(bound, gained, dict(lost))

    def _worth(self, number: int) -> float:
        job = self.jobs[number]
        if job.outcome != "done" or job.ended_at_s is None or job.provider in self._cheats:
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

    def _used(self, job: Job, span: Floats | None = None) -> _Used:
        """What went into a job, of the whole run or of the part of each minute that ``span`` says."""
        work = self._work(job)
        if work is None or job.provider is None:
            return _Used(0.0, 0.0, 0.0)
        number, what, begins_s, ends_s = work
        takes, rate = _seconds(what, job.prompt, job.units), self._rate[job.provider]
        lasts = max(1e-9, ends_s - begins_s)
        cost = rent = dear = 0.0
        for minute, within in _minutes(begins_s, ends_s, self._minutes):
            seconds = takes * within / lasts * (1.0 if span is None else float(span[minute]))
            above = float(self._prices[number, minute]) - rate
            cost += rate * seconds
            rent += max(0.0, above) * seconds
            dear += max(0.0, -above) * seconds
        return _Used(cost, rent, dear)

    def _lost(self, number: int, used: _Used) -> Iterator[tuple[str, float]]:
        """By cause, what a job lost against its best."""
        job, best = self.jobs[number], float(self._best[number])
        price = used.cost + used.rent - used.dear
        yield "dear", used.dear
        if job.outcome == "refused":
            yield "too_dear" if job.error == "TooExpensive" else "no_room", best + price
            return
        work = self._work(job)
        if job.outcome != "done" or job.ended_at_s is None or work is None or job.first_token_at_s is None:
            yield "unfinished" if job.outcome == "running" else "failed", best + price - self._worth(number)
            return
        if job.provider in self._cheats:
            yield "cheated", best + price - self._worth(number)
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
