"""`cocoon sim`: a whole swarm in one process, in virtual time, from `simulations`, imported lazily.

Exit codes: 0 everything held; 1 an expectation of the scenario was missed; 2 wrong usage, scenario or file; 3 an
invariant broke, or the run crashed; 5 a Dask cluster could not be used; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlay.cli import options as o
from overlay.cli.output import Output
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from simulations.explore.failures import Failure
    from simulations.explore.replays import Replay, Replayed
    from simulations.explore.searching import State
    from simulations.results import RunResult, Sample
    from simulations.scenarios.model import Scenario

MISSED, BROKEN, INTERRUPTED = 1, 3, 130
"""Exit codes."""

MAX_SEED = 2**63 - 1
"""What TOML holds."""

PLAIN_EVERY_S = 10.0
"""Between two lines of progress of `explore` off a terminal."""

app = typer.Typer(help="Simulate a swarm: production code, virtual time, one process.", no_args_is_help=True)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the scenario, for example providers.homes.count=50.", metavar="KEY=VALUE"),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Decides all that is random.", min=0, max=MAX_SEED)]


@app.command("list")
def list_scenarios(as_json: o.JsonOption = False) -> None:
    """Show the scenarios that are shipped."""
    from simulations.scenarios.reading import shipped

    output, found = Output(as_json), shipped()
    if as_json:
        output.document([one._asdict() for one in found])
        return
    output.table("Scenarios", ("name", "what it shows"), [(one.name, one.title) for one in found], empty="none")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped scenario, or a file.", metavar="NAME|FILE")],
    settings: SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Check a scenario and print it: the beginning of one of your own."""
    from simulations.scenarios.reading import read, source_text, to_tree

    scenario = read(name, settings=settings or ())
    output = Output(as_json)
    if as_json:
        output.document(to_tree(scenario))
    else:
        output.write(source_text(name) if not settings else _dumped(scenario))


