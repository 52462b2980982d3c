"""Replay files: a failing case whole, so that it happens again on another machine, or is told not to."""

from __future__ import annotations

import tomllib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from simulations.commit import UNKNOWN
from simulations.explore import limits
from simulations.explore.child import Run
from simulations.explore.eventlines import readable
from simulations.explore.failures import Failure, of_exception, of_result
from simulations.files import write_whole
from simulations.results import RunResult
from simulations.scenarios.model import Scenario
from simulations.scenarios.reading import from_tree, to_tree
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError

FORMAT = 1
"""Raised when a file of an older program can no longer be read."""


class ReplayError(ScenarioError):
    """A file that is no replay, of another format, or of another program."""

    code = "replay"


@dataclass(frozen=True)
class Replay:
    """One failing case."""

    scenario: Scenario
    seed: int
    commit: str
    """Of the program that saw it fail, as :func:`simulations.commit.commit` says it."""
    failure: Failure
    note: str = ""
    """How it was found."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    commit: str
    seed: int
    failure: Failure
    scenario: dict[str, Any]
    note: str = ""


def save(replay: Replay, path: Path) -> None:
    """Write a replay file; one with this name is always whole. Raises ``OSError``."""
    document = {
        "format": FORMAT,
        "commit": replay.commit,
        "seed": replay.seed,
        "note": replay.note,
        "failure": msgspec.to_builtins(replay.failure),
        "scenario": to_tree(replay.scenario),
    }
    write_whole(path, tomli_w.dumps(document).encode())


def load(path: Path, *, known: Registries | None = None) -> Replay:
    """Read a replay file; its scenario is checked as any other. Raises :class:`ReplayError`."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.REPLAY_FILE_BYTES + 1)
        if len(data) > limits.REPLAY_FILE_BYTES:
            raise ReplayError(f"{path}: larger than {limits.REPLAY_FILE_BYTES} bytes; that is no replay file")
        tree = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ReplayError(f"{path}: no such file; `cocoon sim run` and `cocoon sim explore` write them") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ReplayError(f"{path} is no replay file: {error}") from None
    if "format" not in tree or "failure" not in tree:
        raise ReplayError(f"{path} is no replay file; a scenario is run with `cocoon sim run {path}`")
    if tree["format"] != FORMAT:
        raise ReplayError(f"{path} has format {tree['format']!r}; this program reads format {FORMAT}")
    try:
        document = msgspec.convert(tree, _Document)
    except msgspec.ValidationError as error:
        raise ReplayError(f"{path} is no replay file: {error}") from None
    scenario = from_tree(document.scenario, f"{path}: scenario", known=known)
    return Replay(scenario, document.seed, document.commit, document.failure, document.note)


def of_broken(result: RunResult, scenario: Scenario, note: str = "") -> Replay | None:
    """The replay of a run that broke an invariant."""
    failure = of_result(result)
    return Replay(scenario, result.seed, result.commit, failure, note) if failure is not None else None


def check_commit(replay: Replay, ours: str, *, anyway: bool) -> str | None:
    """A warning where the program may not be the one that saw it fail, ``None`` where it is the same.

    Raises :class:`ReplayError` where it certainly is another one, unless ``anyway``.
    """
    theirs = replay.commit
    if theirs == ours and not ours.endswith("+") and ours != UNKNOWN:
        return None
    if UNKNOWN in (theirs, ours):
        return "whether the program is the same as then is not known: one of the two ran outside of a repository"
    if theirs.rstrip("+") == ours.rstrip("+"):
        return f"files differ from commit {ours.rstrip('+')[:12]}, now or then: it may go another way"
    if not anyway:
        raise ReplayError(
            f"it failed with commit {theirs[:12]}, and this is {ours[:12]}: another program goes another way. "
            f"`git checkout {theirs.rstrip('+')[:12]}` brings that one back; --anyway runs it with this one"
        )
    return f"it failed with commit {theirs[:12]}, and this is {ours[:12]}: it may go another way"


@dataclass(frozen=True)
class Replayed:
    """What happened this time."""

    result: RunResult | None
    """``None`` when an exception came out of it."""
    failure: Failure | None
    lines: tuple[str, ...]
    """The end of the event log in words, when it was asked for."""
    stopped_before: bool
    """Whether it was told to stop at an event: then nothing is compared."""
    same: bool
    """Whether it failed in the same way, after the same events."""
    same_failure: bool
    """Whether it failed in the same way."""


def rerun(
    replay: Replay, run: Run, *, until_event: int | None = None, on_sample: Callable[[Any], None] | None = None
) -> Replayed:
    """Run the case again, to its end or until the log has ``until_event`` events."""
    lines: deque[str] = deque(maxlen=limits.LOG_LINES)
    told: dict[str, Any] = {} if until_event is None else {"until_event": until_event, "tell": lines.append}
    if on_sample is not None:
        told["on_sample"] = on_sample
    result, failure = None, None
    try:
        result = run(replay.scenario, replay.seed, **told)
    except Exception as error:
        failure = of_exception(error)
    else:
        failure = of_result(result)
    same_failure = failure is not None and failure.signature == replay.failure.signature
    same_events = failure is not None and (failure.digest, failure.event) == (
        replay.failure.digest,
        replay.failure.event,
    )
    shown = tuple(map(readable, lines))
    stopped = until_event is not None and failure is None
    return Replayed(result, failure, shown, stopped, same_failure and same_events, same_failure)
