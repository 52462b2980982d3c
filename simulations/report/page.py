"""The page of a run: one HTML file with everything in it, no script, nothing fetched.

With a second run to compare, whatever the page shows stands twice, side by side, on the same axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element

from simulations.report import limits
from simulations.report.charts import Maker, sections
from simulations.report.drawing import Chart, figures, happenings, style, svg
from simulations.report.formats import clock, count, number, plural, seconds
from simulations.report.frame import Frame
from simulations.report.job_charts import error_table, outcome_table
from simulations.report.markup import clean, document, element, extend
from simulations.report.measures import differences, key_figures
from simulations.report.policy_charts import policy_table
from simulations.report.tables import Table, listed, table_element
from simulations.report.verdict import command, mark_table, verdict
from simulations.results import RunResult

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Even if markup of a stranger got into the page, a browser would neither run nor fetch anything."""


@dataclass(frozen=True)
class _Run:
    """A run on the page; ``letter`` tells two apart and is empty for one alone."""

    result: RunResult
    letter: str

    def id(self, name: str) -> str:
        return f"{self.letter.lower()}-{name}" if self.letter else name

    def badge(self) -> Element | None:
        return element("span", self.letter, class_="letter") if self.letter else None


def write_report(result: RunResult, path: Path, *, compare: RunResult | None = None) -> None:
    """Write the report of a run, or of two side by side: ``result`` is A then, ``compare`` B. A file of this name is
    always whole. Raises ``OSError`` and :class:`~simulations.report.drawing.PicturesUnavailable`."""
    text = report_page(result, compare=compare)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def report_page(result: RunResult, *, compare: RunResult | None = None) -> str:
    """The page as text: the same for the same runs, to the byte."""
    runs = [_Run(result, "")] if compare is None else [_Run(result, "A"), _Run(compare, "B")]
    frame = Frame.of(*(run.result for run in runs))
    with style():
        drawn = {heading: _charts(runs, frame, makers) for heading, makers in sections(frame).items()}
    blocks: dict[str, list[Element]] = {
        "Differences": [element("div", table_element(differences(result, compare, frame), "B against A"), class_="box")]
        if compare
        else [],
        "Expectations": _tables(runs, lambda run: mark_table(run), "What the scenario expects", "It expects nothing."),
        **drawn,
    }
    for table, caption in (
        (outcome_table, "How jobs ended, by task"),
        (error_table, "Why jobs failed or were refused"),
    ):
        for grid in drawn["Jobs"]:
            extend(grid, _boxes(runs, table, caption, ""))
    for grid in drawn["Prices and money"]:
        extend(grid, _boxes(runs, policy_table, "The same demand under other policies", ""))
    if frame.markets_left:
        blocks["Prices and money"].append(
            element("p", f"{plural(frame.markets_left, 'smaller market')} without a picture.", class_="note")
        )
    blocks["Time line"] = _tables(runs, _time_line, "What happened, as numbered in the charts", "")
    blocks["Warnings"] = _tables(runs, _warnings, "What nodes logged as warnings", "")
    blocks["Run it again"] = [_pair([_again(run) for run in runs])]
    return document(_page(runs, frame, {heading: parts for heading, parts in blocks.items() if parts}))


def _page(runs: Sequence[_Run], frame: Frame, blocks: dict[str, list[Element]]) -> Element:
    title = " and ".join(dict.fromkeys(clean(run.result.title, 120) for run in runs))
    css = files("simulations.report").joinpath("page.css").read_text(encoding="utf-8")
    ids = {heading: f"section-{at}" for at, heading in enumerate(blocks, 1)}
    return element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("title", f"{title} · simulated run"),
            element("style", css),
        ),
        element(
            "body",
            element("a", "To the charts", href="#main", class_="skip"),
            _header(runs, frame, title),
            element(
                "main",
                element(
                    "nav", *(element("a", heading, href=f"#{ids[heading]}") for heading in blocks), aria_label="Page"
                ),
                *(
                    element("section", element("h2", heading, id=ids[heading]), *parts, aria_labelledby=ids[heading])
                    for heading, parts in blocks.items()
                ),
                id="main",
            ),
            element("footer", _legend()),
        ),
        lang="en",
    )


def _legend() -> Element:
    return element(
        "p",
        "In charts over time the shaded start is the warm-up, which measures leave out; numbered lines are the "
        "happenings of the time line; red is what a partial run did not reach. Times are virtual.",
        class_="note",
    )


def _header(runs: Sequence[_Run], frame: Frame, title: str) -> Element:
    return element(
        "header",
        element("p", "Simulated run" if len(runs) == 1 else "Two simulated runs", class_="meta"),
        element("h1", title),
        *_about(runs),
        element("div", *(_summary(run, frame) for run in runs), class_="runs two" if len(runs) > 1 else "runs"),
    )


def _about(runs: Sequence[_Run]) -> list[Element]:
    """The scenarios' words; once, when two runs are of one scenario."""
    words = [clean(run.result.about.strip(), limits.ABOUT_CHARACTERS) for run in runs]
    if len(set(words)) == 1:
        return [element("p", words[0], class_="about")] if words[0] else []
    return [element("p", run.badge(), text, class_="about") for run, text in zip(runs, words, strict=True) if text]


