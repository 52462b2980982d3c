"""How much of the competitive optimum a run reached.

What is gained is the worth of the answers to their users, less what the waiting was worth to them beyond the time that
the quickest machine of the run takes, less what the work cost its providers; prices only say who gets it. The most that
anybody could have reached is the dual of the fluid assignment problem (:mod:`simulations.market.optimum` derives it):
each job may go to any class of machine at once, alone on it, and the machines only have so much time. No schedule does
better in a window that begins and ends alike. Fees of the chain are not counted, prompts neither, on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from compute.tasks import Task
from compute.usage import UNITS_PER_PRICE
from overlay.market.selection import MAIN_UNIT
from simulations.market.optimum import Fluid, least_bound
from simulations.results import Job
from simulations.world.hardware import Offering

LEAST_JOBS = 100
"""Fewer say nothing about a market."""

TAIL_S = 120.0
"""Jobs asked for so shortly before the end are left out: most of them could not be done any more."""

Machine = tuple[Offering, float]
"""What a provider sells, and the share of the run in which it was there."""


def efficiency(
    jobs: Sequence[Job], machines: Mapping[int, Sequence[Machine]], from_s: float, until_s: float
) -> float | None:
    """The share of the bound that the jobs asked for between two seconds reached; ``machines`` are those of each
    provider, by number. ``None`` when there are too few jobs, or nothing was to be had."""
    counted = [job for job in jobs if from_s <= job.asked_at_s < until_s - TAIL_S]
    if len(counted) < LEAST_JOBS:
        return None
    most = gain = 0.0
    for task in sorted({job.task for job in counted}):
        of_task = [job for job in counted if job.task == task]
        offered = [m for ms in machines.values() for m in ms if Task(task) in m[0].tasks]
        if not offered:
            continue
        quickest_s = min(offering.pace.step_s(1) for offering, _ in offered)
        most += _bound(of_task, offered, quickest_s, until_s - TAIL_S - from_s)
        costs = {n: _cost(m[0]) for n, ms in machines.items() for m in ms if Task(task) in m[0].tasks}
        gain += sum(_gained(job, costs, quickest_s) for job in of_task)
    return gain / most if most > 0 else None


def _gained(job: Job, costs: Mapping[int, float], quickest_s: float) -> float:
    """nanoTON. Work is paid for by its provider whether it was worth anything or not."""
    cost = job.units * costs.get(job.provider, 0.0) if job.provider is not None else 0.0
    if job.outcome != "done" or job.ended_at_s is None:
        return -cost
    late_s = job.ended_at_s - job.asked_at_s - quickest_s * job.units
    return job.value_nanoton - job.value_of_time * late_s - cost


def _bound(jobs: Sequence[Job], machines: Sequence[Machine], quickest_s: float, window_s: float) -> float:
    classes: dict[tuple[str, str], list[Machine]] = defaultdict(list)
    for machine in machines:
        classes[machine[0].hardware, machine[0].model].append(machine)
    ordered = [classes[key] for key in sorted(classes)]
    units = np.array([job.wanted for job in jobs], dtype=np.float64) / UNITS_PER_PRICE
    value = np.array([job.value_per_million for job in jobs], dtype=np.float64)
    hurry = np.array([job.value_of_time for job in jobs], dtype=np.float64)
    # Alone on a machine a job is quickest: a bound may assume that.
    late_s = (np.array([members[0][0].pace.step_s(1) for members in ordered]) - quickest_s) * UNITS_PER_PRICE
    worth = units[:, None] * (value[:, None] - hurry[:, None] * late_s)
    sellers = []
    for members in ordered:
        costs = np.array([_cost(offering) * UNITS_PER_PRICE for offering, _ in members])
        work = np.array([o.most_units_per_s * share * window_s / UNITS_PER_PRICE for o, share in members])
        sellers.append((costs, work))
    start = np.array([float(np.median(costs)) * 1.5 for costs, _ in sellers])
    return least_bound(Fluid(worth, units, sellers), start).surplus_nanoton


def _cost(offering: Offering) -> float:
    """nanoTON of one main unit."""
    return offering.unit_costs.per_million[MAIN_UNIT[Task(offering.tasks[0])]] / UNITS_PER_PRICE
