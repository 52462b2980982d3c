"""A run while it runs: a live line on a terminal, plain lines off it.

Nothing here reads a clock: how much wall time has passed comes with each sample.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simulations.report import limits
from simulations.report.formats import NONE, clock, count, money, number, plural, share
from simulations.report.markup import clean
from simulations.results import Market, Sample

PLAIN_EVERY_S = 5.0
"""Wall time between two plain lines: a log of an hour's run has some hundreds."""
LIVE_EVERY_S = 0.25
"""Wall time between two pictures: faster than an eye reads, and drawing one takes milliseconds."""
_SPEED_OVER_S = 10.0
"""Wall time over which the speed is taken: long enough to be steady, short enough to show a run that slows down."""
_MARKETS = 4


class Progress:
    """Shows where a run is. A context manager: the live picture is taken down at its end, whatever ends it.

    ``console`` is where it shows (standard error, in commands); ``duration_s`` is the virtual time that was asked for.
    """

    def __init__(self, console: Console, title: str, duration_s: float) -> None:
        self._console = console
        self._title = clean(title)
        self._duration_s = duration_s
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown_at_s: float | None = None
        self._recent: deque[tuple[float, float]] = deque()

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, sample: Sample, wall_s: float) -> None:
        """Show a sample, or leave it out when the last one was shown a moment ago. ``wall_s`` counts from the run's
        start; the last sample of a run is always shown."""
        self._recent.append((wall_s, sample.at_s))
        while len(self._recent) > 2 and wall_s - self._recent[0][0] > _SPEED_OVER_S:
            self._recent.popleft()
        every_s = LIVE_EVERY_S if self._live else PLAIN_EVERY_S
        last = sample.at_s >= self._duration_s
        if self._shown_at_s is not None and wall_s - self._shown_at_s < every_s and not last:
            return
        self._shown_at_s = wall_s
        if self._live:
            self._live.update(self._picture(sample, wall_s), refresh=True)
        else:
            self._console.print(self._line(sample), markup=False, highlight=False, soft_wrap=True)

    def _speed(self) -> float | None:
        """Virtual seconds in a second of wall time, of late."""
        (wall_a, virtual_a), (wall_b, virtual_b) = self._recent[0], self._recent[-1]
        if wall_b <= wall_a:  # the first sample: the run's start is the other end
            return virtual_b / wall_b if wall_b > 0 else None
        return (virtual_b - virtual_a) / (wall_b - wall_a)

    def _line(self, sample: Sample) -> str:
        market = _largest(sample)
        parts = [
            f"{clock(sample.at_s)} of {clock(self._duration_s)}",
            f"{_times(self._speed())}",
            f"{plural(sample.asked, 'job')}: {count(_under_way(sample))} under way, {count(sample.done)} done, "
            f"{count(sample.recovered)} recovered, {count(sample.failed)} failed, {count(sample.refused)} refused",
        ]
        if market is not None:
            parts.append(f"{clean(market.task)} {money(_price(market))}/M, {share(market.utilisation)} busy")
        return " · ".join(parts)

    def _picture(self, sample: Sample, wall_s: float) -> Group:
        speed = self._speed()
        left_s = (self._duration_s - sample.at_s) / speed if speed else None
        where = _row(
            ProgressBar(total=max(self._duration_s, 1e-9), completed=sample.at_s, width=20, pulse=False),
            Text(f"{clock(sample.at_s)} of {clock(self._duration_s)}"),
            Text(_times(speed), style="cyan"),
            Text(
                f"{clock(round(wall_s))} passed, {NONE if left_s is None else clock(round(left_s))} left", style="dim"
            ),
        )
        jobs = _row(
            Text(plural(sample.asked, "job")),
            Text(f"{count(_under_way(sample))} under way"),
            Text(f"{count(sample.done)} done", style="green"),
            Text(f"{count(sample.recovered)} recovered", style="magenta"),
            Text(f"{count(sample.failed)} failed", style="bold red" if sample.failed else "dim"),
            Text(f"{count(sample.refused)} refused", style="yellow" if sample.refused else "dim"),
        )
        up = f"{plural(sample.providers_up, 'provider')} and {plural(sample.clients_up, 'client')} up"
        return Group(Text(self._title, style="bold"), where, jobs, Text(up, style="dim"), _markets(sample))


def _row(*cells: RenderableType) -> Table:
    """One line: what does not fit is cut, not broken."""
    row = Table.grid(padding=(0, 2))
    for _ in cells:
        row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(*cells)
    return row


def _markets(sample: Sample) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(5):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for market in sorted(sample.markets, key=lambda market: -market.slots)[:_MARKETS]:
        table.add_row(
            Text(clean(f"{market.task} · {market.model}", limits.LABEL_CHARACTERS)),
            Text(f"{money(_price(market))}/M"),
            ProgressBar(total=1.0, completed=market.utilisation, width=12, pulse=False),
            Text(f"{share(market.utilisation)} busy"),
            Text(f"{count(market.waiting)} waiting", style="yellow" if market.waiting else "dim"),
        )
    return table


def _largest(sample: Sample) -> Market | None:
    return max(sample.markets, key=lambda market: market.slots, default=None)


def _under_way(sample: Sample) -> int:
    return max(0, sample.asked - sample.done - sample.failed - sample.refused)


def _price(market: Market) -> float:
    return market.ask_p50 if market.paid is None else market.paid


def _times(speed: float | None) -> str:
    return f"{NONE if speed is None else number(speed, 2)}× real time"
