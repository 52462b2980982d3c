"""`cocoon bench sim`: the simulator at size, its seeds, what exploring finds, the market alone and in a whole world.

One row for each thing that was promised, with its mark, whether it is met, and the command that shows the same by hand.
A row that holds several figures has them as ``parts``, and is met when all of those that have a mark are. Runs are
processes of `cocoon sim`, as a user starts them, one after the other: each has the machine to itself. Wall times are of
this machine; what else runs on it counts. ``--quick`` runs everything, small: it shows that all is there, and whether a
small run meets the mark says nothing of a whole one.

`python -m simulations.bench.sim --only crowd --only replay` measures some rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import trio

from overlay.cli.output import Output
from simulations.bench.report import Row, document, row, show
from simulations.bench.stage import BenchFailed
from simulations.results import RunResult, load

CROWD_S, LARGE_S = 300, 900
"""The marks for the two large runs, seconds of wall time."""

CROWD_MIB, LARGE_MIB = 2048, 6144
CROWD_JOBS = 20_000
RIVALS = ("cocoon", "golem")
"""Baselines that our market is to beat: the third is nobody's system, and sees everything."""

EXPLORED, QUICKLY_EXPLORED = 200, 4
"""Seeds."""

SEEDS = Path("tests/simulations/seeds")
"""Cases that failed once."""

_TIMEOUT_S = 3600
_OUTCOMES = (0, 1, 3)
"""Exit codes of a run that was made, whatever it showed."""

_CROWD = ("providers.gaming.count=5", "providers.enthusiast.count=2", "providers.server.count=1",
          "clients.programs.count=12", "clients.people.count=100")  # fmt: skip
_LARGE = ("providers.gaming.count=10", "providers.enthusiast.count=4", "providers.server.count=1",
          "clients.programs.count=15", "clients.people.count=470")  # fmt: skip
_STEADY = ("providers.gaming PCs.count=3", "providers.workstations.count=1", "clients.bots.count=15", "warmup_s=60")
"""Settings of small runs."""


@dataclass
class Bench:
    """What all rows need. ``run_cocoon`` is how a command is run, and gives its document."""

    quick: bool
    directory: Path
    output: Output
    run_cocoon: Callable[..., dict[str, Any]] = field(default_factory=lambda: _cocoon)
    runs: int = 0

    def simulate(
        self, name: str, arguments: Sequence[str] = (), *, environ: dict[str, str] | None = None
    ) -> tuple[RunResult, str]:
        """One run of a shipped scenario in a process of its own, and the command. Raises :class:`BenchFailed`."""
        self.runs += 1
        out = self.directory / f"{name}-{self.runs}"
        shown = ["sim", "run", name, "--seed", "1", *arguments]
        self.run_cocoon([*shown, "--no-report", "--out", str(out), "--json"], environ=environ)
        return load(out / "result.json"), _shown(shown)

    def small(self, duration_s: float, settings: Sequence[str]) -> list[str]:
        """Arguments that make a run small, when it is to be quick."""
        if not self.quick:
            return []
        return ["--duration", f"{duration_s:g}", *(word for each in settings for word in ("--set", each))]


def _shown(arguments: Iterable[str]) -> str:
    return shlex.join(["cocoon", *arguments])


def entry(id: str, measure: str, parts: Sequence[Row], command: str, quick: bool) -> Row:
    """One row of several: its value is the first's, and it is met when every part that has a mark is."""
    first, judged = parts[0], [part for part in parts if part.ok is not None]
    met = bool(judged) and all(part.ok for part in judged)
    mark = "; ".join(part.reach if part is first else f"{part.measure} {part.reach}" for part in judged)
    extra = {"met": met, "command": command, "quick": quick, "parts": [_part(part) for part in parts]}
    return Row(id, measure, first.value, first.unit, mark, met, first.samples, extra)


def _part(part: Row) -> dict[str, Any]:
    return {
        "id": part.id, "measure": part.measure, "value": part.value, "unit": part.unit, "mark": part.reach,
        "met": part.ok, "samples": list(part.samples), **part.extra,
    }  # fmt: skip


# --- the rows ---------------------------------------------------------------------------------------------------------


