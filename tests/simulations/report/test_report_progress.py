"""Live progress: a picture on a terminal, now and then a line off it."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from simulations.report import Progress
from simulations.results import Market, Sample

SAMPLE = Sample(
    60.0, 24, 200, (Market("chat", "llama-3-8b", 10, 4, 2, 1e8, 2e8, 3e8, 1.5e8),), 20_000, 19_000, 12, 30, 5
)  # fmt: skip


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=80, height=24), file


def test_a_line_off_a_terminal_says_where_the_run_is() -> None:
    console, file = _console(terminal=False)
    with Progress(console, "Steady", 600.0) as progress:
        progress.update(SAMPLE, 4.0)
    assert file.getvalue() == (
        "1:00 of 10:00 · 15× real time · 20,000 jobs: 958 under way, 19,000 done, 5 recovered, 12 failed, 30 refused"
        " · chat 0.15 TON/M, 40.0 % busy\n"
    )


def test_lines_come_every_few_seconds_and_the_last_sample_always_has_one() -> None:
    console, file = _console(terminal=False)
    with Progress(console, "Steady", 600.0) as progress:
        for at in range(1, 61):
            progress.update(replace(SAMPLE, at_s=10.0 * at), 0.2 * at)
    lines = file.getvalue().splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["0:10", "4:20", "8:30", "10:00"]


def test_the_speed_is_that_of_late() -> None:
    console, file = _console(terminal=False)
    with Progress(console, "Steady", 1000.0) as progress:
        for at in range(1, 11):
            progress.update(replace(SAMPLE, at_s=20.0 * at), 1.0 * at)
        for at in range(11, 40):
            progress.update(replace(SAMPLE, at_s=200.0 + 2.0 * (at - 10)), 1.0 * at)
    speeds = [line.split(" · ")[1] for line in file.getvalue().splitlines()]
    assert speeds[0] == "20× real time"
    assert speeds[-1] == "2× real time"


def test_a_terminal_shows_the_run_and_is_left_clean_when_it_fails() -> None:
    console, file = _console(terminal=True)
    with pytest.raises(RuntimeError, match="broke"), Progress(console, "[red]Steady[/]", 600.0) as progress:
        progress.update(SAMPLE, 4.0)
        raise RuntimeError("it broke")
    text = file.getvalue()
    for part in ("[red]Steady[/]", "1:00 of 10:00", "15× real time", "12 failed", "chat · llama-3-8b", "0.15 TON/M"):
        assert part in text
    assert text.endswith("\x1b[?25h"), "the cursor is back"


def test_a_swarm_without_markets_and_time_is_no_error() -> None:
    for terminal in (True, False):
        console, file = _console(terminal)
        with Progress(console, "Empty", 0.0) as progress:
            progress.update(Sample(0.0, 0, 0), 0.0)
        assert "– real time" in file.getvalue().replace("×", "")
