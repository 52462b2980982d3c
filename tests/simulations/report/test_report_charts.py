"""Charts: what they count, and that two runs are drawn on the same axes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from simulations.report.drawing import figures, happenings, marks, style
from simulations.report.frame import Frame
from simulations.report.job_charts import distribution, error_table, outcome_table, outcomes, wait_over_time
from simulations.report.market_charts import efficiency, price
from simulations.report.measures import differences, measures
from simulations.report.money_charts import attackers, earnings
from simulations.report.policy_charts import losses, policy_table
from simulations.results import Happening, Job, Market, PolicyFigures, Provider, RunResult, Sample

RUN = RunResult("steady", "Steady", 1, "abc", 100.0, 100.0, True, "00", 10, warmup_s=10.0)


def _job(at_s: float, wait_s: float | None, outcome: str = "done", tries: int = 1, error: str = "") -> Job:
    return Job(0, "g", "chat", at_s, outcome, 0, None if wait_s is None else at_s + wait_s, tries=tries, error=error)


def test_two_runs_are_drawn_on_the_same_axes() -> None:
    low = replace(RUN, samples=tuple(Sample(float(at), 1, 1, asked=at, done=at) for at in range(1, 50)))
    high = replace(
        low, duration_s=200.0, samples=tuple(replace(s, asked=9 * s.asked, done=9 * s.done) for s in low.samples)
    )
    frame = Frame.of(low, high)
    with style():
        drawn = figures([outcomes(low, frame), None, outcomes(high, frame)])
    assert drawn[1] is None
    first, second = (figure.axes[0] for figure in drawn if figure is not None)
    assert first.get_xlim() == second.get_xlim() == (0.0, 200.0)
    assert first.get_ylim() == second.get_ylim()
    assert second.get_ylim()[1] > 9 * 60


def test_waits_count_after_the_warm_up_and_only_of_jobs_that_got_a_token() -> None:
    jobs = (_job(5.0, 99.0), _job(20.0, 1.0), _job(30.0, 3.0), _job(40.0, None, "refused"))
    result = replace(RUN, jobs=jobs)
    chart = distribution(result, Frame.of(result))
    assert chart is not None
    assert chart.table.rows == (("chat", "2", "1.2 s", "2 s", "2.8 s", "2.9 s", "2.98 s", "3 s"),)
    assert "66.7 % of 3 jobs" in chart.summary
    assert "still waiting" not in chart.summary
    over = wait_over_time(result, Frame.of(result))
    assert over is not None
    assert sum(int(row[1]) for row in over.table.rows) == 3, "over time, the warm-up shows too, shaded"


def test_those_still_waiting_at_the_end_are_told_of() -> None:
    result = replace(RUN, jobs=(_job(20.0, 1.0), _job(99.0, None, "running"), _job(98.0, 1.0, "running")))
    for make in (distribution, wait_over_time):
        chart = make(result, Frame.of(result))
        assert chart is not None
        assert chart.summary.endswith("1 job still waiting at the end cannot count.")


def test_outcomes_are_counted_by_task_and_reasons_by_frequency() -> None:
    jobs = (
        _job(1.0, 1.0, tries=2), _job(2.0, 1.0), _job(3.0, None, "failed", 3, "gone"),
        _job(4.0, None, "failed", 1, "gone"), _job(5.0, None, "refused", 2, "dear"), _job(6.0, None, "running"),
    )  # fmt: skip
    result = replace(RUN, jobs=jobs)
    assert outcome_table(result).rows == (("chat", "6", "2", "1", "2", "1", "1"),)
    assert error_table(result).rows == (("gone", "failed", "2"), ("dear", "refused", "1"))


def test_a_reason_is_the_same_whichever_peer_it_names() -> None:
    peers = (
        "12D3KooWSGrzcsn3Van4pFU9hvLqMHaTKhw7JBrbp1x5wQXN6ojE",
        "12D3KooWKUye8Nv5BoKwwbhxorpeD5uw1uWNKYUX6DT7Aw6GVB1e",
    )
    result = replace(RUN, jobs=tuple(_job(1.0, None, "failed", error=f"the stream to {peer} broke") for peer in peers))
    assert error_table(result).rows == (("the stream to a peer broke", "failed", "2"),)


def test_earnings_are_an_hour_of_one_provider_with_the_fees_of_the_chain_and_attackers_apart() -> None:
    def provider(number: int, earned: int, up_s: float, behaviour: str = "honest") -> Provider:
        return Provider(number, "g", "gpu", behaviour, 2, 1.0, earned, earned // 2, 100, busy_s=up_s, up_s=up_s)

    result = replace(
        RUN,
        providers=(
            provider(0, 2000, 1800.0),
            provider(1, 4000, 5400.0),
            provider(2, 9, 60.0, "sybil"),
            provider(3, 0, 0.0),
        ),
    )
    honest, sybil = earnings(result, Frame.of(result).hardware)
    assert (honest.name, honest.providers, honest.hours) == ("gpu", 2, 2.0)
    assert (honest.earned, honest.cost, honest.profit) == (3000.0, 1600.0, 1400.0)
    assert honest.busy == 0.5
    assert (sybil.name, sybil.providers) == ("gpu, sybil", 1)


def test_a_market_that_nobody_serves_has_no_price_of_zero() -> None:
    def sample(at_s: float, slots: int, ask: float) -> Sample:
        return Sample(at_s, 1, 1, (Market("chat", "m", slots, slots, 3, ask, ask, ask),))

    result = replace(RUN, samples=(sample(20.0, 0, 0.0), sample(30.0, 4, 1e8), sample(40.0, 4, 2e8)))
    chart = price(result, Frame.of(result), ("chat", "m"))
    assert chart is not None
    assert "between 0.1 TON and 0.2 TON per million completion tokens (median 0.15 TON)" in chart.summary
    assert chart.table.rows[0][1:4] == ("–", "–", "–")
    assert price(replace(result, samples=()), Frame.of(result), ("chat", "m")) is None


def test_efficiency_names_this_market_and_the_best_of_the_others() -> None:
    result = replace(RUN, efficiency={"cocoon": 0.58, "golem": 0.78, "ours": 0.966})
    chart = efficiency(result, Frame.of(result))
    assert chart is not None
    assert chart.table.rows[0] == ("this market", "96.6 %")
    assert "golem, reached 78.0 %" in chart.summary


def test_what_is_missing_to_the_optimum_is_shown_by_cause_for_each_policy() -> None:
    lost = {"queue": 0.02, "idle": 0.01, "outside": 0.0}
    result = replace(RUN, efficiency={"ours": 0.97}, losses=lost)
    chart = losses(result, Frame.of(result))
    assert chart is not None
    assert "this market lost most by: wait in a queue 2.0 %, machines idle 1.0 %" in chart.summary
    assert chart.table.rows[0] == ("wait in a queue", "2.0 %")
    rows = (PolicyFigures("ours", "d", 100, 98, 1, 1, 0.97, lost), PolicyFigures("golem", "e", 100, 80, 0, 20, 0.78,
            {"no_room": 0.2, "queue": 0.02}, 10**9, 1.5, 9.0, 8e7, 0.6))  # fmt: skip
    both = replace(result, efficiency={"ours": 0.97, "golem": 0.78}, policies=rows)
    chart = losses(both, Frame.of(both))
    assert chart is not None
    assert chart.table.columns == ("lost by", "this market", "golem")
    assert chart.table.rows[0] == ("refused: no room", "0.0 %", "20.0 %")
    assert policy_table(both).rows[1] == (
        "golem", "78.0 %", "1 TON", "100", "80", "20", "0", "1.5 s", "9 s", "0.08 TON", "60.0 %",
    )  # fmt: skip
    assert losses(replace(RUN, losses={}), Frame.of(RUN)) is None


def test_an_attack_that_paid_off_is_flagged(result: RunResult) -> None:
    chart = attackers(result, Frame.of(result))
    assert chart is not None
    assert chart.summary == "It paid off for non-paying-clients."
    assert chart.table.flagged == {1}
    assert chart.table.rows[0][5] == "jobs failed 3, price up 0.014"


def test_happenings_are_numbered_by_their_moment_and_share_a_line_when_near() -> None:
    crowd = replace(RUN, happenings=tuple(Happening(at_s, str(at_s)) for at_s in (90.0, 10.0, 11.0, 12.0, 50.0)))
    assert [one.at_s for one in happenings(crowd)] == [10.0, 11.0, 12.0, 50.0, 90.0]
    assert marks(crowd, 100.0) == [(10.0, "1–3"), (50.0, "4"), (90.0, "5")]
    many = replace(RUN, happenings=tuple(Happening(at / 10, "x") for at in range(1000)))
    assert len(marks(many, 100.0)) <= 24


def test_differences_are_of_the_same_measures(result: RunResult) -> None:
    other = replace(result, efficiency={"ours": 0.5}, attackers=())
    frame = Frame.of(result, other)
    assert measures(result, frame).keys() == measures(other, frame).keys()
    rows = {row[0]: row[1:] for row in differences(result, other, frame).rows}
    assert rows["jobs asked for"] == ("600", "600", "0", "1 ×")
    assert rows["gained by attackers"] == ("0.3142 TON", "–", "–", "–")


@pytest.mark.parametrize("names", [40, 3])
def test_a_frame_keeps_the_largest_of_many_names(names: int) -> None:
    markets = tuple(Market("chat", f"m{at}", at + 1, 0, 0, 1.0, 1.0, 1.0) for at in range(names))
    frame = Frame.of(replace(RUN, samples=(Sample(1.0, 1, 1, markets),)))
    assert frame.markets[0] == ("chat", f"m{names - 1}")
    assert len(frame.markets) + frame.markets_left == names