def crowd(bench: Bench) -> Row:
    """1,000 nodes for an hour in which many come at once."""
    result, command = bench.simulate("flash-crowd", bench.small(300, _CROWD))
    jobs = None if bench.quick else CROWD_JOBS
    parts = [
        _wall(result, CROWD_S),
        _whole(result),
        row("jobs", "jobs asked for", [len(result.jobs)], "jobs", at_least=jobs, done=_done(result)),
        row("memory", "memory", [result.rss_mib], "MiB", at_most=CROWD_MIB),
    ]
    return entry("crowd", "1,000 nodes, flash-crowd, one virtual hour: wall time", parts, command, bench.quick)


def large(bench: Bench) -> Row:
    """10,000 nodes."""
    result, command = bench.simulate("steady-large", bench.small(120, _LARGE))
    parts = [
        _wall(result, LARGE_S),
        _whole(result),
        row("memory", "memory", [result.rss_mib], "MiB", at_most=LARGE_MIB, jobs=len(result.jobs), done=_done(result)),
    ]
    return entry("large", "10,000 nodes, steady, ten virtual minutes: wall time", parts, command, bench.quick)


def replay(bench: Bench) -> Row:
    """One seed in three processes with other hash seeds; the digest is there to be compared with another machine's."""
    arguments = ["--duration", "60" if bench.quick else "400"]
    digests, command = [], ""
    for seed in ("0", "1", "4242"):
        result, command = bench.simulate("churn", arguments, environ={"PYTHONHASHSEED": seed})
        digests.append(result.digest)
    found = row("logs", "logs that differ from the first", [sum(each != digests[0] for each in digests)], "logs",
                at_most=0, digest=digests[0])  # fmt: skip
    return entry("replay", "one seed in three processes: event logs that differ", [found], command, bench.quick)


def efficiency(bench: Bench) -> Row:
    """The market alone against its bound, settled and after shocks, beside both baselines."""
    parts = [part for part in _market(bench.quick) if part.id in _EFFICIENCY or part.id in _SERVICE]
    return entry("efficiency", "the market alone, steady: surplus over the bound", parts, _alone(bench.quick),
                 bench.quick)  # fmt: skip


def prices(bench: Bench) -> Row:
    """How quickly its price finds a new level, and how still it stands."""
    parts = [part for part in _market(bench.quick) if part.id in _PRICES]
    return entry("prices", "the market alone: seconds to the new price when demand doubles", parts,
                 _alone(bench.quick), bench.quick)  # fmt: skip


def gains(bench: Bench) -> Row:
    """What one party gains by other rules than the shipped ones: the most of all, and each."""
    parts = [part for part in _market(bench.quick) if part.id.startswith("gain-")]
    judged = [part for part in parts if part.ok is not None and part.value is not None]
    worst = max(judged, key=lambda part: part.value or 0.0)
    first = Row("most", "the most", worst.value, "of 1", worst.reach, worst.ok, worst.samples, {"by": worst.measure})
    return entry("gains", "the market alone: the most that one deviating party gains", [first, *parts],
                 _alone(bench.quick), bench.quick)  # fmt: skip


def world(bench: Bench) -> Row:
    """Production's nodes in a whole world, and the baselines on the same demand."""
    arguments = [*bench.small(360, _STEADY), "--baseline", "all"]
    result, command = bench.simulate("steady", arguments)
    found = {figures.policy: figures for figures in result.policies}
    ours = found["ours"].efficiency
    samples = [] if ours is None else [ours]
    lead = [] if ours is None else [ours - (found[name].efficiency or 0.0) for name in RIVALS]
    parts = [
        row("ours", "ours", samples, "of 1", lost=found["ours"].losses),
        *(row(name, name, [figures.efficiency or 0.0], "of 1", done=figures.done, asked=figures.asked)
          for name, figures in found.items() if name != "ours"),
        row("lead", "lead over the better baseline", [min(lead)] if lead else [], "of 1", at_least=0.0),
    ]  # fmt: skip
    return entry("world", "steady, production's nodes: surplus over the bound", parts, command, bench.quick)


