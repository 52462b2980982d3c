"""What a run says at a glance: whether it held, and if not, why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from simulations.report.formats import clock, count, number, plural
from simulations.report.markup import clean
from simulations.report.tables import Table, listed
from simulations.results import Mark, RunResult, Violation


@dataclass(frozen=True)
class Verdict:
    """``good`` is what colours the box; ``headline`` says the same in words. ``partial`` is empty for a whole run."""

    good: bool
    headline: str
    partial: str = ""
    reasons: tuple[str, ...] = ()


def verdict(result: RunResult) -> Verdict:
    """Judge a run: a partial one and one with a broken invariant never held, whatever its marks say."""
    failed = [mark for mark in result.marks if not mark.holds]
    partial = ""
    if not result.complete:
        why = clean(result.stopped_because) or "no reason was recorded"
        partial = f"Partial run: it stopped at {clock(result.virtual_s)} of {clock(result.duration_s)}, {why}."
    reasons = [_violation(violation) for violation in result.violations[:5]]
    if len(result.violations) > 5:
        reasons.append(f"… and {plural(len(result.violations) - 5, 'more violation')}.")
    reasons += [_failed(mark) for mark in failed[:20]]
    if len(failed) > 20:
        reasons.append(f"… and {plural(len(failed) - 20, 'more expectation')}.")
    return Verdict(result.held, _headline(result, len(failed)), partial, tuple(reasons))


def _headline(result: RunResult, failed: int) -> str:
    marks = len(result.marks)
    if result.violations:
        return "Did not hold: " + (
            "an invariant broke" if len(result.violations) == 1 else f"{count(len(result.violations))} invariants broke"
        )
    if failed:
        return f"Did not hold: {count(failed)} of {plural(marks, 'expectation')} failed"
    if not result.complete:
        return "Not decided: the run did not get to its end"
    if not marks:
        return "Ran to its end; the scenario expects nothing"
    return (
        f"Held: {'its one expectation' if marks == 1 else f'all {count(marks)} expectations'} met, no invariant broken"
    )


def _violation(violation: Violation) -> str:
    return (
        f"Invariant {clean(violation.invariant)} broke at {clock(violation.at_s)}, event {count(violation.event)}: "
        f"{clean(violation.what)}"
    )


def _failed(mark: Mark) -> str:
    return f"{clean(mark.name)}: {number(mark.measured, 4)}, expected {bounds(mark)}"


def bounds(mark: Mark) -> str:
    """What was expected: ``≥ 0.95``, ``2 to 5``."""
    if mark.at_least is not None and mark.at_most is not None:
        return f"{number(mark.at_least, 4)} to {number(mark.at_most, 4)}"
    if mark.at_least is not None:
        return f"≥ {number(mark.at_least, 4)}"
    return f"≤ {number(mark.at_most, 4)}" if mark.at_most is not None else "–"


def command(result: RunResult) -> str:
    """What to type to run it again."""
    return clean(result.command) or f"cocoon sim run {shlex.quote(clean(result.scenario))} --seed {result.seed}"


def mark_table(result: RunResult) -> Table:
    """Every expectation; those that failed come first."""
    ordered = sorted(result.marks, key=lambda mark: mark.holds)
    rows, note = listed(
        ordered,
        lambda mark: (mark.name, number(mark.measured, 4), bounds(mark), "✓ holds" if mark.holds else "✗ failed"),
        "expectations",
    )
    flagged = frozenset(at for at, mark in enumerate(ordered[: len(rows)]) if not mark.holds)
    return Table(("measure", "measured", "expected", "verdict"), rows, note, frozenset({0, 3}), flagged)
