"""How much of the competitive optimum a run reached.

What is gained is the worth of the answers to their users, less what a second of waiting was worth to them, less what the
work cost its providers; prices only say who gets it. The most that anybody could have reached is the dual of the fluid
assignment problem (:mod:`simulations.market.optimum` derives it): each job may go to each class of machine at once, and
classes only have so much time. No schedule does better in a window that begins and ends alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from compute.tasks import Task
from compute.usage import UNITS_PER_PRICE
from overlay.market.selection import MAIN_UNIT
from simulations.market.optimum import Sellers, fluid_bound
from simulations.results import Job
from simulations.world.hardware import Offering

LEAST_JOBS = 100
"""Fewer say nothing about a market."""


def gained(jobs: Sequence[Job], cost_nanoton: float) -> float:
    """nanoTON: worth of what was delivered, less waiting, less ``cost_nanoton`` of the work."""
    worth = 0.0
    for job in jobs:
        if job.outcome == "done" and job.ended_at_s is not None:
            worth += job.value_nanoton - job.value_of_time * (job.ended_at_s - job.asked_at_s)
    return worth - cost_nanoton


def bound(jobs: Sequence[Job], machines: Sequence[tuple[Offering, float]], window_s: float) -> float:
    """The most that ``jobs``, all asked for within ``window_s`` seconds, could have gained. ``machines`` are the
    offerings of the providers, each with the share of the window in which it was there; all of one task."""
    classes: dict[tuple[str, str], list[tuple[Offering, float]]] = defaultdict(list)
    for offering, share in machines:
        classes[offering.hardware, offering.model].append((offering, share))
    ordered = [classes[key] for key in sorted(classes)]
    units = np.array([job.wanted for job in jobs], dtype=np.float64)
    value = np.array([job.value_per_million for job in jobs], dtype=np.float64) / UNITS_PER_PRICE
    hurry = np.array([job.value_of_time for job in jobs], dtype=np.float64)
    # Alone on a machine a job is quickest: a bound may assume that.
    fastest = np.array([1 / members[0][0].pace.step_s(1) for members in ordered])
    worth = units[:, None] * value[:, None] - hurry[:, None] * units[:, None] / fastest
    sellers: list[Sellers] = []
    for members in ordered:
        costs = np.array([_cost(offering) for offering, _ in members])
        work = np.array([offering.most_units_per_s * share * window_s for offering, share in members])
        sellers.append((costs, work))
    return fluid_bound(worth, units, sellers)


def _cost(offering: Offering) -> float:
    """nanoTON of one main unit."""
    return offering.unit_costs.per_million[MAIN_UNIT[Task(offering.tasks[0])]] / UNITS_PER_PRICE