def explore(bench: Bench) -> Row:
    """Random mixes, and the cases that failed once."""
    seeds = QUICKLY_EXPLORED if bench.quick else EXPLORED
    arguments = ["sim", "explore", "--seeds", str(seeds), "--minutes", "45"]
    found = bench.run_cocoon([*arguments, "--out", str(bench.directory / "explored"), "--json"])
    if found["ran"] < seeds:
        raise BenchFailed(f"only {found['ran']} of {seeds} seeds were run: {found['stopped_because']}")
    failed = [f"{finding['seed']}: {finding['failure']}" for finding in found["findings"]]
    parts = [
        row("mixes", f"of {seeds} mixes, that broke an invariant, crashed or came out differently", [len(failed)],
            "cases", at_most=0, jobs=found["jobs"], failed=failed[:5]),
    ]  # fmt: skip
    earlier = sorted(SEEDS.glob("*.toml"))
    if earlier:
        again = [bench.run_cocoon(["sim", "replay", str(file), "--anyway", "--json"]) for file in earlier]
        broken = [file.stem for file, each in zip(earlier, again, strict=True) if each["now"] is not None]
        parts.append(
            row("earlier", f"of {len(earlier)} cases that failed once, that fail again", [len(broken)], "cases",
                at_most=0, failed=broken)
        )  # fmt: skip
    return entry("explore", "random mixes that failed", parts, _shown(arguments), bench.quick)


ROWS: Mapping[str, Callable[[Bench], Row]] = {
    "crowd": crowd,
    "large": large,
    "replay": replay,
    "efficiency": efficiency,
    "prices": prices,
    "gains": gains,
    "world": world,
    "explore": explore,
}
"""By their ids."""

_EFFICIENCY = ("market-steady", "market-x2", "market-x2-first", "market-loss-first", "market-above")
_SERVICE = ("market-refused", "market-wait", "market-messages")
_PRICES = (
    "market-x2-s", "market-half-s", "market-loss-s", "market-variation", "market-x2-overshoot", "market-loss-overshoot",
)  # fmt: skip
"""Of the rows of the market alone, by what they are about."""


def _wall(result: RunResult, at_most: float) -> Row:
    nodes = len(result.providers) + result.clients
    return row(
        "wall", "wall time", [result.wall_s], "s", at_most=at_most, cpu_s=round(result.cpu_s, 1), nodes=nodes,
        virtual_s=result.virtual_s, events=result.events,
    )  # fmt: skip


def _whole(result: RunResult) -> Row:
    left = 0 if result.complete else result.duration_s - result.virtual_s or 1
    return row("whole", "virtual seconds not reached", [left], "s", at_most=0, digest=result.digest)


def _done(result: RunResult) -> int:
    return sum(job.outcome == "done" for job in result.jobs)


def _alone(quick: bool) -> str:
    return "python -m simulations.market --json" + (" --quick" if quick else "")


@cache
def _market(quick: bool) -> list[Row]:
    """All of the market alone: one measurement serves three rows."""
    from simulations.market import market_rows

    return list(market_rows(quick))


# --- running them -----------------------------------------------------------------------------------------------------


async def sim_rows(quick: bool, output: Output, only: Sequence[str] = ()) -> list[Row]:
    """Every row, or those named."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-sim-") as directory:
        bench = Bench(quick, Path(directory), output)
        for name, measure in ROWS.items():
            if not only or name in only:
                output.note(f"{name}: {(measure.__doc__ or '').split('.')[0]} …")
                rows.append(await trio.to_thread.run_sync(measure, bench))
    return rows


def _cocoon(arguments: Sequence[str], *, environ: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(  # this program
        [sys.executable, "-m", "overlay.cli", *arguments],
        capture_output=True, text=True, timeout=_TIMEOUT_S, env=os.environ | (environ or {}), check=False,
    )  # fmt: skip
    if done.returncode not in _OUTCOMES:
        raise BenchFailed(f"cocoon {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """The command of this module."""
    parser = argparse.ArgumentParser(prog="python -m simulations.bench.sim", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], choices=ROWS, help="one row; repeatable")
    parser.add_argument("--quick", action="store_true", help="small: shows that all is there")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    output = Output(given.json)
    report = document("sim", trio.run(sim_rows, given.quick, output, given.only))
    if given.json:
        output.document(report)
    else:
        show(report, output)


if __name__ == "__main__":
    main()
