"""Where the rest of the optimum went, and what other market policies made of the same demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from simulations.report import limits
from simulations.report.drawing import BLUE, GREY, INK, Chart, label, legend
from simulations.report.formats import count, money, seconds, share
from simulations.report.frame import Frame
from simulations.report.market_charts import policy_name
from simulations.report.tables import Table
from simulations.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

WORDS: Mapping[str, str] = {
    "too_dear": "refused: too dear",
    "no_room": "refused: no room",
    "failed": "failed",
    "cheated": "cheated",
    "unfinished": "not ended",
    "channel": "wait for a channel",
    "dealing": "wait for a deal",
    "queue": "wait in a queue",
    "sharing": "shared machine",
    "machine": "not the best machine",
    "dear": "dearer owner",
    "displaced": "worth less than others",
    "idle": "machines idle",
    "outside": "before and after",
}
"""Causes for people, as a chart has room for them."""

_EXPLAINED = (
    "Refused: too dear, everybody asked more than the client pays; no room, everybody was full or nobody was known. "
    "Cheated: an answer that was not what was bought counts for nothing. "
    "Waits are worth what their clients say a second is. Shared machine: slower than alone on it. Not the best "
    "machine: slower or dearer than another that had time. Dearer owner: one who wants more for it than others. "
    "Worth less than others: done, although its machine's time was worth more to somebody else. Machines idle: "
    "although others would have paid more than their time costs. Before and after: machine time of jobs that are not "
    "counted."
)


def losses(result: RunResult, frame: Frame) -> Chart | None:
    """What is missing to the competitive optimum, by cause; of each policy that ran."""
    found = {row.policy: row.losses for row in result.policies} or {"ours": result.losses}
    found = {name: found[name] for name in frame.policies if found.get(name)}
    names = {cause: max((parts.get(cause, 0.0) for parts in found.values()), default=0.0)
             for parts in found.values() for cause in parts}  # fmt: skip
    causes = sorted(names, key=lambda cause: (-names[cause], cause))[: limits.CATEGORIES]
    if not causes or not all(math.isfinite(value) for parts in found.values() for value in parts.values()):
        return None
    ours = found.get("ours", {})

    def draw(figure: FigureBase) -> list[Axes]:
        axes = figure.subplots()
        height = 0.8 / len(found)
        for number, (name, parts) in enumerate(found.items()):
            places = [place - 0.4 + height * (number + 0.5) for place in range(len(causes))]
            tint = BLUE if name.startswith("ours") else GREY
            axes.barh(
                places, [parts.get(cause, 0.0) for cause in causes], height=0.9 * height, color=tint,
                alpha=1.0 if number < 2 else 0.55, label=label(policy_name(name)),
            )  # fmt: skip
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(causes)), [label(WORDS.get(cause, cause)) for cause in causes])
        axes.set_ylim(len(causes) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("of the competitive optimum's surplus")
        if len(found) > 1:
            legend(axes, len(found))
        return [axes]

    worst = sorted(ours, key=lambda cause: (-ours[cause], cause))[:3]
    words = "Of the optimum, this market lost most by: " + ", ".join(
        f"{WORDS.get(cause, cause)} {share(ours[cause])}" for cause in worst
    )
    rows = tuple(
        (WORDS.get(cause, cause), *(share(parts.get(cause, 0.0)) for parts in found.values())) for cause in causes
    )
    return Chart(
        "losses", "Where the rest of the optimum went", f"{words}." if worst else "What each policy lost, by cause.",
        Table(("lost by", *(policy_name(name) for name in found)), rows, _EXPLAINED), draw,
        height_in=1.3 + 0.3 * len(causes),
    )  # fmt: skip


def policy_table(result: RunResult) -> Table:
    """Ours beside the baselines: the same scenario, seed and demand."""
    rows = tuple(
        (
            policy_name(row.policy), share(row.efficiency), money(row.gained_nanoton), count(row.asked),
            count(row.done), count(row.refused), count(row.failed), seconds(row.first_token_p50),
            seconds(row.first_token_p95), money(row.price_paid), share(row.utilisation),
        )
        for row in result.policies
    )  # fmt: skip
    columns = (
        "policy", "of the optimum", "gained", "asked for", "done", "refused", "failed", "first token, median",
        "first token, 95 %", "paid per million", "busy",
    )  # fmt: skip
    note = (
        "After the warm-up. Clients ask for the same sessions; who is refused sooner asks the next thing sooner. The "
        "others see how full every machine is, and their payment channels open within two seconds."
    )
    return Table(columns, rows, note)
