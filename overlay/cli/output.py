"""How commands speak: rich on a terminal, plain lines off it, JSON lines with `--json`; errors in one place.

Standard output carries the result (an answer, a table, JSON); everything that accompanies it goes to standard error, so
that `cocoon chat … > answer.txt` holds the answer and nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from overlay.events import NodeEvent, prices_text

__all__ = ["Output", "prices_text", "short"]

_STYLES = {
    "ready": "bold green",
    "agreed": "green",
    "job_done": "cyan",
    "settled": "bold cyan",
}


class Output:
    """Where a command writes. ``as_json`` prints machine-readable output only."""

    def __init__(self, as_json: bool, *, verbose: bool = True) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._line_open = False
        self._held: list[str] = []

    def event(self, event: NodeEvent) -> None:
        """A node's event as the main output: a JSON line, or a line with its time."""
        if self.as_json:
            self.line(event.to_json())
            return
        style = {"warning": "yellow", "error": "bold red"}.get(event.level, _STYLES.get(event.kind, ""))
        clock = time.strftime("%H:%M:%S", time.localtime(event.at_s))
        if self.out.is_terminal:
            text = f"[{style}]{escape(event.text)}[/]" if style else escape(event.text)
            self.out.print(f"[dim]{clock}[/] {text}")
        else:
            mark = "" if event.level == "info" else f"{event.level}: "
            self.line(f"{clock} {mark}{event.text}")

    def aside(self, event: NodeEvent) -> None:
        """A node's event beside the main output, on standard error: warnings always, the rest when verbose."""
        if event.level == "info" and not self.verbose:
            return
        if self.as_json:
            print(event.to_json(), file=sys.stderr, flush=True)
            return
        style = "yellow" if event.level != "info" else "dim"
        self._beside(f"[{style}]{escape(event.text)}[/]")

    def note(self, text: str) -> None:
        """A remark for the person, on standard error; silent with ``--json``."""
        if not self.as_json:
            self._beside(f"[dim]{escape(text)}[/]")

    def _beside(self, markup: str) -> None:
        """A line on standard error, held back while an answer is being streamed where it would land in its middle."""
        if self._line_open:
            self._held.append(markup)
        else:
            self.err.print(markup)

    def line(self, text: str) -> None:
        """One plain line on standard output, at once."""
        print(text, flush=True)

    def write(self, text: str) -> None:
        """Part of a streamed answer; a line break ends it."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self._wrote(text, self.out.is_terminal and self.err.is_terminal)

    def write_aside(self, text: str) -> None:
        """Part of a streamed answer that is not the result itself, on standard error."""
        if not self.as_json:
            self.err.print(text, end="", markup=False)
            self._wrote(text, True)

    def _wrote(self, text: str, same_place: bool) -> None:
        if not text:
            return
        self._line_open = same_place and not text.endswith("\n")
        if not self._line_open:
            held, self._held = self._held, []
            for markup in held:
                self.err.print(markup)

    def document(self, value: Any) -> None:
        """One JSON document."""
        self.line(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Rows for people; numbers right-aligned. ``empty`` is said when there are none."""
        cells = [[str(cell) for cell in row] for row in rows]
        if not cells:
            self.line(empty)
            return
        if not self.out.is_terminal:
            # No frames and no cut-off cells where a program or a file reads: tab-separated, header first.
            self.line("\t".join(columns))
            for row in cells:
                self.line("\t".join(row))
            return
        table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            numeric = all(row[index].lstrip("-")[:1].isdigit() or row[index] in ("", "-") for row in cells)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    def error(self, error: Exception, code: str = "error") -> None:
        """An error: one line for people on standard error, an object on standard output with ``--json``."""
        if self._line_open:
            self.err.print()
            self._wrote("\n", True)
        if self.as_json:
            self.line(json.dumps({"event": "error", "level": "error", "error": {"code": code, "message": str(error)}}))
        self.err.print(f"[bold red]error:[/] {escape(str(error))}")


def short(peer_id: str) -> str:
    """A peer id for people: its last eight characters, as the first ones are the same for all."""
    return "…" + peer_id[-8:] if len(peer_id) > 12 else peer_id
