"""A run in a few numbers, and two runs compared by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from simulations.report.bins import quantile
from simulations.report.formats import NONE, count, money, number, seconds, share, size
from simulations.report.frame import Frame, measured, waits
from simulations.report.market_charts import policy_name
from simulations.report.money_charts import earnings
from simulations.report.tables import Table
from simulations.results import RunResult


@dataclass(frozen=True)
class Measure:
    """A number with the way in which people read it. ``None``: the run has no such thing."""

    name: str
    value: float | None
    text: Callable[[float | None], str] = number

    def __str__(self) -> str:
        return self.text(self.value)


def measures(result: RunResult, frame: Frame) -> dict[str, Measure]:
    """The numbers of a run, by a name that is the same in every run of the same frame."""
    listed = [
        *(Measure(f"efficiency, {policy_name(name)}", result.efficiency.get(name), share) for name in frame.policies),
        *_jobs(result),
        *_prices(result, frame),
        *_earnings(result, frame),
        *_risks(result),
    ]
    return {measure.name: measure for measure in listed}


def key_figures(result: RunResult, frame: Frame) -> list[Measure]:
    """The few that stand on top of a page: those that the run has."""
    known = measures(result, frame)
    names = [
        "jobs asked for", "jobs done", "efficiency, this market", "first token, median", "first token, 95 %",
        *(f"{task} · {model}, {what}, median" for task, model in frame.markets[:1] for what in ("paid", "busy")),
        "messages a job",
    ]  # fmt: skip
    return [known[name] for name in names if name in known and known[name].value is not None]


def _jobs(result: RunResult) -> list[Measure]:
    last = result.samples[-1] if result.samples else None
    asked = float(last.asked) if last else None
    waited = waits(measured(result))

    def part(value: int) -> float | None:
        return value / asked if asked else None

    return [
        Measure("jobs asked for", asked, lambda value: NONE if value is None else count(round(value))),
        Measure("jobs done", part(last.done) if last else None, share),
        Measure("jobs recovered", part(last.recovered) if last else None, share),
        Measure("jobs failed", part(last.failed) if last else None, share),
        Measure("jobs refused", part(last.refused) if last else None, share),
        *(
            Measure(f"first token, {name}", quantile(waited, q), seconds)
            for name, q in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
        ),
        Measure("messages a job", last.messages / asked if last and asked else None),
        Measure("bytes a job", last.bytes / asked if last and asked else None, size),
    ]


def _prices(result: RunResult, frame: Frame) -> list[Measure]:
    after = [sample for sample in result.samples if sample.at_s >= result.warmup_s]
    made = []
    for task, model in frame.markets:
        found = [
            market for sample in after for market in sample.markets if (market.task, market.model) == (task, model)
        ]
        paid = [market.paid for market in found if market.paid is not None]
        busy = [market.utilisation for market in found if market.slots]
        made += [
            Measure(f"{task} · {model}, paid, median", quantile(paid, 0.5), money),
            Measure(f"{task} · {model}, busy, median", quantile(busy, 0.5), share),
        ]
    return made


def _earnings(result: RunResult, frame: Frame) -> list[Measure]:
    by_class = {one.name: one for one in earnings(result, frame.hardware)}
    return [
        Measure(f"profit an hour, {name}", by_class[name].profit if name in by_class else None, money)
        for name in frame.hardware
    ]


def _risks(result: RunResult) -> list[Measure]:
    samples = result.samples
    gained = sum(attacker.gained_nanoton for attacker in result.attackers)
    return [
        Measure("served without voucher, at most", max((s.unpaid_nanoton for s in samples), default=None), money),
        Measure("vouchers not claimed, at most", max((s.unclaimed_nanoton for s in samples), default=None), money),
        Measure("locked in channels, at most", max((s.locked_nanoton for s in samples), default=None), money),
        Measure("fees of the chain", result.chain_fees_nanoton, money),
        Measure("gained by attackers", gained if result.attackers else None, money),
        Measure("warnings", sum(result.warnings.values())),
    ]


def differences(first: RunResult, second: RunResult, frame: Frame) -> Table:
    """Two runs side by side, measure by measure; what neither has is left out."""
    ours: Mapping[str, Measure] = measures(first, frame)
    theirs = measures(second, frame)
    rows = []
    for name, one in ours.items():
        other = theirs[name]
        if one.value is None and other.value is None:
            continue
        rows.append((name, str(one), str(other), _difference(one, other), _relative(one.value, other.value)))
    return Table(("measure", "A", "B", "B − A", "B ∕ A"), tuple(rows))


def _difference(one: Measure, other: Measure) -> str:
    if one.value is None or other.value is None:
        return NONE
    text = one.text(other.value - one.value)
    if one.text is share:
        text = text.replace("%", "points")
    return f"+{text}" if other.value > one.value else text


def _relative(one: float | None, other: float | None) -> str:
    if one is None or other is None or one <= 0 or other < 0 or not np.isfinite([one, other]).all():
        return NONE
    return f"{number(other / one)} ×"
