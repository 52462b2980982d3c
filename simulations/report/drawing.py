"""How charts are drawn: matplotlib without a screen and without its global state, one style, and the same figure as
inline SVG (coloured by the page's variables, so that it follows light and dark) or as PNG.

A figure is the same to the byte in every run: no date, no name of a program, fixed salt of its ids.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from overlay.errors import CocoonError
from simulations.report import limits
from simulations.report.bins import Floats, Rate
from simulations.report.formats import clock, number
from simulations.report.markup import clean
from simulations.report.tables import Table
from simulations.results import Happening, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, FigureBase

INK, MUTED, GRID, SURFACE = "#1b1f24", "#59636e", "#d8dee4", "#ffffff"
BLUE, ORANGE, TEAL, RED, PURPLE, GREY = "#0969da", "#bc4c00", "#1b7c83", "#cf222e", "#8250df", "#8c959f"
VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface", BLUE: "blue", ORANGE: "orange", TEAL: "teal",
    RED: "red", PURPLE: "purple", GREY: "grey",
}  # fmt: skip
"""Every colour that a chart may use, and the variable of page.css that takes its place in a page."""
SERIES = (BLUE, ORANGE, TEAL, PURPLE, RED, GREY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
"""Beside colours: a series is told from others without seeing them."""

WIDTH_IN = 5.4
_PNG_DPI = 160
_STYLE: Any = {
    "font.size": 11.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it: the same measures on every machine
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.0,
    "axes.facecolor": SURFACE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "figure.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.6,
    "hatch.color": GRID,
    "svg.fonttype": "none",
    "svg.hashsalt": "cocoon",
}


class PicturesUnavailable(CocoonError):
    """matplotlib is not installed."""

    code = "pictures_unavailable"


@dataclass(frozen=True)
class Chart:
    """A chart of one run before it is drawn. ``summary`` says in words what the picture shows, ``table`` holds its
    numbers; ``draw`` draws it onto an empty figure and returns the axes in an order that does not depend on the
    run, so that two runs can be given the same axes."""

    id: str
    title: str
    summary: str
    table: Table
    draw: Callable[[FigureBase], Sequence[Axes]]
    height_in: float = 3.4


@contextmanager
def style() -> Iterator[None]:
    """Charts are drawn inside. Raises :class:`PicturesUnavailable`."""
    try:
        import matplotlib
    except ImportError as error:
        raise PicturesUnavailable(
            "a report needs matplotlib, which is not installed; install it: pip install 'cocoon-node[sim]'"
        ) from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
        matplotlib.rcParams.update(_STYLE)
        # A name may be in any script. In a page the browser has the letters; in a PNG a box stands for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Numbers of a run that went mad may need more room than a chart has; the page shows them all the same.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def figures(charts: Sequence[Chart | None]) -> list[Figure | None]:
    """The same chart of several runs, on the same axes."""
    from matplotlib.figure import Figure

    drawn: list[Figure | None] = []
    axes: list[Sequence[Axes]] = []
    for chart in charts:
        if chart is None:
            drawn.append(None)
            continue
        figure = Figure(figsize=(WIDTH_IN, chart.height_in), layout="constrained")
        axes.append(chart.draw(figure))
        drawn.append(figure)
    for same in zip(*axes, strict=True):
        _share_limits(same)
    return drawn


def _share_limits(axes: Sequence[Axes]) -> None:
    x, y = zip(*(one.get_xlim() for one in axes), strict=True), zip(*(one.get_ylim() for one in axes), strict=True)
    (left, right), (bottom, top) = tuple(x), tuple(y)
    for one in axes:
        one.set_xlim(min(left), max(right))
        falling = bottom[0] > top[0]  # bars from top to bottom
        one.set_ylim(*((max(bottom), min(top)) if falling else (min(bottom), max(top))))


def png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, in the light colours. Raises ``OSError``."""
    figure.savefig(path, format="png", dpi=_PNG_DPI, metadata={"Software": None})


_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font-family: [^;]*;? ?")


