"""Money: what providers earned, what was at risk at each moment, what attacks brought and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulations.report import limits
from simulations.report.bins import Band, line, quantile
from simulations.report.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Chart,
    from_zero,
    label,
    legend,
    time_axis,
)
from simulations.report.formats import clock, count, money, number, plural, share
from simulations.report.frame import Frame, hardware_class
from simulations.report.tables import Table
from simulations.results import Attacker, Provider, RunResult, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_TON = 1e9


@dataclass(frozen=True)
class Earnings:
    """Of one hardware class; money in nanoTON an hour of one provider."""

    name: str
    providers: int
    hours: float
    jobs: int
    earned: float
    cost: float
    """Of the work, fees of the chain included."""
    profit: float
    profit_p10: float
    profit_p90: float
    busy: float
    """Share of the slots' time."""


def earnings(result: RunResult, names: Sequence[str]) -> list[Earnings]:
    """Earnings by hardware class, in the order of ``names``; providers that were never up do not count."""
    classes: dict[str, list[Provider]] = {name: [] for name in names}
    for provider in result.providers:
        if provider.up_s > 0 and hardware_class(provider) in classes:
            classes[hardware_class(provider)].append(provider)
    return [_earnings(name, providers) for name, providers in classes.items() if providers]


def _earnings(name: str, providers: Sequence[Provider]) -> Earnings:
    hours = sum(provider.up_s for provider in providers) / 3600
    earned = sum(provider.earned_nanoton for provider in providers)
    cost = sum(provider.cost_nanoton + provider.chain_fees_nanoton for provider in providers)
    profits = [_profit(provider) * 3600 / provider.up_s for provider in providers]
    slot_s = sum(provider.up_s * provider.slots for provider in providers)
    return Earnings(
        name,
        len(providers),
        hours,
        sum(provider.jobs for provider in providers),
        earned / hours,
        cost / hours,
        (earned - cost) / hours,
        quantile(profits, 0.1) or 0.0,
        quantile(profits, 0.9) or 0.0,
        sum(provider.busy_s for provider in providers) / slot_s if slot_s else 0.0,
    )


def _profit(provider: Provider) -> int:
    return provider.earned_nanoton - provider.cost_nanoton - provider.chain_fees_nanoton


