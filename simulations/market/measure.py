"""What a run is worth, how fast its price moves, and what it costs its users: numbers from outcomes.

Efficiency is surplus over the bound of `optimum`, of the jobs that came within a window. The price of a second is what
providers ask at that moment, weighted by capacity: what was paid has the noise of who happened to buy beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from simulations.market.floor import Floor, surplus_nanoton
from simulations.market.optimum import Optimum, upper_bound
from simulations.market.workload import CLASSES, Segment, Workload

SETTLED_S, EDGE_S = 100.0, 20.0
"""A segment counts as settled from here on, and up to this before its end: what comes at the edge is partly served in
the next segment."""

SHOCK_S = 60.0
"""The first minute after a shock."""

BAND, HELD_S = 0.05, 15
"""A price has converged when it is within five hundredths of its new level for fifteen seconds (one may stray)."""

LATE_S = 90
"""The new level is the mean of this much at the end of a segment."""

VALUABLE = 1.2
"""A job worth this many times its competitive price is valuable: refusing it is a failure."""


@dataclass(frozen=True)
class Window:
    """A stretch of a segment."""

    segment: Segment
    starts_s: float
    ends_s: float


def windows(workload: Workload) -> dict[str, Window]:
    """The windows of a workload by name: each segment settled, and the first minute of all but the first one."""
    found = {}
    for index, segment in enumerate(workload.segments):
        length = segment.ends_s - segment.starts_s
        # Prices start at the cost: the first segment counts from its middle.
        settled = min(SETTLED_S, length / 2) if index else length / 2
        found[segment.name] = Window(segment, segment.starts_s + settled, segment.ends_s - EDGE_S)
        if index:
            found[f"{segment.name} first"] = Window(segment, segment.starts_s, segment.starts_s + SHOCK_S)
    return found


@cache
def _bound(workload: Workload, name: str) -> Optimum:
    window = windows(workload)[name]
    jobs = [j for j in workload.jobs if window.starts_s <= j.at_s < window.ends_s]
    return upper_bound(jobs, workload.alive(window.segment), window.ends_s - window.starts_s)


def bound(workload: Workload, name: str) -> Optimum:
    """The bound of a window."""
    return _bound(workload, name)


def efficiency(floor: Floor, name: str) -> float:
    """Surplus of the jobs of a window over its bound."""
    window = windows(floor.workload)[name]
    surplus = sum(
        surplus_nanoton(job, floor.outcomes[job.number])
        for job in floor.workload.jobs
        if window.starts_s <= job.at_s < window.ends_s
    )
    return surplus / bound(floor.workload, name).surplus_nanoton


def prices(floor: Floor) -> list[float]:
    """The price of each second, nanoTON per million tokens: the mean of five seconds around it."""
    asks = [second.ask for second in floor.seconds]
    return [statistics.fmean(asks[max(0, n - 2) : n + 3]) for n in range(len(asks))]


@dataclass(frozen=True)
class Move:
    """How the price went over to a new level: seconds until it was there, how far it went beyond (share of it)."""

    seconds: float
    overshoot: float


def move(series: Sequence[float], segment: Segment) -> Move:
    """The move at the start of ``segment``."""
    first, end = round(segment.starts_s), round(segment.ends_s)
    level = statistics.fmean(series[end - LATE_S : end])
    before = statistics.fmean(series[first - LATE_S : first])
    ratios = [value / level for value in series[first:end]]
    seconds = float(len(ratios))
    for start in range(len(ratios) - HELD_S):
        inside = sum(abs(ratio - 1) < BAND for ratio in ratios[start : start + HELD_S])
        if inside >= HELD_S - 1:
            seconds = float(start)
            break
    direction = 1.0 if level > before else -1.0
    beyond = max(direction * (ratio - 1) for ratio in ratios)
    return Move(seconds, max(0.0, beyond))


def variation(series: Sequence[float], window: Window) -> float:
    """Standard deviation of the price over its mean."""
    values = series[round(window.starts_s) : round(window.ends_s)]
    return statistics.pstdev(values) / statistics.fmean(values)


@dataclass(frozen=True)
class Service:
    """What users see of a window: the share of valuable jobs that were not done in time, the mean wait for a start in
    seconds, messages a trade, the share of jobs done after their deadline."""

    refused: float
    wait_s: float
    messages: float
    late: float


def service(floor: Floor, name: str) -> Service:
    """How a window's jobs were served."""
    workload = floor.workload
    window, optimum = windows(workload)[name], bound(workload, name)
    valuable = missed = 0
    waits, messages, late = [], 0, 0
    for job in workload.jobs:
        if not window.starts_s <= job.at_s < window.ends_s:
            continue
        outcome = floor.outcomes[job.number]
        messages += outcome.messages
        done = not math.isnan(outcome.finished_s)
        in_time = done and outcome.finished_s - job.at_s <= job.deadline_s
        if done:
            waits.append(outcome.started_s - job.at_s)
            late += not in_time
        worth = max(
            job.value_nanoton(job.units / h.units_per_s) / (price * job.units / 1e6)
            for h, price in zip(CLASSES, optimum.prices, strict=True)
        )
        if worth >= VALUABLE:
            valuable += 1
            missed += not in_time
    done_count = max(1, len(waits))
    return Service(missed / max(1, valuable), sum(waits) / done_count, messages / done_count, late / done_count)


def earned_nanoton(floor: Floor, owner: int, window: Window) -> int:
    """What ``owner`` earned from the jobs of a window: paid less cost."""
    return sum(
        outcome.paid_nanoton - outcome.cost_nanoton
        for job, outcome in zip(floor.workload.jobs, floor.outcomes, strict=True)
        if outcome.provider >= 0
        and floor.workload.providers[outcome.provider].owner == owner
        and window.starts_s <= job.at_s < window.ends_s
    )


def gained_nanoton(floor: Floor, client: int, window: Window) -> float:
    """What ``client`` gained from its jobs of a window: their worth to it less what it paid."""
    return sum(
        job.value_nanoton(outcome.finished_s - job.at_s) - outcome.paid_nanoton - outcome.setup_nanoton
        for job, outcome in zip(floor.workload.jobs, floor.outcomes, strict=True)
        if job.client == client and not math.isnan(outcome.finished_s) and window.starts_s <= job.at_s < window.ends_s
    )
