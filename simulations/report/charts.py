"""All charts of a page, in its order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from simulations.report import job_charts, market_charts, money_charts, network_charts, policy_charts
from simulations.report.drawing import Chart
from simulations.report.frame import Frame
from simulations.results import RunResult

Maker = Callable[[RunResult, Frame], Chart | None]
"""Makes a chart of a run; ``None`` when the run has nothing of the kind."""


def sections(frame: Frame) -> dict[str, tuple[Maker, ...]]:
    """The charts of each section, by its heading."""
    return {
        "Prices and money": (
            *(partial(market_charts.price, key=key) for key in frame.markets),
            market_charts.efficiency,
            policy_charts.losses,
            money_charts.earnings_chart,
            money_charts.risk,
            money_charts.attackers,
        ),
        "Jobs": (job_charts.distribution, job_charts.wait_over_time, job_charts.outcomes),
        "The network": (network_charts.swarm, network_charts.traffic),
    }


def overview(frame: Frame) -> tuple[Maker, ...]:
    """Charts for a picture of a whole run, the most telling first; those that a run lacks make room for the next."""
    return (
        *(partial(market_charts.price, key=key) for key in frame.markets[:1]),
        job_charts.outcomes,
        job_charts.wait_over_time,
        money_charts.earnings_chart,
        market_charts.efficiency,
        money_charts.risk,
        network_charts.swarm,
        network_charts.traffic,
        job_charts.distribution,
    )
