"""One run of a scenario, and what it leaves on disk: whole, or saying that it is not.

A directory holds ``scenario.toml`` (as it ran, settings included), ``result.json`` (:mod:`simulations.results`),
``report.html``, ``pictures/*.png`` if wanted, and ``replay.toml`` when something broke.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from overlay.errors import CocoonError, ConfigError
from simulations import results
from simulations.commit import commit
from simulations.explore import replays
from simulations.explore.child import Run, resolve
from simulations.explore.failures import of_exception
from simulations.files import MIB, OutputError, prepare_directory, write_whole
from simulations.results import ResultError, RunResult, Sample
from simulations.scenarios.checks import expected_jobs
from simulations.scenarios.model import Scenario
from simulations.scenarios.reading import dump
from simulations.scenarios.tree import nearest

RESULT, REPORT, REPLAY, SCENARIO = "result.json", "report.html", "replay.toml", "scenario.toml"
PICTURES = "pictures"

JOB_BYTES = 400
"""Of one job in a result."""
SAMPLE_BYTES = 2_000
"""Of one sample with some markets."""
REPORT_BYTES = 8 * MIB
"""Of a page with its pictures."""

INTERRUPTED = "interrupted"
"""``stopped_because`` of a run that a person ended."""


class RunCrashed(CocoonError):
    """An exception came out of a simulated run: a mistake of the program or of the simulator, not of the user."""

    code = "run_crashed"
    exit_code = 3


def needed_bytes(scenario: Scenario) -> int:
    """A generous guess at what a run leaves on disk."""
    samples = scenario.duration_s / scenario.sample_s
    return round(expected_jobs(scenario) * JOB_BYTES + samples * SAMPLE_BYTES) + REPORT_BYTES


def prepare(directory: Path, scenario: Scenario, option: str = "--out") -> None:
    """Check that ``directory`` takes what a run leaves, and remove what an earlier one left there: whatever ends this
    one, nothing older passes for its result. Raises :class:`~simulations.files.OutputError`."""
    prepare_directory(directory, needed_bytes(scenario), option)
    try:
        for name in (RESULT, REPORT, REPLAY):
            (directory / name).unlink(missing_ok=True)
        if (directory / PICTURES).is_dir():
            for picture in (directory / PICTURES).glob("*.png"):
                picture.unlink()
        write_whole(directory / SCENARIO, dump(scenario).encode())
    except OSError as error:
        raise OutputError(f"{option} {directory}: {error.strerror or error}") from None


def check_drawing() -> None:
    """Raise :class:`~overlay.errors.ConfigError` when charts cannot be drawn, before a run is made for nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "matplotlib is not installed, which draws the report; install it with `pip install 'cocoon-node[sim]'`, "
            "or run with --no-report"
        )


def load_result(path: Path, option: str) -> RunResult:
    """The result in a file, or in a run's directory. Raises :class:`~simulations.files.OutputError`."""
    try:
        return results.load(path / RESULT if path.is_dir() else path)
    except (OSError, ResultError) as error:
        raise OutputError(f"{option} {path}: {error}") from None


def world() -> Run:
    """The function that runs a scenario. Imports the whole world, which takes a second."""
    return resolve("simulations.world:run")


EVERY_BASELINE = "all"
"""Stands for all of them."""


def baselines(names: Iterable[str]) -> list[str]:
    """The baselines that are meant, each once and in the order of the program. Raises
    :class:`~overlay.errors.ConfigError`, which names the nearest, for one that does not exist."""
    wanted = set(names)
    if not wanted:
        return []
    from simulations.world.policies import BASELINES as known

    for name in sorted(wanted - {*known, EVERY_BASELINE}):
        raise ConfigError(f"--baseline: there is none {name!r}; {nearest(name, [*known, EVERY_BASELINE], 'known')}")
    return [name for name in known if name in wanted or EVERY_BASELINE in wanted]


def beside(result: RunResult, others: Iterable[tuple[str, RunResult]]) -> RunResult:
    """``result`` with what baselines made of the same scenario, seed and demand."""
    from simulations.world.measures import figures

    rows = [figures(result, "ours"), *(figures(other, name) for name, other in others)]
    efficiency = {row.policy: row.efficiency for row in rows if row.efficiency is not None}
    return msgspec.structs.replace(result, efficiency=efficiency, policies=tuple(rows))


def perform(
    scenario: Scenario, seed: int, run: Run, directory: Path | None, on_sample: Callable[[Sample], None], **more: str
) -> RunResult:
    """Run a scenario to its end, a broken invariant, or Ctrl-C, which gives a result that says so. ``more`` goes to
    ``run``: ``baseline="golem"``.

    Raises :class:`RunCrashed` for an exception out of the run, with a replay file in ``directory``.
    """
    samples: list[Sample] = []

    def keep(sample: Sample) -> None:
        samples.append(sample)
        on_sample(sample)

    try:
        return run(scenario, seed, on_sample=keep, **more)
    except BaseException as error:
        if _is_interrupt(error):
            return _so_far(scenario, seed, samples)
        if isinstance(error, (CocoonError, SystemExit, GeneratorExit)):
            raise
        raise _crashed(scenario, seed, error, directory) from error


def _is_interrupt(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_interrupt, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


def _so_far(scenario: Scenario, seed: int, samples: list[Sample]) -> RunResult:
    """What is known of a run that was cut off: its samples."""
    return RunResult(
        scenario=scenario.name,
        title=scenario.title,
        seed=seed,
        commit=commit(),
        duration_s=scenario.duration_s,
        virtual_s=samples[-1].at_s if samples else 0.0,
        complete=False,
        digest="",
        events=0,
        stopped_because=INTERRUPTED,
        warmup_s=scenario.warmup_s,
        samples=tuple(samples),
    )


def _crashed(scenario: Scenario, seed: int, error: BaseException, directory: Path | None) -> RunCrashed:
    failure = of_exception(error)
    last = failure.what.strip().splitlines()[-1]
    said = f"the run of {scenario.name} with seed {seed} crashed: {failure.name}: {last}"
    if directory is None:
        return RunCrashed(said)
    try:
        replays.save(replays.Replay(scenario, seed, commit(), failure), directory / REPLAY)
    except OSError as unwritten:
        return RunCrashed(f"{said} (and no replay file could be written: {unwritten.strerror or unwritten})")
    return RunCrashed(f"{said}; `cocoon sim replay {directory / REPLAY}` makes it happen again")


def keep(
    result: RunResult,
    scenario: Scenario,
    directory: Path,
    *,
    report: bool,
    compare: RunResult | None,
    pictures: bool = False,
) -> list[Path]:
    """Write what a run leaves; the files written. Each is whole or not there.

    Raises :class:`~simulations.files.OutputError`, which says what was written before the disk was full.
    """
    written: list[Path] = []

    def write(name: str, action: Callable[[Path], None]) -> None:
        path = directory / name
        try:
            action(path)
        except OSError as error:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            have = ", ".join(one.name for one in written) or "nothing"
            raise OutputError(f"{path}: {error.strerror or error}; of this run {have} was written whole") from None
        written.append(path)

    replay = replays.of_broken(result, scenario)
    if replay is not None:
        write(REPLAY, lambda path: replays.save(replay, path))
    write(RESULT, lambda path: results.save(result, path))
    if report:
        from simulations.report import write_report  # the page's parts take half a second

        write(REPORT, lambda path: write_report(result, path, compare=compare))
    if pictures:
        from simulations.report import write_pictures

        def draw(path: Path) -> None:
            write_pictures(result, path)

        write(PICTURES, draw)
    return written
