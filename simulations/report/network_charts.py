"""The network: what each protocol carried, and who was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulations.report import limits
from simulations.report.bins import Rate, line, rates
from simulations.report.drawing import BLUE, ORANGE, PURPLE, TEAL, Chart, from_zero, label, legend, steps, time_axis
from simulations.report.formats import clock, count, number, plural, share, size
from simulations.report.frame import Frame
from simulations.report.tables import Table
from simulations.results import RunResult, Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_MIB = 1 << 20


def traffic(result: RunResult, frame: Frame) -> Chart | None:
    """What each protocol carried, in bytes."""
    carried = {one.protocol: one for one in result.traffic}
    total = sum(one.bytes for one in result.traffic)
    messages = sum(one.messages for one in result.traffic)
    if not carried:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        for place, protocol in enumerate(frame.protocols):
            if protocol in carried:
                amount = carried[protocol].bytes
                axes.barh(place, amount / _MIB, height=0.62, color=BLUE)
                axes.annotate(
                    share(amount / total if total else 0.0),
                    (amount / _MIB, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                )
        axes.set_yticks(range(len(frame.protocols)), [label(name) for name in frame.protocols])
        axes.set_ylim(len(frame.protocols) - 0.4, -0.6)
        axes.margins(x=0.18)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("MiB")
        return [axes]

    jobs = len(result.jobs)
    largest = max(result.traffic, key=lambda one: one.bytes)
    words = f"{plural(messages, 'message')}, {size(total)} in all"
    words += (
        f": {number(messages / jobs)} messages and {size(total / jobs)} for each job that was asked for" if jobs else ""
    )
    words += f". Most of the bytes, {share(largest.bytes / total if total else 0.0)}, went over {largest.protocol}."
    return Chart(
        "traffic", "Traffic by protocol", words, _traffic_table(result.traffic, jobs), draw,
        height_in=1.4 + 0.36 * len(frame.protocols),
    )  # fmt: skip


def _traffic_table(carried: tuple[Traffic, ...], jobs: int) -> Table:
    ordered = sorted(carried, key=lambda one: (-one.bytes, one.protocol))[: limits.ROWS]
    total = sum(one.bytes for one in carried)
    rows = tuple(
        (
            one.protocol, count(one.messages), size(one.bytes), share(one.bytes / total if total else 0.0),
            size(one.bytes / one.messages if one.messages else None), number(one.messages / jobs if jobs else None),
        )
        for one in ordered
    )  # fmt: skip
    return Table(("protocol", "messages", "bytes", "of all bytes", "of one message", "messages a job"), rows)


def swarm(result: RunResult, frame: Frame) -> Chart | None:
    """Who was up, and how much they talked."""
    samples = result.samples
    if not samples:
        return None
    at_s = [sample.at_s for sample in samples]
    providers, clients, channels = (
        np.array(values, dtype=np.float64)
        for values in zip(*((s.providers_up, s.clients_up, s.channels) for s in samples), strict=True)
    )

    def talk(most: int) -> list[Rate]:
        return rates(at_s, [sample.messages for sample in samples], most)

    def draw(figure: FigureBase) -> list[Axes]:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
        for values, colour, dash, name in (
            (providers, BLUE, "-", "providers"),
            (clients, ORANGE, "--", "clients"),
            (channels, PURPLE, "-.", "open channels"),
        ):
            part = line(at_s, values, limits.CHART_BINS)
            above.fill_between(part.at_s, part.low, part.high, color=colour, alpha=0.2, linewidth=0)
            above.plot(part.at_s, part.middle, color=colour, linestyle=dash, label=name)
        spoken = talk(limits.RATE_BINS)
        steps(below, spoken, np.zeros(len(spoken)), TEAL)
        above.set_ylabel("number")
        below.set_ylabel("messages a s")
        legend(above, 3)
        for axes in (above, below):
            from_zero(axes)
            time_axis(axes, result, frame.horizon_s, numbered=axes is above)
        return [above, below]

    last = samples[-1]
    up = [sample.providers_up for sample in samples if sample.at_s >= result.warmup_s] or [last.providers_up]
    words = (
        f"After the warm-up {count(min(up))} to {plural(max(up), 'provider')} were up, and at most "
        f"{plural(int(clients.max()), 'client')}; at the end {plural(last.channels, 'channel')} stood open on chain."
    )
    rows = tuple(
        (clock(at), number(p), number(lowest), number(c), number(o))
        for (at, lowest, p, _), (_, _, c, _), (_, _, o, _) in zip(
            *(line(at_s, values, limits.TABLE_BINS) for values in (providers, clients, channels)), strict=True
        )
    )
    columns = ("time", "providers", "… at least", "clients", "open channels")
    return Chart("swarm", "The swarm", words, Table(columns, rows), draw, height_in=4.0)