def _dumped(scenario: Scenario) -> str:
    from simulations.scenarios.reading import dump

    return dump(scenario)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A shipped scenario, or a file.", metavar="NAME|FILE")],
    seed: SeedOption = 0,
    settings: SetOption = None,
    duration: Annotated[str | None, typer.Option(help="Another virtual duration: 90, 10m, 1h.", metavar="TIME")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for what it leaves; default: sim-runs/NAME-SEED.", metavar="DIR")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    pictures: Annotated[bool, typer.Option("--pictures", help="Write each chart as a PNG too.")] = False,
    compare: Annotated[
        Path | None, typer.Option(help="An earlier run beside this one in the report.", metavar="RESULT")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Run a scenario: what happened, what was expected, a report. Exit code 1 when an expectation is missed, 3 when an
    invariant breaks."""
    from simulations import runs
    from simulations.scenarios.cutting import cut
    from simulations.scenarios.reading import read, recheck

    output = Output(as_json)
    scenario = read(name, settings=settings or ())
    if duration is not None:
        before, scenario = scenario, recheck(cut(scenario, _seconds(duration)), f"--duration {duration}")
        if lost := len(before.expect) - len(scenario.expect):
            output.note(f"{lost} of {len(before.expect)} expectations look at times that are cut off: left out")
    other = runs.load_result(compare, "--compare") if compare is not None else None
    directory = out or Path("sim-runs") / f"{scenario.name}-{seed}"
    if report or pictures:
        runs.check_drawing()
    runs.prepare(directory, scenario)
    world = runs.world()
    with _Progress(output, scenario) as progress:
        result = runs.perform(scenario, seed, world, directory, progress.update)
    files = runs.keep(result, scenario, directory, report=report, compare=other, pictures=pictures)
    _tell_result(output, result, files)
    raise typer.Exit(_exit_code(result))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None:
        raise ConfigError(f"--duration {text}: write seconds, or a number with m, h or d: 90, 10m, 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def _exit_code(result: RunResult) -> int:
    from simulations.runs import INTERRUPTED as BY_HAND

    if result.violations:
        return BROKEN
    if not result.complete:
        return INTERRUPTED if result.stopped_because == BY_HAND else BROKEN
    return 0 if result.held else MISSED


class _Progress:
    """The live picture of a run on standard error; silent with ``--json``."""

    def __init__(self, output: Output, scenario: Scenario) -> None:
        self._shown: Any = None
        if not output.as_json:
            progress: Any = importlib.import_module("simulations.report.progress")
            self._shown = progress.Progress(output.err, scenario.title, scenario.duration_s)
        self._started = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._shown is not None:
            self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._shown is not None:
            self._shown.__exit__(*error)

    def update(self, sample: Sample) -> None:
        """Show a sample."""
        if self._shown is not None:
            self._shown.update(sample, time.monotonic() - self._started)


def _tell_result(output: Output, result: RunResult, files: list[Path]) -> None:
    last = result.samples[-1] if result.samples else None
    if output.as_json:
        output.document(
            {
                "scenario": result.scenario,
                "seed": result.seed,
                "commit": result.commit,
                "held": result.held,
                "complete": result.complete,
                "stopped_because": result.stopped_because,
                "virtual_s": result.virtual_s,
                "wall_s": result.wall_s,
                "rss_mib": result.rss_mib,
                "digest": result.digest,
                "events": result.events,
                "jobs": {name: getattr(last, name) for name in ("asked", "done", "failed", "refused", "recovered")}
                if last
                else {},
                "efficiency": result.efficiency,
                "marks": [_mark(mark) for mark in result.marks],
                "violations": [{"invariant": v.invariant, "at_s": v.at_s, "what": v.what} for v in result.violations],
                "files": [str(file) for file in files],
            }
        )
        return
    if not result.complete:
        output.line(f"STOPPED at {result.virtual_s:g} of {result.duration_s:g} s: {result.stopped_because or 'broken'}")
    for broken in result.violations:
        output.line(f"BROKEN at {broken.at_s:g} s, event {broken.event}: {broken.invariant}: {broken.what}")
    if last is not None:
        counts = f"{last.done} done ({last.recovered} recovered), {last.failed} failed, {last.refused} refused"
        output.line(f"{last.asked} jobs asked for: {counts}")
    rows = [
        (mark.name, _figure(mark.measured), _wanted(mark), "held" if mark.holds else "MISSED") for mark in result.marks
    ]
    if rows:
        output.table("Expectations", ("measure", "measured", "expected", ""), rows, empty="")
    output.line(
        f"{result.virtual_s:g} virtual seconds in {result.wall_s:.1f} s, {result.events} events, "
        f"digest {result.digest or 'unknown'}"
    )
    for file in files:
        output.line(f"wrote {file}")


def _mark(mark: Any) -> dict[str, Any]:
    return {name: getattr(mark, name) for name in ("name", "measured", "holds", "at_least", "at_most")}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _wanted(mark: Any) -> str:
    bounds = [("≥", mark.at_least), ("≤", mark.at_most)]
    return ", ".join(f"{sign} {value:g}" for sign, value in bounds if value is not None)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A replay file of `run` or `explore`.", metavar="FILE")],
    until: Annotated[
        int | None, typer.Option(help="Stop when the log has so many events, and show its end.", metavar="N", min=1)
    ] = None,
    until_before: Annotated[bool, typer.Option("--until-before", help="Stop just before it fails.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Although another commit saw it fail.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Make a failure happen again. Exit code 3 when the same happens, 1 when it fails differently, 0 when it holds."""
    from simulations import runs
    from simulations.commit import commit
    from simulations.explore import replays

    output = Output(as_json)
    case = replays.load(file)
    if until_before:
        if until is not None:
            raise ConfigError("--until, --until-before: one of the two")
        if case.failure.event < 2:
            raise ConfigError(f"--until-before: {file} does not know at which event it failed ({case.failure.kind})")
        until = case.failure.event - 1
    if warning := replays.check_commit(case, commit(), anyway=anyway):
        output.err.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    output.note(f"then: {_failure_line(case.failure)}")
    world = runs.world()
    with _Progress(output, case.scenario) as progress:
        again = replays.rerun(case, world, until_event=until, on_sample=progress.update)
    _tell_replayed(output, case, again)
    if again.stopped_before or again.failure is None:
        raise typer.Exit(0)
    raise typer.Exit(BROKEN if again.same_failure else MISSED)


def _failure_line(failure: Failure) -> str:
    where = f" at {failure.at_s:g} s, event {failure.event}" if failure.event else ""
    return f"{failure.signature}{where}: {failure.what.strip().splitlines()[-1] if failure.what.strip() else ''}"


def _tell_replayed(output: Output, case: Replay, again: Replayed) -> None:
    if again.stopped_before:
        events = again.result.events if again.result is not None else 0
        verdict = f"stopped at event {events}, before it failed"
    elif again.failure is None:
        verdict = "it did not fail this time"
    elif again.same and case.failure.digest:
        verdict = "the same happened: same failure, same event, same digest"
    elif again.same:
        verdict = f"the same happened: {case.failure.signature} (which keeps no digest)"
    elif again.same_failure:
        verdict = "the same failure, but after other events (the digests differ)"
    else:
        verdict = "it failed differently"
    if output.as_json:
        output.document(
            {
                "same": again.same,
                "same_failure": again.same_failure,
                "stopped_before": again.stopped_before,
                "verdict": verdict,
                "then": _failure_json(case.failure),
                "now": _failure_json(again.failure) if again.failure else None,
                "events": again.result.events if again.result is not None else None,
                "digest": again.result.digest if again.result is not None else None,
                "log": list(again.lines),
            }
        )
        return
    for line in again.lines:
        output.line(line)
    if again.failure is not None:
        if again.failure.kind == "crash":
            output.line(again.failure.what.rstrip())
        output.line(f"now: {_failure_line(again.failure)}")
    output.line(verdict)


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {name: getattr(failure, name) for name in ("kind", "name", "what", "at_s", "event", "digest")}


@app.command()
def explore(
    seeds: Annotated[int, typer.Option(help="How many seeds, one random mix each.", min=1)] = 1000,
    first: Annotated[int, typer.Option(help="The first seed.", min=0, max=MAX_SEED - 10**9)] = 0,
    minutes: Annotated[float, typer.Option(help="And for how long at most.", min=0.01)] = 30.0,
    workers: Annotated[int | None, typer.Option(help="Cases at once; default: one a core.", min=1)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler instead: tcp://host:8786.", metavar="ADDRESS")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for failing cases.", metavar="DIR")] = Path("sim-explore"),
    as_json: o.JsonOption = False,
) -> None:
    """Run random mixes of scenarios, faults and attackers; what fails is kept and made small, and the exit code 3."""
    from simulations.explore import searching

    output = Output(as_json)
    cores = workers or len(os.sched_getaffinity(0))
    plan = searching.Search(range(first, first + seeds), minutes, out, cores, scheduler)
    with _Searching(output) as shown:
        state = searching.explore(plan, shown.update)
    _tell_search(output, state, out)
    if not state.clean:
        raise typer.Exit(BROKEN)
    raise typer.Exit(INTERRUPTED if state.stopped_because == "interrupted" else 0)


class _Searching:
    """One line of progress: in place on a terminal, now and then off it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._status = output.err.status("starting …") if output.err.is_terminal and not output.as_json else None
        self._told_s = 0.0
        self._known = 0

    def __enter__(self) -> _Searching:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, state: State) -> None:
        """Show where the search is, and each new finding at once."""
        for finding in state.findings[self._known :]:
            self._output.note(f"seed {finding.seed}: {_failure_line(finding.failure)}")
        self._known = len(state.findings)
        line = _state_line(state)
        if self._status is not None:
            self._status.update(line)
        elif state.wall_s - self._told_s >= PLAIN_EVERY_S:
            self._told_s = state.wall_s
            self._output.note(line)


def _state_line(state: State) -> str:
    speed = state.ran / state.wall_s if state.wall_s else 0.0
    shrinking = f", {state.shrinking} being made small" if state.shrinking else ""
    return (
        f"{state.ran} of {state.seeds} seeds, {speed:.1f} a second, {state.virtual_s / 3600:.1f} virtual hours, "
        f"{state.jobs} jobs, {len(state.findings)} failing{shrinking}"
    )


def _tell_search(output: Output, state: State, directory: Path) -> None:
    if output.as_json:
        output.document(
            {
                "seeds": state.seeds,
                "ran": state.ran,
                "clean": state.clean,
                "stopped_because": state.stopped_because,
                "wall_s": state.wall_s,
                "cpu_s": state.cpu_s,
                "virtual_s": state.virtual_s,
                "events": state.events,
                "jobs": state.jobs,
                "findings": [
                    {
                        "seed": finding.seed,
                        "failure": _failure_json(finding.failure),
                        "file": str(directory / finding.file),
                        "smallest_file": str(directory / finding.smallest_file) if finding.smallest_file else None,
                        "shrink_runs": finding.shrink_runs,
                    }
                    for finding in state.findings
                ],
                "smallest": {name: str(directory / file) for name, file in sorted(state.smallest.items())},
            }
        )
        return
    output.line(_state_line(state) + (f"; {state.stopped_because}" if state.stopped_because else ""))
    if state.clean:
        output.line("nothing failed")
    for signature, file in sorted(state.smallest.items()):
        seeds = [finding.seed for finding in state.findings if finding.failure.signature == signature]
        output.line(f"{signature}: {len(seeds)} seeds ({', '.join(map(str, seeds[:10]))}{', …' if seeds[10:] else ''})")
        output.line(f"  smallest: cocoon sim replay {directory / file}")
