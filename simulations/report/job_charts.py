"""Jobs: how long people waited for the first token, and how jobs ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulations.report import limits
from simulations.report.bins import Quantiles, Rate, over_time, quantile, rates
from simulations.report.drawing import (
    BLUE,
    DASHES,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    SERIES,
    TEAL,
    Chart,
    from_zero,
    label,
    legend,
    logarithmic,
    steps,
    time_axis,
)
from simulations.report.formats import clock, count, number, plural, seconds, share
from simulations.report.frame import Frame, measured, waits
from simulations.report.tables import Table
from simulations.results import Job, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_PEER = re.compile(r"\b12D3KooW[1-9A-HJ-NP-Za-km-z]{40,}")
_SHORTEST_S = 0.001
"""Waits are drawn on a logarithmic axis, which has no zero."""


def distribution(result: RunResult, frame: Frame) -> Chart | None:
    """Time to first token, as the share of jobs that had theirs by then; a line a task."""
    jobs = measured(result)
    by_task = {task: sorted(waits(job for job in jobs if job.task == task)) for task in frame.tasks}
    by_task = {task: values for task, values in by_task.items() if values}
    everything = waits(jobs)
    if not everything:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        shares = np.linspace(0.0, 1.0, 201)
        for task, values in by_task.items():
            at = frame.tasks.index(task)
            points = np.maximum(np.quantile(values, shares), _SHORTEST_S)
            axes.plot(
                points, shares, color=SERIES[at % len(SERIES)], linestyle=DASHES[at % len(DASHES)], label=label(task)
            )
        for mark in (0.5, 0.95):
            axes.axhline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_xscale("log")
        logarithmic(axes.xaxis, max(min(everything), _SHORTEST_S), max(max(everything), _SHORTEST_S))
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("seconds to the first token, logarithmic")
        axes.set_ylabel("of jobs that got one")
        legend(axes, 3)
        return [axes]

    words = (
        f"Half of the jobs had their first token within {seconds(quantile(everything, 0.5))}, 95 % within "
        f"{seconds(quantile(everything, 0.95))}, 99 % within {seconds(quantile(everything, 0.99))}. "
        f"{share(len(everything) / len(jobs))} of {plural(len(jobs), 'job')} asked for after the warm-up got one."
        f"{_waiting(result)}"
    )
    rows = [_quantile_row(task, values) for task, values in by_task.items()]
    if len(rows) > 1:
        rows.append(_quantile_row("all", everything))
    table = Table(("task", "jobs", "10 %", "50 %", "90 %", "95 %", "99 %", "longest"), tuple(rows))
    return Chart("first-token", "Time to first token", words, table, draw)


def _quantile_row(name: str, values: Sequence[float]) -> tuple[str, ...]:
    return (name, count(len(values)), *(seconds(quantile(values, part)) for part in (0.1, 0.5, 0.9, 0.95, 0.99, 1.0)))


def wait_over_time(result: RunResult, frame: Frame) -> Chart | None:
    """Time to first token by when it was asked for."""
    jobs = [job for job in result.jobs if job.first_token_at_s is not None]
    if not jobs:
        return None
    bins = _waits_over_time(jobs, result.virtual_s, limits.RATE_BINS)
    known = [part for part in bins if part.number]
    if not known:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        middle = [(part.from_s + part.to_s) / 2 for part in bins]
        p10, p50, p95 = (
            np.maximum(np.array(values), _SHORTEST_S)
            for values in zip(*((part.p10, part.p50, part.p95) for part in bins), strict=True)
        )
        axes.fill_between(middle, p10, p95, color=BLUE, alpha=0.2, linewidth=0, label="10–95 % of jobs")
        axes.plot(middle, p50, color=BLUE, marker="o", markersize=2.5, label="median")
        axes.plot(middle, p95, color=ORANGE, linestyle="--", linewidth=1.2, label="95 %")
        axes.set_yscale("log")
        logarithmic(axes.yaxis, float(np.nanmin(p10)), float(np.nanmax(p95)))
        axes.set_ylabel("seconds, logarithmic")
        legend(axes, 3)
        time_axis(axes, result, frame.horizon_s)
        return [axes]

    worst = max(known, key=lambda part: part.p95)
    words = (
        f"The slowest stretch was {clock(worst.from_s)} to {clock(worst.to_s)}: of {plural(worst.number, 'job')}, half "
        f"waited {seconds(worst.p50)} or more, one in twenty {seconds(worst.p95)} or more. Jobs count where they were "
        f"asked for.{_waiting(result)}"
    )
    rows = tuple(
        (
            f"{clock(part.from_s)}–{clock(part.to_s)}",
            count(part.number),
            seconds(part.p10),
            seconds(part.p50),
            seconds(part.p95),
        )
        for part in _waits_over_time(jobs, result.virtual_s, limits.TABLE_BINS)
    )
    return Chart(
        "first-token-time", "Time to first token over time", words,
        Table(("asked for", "jobs", "10 %", "50 %", "95 %"), rows), draw,
    )  # fmt: skip


def _waiting(result: RunResult) -> str:
    """Those still waiting at the end have no wait to count: without them, the last stretch looks too good."""
    waiting = sum(job.outcome == "running" and job.first_token_at_s is None for job in result.jobs)
    return f" {plural(waiting, 'job')} still waiting at the end cannot count." if waiting else ""


def _waits_over_time(jobs: Sequence[Job], end_s: float, most: int) -> list[Quantiles]:
    end_s = max(end_s, *(job.asked_at_s for job in jobs), 1e-9)
    return over_time([job.asked_at_s for job in jobs], waits(jobs), end_s, most)


_OUTCOMES = (("done at once", TEAL), ("recovered", PURPLE), ("refused", ORANGE), ("failed", RED))


def outcomes(result: RunResult, frame: Frame) -> Chart | None:
    """How many jobs a minute ended how, over time."""
    if not result.samples or not result.samples[-1].asked:
        return None

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        ended = _ended(result, limits.RATE_BINS)
        top = np.zeros(len(ended[0]))
        for (name, colour), kind in zip(_OUTCOMES, ended, strict=True):
            top = steps(axes, [Rate(part.from_s, part.to_s, 60 * part.per_s) for part in kind], top, colour, name)
        from_zero(axes)
        axes.set_ylabel("jobs a minute")
        legend(axes, 4)
        time_axis(axes, result, frame.horizon_s)
        return [axes]

    last = result.samples[-1]
    words = (
        f"Of {plural(last.asked, 'job')}, {count(last.done)} were done ({share(last.done / last.asked)}), "
        f"{count(last.recovered)} of them with another provider than the first; failed: {count(last.failed)}, "
        f"refused: {count(last.refused)}."
    )
    ended = _ended(result, limits.TABLE_BINS)
    rows = tuple(
        (f"{clock(parts[0].from_s)}–{clock(parts[0].to_s)}", *(number(60 * part.per_s) for part in parts))
        for parts in zip(*ended, strict=True)
    )
    columns = ("time", *(name for name, _ in _OUTCOMES))
    return Chart("outcomes", "How jobs ended", words, Table(columns, rows, "Jobs a minute."), draw)


def _ended(result: RunResult, most: int) -> tuple[list[Rate], ...]:
    """Rates in the order of :data:`_OUTCOMES`."""
    samples = result.samples
    at_s = [sample.at_s for sample in samples]
    counters = (
        [max(0, sample.done - sample.recovered) for sample in samples],
        [sample.recovered for sample in samples],
        [sample.refused for sample in samples],
        [sample.failed for sample in samples],
    )
    return tuple(rates(at_s, counter, most) for counter in counters)


def outcome_table(result: RunResult) -> Table:
    """How jobs of each task ended, over the whole run."""
    by_task: dict[str, Counter[str]] = {}
    for job in result.jobs:
        counted = by_task.setdefault(job.task, Counter())
        counted["asked"] += 1
        counted[job.outcome] += 1
        counted["recovered"] += job.outcome == "done" and job.tries > 1
    total: Counter[str] = sum(by_task.values(), Counter())
    names = sorted(by_task, key=lambda task: (-by_task[task]["asked"], task))[: limits.CATEGORIES]
    kinds = ("asked", "done", "recovered", "failed", "refused", "running")
    lines = [(task, by_task[task]) for task in names] + ([("all", total)] if len(by_task) > 1 else [])
    rows = tuple((name, *(count(counted[kind]) for kind in kinds)) for name, counted in lines)
    note = "Recovered: done, but not with the first provider that was tried. Running: when the run ended."
    return Table(("task", *kinds), rows, note)


def error_table(result: RunResult) -> Table:
    """Why jobs did not end well, the most frequent reason first; the same reason is one, whichever peer it names."""
    reasons = Counter(
        (job.outcome, _PEER.sub("a peer", job.error)) for job in result.jobs if job.outcome in ("failed", "refused")
    )
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple((error or "(no reason given)", outcome, count(n)) for (outcome, error), n in ordered[:20])
    left = sum(n for _, n in ordered[20:])
    return Table(
        ("reason", "outcome", "jobs"), rows, f"And {plural(left, 'job')} for other reasons." if left else "",
        words=frozenset({0, 1}),
    )  # fmt: skip
