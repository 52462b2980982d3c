"""The market: what was asked and paid against how busy it was, and how near the allocation came to the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulations.report import limits
from simulations.report.bins import Band, Floats, band, line
from simulations.report.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SURFACE,
    TEAL,
    Chart,
    from_zero,
    label,
    legend,
    time_axis,
)
from simulations.report.formats import clock, money, number, share
from simulations.report.frame import Frame, MarketKey, main_unit
from simulations.report.tables import Table
from simulations.results import Market, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_TON = 1e9


class _Series:
    """One market over the samples of a run; NaN where it was not there."""

    def __init__(self, result: RunResult, key: MarketKey) -> None:
        found = [next((m for m in s.markets if (m.task, m.model) == key), None) for s in result.samples]
        sold = [m if m is not None and m.slots else None for m in found]
        self.at_s = [sample.at_s for sample in result.samples]
        self.low = _values(sold, lambda market: market.ask_p10)
        self.ask = _values(sold, lambda market: market.ask_p50)
        self.high = _values(sold, lambda market: market.ask_p90)
        self.paid = _values(found, lambda market: math.nan if market.paid is None else market.paid)
        self.busy = _values(sold, lambda market: market.utilisation)
        self.waiting = _values(sold, lambda market: market.waiting / market.slots)
        self.slots = _values(found, lambda market: market.slots)
        self.settled = np.array(self.at_s) >= result.warmup_s
        self.empty = all(market is None for market in found)

    def of(self, values: Floats) -> Floats:
        """What was measured of a series after the warm-up."""
        known = values[self.settled]
        return known[~np.isnan(known)]

    def prices(self, most: int) -> tuple[Band, Band]:
        """What was asked and what was paid, binned."""
        return band(self.at_s, self.low, self.ask, self.high, most), line(self.at_s, self.paid, most)

    def load(self, most: int) -> tuple[Band, Band]:
        """Busy slots and waiting jobs of the slots there are, binned."""
        return line(self.at_s, self.busy, most), line(self.at_s, self.waiting, most)


def _values(markets: Sequence[Market | None], value: Callable[[Market], float]) -> Floats:
    return np.array([math.nan if market is None else value(market) for market in markets], dtype=np.float64)


def price(result: RunResult, frame: Frame, key: MarketKey) -> Chart | None:
    """Price against utilisation over time, of one market."""
    series = _Series(result, key)
    if series.empty:
        return None
    task, model = key

    def draw(figure: FigureBase) -> list[Axes]:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
        asked, paid = series.prices(limits.CHART_BINS)
        above.fill_between(
            asked.at_s,
            asked.low / _TON,
            asked.high / _TON,
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="asked, middle 80 %",
        )
        above.plot(asked.at_s, asked.middle / _TON, color=BLUE, label="asked, median")
        above.plot(paid.at_s, paid.middle / _TON, color=ORANGE, linestyle="--", label="paid, mean")
        from_zero(above)
        above.set_ylabel(f"TON per million\n{main_unit(task)}")
        legend(above, 3)
        busy, waiting = series.load(limits.CHART_BINS)
        below.fill_between(busy.at_s, busy.low, busy.high, color=TEAL, alpha=0.25, linewidth=0)
        below.plot(busy.at_s, busy.middle, color=TEAL, label="busy slots")
        below.plot(waiting.at_s, waiting.middle, color=PURPLE, linestyle="-.", linewidth=1.2, label="waiting jobs")
        below.set_ylim(0, max(1.05, below.get_ylim()[1]))
        below.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        below.set_ylabel("of all slots")
        legend(below, 2)
        time_axis(above, result, frame.horizon_s)
        time_axis(below, result, frame.horizon_s, numbered=False)
        return [above, below]

    return Chart(
        f"price-{frame.markets.index(key) + 1}",
        f"Price against utilisation: {task}, {model}",
        _price_words(series, task),
        _price_table(series, task),
        draw,
        height_in=4.2,
    )


def _price_words(series: _Series, task: str) -> str:
    asked, busy, paid = series.of(series.ask), series.of(series.busy), series.of(series.paid)
    if not len(asked):
        return "Nobody sold in this market after the warm-up."
    words = (
        f"The median ask moved between {money(float(asked.min()))} and {money(float(asked.max()))} per million "
        f"{main_unit(task)} (median {money(float(np.median(asked)))})"
    )
    if len(paid):
        words += f"; what was paid had a median of {money(float(np.median(paid)))}"
    words += (
        f". Of all slots, {share(float(np.median(busy)))} were busy in the median, {share(float(busy.max()))} at most."
    )
    binned = series.prices(limits.CHART_BINS)[0]
    if binned.binned:
        words += (
            f" {binned.values:,} samples in {len(binned.at_s)} bins: lines are medians of a bin, bands reach from its "
            "lowest to its highest."
        )
    return words


def _price_table(series: _Series, task: str) -> Table:
    asked, paid = series.prices(limits.TABLE_BINS)
    busy, waiting = series.load(limits.TABLE_BINS)
    slots = line(series.at_s, series.slots, limits.TABLE_BINS)
    rows = tuple(
        (clock(at), money(low), money(middle), money(high), money(p), number(s), share(b), share(w))
        for (at, low, middle, high), (_, _, p, _), (_, _, s, _), (_, _, b, _), (_, _, w, _) in zip(
            asked, paid, slots, busy, waiting, strict=True
        )
    )
    columns = (
        "time",
        "asked, lowest tenth",
        "asked, median",
        "asked, highest tenth",
        "paid, mean",
        "slots",
        "busy",
        "waiting",
    )
    note = f"Prices per million {main_unit(task)}; waiting jobs as a share of slots."
    if asked.binned:
        note += f" {asked.values:,} samples in {len(asked.at_s)} rows: medians; of the tenths, the extremes."
    return Table(columns, rows, note)


def efficiency(result: RunResult, frame: Frame) -> Chart | None:
    """Allocative efficiency of this market and of the baselines, as a share of the competitive optimum."""
    known = {
        name: result.efficiency[name] for name in frame.policies if math.isfinite(result.efficiency.get(name, math.nan))
    }
    if not known:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        for place, name in enumerate(frame.policies):
            value = known.get(name)
            if value is None:
                continue
            axes.barh(place, value, height=0.62, color=BLUE if name.startswith("ours") else GREY)
            inside = value > 0.25  # beside a long bar the number would stand in the line of the optimum
            axes.annotate(
                share(value), (value, place), xytext=(-6 if inside else 4, 0), textcoords="offset points",
                va="center", ha="right" if inside else "left", color=SURFACE if inside else INK, fontweight="bold",
            )  # fmt: skip
        axes.axvline(1.0, color=INK, linewidth=1.2, linestyle="--")
        axes.annotate(
            "optimum", (1.0, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            ha="center", fontsize=10,
        )  # fmt: skip
        axes.set_yticks(range(len(frame.policies)), [label(policy_name(name)) for name in frame.policies])
        axes.set_ylim(len(frame.policies) - 0.4, -0.6)
        axes.set_xlim(min(0.0, *known.values()), max(1.15, *(1.15 * value for value in known.values())))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("of the competitive optimum's surplus")
        return [axes]

    ours = known.get("ours")
    others = {name: value for name, value in known.items() if not name.startswith("ours")}
    words = f"This market reached {share(ours)} of the surplus of the competitive optimum." if ours is not None else ""
    if others:
        best = max(others, key=lambda name: others[name])
        words += f" The best other policy of this run, {policy_name(best)}, reached {share(others[best])}."
    rows = tuple((policy_name(name), share(value)) for name, value in known.items())
    return Chart(
        "efficiency", "Allocative efficiency", words.strip() or "What each policy reached.",
        Table(("policy", "of the optimum"), rows), draw, height_in=1.5 + 0.36 * len(frame.policies),
    )  # fmt: skip


def policy_name(name: str) -> str:
    """A policy for people."""
    return (
        "this market" + name.removeprefix("ours").replace("_", " ")
        if name.startswith("ours")
        else name.replace("_", " ")
    )
