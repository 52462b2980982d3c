"""Who sells and who buys: a seeded population of providers, and a stream of jobs with private values.

Four hardware classes with private costs; jobs come as a Poisson process whose rate is a multiple of the capacity, each
with a size, a value, a deadline and an impatience that only its client knows. Sizes are tokens, times seconds, prices
and costs integer nanoTON per million tokens: what production takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

UNIT_NANOTON = 60_000_000
"""The scale of prices, nanoTON per million tokens: what a provider asks for completions by default."""


@dataclass(frozen=True)
class Hardware:
    """A class of machines: its share of the providers, jobs at once, tokens a second of one job, the median cost."""

    name: str
    share: float
    slots: int
    units_per_s: int
    cost_nanoton_per_munit: int


CLASSES = (
    Hardware("laptop", 0.40, 4, 1000, 36_000_000),
    Hardware("desktop", 0.30, 4, 1500, 45_000_000),
    Hardware("workstation", 0.20, 8, 2000, 57_000_000),
    Hardware("server", 0.10, 8, 3000, 75_000_000),
)
COST_SPREAD = 0.2
"""Standard deviation of the logarithm of a provider's cost around that of its class: electricity, hardware."""

LOAD = 1.2
"""Work asked for over capacity when demand is 1: a market that nobody is priced out of finds no price."""

MEDIAN_VALUE = 1.6 * UNIT_NANOTON
VALUE_SPREAD = 0.6
MEAN_UNITS, SIZE_SPREAD, MAX_UNITS = 30_000, 0.8, 200_000


@dataclass(frozen=True)
class Provider:
    """One machine. ``owner`` is who earns from it: itself, unless several are one party's."""

    number: int
    hardware: int
    slots: int
    units_per_s: int
    cost_nanoton_per_munit: int
    owner: int

    @property
    def capacity(self) -> int:
        """Tokens a second with all slots busy."""
        return self.slots * self.units_per_s


@dataclass(frozen=True, slots=True)
class Job:
    """``impatience`` is the share of the value that is lost by the deadline, evenly over time; after it all is lost."""

    number: int
    client: int
    at_s: float
    units: int
    value_nanoton_per_munit: int
    deadline_s: float
    impatience: float

    def value_nanoton(self, latency_s: float) -> float:
        """What it is worth when it is done ``latency_s`` after it was asked for. Measured with, never paid: a float."""
        if latency_s > self.deadline_s:
            return 0.0
        whole = self.units * self.value_nanoton_per_munit / 1e6
        return whole * (1 - self.impatience * latency_s / self.deadline_s)

    @property
    def value_of_time_nanoton_per_s(self) -> int:
        """What a second is worth."""
        return round(self.units * self.value_nanoton_per_munit * self.impatience / self.deadline_s / 1e6)


@dataclass(frozen=True)
class Segment:
    """A stretch of time: ``demand`` times the usual, and which share of the providers is gone."""

    name: str
    starts_s: float
    ends_s: float
    demand: float = 1.0
    lost: float = 0.0


@dataclass(frozen=True)
class Workload:
    """What every policy of one seed is given. ``lost`` are the providers that vanish in the segments that say so."""

    seed: int
    providers: tuple[Provider, ...]
    jobs: tuple[Job, ...]
    segments: tuple[Segment, ...]
    lost: frozenset[int]

    @property
    def ends_s(self) -> float:
        """When the last segment ends."""
        return self.segments[-1].ends_s

    def alive(self, segment: Segment) -> list[Provider]:
        """The providers there are in ``segment``."""
        return [p for p in self.providers if not segment.lost or p.number not in self.lost]


def shocks(length_s: float = 240.0, warm_s: float = 180.0) -> tuple[Segment, ...]:
    """Steady, ×2, back, half, back, −30 % of the providers: each ``length_s`` long, the first ``warm_s`` longer so that
    prices, which start at the cost, have found their level."""
    plan = [("steady", 1.0, 0.0), ("x2", 2.0, 0.0), ("back", 1.0, 0.0), ("half", 0.5, 0.0), ("back2", 1.0, 0.0),
            ("loss", 1.0, 0.3)]  # fmt: skip
    segments: list[Segment] = []
    at = 0.0
    for name, demand, lost in plan:
        ends = at + length_s + (0.0 if segments else warm_s)
        segments.append(Segment(name, at, ends, demand, lost))
        at = ends
    return tuple(segments)


