"""What `cocoon sim` says: progress while it works, and what came of it, for people or as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overlay.cli.output import Output

if TYPE_CHECKING:
    from simulations.explore.failures import Failure
    from simulations.explore.replays import Replay, Replayed
    from simulations.explore.searching import State
    from simulations.report.progress import Progress
    from simulations.results import RunResult, Sample
    from simulations.scenarios.model import Scenario

PLAIN_EVERY_S = 10.0
"""Between two lines of progress of `explore` off a terminal."""

LEAST_LOSS = 0.005
"""Of the optimum: what is less is not worth a word."""


class RunProgress:
    """The live picture of a run on standard error; silent with ``--json``."""

    def __init__(self, output: Output, scenario: Scenario, what: str = "") -> None:
        self._shown: Progress | None = None
        if not output.as_json:
            from simulations.report.progress import Progress

            title = f"{scenario.title}, {what}" if what else scenario.title
            self._shown = Progress(output.err, title, scenario.duration_s)
        self._started = time.monotonic()

    def __enter__(self) -> RunProgress:
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


def tell_result(output: Output, result: RunResult, files: list[Path]) -> None:
    """A run: what happened, what was expected, which files there are."""
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
                "losses": result.losses,
                "policies": [_policy(row) for row in result.policies],
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
    if result.policies:
        tell_policies(output, result)
    elif (ours := result.efficiency.get("ours")) is not None:
        lost = _most_lost(result.losses)
        output.line(
            f"{_percent(ours)} of what a perfect market would have gained" + (f"; lost: {lost}" if lost else "")
        )
    output.line(
        f"{result.virtual_s:g} virtual seconds in {result.wall_s:.1f} s, {result.events} events, "
        f"digest {result.digest or 'unknown'}"
    )
    for file in files:
        output.line(f"wrote {file}")


def tell_policies(output: Output, result: RunResult) -> None:
    """Ours beside the baselines."""
    rows = [
        (row.policy, _percent(row.efficiency), f"{row.done} of {row.asked}", str(row.refused), str(row.failed),
         _figure(row.first_token_p50), _figure(row.first_token_p95), _ton(row.price_paid), _percent(row.utilisation),
         _most_lost(row.losses))
        for row in result.policies
    ]  # fmt: skip
    columns = ("policy", "of the optimum", "done", "refused", "failed", "first token s", "95 % s", "TON/M paid", "busy",
               "lost most by")  # fmt: skip
    output.table("The same demand under other policies", columns, rows, empty="")


def _most_lost(losses: Mapping[str, float]) -> str:
    """The three causes that cost most."""
    worst = sorted(losses.items(), key=lambda item: (-item[1], item[0]))[:3]
    return ", ".join(f"{cause.replace('_', ' ')} {_percent(part)}" for cause, part in worst if part >= LEAST_LOSS)


def _policy(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def _ton(nanoton: float | None) -> str:
    return "-" if nanoton is None else f"{nanoton / 1e9:.4g}"


def _mark(mark: Any) -> dict[str, Any]:
    return {name: getattr(mark, name) for name in ("name", "measured", "holds", "at_least", "at_most")}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _wanted(mark: Any) -> str:
    bounds = [("≥", mark.at_least), ("≤", mark.at_most)]
    return ", ".join(f"{sign} {value:g}" for sign, value in bounds if value is not None)


def failure_line(failure: Failure) -> str:
    """A failure in one line."""
    where = f" at {failure.at_s:g} s, event {failure.event}" if failure.event else ""
    return f"{failure.signature}{where}: {failure.what.strip().splitlines()[-1] if failure.what.strip() else ''}"


def tell_replayed(output: Output, case: Replay, again: Replayed) -> None:
    """Whether the same happened again."""
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
        output.line(f"now: {failure_line(again.failure)}")
    output.line(verdict)


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {name: getattr(failure, name) for name in ("kind", "name", "what", "at_s", "event", "digest")}


class SearchProgress:
    """One line of progress: in place on a terminal, now and then off it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._status = output.err.status("starting …") if output.err.is_terminal and not output.as_json else None
        self._told_s = 0.0
        self._known = 0

    def __enter__(self) -> SearchProgress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, state: State) -> None:
        """Show where the search is, and each new finding at once."""
        for finding in state.findings[self._known :]:
            self._output.note(f"seed {finding.seed}: {failure_line(finding.failure)}")
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


def tell_search(output: Output, state: State, directory: Path) -> None:
    """What a search found, and the command that shows the smallest case of each kind."""
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
