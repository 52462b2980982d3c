"""What can go wrong with a case, in a form that crosses processes and goes into files."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import msgspec

from simulations.results import RunResult

INVARIANT = "invariant"
"""Something that must always hold did not."""
CRASH = "crash"
"""An exception came out of the run."""
TIMEOUT = "timeout"
"""It took longer than a case may."""
DIED = "died"
"""Its process ended without a word."""
DIVERGED = "diverged"
"""The same scenario and seed gave another digest the second time."""

_ROOT = str(Path(__file__).parents[2])


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a case fails."""

    kind: str
    name: str
    """The invariant, or the exception and where it came from."""
    what: str
    """For people: one line, or a traceback."""
    at_s: float = 0.0
    event: int = 0
    """How many events the log had."""
    digest: str = ""
    """Of the events so far; empty where it is not known."""

    @property
    def signature(self) -> str:
        """Two failures with the same one are taken for one mistake."""
        return f"{self.kind}: {self.name}" if self.name else self.kind


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What running one case gave."""

    failure: Failure | None = None
    digest: str = ""
    events: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    jobs: int = 0


def of_result(result: RunResult) -> Failure | None:
    """The failure that a result tells of: its first broken invariant. Expectations are no matter here."""
    if not result.violations:
        return None
    first = result.violations[0]
    return Failure(INVARIANT, first.invariant, first.what, first.at_s, first.event, result.digest)


def _our_frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [one for one in frames if one.filename.startswith(_ROOT) and "site-packages" not in one.filename]


def of_exception(error: BaseException) -> Failure:
    """The failure that an exception from a run is, named by its type and the innermost line of ours."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup) and leaf.exceptions:
        leaf = leaf.exceptions[0]
    ours, cause = _our_frames(leaf), leaf.__cause__
    while not ours and cause is not None:
        ours, cause = _our_frames(cause), cause.__cause__
    where = f" in {Path(ours[-1].filename).name}, {ours[-1].name}" if ours else ""
    text = "".join(traceback.format_exception(leaf))
    for place in (_ROOT, sys.base_prefix):  # replay files travel: paths of this machine say nothing elsewhere
        text = text.replace(f"{place}{os.sep}", "")
    return Failure(CRASH, f"{type(leaf).__name__}{where}", text[-4000:])