def earnings_chart(result: RunResult, frame: Frame) -> Chart | None:
    """What an hour of a provider brought, by hardware class."""
    classes = {one.name: one for one in earnings(result, frame.hardware)}
    if not classes:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        places = [(frame.hardware.index(one.name), one) for one in classes.values()]
        bars: tuple[tuple[str, str, Callable[[Earnings], float]], ...] = (
            ("earned", BLUE, lambda one: one.earned),
            ("cost", GREY, lambda one: one.cost),
            ("profit", TEAL, lambda one: one.profit),
        )
        for row, (name, colour, value) in enumerate(bars):
            at = [place + 0.26 * (row - 1) for place, _ in places]
            axes.barh(at, [value(one) / _TON for _, one in places], height=0.24, color=colour, label=name)
        at = [place + 0.26 for place, _ in places]
        axes.hlines(
            at,
            [one.profit_p10 / _TON for _, one in places],
            [one.profit_p90 / _TON for _, one in places],
            color=INK,
            linewidth=1.2,
        )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame.hardware)), [label(name) for name in frame.hardware])
        axes.set_ylim(len(frame.hardware) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("TON an hour of one provider")
        legend(axes, 3)
        return [axes]

    best = max(classes.values(), key=lambda one: one.profit)
    worst = min(classes.values(), key=lambda one: one.profit)
    words = f"A provider of the class {best.name} had {money(best.profit)} of profit an hour"
    words += f"; {worst.name} had {money(worst.profit)}." if worst is not best else "."
    words += " The thin line spans the profits of the middle 80 % of a class."
    rows = tuple(
        (
            one.name, count(one.providers), number(one.hours), count(one.jobs), share(one.busy),
            money(one.earned), money(one.cost), money(one.profit), money(one.profit_p10), money(one.profit_p90),
        )
        for one in classes.values()
    )  # fmt: skip
    columns = (
        "hardware",
        "providers",
        "hours up",
        "jobs",
        "busy",
        "earned",
        "cost",
        "profit",
        "profit, lowest tenth",
        "profit, highest tenth",
    )
    note = (
        "Money an hour of one provider, over the whole run. Cost: electricity and wear of the work, fees of the chain."
    )
    left = len({hardware_class(provider) for provider in result.providers} - set(frame.hardware))
    note += f" {plural(left, 'smaller class', 'smaller classes')} left out." if left else ""
    return Chart(
        "earnings", "What a provider earns in an hour", words, Table(columns, rows, note), draw,
        height_in=1.6 + 0.62 * len(frame.hardware),
    )  # fmt: skip


def risk(result: RunResult, frame: Frame) -> Chart | None:
    """Money at risk over time."""
    samples = result.samples
    if not samples or not any(s.locked_nanoton or s.unpaid_nanoton or s.unclaimed_nanoton for s in samples):
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        panels = list(figure.subplots(3, 1, sharex=True))
        names = ("served, no voucher yet", "vouchers not claimed on chain", "locked in channels")
        for axes, part, colour, name in zip(
            panels, _at_risk(samples, limits.CHART_BINS), (RED, ORANGE, PURPLE), names, strict=True
        ):
            axes.fill_between(part.at_s, part.low / _TON, part.high / _TON, color=colour, alpha=0.2, linewidth=0)
            axes.plot(part.at_s, part.middle / _TON, color=colour, label=name)
            from_zero(axes)
            axes.set_ylabel("TON")
            legend(axes, 1)
            time_axis(axes, result, frame.horizon_s, numbered=axes is panels[0])
        return panels

    worst = max(samples, key=lambda sample: sample.unpaid_nanoton)
    last = samples[-1]
    words = (
        f"If all clients had vanished at the worst moment, {clock(worst.at_s)}, providers would have lost "
        f"{money(worst.unpaid_nanoton)} of work that no voucher covered. At the end {money(last.unclaimed_nanoton)} of "
        f"vouchers were not claimed and {money(last.locked_nanoton)} were locked in {plural(last.channels, 'channel')}."
    )
    rows = tuple(
        (clock(at), money(up), money(high), money(claim), money(lock))
        for (at, _, up, high), (_, _, claim, _), (_, _, lock, _) in zip(
            *_at_risk(samples, limits.TABLE_BINS), strict=True
        )
    )
    columns = ("time", "served, no voucher yet", "… at most", "vouchers not claimed", "locked in channels")
    return Chart("risk", "Money at risk", words, Table(columns, rows), draw, height_in=4.8)


def _at_risk(samples: Sequence[Sample], most: int) -> tuple[Band, Band, Band]:
    at_s = [sample.at_s for sample in samples]
    unpaid, unclaimed, locked = (
        np.array(values, dtype=np.float64)
        for values in zip(*((s.unpaid_nanoton, s.unclaimed_nanoton, s.locked_nanoton) for s in samples), strict=True)
    )
    return line(at_s, unpaid, most), line(at_s, unclaimed, most), line(at_s, locked, most)


def attackers(result: RunResult, frame: Frame) -> Chart | None:
    """What each attack gained and cost."""
    known = {attacker.kind: attacker for attacker in result.attackers if attacker.kind in frame.attackers}
    if not known:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        places = [(frame.attackers.index(kind), one) for kind, one in known.items()]
        for shift, colour, name, amounts in (
            (-0.19, RED, "gained", [one.gained_nanoton for _, one in places]),
            (0.19, GREY, "cost", [one.cost_nanoton for _, one in places]),
        ):
            rows = [at + shift for at, _ in places]
            axes.barh(rows, [amount / _TON for amount in amounts], height=0.34, color=colour, label=name)
            for at, amount in zip(rows, amounts, strict=True):
                axes.annotate(
                    money(amount), (max(0.0, amount / _TON), at), xytext=(4, 0), textcoords="offset points",
                    va="center", fontsize=10,
                )  # fmt: skip
        axes.margins(x=0.3)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame.attackers)), [label(kind) for kind in frame.attackers])
        axes.set_ylim(len(frame.attackers) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("TON, all nodes of the attack together")
        legend(axes, 2)
        return [axes]

    paid_off = [one.kind for one in known.values() if one.gained_nanoton > one.cost_nanoton]
    words = f"It paid off for {', '.join(paid_off)}." if paid_off else "No attack brought in more than it cost."
    return Chart(
        "attackers", "What attacks gained and cost", words, _attack_table(result.attackers), draw,
        height_in=1.6 + 0.5 * len(frame.attackers),
    )  # fmt: skip


def _attack_table(attackers: Sequence[Attacker]) -> Table:
    rows = tuple(
        (
            one.kind, count(one.nodes), money(one.gained_nanoton), money(one.cost_nanoton),
            money(one.gained_nanoton - one.cost_nanoton),
            ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in sorted(one.harm.items())),
            one.note,
        )
        for one in attackers[: limits.ROWS]
    )  # fmt: skip
    flagged = frozenset(at for at, one in enumerate(attackers) if one.gained_nanoton > one.cost_nanoton)
    columns = ("attack", "nodes", "gained", "cost", "net", "harm to others", "note")
    return Table(columns, rows, words=frozenset({0, 5, 6}), flagged=flagged)
