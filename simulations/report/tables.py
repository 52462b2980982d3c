"""A table as data: what a chart shows, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from xml.etree.ElementTree import Element

from simulations.report import limits
from simulations.report.formats import count
from simulations.report.markup import clean, element

Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """Rows of texts. The first column names the row; ``words`` are the columns, by position, that hold words and stand
    left; ``note`` is said under the table, ``flagged`` are rows that went wrong."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: frozenset[int] = frozenset({0})
    flagged: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


def listed(
    items: Sequence[Item], row: Callable[[Item], tuple[str, ...]], what: str
) -> tuple[tuple[tuple[str, ...], ...], str]:
    """The first rows of a list that may be long, and what to say of the rest."""
    shown = tuple(row(item) for item in items[: limits.ROWS])
    left = len(items) - len(shown)
    return shown, f"The first {count(len(shown))} of {count(len(items))} {what}." if left else ""


def table_element(table: Table, caption: str) -> Element:
    """The table in a box that scrolls by itself, so that a wide one does not widen the page."""
    head = element(
        "tr", *(element("th", name, scope="col", class_=_side(table, at)) for at, name in enumerate(table.columns))
    )
    body = (
        element("tr", *_cells(table, row), class_="flagged" if at in table.flagged else None)
        for at, row in enumerate(table.rows)
    )
    box = element(
        "div",
        element("table", element("caption", caption), element("thead", head), element("tbody", *body)),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )
    return element("div", box, element("p", table.note, class_="note") if table.note else None)


def _cells(table: Table, row: Iterable[str]) -> list[Element]:
    return [
        element("td" if at else "th", clean(text), scope=None if at else "row", class_=_side(table, at))
        for at, text in enumerate(row)
    ]


def _side(table: Table, column: int) -> str | None:
    return None if column in table.words else "number"