def svg(figure: Figure, prefix: str, labelled_by: str) -> Element:
    """A figure as an ``svg`` element for a page. ``prefix`` makes its ids unique there, ``labelled_by`` is the id of
    the element that names it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 — what matplotlib wrote a line above
    _adopt(root, prefix)
    view = root.get("viewBox")
    assert view is not None
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "role": "img", "aria-labelledby": labelled_by})
    return root


def _adopt(node: Element, prefix: str) -> None:
    """Make matplotlib's element one of a page: no name spaces, unique ids, colours by variable, no needless digits."""
    node.tag = node.tag.rpartition("}")[2]
    node.text = node.text if node.tag == "text" else None
    node.tail = None
    for child in list(node):
        name = child.tag.rpartition("}")[2]
        if name in ("metadata", "style"):
            node.remove(child)
        else:
            _adopt(child, prefix)
            if child.tag in ("g", "defs") and not len(child):
                node.remove(child)
    attributes = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
    node.attrib.clear()
    for key, value in attributes.items():
        if key == "id" and node.tag == "g":
            continue
        if key == "transform" and value.startswith("rotate(-0 "):
            continue
        node.set(key, _attribute(key, value, prefix))


def _attribute(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == "href":
        return "#" + prefix + value.removeprefix("#")
    value = value.replace("url(#", "url(#" + prefix)
    if key == "style":
        value = _FONT.sub("", value)
        return _COLOUR.sub(lambda found: f"var(--{VARIABLES[found[0]]})", value).rstrip("; ")
    return _NUMBER.sub(lambda found: f"{float(found[0]):.1f}", value.replace("\n", "")) if key != "viewBox" else value


def label(text: str) -> str:
    """A name from a file inside a picture."""
    return clean(text, limits.LABEL_CHARACTERS)


def legend(axes: Axes, columns: int = 2) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2)


def logarithmic(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis for values from ``low`` to ``high``: 1, 2, 5 where decades are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    few = high / low < 300
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(lambda value, _: number(value))
    axis.set_minor_formatter(NullFormatter())


def steps(axes: Axes, parts: Sequence[Rate], bottom: Floats, colour: str, name: str | None = None) -> Floats:
    """Rates as one area of steps upon ``bottom``; returns its upper edge."""
    edges = [*(part.from_s for part in parts), *(part.to_s for part in parts[-1:])]
    top: Floats = bottom + np.array([part.per_s for part in parts])
    lower, upper = (np.append(line, line[-1:]) for line in (bottom, top))
    axes.fill_between(edges, lower, upper, step="post", color=colour, linewidth=0, label=name)
    return top


def from_zero(axes: Axes) -> None:
    """Quantities whose height says how much: from zero, with air above."""
    top = float(axes.dataLim.ymax)
    axes.set_ylim(0, 1.1 * top if 0 < top < math.inf else 1.0)


_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)


def time_axis(axes: Axes, result: RunResult, horizon_s: float, *, numbered: bool = True) -> None:
    """Virtual time along x up to ``horizon_s``: the warm-up shaded, happenings as numbered lines, and what a partial
    run did not reach in red. ``numbered`` is for the upper one of two axes."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    horizon_s = horizon_s if horizon_s > 0 else 1.0
    step = next((step for step in _STEPS_S if horizon_s / step <= 6), max(horizon_s / 6, 1.0))
    axes.set_xlim(0, horizon_s)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: clock(at)))
    if 0 < result.warmup_s < horizon_s:
        axes.axvspan(0, result.warmup_s, color=GREY, alpha=0.12, linewidth=0)
    if result.virtual_s < result.duration_s:
        axes.axvspan(result.virtual_s, result.duration_s, facecolor=RED, alpha=0.12, linewidth=0)
        axes.axvline(result.virtual_s, color=RED, linewidth=1.2)
    for at_s, numbers in marks(result, horizon_s):
        axes.axvline(at_s, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        if numbered:
            axes.annotate(
                numbers, (at_s, 1.0), xycoords=("data", "axes fraction"), xytext=(2.5, -2), textcoords="offset points",
                va="top", ha="left", fontsize=9, color=INK,
                bbox={"facecolor": SURFACE, "alpha": 0.75, "linewidth": 0, "pad": 1.0},
            )  # fmt: skip


def marks(result: RunResult, horizon_s: float) -> list[tuple[float, str]]:
    """Where lines for happenings stand, and the numbers of the time line that they stand for: those too near to each
    other to be told apart share one."""
    near_s = horizon_s / limits.MARKED_HAPPENINGS
    groups: list[tuple[float, int, int]] = []
    for index, happening in enumerate(happenings(result), 1):
        if groups and happening.at_s - groups[-1][0] < near_s:
            groups[-1] = (groups[-1][0], groups[-1][1], index)
        else:
            groups.append((happening.at_s, index, index))
    return [
        (at, str(first) if first == last else f"{first}–{last}") for at, first, last in groups if 0 <= at <= horizon_s
    ]


def happenings(result: RunResult) -> list[Happening]:
    """In the order of their moments: their place is their number on the time line, from 1."""
    return sorted(result.happenings, key=lambda happening: happening.at_s)
