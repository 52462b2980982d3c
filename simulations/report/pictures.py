"""PNGs: one a chart, and one that shows a run at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.report import charts
from simulations.report.drawing import INK, MUTED, RED, TEAL, figures, png, style
from simulations.report.frame import Frame
from simulations.report.markup import clean
from simulations.report.verdict import command, verdict
from simulations.results import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase, SubFigure

_OVERVIEW_IN = (12.8, 12.6)
_OVERVIEW_CHARTS = 6


def write_pictures(result: RunResult, directory: Path) -> list[Path]:
    """Write every chart of a run as ``CHART.png`` into a directory, which is made if need be; the paths in the order of
    the report. Raises ``OSError`` and :class:`~simulations.report.drawing.PicturesUnavailable`."""
    frame = Frame.of(result)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with style():
        for makers in charts.sections(frame).values():
            for make in makers:
                chart = make(result, frame)
                if chart is None:
                    continue
                (figure,) = figures([chart])
                assert figure is not None
                _title(figure, chart.title)
                path = directory / f"{chart.id}.png"
                png(figure, path)
                written.append(path)
    return written


def write_overview(result: RunResult, path: Path) -> None:
    """Write one PNG with the six most telling charts of a run, its verdict and what it takes to run it again. Raises
    as :func:`write_pictures`."""
    frame = Frame.of(result)
    made = (make(result, frame) for make in charts.overview(frame))
    shown = [chart for chart in made if chart is not None][:_OVERVIEW_CHARTS]
    with style():
        from matplotlib.figure import Figure

        whole = Figure(figsize=_OVERVIEW_IN, layout="constrained")
        head, body, foot = whole.subfigures(3, 1, height_ratios=(0.8, 11.5, 0.3), squeeze=False).flat
        _head(head, result)
        places: Iterable[SubFigure] = body.subfigures(3, 2, squeeze=False, wspace=0.03, hspace=0.03).flat
        for place, chart in zip(places, shown, strict=False):
            _title(place, chart.title)
            chart.draw(place)
        foot.text(0.005, 0.5, command(result), color=MUTED, va="center")
        png(whole, path)


def _head(head: FigureBase, result: RunResult) -> None:
    judged = verdict(result)
    head.text(0.005, 0.7, clean(result.title, 90), fontsize=17, fontweight="bold", va="center")
    words = f"{judged.partial} {judged.headline}".strip()
    head.text(0.005, 0.2, clean(words, 130), fontsize=12, color=TEAL if judged.good else RED, va="center")


def _title(figure: FigureBase, title: str) -> None:
    figure.suptitle(clean(title, 70), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