def steady(length_s: float = 300.0, demand: float = 1.0) -> tuple[Segment, ...]:
    """One segment: for comparing deviations."""
    return (Segment("steady", 0.0, length_s, demand),)


def make_workload(
    seed: int,
    *,
    providers: int = 60,
    segments: Sequence[Segment] = (),
    clients_per_provider: int = 2,
    load: float = LOAD,
) -> Workload:
    """The population and the jobs of ``seed``. The same on every machine and in every process."""
    assert providers >= 4
    rng = Random(seed)  # noqa: S311 — a simulation's
    segments = tuple(segments) or shocks()
    sellers = _providers(providers, rng)
    lost = frozenset(rng.sample(range(providers), round(0.3 * providers)))
    draw = Random(seed + 1_000_003)  # noqa: S311  # a model, no secret
    jobs = _jobs(sellers, segments, providers * clients_per_provider, load, draw)
    return Workload(seed, sellers, jobs, segments, lost)


def _providers(count: int, rng: Random) -> tuple[Provider, ...]:
    kinds: list[int] = []
    for kind, hardware in enumerate(CLASSES):
        kinds += [kind] * max(1, round(hardware.share * count))
    kinds = (kinds + [0] * count)[:count]
    rng.shuffle(kinds)
    made = []
    for number, kind in enumerate(kinds):
        hardware = CLASSES[kind]
        cost = round(hardware.cost_nanoton_per_munit * math.exp(rng.gauss(0.0, COST_SPREAD)))
        made.append(Provider(number, kind, hardware.slots, hardware.units_per_s, cost, number))
    return tuple(made)


def _jobs(
    sellers: Sequence[Provider], segments: Sequence[Segment], clients: int, load: float, rng: Random
) -> tuple[Job, ...]:
    # A client's jobs are alike in value and impatience, as the requests of one application are, and differ in size.
    values = [round(MEDIAN_VALUE * math.exp(rng.gauss(0.0, VALUE_SPREAD))) for _ in range(clients)]
    impatience = [0.0 if rng.random() < 0.5 else rng.uniform(0.3, 1.0) for _ in range(clients)]
    usual = load * sum(p.capacity for p in sellers) / MEAN_UNITS
    jobs: list[Job] = []
    for segment in segments:
        at = segment.starts_s + rng.expovariate(usual * segment.demand)
        while at < segment.ends_s:
            client = rng.randrange(clients)
            size = MEAN_UNITS * math.exp(rng.gauss(-(SIZE_SPREAD**2) / 2, SIZE_SPREAD))
            units = max(1, min(MAX_UNITS, round(size)))
            # An even margin over what the slowest class computes, and three seconds of dealing.
            deadline = units / CLASSES[0].units_per_s * rng.uniform(1.2, 4.0) + 3.0
            jobs.append(Job(len(jobs), client, at, units, values[client], deadline, impatience[client]))
            at += rng.expovariate(usual * segment.demand)
    return tuple(jobs)


def split(workload: Workload, number: int, parts: int) -> Workload:
    """The same with one provider appearing as several, its slots dealt out between them: Sybils of one owner."""
    whole = workload.providers[number]
    parts = min(parts, whole.slots)
    shares = [whole.slots // parts + (part < whole.slots % parts) for part in range(parts)]
    count = len(workload.providers)
    extra = tuple(replace(whole, number=count + part, slots=share) for part, share in enumerate(shares[1:]))
    first = replace(whole, slots=shares[0])
    providers = (*workload.providers[:number], first, *workload.providers[number + 1 :], *extra)
    return replace(workload, providers=providers)


def withhold(workload: Workload, number: int, share: float) -> Workload:
    """The same with one provider offering fewer slots than it has."""
    whole = workload.providers[number]
    less = replace(whole, slots=max(1, round(whole.slots * (1 - share))))
    return replace(workload, providers=(*workload.providers[:number], less, *workload.providers[number + 1 :]))