def _summary(run: _Run, frame: Frame) -> Element:
    """The verdict and the key figures of a run."""
    result, judged = run.result, verdict(run.result)
    meta = (
        f"{clean(result.scenario)}, seed {result.seed}, program {clean(result.commit, 64)}: "
        f"{plural(len(result.providers), 'provider')} and {plural(result.clients, 'client')}, "
        f"{clock(result.virtual_s)} of virtual time"
    )
    if result.wall_s > 0:
        meta += f" in {clock(round(result.wall_s))} ({number(result.virtual_s / result.wall_s, 2)}× real time)"
    partial = (
        element("div", element("strong", judged.partial), class_="partial", role="alert") if judged.partial else None
    )
    reasons = element("ul", *(element("li", reason) for reason in judged.reasons)) if judged.reasons else None
    known = key_figures(result, frame)
    return element(
        "div",
        element("p", run.badge(), meta + ".", class_="meta"),
        partial,
        element(
            "div",
            element("strong", ("✓ " if judged.good else "✗ ") + judged.headline),
            reasons,
            class_=f"verdict {'good' if judged.good else 'bad'}",
        ),
        element(
            "dl",
            *(element("div", element("dt", clean(one.name, 80)), element("dd", str(one))) for one in known),
            class_="figures",
        )
        if known
        else None,
        class_="run",
    )


def _charts(runs: Sequence[_Run], frame: Frame, makers: Sequence[Maker]) -> list[Element]:
    """The grid of a section's charts; nothing when no run has one of them."""
    made: list[Element] = []
    for make in makers:
        charts = [make(run.result, frame) for run in runs]
        if not any(charts):
            continue
        for run, chart, figure in zip(runs, charts, figures(charts), strict=True):
            if chart is None or figure is None:
                made.append(_no_chart(run, next(one.title for one in charts if one)))
            else:
                name = run.id(chart.id)
                made.append(_chart(run, chart, svg(figure, f"{name}-", f"{name}-title {name}-text")))
    return [element("div", *made, class_="charts" if len(runs) > 1 else "flow")] if made else []


def _chart(run: _Run, chart: Chart, picture: Element) -> Element:
    name = run.id(chart.id)
    return element(
        "figure",
        element(
            "figcaption",
            element("h3", run.badge(), clean(chart.title), id=f"{name}-title"),
            element("p", clean(chart.summary, 2 * limits.TEXT_CHARACTERS), id=f"{name}-text"),
        ),
        picture,
        element(
            "details",
            element("summary", "The numbers"),
            table_element(chart.table, f"{run.letter} {chart.title}".strip()),
        ),
        class_="chart",
        id=name,
    )


def _no_chart(run: _Run, title: str) -> Element:
    return element(
        "div",
        element("h3", run.badge(), clean(title)),
        element("p", "This run has no such data.", class_="note"),
        class_="box",
    )


def _tables(runs: Sequence[_Run], make: Callable[[RunResult], Table], caption: str, nothing: str) -> list[Element]:
    """The boxes of :func:`_boxes` in a row of their own."""
    boxes = _boxes(runs, make, caption, nothing)
    return [_pair(boxes)] if boxes else []


def _boxes(runs: Sequence[_Run], make: Callable[[RunResult], Table], caption: str, nothing: str) -> list[Element]:
    """A table of each run in boxes side by side; ``nothing`` is said of a run that has no rows, and if it is empty and
    no run has any, there is no box."""
    tables = [make(run.result) for run in runs]
    if not nothing and not any(table.rows for table in tables):
        return []
    boxes = []
    for run, table in zip(runs, tables, strict=True):
        inside = table_element(table, caption) if table.rows else element("p", nothing or "None.", class_="note")
        head = element("h3", run.badge()) if run.letter else None
        boxes.append(element("div", head, inside, class_="box"))
    return boxes


def _pair(boxes: Sequence[Element]) -> Element:
    return boxes[0] if len(boxes) == 1 else element("div", *boxes, class_="pair")


def _time_line(result: RunResult) -> Table:
    numbered = list(enumerate(happenings(result), 1))
    rows, note = listed(numbered, lambda item: (str(item[0]), clock(item[1].at_s), item[1].what), "happenings")
    return Table(("no.", "time", "what"), rows, note, frozenset({0, 2}))


def _warnings(result: RunResult) -> Table:
    ordered = sorted(result.warnings.items(), key=lambda item: (-item[1], item[0]))
    rows, note = listed(ordered, lambda item: (item[0], count(item[1])), "kinds of warning")
    return Table(("event", "times"), rows, note)


def _again(run: _Run) -> Element:
    result = run.result
    words = [
        f"With program {clean(result.commit, 64)} this gives the digest below, over {plural(result.events, 'event')}, "
        "on any machine."
    ]
    if result.commit.endswith("+"):
        words.append("Files differed from that commit: only the same files give the same digest.")
    if result.commit == "unknown":
        words = ["The commit of the program is not known: whether this gives the digest below cannot be told."]
    cost = (
        f"It took {clock(round(result.wall_s))} of wall time, {seconds(result.cpu_s)} of CPU and "
        f"{number(result.rss_mib)} MiB."
    )
    return element(
        "div",
        element("h3", run.badge()) if run.letter else None,
        element("pre", element("code", command(result))),
        element("p", " ".join(words)),
        element("p", element("code", clean(result.digest))),
        element("p", cost, class_="note"),
        class_="box",
    )
