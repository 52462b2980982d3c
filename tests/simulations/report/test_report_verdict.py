"""The verdict: what a run says at a glance is never better than the run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from simulations.report import report_page
from simulations.report.verdict import bounds, command, mark_table, verdict
from simulations.results import Mark, RunResult, Violation
from tests.simulations.report.reading import read

MET, MISSED = Mark("efficiency", 0.97, True, at_least=0.96), Mark("wait", 9.5, False, at_most=3.0)
BROKEN = Violation("money-conserved", 61.0, 1234, "5 nanoTON too many")
RUN = RunResult("steady", "Steady", 1, "abc", 600.0, 600.0, True, "00", 10)


def test_a_run_that_met_everything_held() -> None:
    judged = verdict(replace(RUN, marks=(MET,)))
    assert judged.good
    assert judged.headline == "Held: its one expectation met, no invariant broken"
    assert judged.reasons == ()


def test_a_run_without_expectations_does_not_claim_to_have_held_any() -> None:
    assert verdict(RUN).headline == "Ran to its end; the scenario expects nothing"


def test_what_failed_is_named_with_its_numbers() -> None:
    judged = verdict(replace(RUN, marks=(MET, MISSED)))
    assert not judged.good
    assert judged.headline == "Did not hold: 1 of 2 expectations failed"
    assert judged.reasons == ("wait: 9.5, expected ≤ 3",)


def test_a_broken_invariant_is_told_first_with_its_moment_and_event() -> None:
    judged = verdict(replace(RUN, marks=(MISSED,), violations=(BROKEN,)))
    assert judged.headline == "Did not hold: an invariant broke"
    assert judged.reasons[0] == "Invariant money-conserved broke at 1:01, event 1,234: 5 nanoTON too many"


def test_a_partial_run_is_never_taken_for_a_whole_one() -> None:
    partial = replace(RUN, complete=False, virtual_s=61.0, stopped_because="the disk was full", marks=(MET,))
    judged = verdict(partial)
    assert not judged.good
    assert judged.partial == "Partial run: it stopped at 1:01 of 10:00, the disk was full."
    (box,) = [node for node in read(report_page(partial)).all("div") if node.attributes.get("class") == "partial"]
    assert judged.partial in box.text
    assert box.attributes["role"] == "alert"


@given(
    st.booleans(),
    st.lists(st.sampled_from([MET, MISSED]), max_size=30).map(tuple),
    st.lists(st.just(BROKEN), max_size=9).map(tuple),
)
def test_good_is_what_the_result_itself_says(
    complete: bool, marks: tuple[Mark, ...], violations: tuple[Violation, ...]
) -> None:
    result = replace(RUN, complete=complete, marks=marks, violations=violations)
    judged = verdict(result)
    assert judged.good == result.held
    assert judged.headline.startswith(("Held", "Ran")) == result.held
    assert bool(judged.partial) != complete
    assert len(judged.reasons) <= 27


def test_failed_expectations_come_first_in_the_table() -> None:
    table = mark_table(replace(RUN, marks=(MET, MISSED)))
    assert [row[0] for row in table.rows] == ["wait", "efficiency"]
    assert table.flagged == {0}


def test_bounds_say_what_was_expected() -> None:
    assert bounds(Mark("x", None, True, at_least=1, at_most=2.5)) == "1 to 2.5"
    assert bounds(Mark("x", None, True)) == "–"


def test_what_runs_it_again_can_be_pasted() -> None:
    assert command(replace(RUN, scenario="my file; rm x.toml")) == "cocoon sim run 'my file; rm x.toml' --seed 1"
    assert command(replace(RUN, command="cocoon sim run steady --duration 5m")) == "cocoon sim run steady --duration 5m"
