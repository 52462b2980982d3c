"""`cocoon sim`: a whole swarm in one process, in virtual time, from `simulations`, imported lazily.

Exit codes: 0 everything held; 1 an expectation of the scenario was missed; 2 wrong usage, scenario or file; 3 an
invariant broke, or the run crashed; 5 a Dask cluster could not be used; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overlay.cli import options as o
from overlay.cli.output import Output
from overlay.cli.sim_output import RunProgress, SearchProgress, failure_line, tell_replayed, tell_result, tell_search
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from simulations.results import RunResult
    from simulations.scenarios.model import Scenario

MISSED, BROKEN, INTERRUPTED = 1, 3, 130
"""Exit codes."""

MAX_SEED = 2**63 - 1
"""What TOML holds."""

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
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Another way of finding prices on the same demand too: cocoon, golem, dispatcher or all; repeatable.",
            metavar="NAME",
        ),
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
    baselines = runs.baselines(baseline or ())
    directory = out or Path("sim-runs") / f"{scenario.name}-{seed}"
    if report or pictures:
        runs.check_drawing()
    runs.prepare(directory, scenario)
    world = runs.world()
    with RunProgress(output, scenario) as progress:
        result = runs.perform(scenario, seed, world, directory, progress.update)
    cut_off = False
    if baselines and result.complete:
        found: list[tuple[str, RunResult]] = []
        for named in baselines:
            with RunProgress(output, scenario, f"with the policy of {named}") as progress:
                made = runs.perform(scenario, seed, world, None, progress.update, baseline=named)
            if not made.complete:
                output.note(f"the run with the policy of {named} did not reach its end and is left out: "
                            f"{made.stopped_because}")  # fmt: skip
                cut_off = True
                break
            found.append((named, made))
        result = runs.beside(result, found)
    files = runs.keep(result, scenario, directory, report=report, compare=other, pictures=pictures)
    tell_result(output, result, files)
    raise typer.Exit(INTERRUPTED if cut_off else _exit_code(result))


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
    output.note(f"then: {failure_line(case.failure)}")
    world = runs.world()
    with RunProgress(output, case.scenario) as progress:
        again = replays.rerun(case, world, until_event=until, on_sample=progress.update)
    tell_replayed(output, case, again)
    if again.stopped_before or again.failure is None:
        raise typer.Exit(0)
    raise typer.Exit(BROKEN if again.same_failure else MISSED)


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
    with SearchProgress(output) as shown:
        state = searching.explore(plan, shown.update)
    tell_search(output, state, out)
    if not state.clean:
        raise typer.Exit(BROKEN)
    raise typer.Exit(INTERRUPTED if state.stopped_because == "interrupted" else 0)
