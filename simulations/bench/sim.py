"""`cocoon bench sim`: the simulator at size, its seeds, what exploring finds, and the market by itself.

Runs are processes of `cocoon sim`, as a user starts them, one after the other: each has the machine to itself. Wall
times are of this machine; what else runs on it counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from overlay.cli.output import Output
from simulations.bench.report import Row, row
from simulations.bench.stage import BenchFailed
from simulations.results import RunResult, load

CROWD_S, LARGE_S = 300, 900
"""The marks for the two large runs, seconds of wall time."""

CROWD_MIB, LARGE_MIB = 2048, 6144
CROWD_JOBS = 20_000
EXPLORED = 200
"""Seeds."""

_TIMEOUT_S = 3600
_OUTCOMES = (0, 1, 3)
"""Exit codes of a run that was made, whatever it showed."""


async def sim_rows(quick: bool, output: Output) -> list[Row]:
    """Every row; ``quick`` cuts durations and seeds, which then prove nothing about the marks."""
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-sim-") as directory:
        return [
            *await trio.to_thread.run_sync(_large, quick, Path(directory), output),
            *await trio.to_thread.run_sync(_replayed, quick, Path(directory), output),
            *await trio.to_thread.run_sync(_explored, quick, Path(directory), output),
            *await trio.to_thread.run_sync(_market, quick, output),
        ]


def _large(quick: bool, directory: Path, output: Output) -> list[Row]:
    output.note("a flash crowd among 1,000 nodes, one virtual hour …")
    crowd = simulate("flash-crowd", 1, directory, ["--duration", "90"] if quick else [])
    output.note("10,000 nodes for ten virtual minutes …")
    large = simulate("steady-large", 1, directory, ["--duration", "30"] if quick else [])
    return [
        _wall("crowd", "1,000 nodes, flash-crowd, one virtual hour: wall time", crowd, None if quick else CROWD_S),
        row("crowd-jobs", "… jobs asked for", [len(crowd.jobs)], "jobs", at_least=None if quick else CROWD_JOBS,
            done=sum(job.outcome == "done" for job in crowd.jobs)),
        row("crowd-memory", "… memory", [crowd.rss_mib], "MiB", at_most=CROWD_MIB),
        _wall("large", "10,000 nodes, steady, ten virtual minutes: wall time", large, None if quick else LARGE_S),
        row("large-memory", "… memory", [large.rss_mib], "MiB", at_most=LARGE_MIB, jobs=len(large.jobs)),
    ]  # fmt: skip


def _wall(name: str, measure: str, result: RunResult, at_most: float | None) -> Row:
    nodes = len(result.providers) + result.clients
    found = row(
        name, measure, [result.wall_s], "s", at_most=at_most, cpu_s=round(result.cpu_s, 1), nodes=nodes,
        virtual_s=result.virtual_s, events=result.events,
    )  # fmt: skip
    if at_most is None or result.complete:
        return found
    return Row(found.id, found.measure, found.value, found.unit, found.reach, False, found.samples, found.extra)


def _replayed(quick: bool, directory: Path, output: Output) -> list[Row]:
    """One seed in three processes with other hash seeds; the digests that they had."""
    output.note("one seed, three processes …")
    shorter = ["--duration", "120" if quick else "400"]
    digests = {
        simulate("churn", 1, directory, shorter, environ={"PYTHONHASHSEED": seed}).digest for seed in ("0", "1", "4242")
    }
    return [row("replay", "event logs of one seed in three processes that differ from the first", [len(digests) - 1],
                "logs", at_most=0, digest=min(digests))]  # fmt: skip


def _explored(quick: bool, directory: Path, output: Output) -> list[Row]:
    seeds = 4 if quick else EXPLORED
    output.note(f"exploring {seeds} random mixes …")
    found = _cocoon(
        ["sim", "explore", "--seeds", str(seeds), "--minutes", "45", "--out", str(directory / "explored"), "--json"]
    )
    if found["ran"] < seeds:
        raise BenchFailed(f"only {found['ran']} of {seeds} seeds were run: {found['stopped_because']}")
    what = f"random mixes of {seeds} seeds that broke an invariant, crashed or came out differently"
    failed = [f"{finding['seed']}: {finding['failure']}" for finding in found["findings"]]
    return [row("explore", what, [len(failed)], "cases", at_most=0, jobs=found["jobs"], failed=failed[:5])]


def _market(quick: bool, output: Output) -> list[Row]:
    from simulations.market import market_rows

    output.note("the market alone …")
    return list(market_rows(quick))


def simulate(
    name: str, seed: int, directory: Path, arguments: list[str], *, environ: dict[str, str] | None = None
) -> RunResult:
    """One run of a shipped scenario in a process of its own. Raises :class:`BenchFailed`."""
    out = directory / f"{name}-{len(list(directory.iterdir()))}"
    command = ["sim", "run", name, "--seed", str(seed), "--no-report", "--out", str(out), "--json", *arguments]
    _cocoon(command, environ=environ)
    return load(out / "result.json")


def _cocoon(arguments: list[str], *, environ: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(  # this program
        [sys.executable, "-m", "overlay.cli", *arguments],
        capture_output=True, text=True, timeout=_TIMEOUT_S, env=os.environ | (environ or {}), check=False,
    )  # fmt: skip
    if done.returncode not in _OUTCOMES:
        raise BenchFailed(f"cocoon {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
