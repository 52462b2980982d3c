"""Measures: exact on small results made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from simulations.results import Attacker, Job, Market, Provider, RunResult, Sample
from simulations.scenarios.model import Expectation, Scenario
from simulations.world.measures import MEASURES, marks

CHAT = {"task": "chat", "model": "m"}


def job(asked_at_s: float, outcome: str = "done", *, group: str = "users", **more: Any) -> Job:
    return Job(0, group, "chat", asked_at_s, outcome, **more)


def sample(at_s: float, slots: int = 10, busy: int = 0, ask: float = 100.0, **more: Any) -> Sample:
    market = Market(**CHAT, slots=slots, busy=busy, waiting=0, ask_p10=0, ask_p50=ask, ask_p90=0)
    return Sample(at_s, more.pop("up", 2), 3, (market,), **more)


def provider(group: str, earned: int, cost: int = 0, fees: int = 0) -> Provider:
    return Provider(0, group, "h100", "honest", 8, 50.0, earned, cost, fees)


def result(**parts: Any) -> RunResult:
    fixed = {"scenario": "s", "title": "t", "seed": 1, "commit": "c", "duration_s": 1000.0, "virtual_s": 1000.0,
             "complete": True, "digest": "d", "events": 1, "warmup_s": 10.0}  # fmt: skip
    return RunResult(**fixed, **parts)


def measured(name: str, run: RunResult, group: str = "", from_s: float = 10.0, to_s: float = 1000.0) -> float | None:
    return MEASURES[name](run, group, from_s, to_s)


def test_shares_are_of_the_jobs_of_the_group_and_span_that_ended() -> None:
    run = result(jobs=(
        job(5.0, "failed"), job(10.0), job(20.0), job(30.0, "failed"), job(40.0, "refused"), job(50.0, "running"),
        job(60.0, "failed", group="bots"), job(1000.0, "failed"),
    ))  # fmt: skip
    assert measured("jobs.asked", run, "users") == 5
    assert measured("jobs.done_share", run, "users") == 0.5
    assert measured("jobs.failed_share", run, "users") == 0.25
    assert measured("jobs.refused_share", run, "users") == 0.25
    assert measured("jobs.failed_share", run) == 0.4
    assert measured("jobs.done_share", run, "nobody") is None


def test_recovered_jobs_are_those_done_by_another_provider_than_the_first() -> None:
    run = result(jobs=(job(20.0, tries=2), job(20.0, "failed", tries=3), job(20.0), job(20.0, tries=3)))
    assert measured("jobs.recovered", run) == 2


def test_a_job_is_stuck_ten_minutes_after_it_was_asked_for() -> None:
    run = result(jobs=(job(400.0, "running"), job(401.0, "running"), job(20.0),
                       job(20.0, "running", ended_at_s=30.0, error="its client stopped")))  # fmt: skip
    assert measured("jobs.stuck", run) == 1


def test_waiting_is_from_asking_to_the_first_token() -> None:
    run = result(jobs=(*(job(100.0, first_token_at_s=100.0 + wait) for wait in range(1, 21)), job(100.0)))
    assert measured("first_token.p50", run) == 10.0
    assert measured("first_token.p95", run) == 19.0
    assert measured("first_token.mean", run) == 10.5
    assert measured("first_token.p95", run, from_s=200.0) is None


def test_the_price_paid_is_that_of_a_million_units() -> None:
    run = result(jobs=(job(20.0, units=100, paid_nanoton=300, value_nanoton=500), job(20.0, "failed"),
                       job(20.0, units=300, paid_nanoton=100, value_nanoton=300)))  # fmt: skip
    assert measured("price.paid.mean", run) == 1_000_000
    assert measured("clients.surplus_share", run) == 0.5
    assert measured("price.paid.mean", result()) is None


def test_asks_and_loads_are_means_over_the_samples_of_the_span() -> None:
    run = result(samples=(sample(0.0, ask=9999.0), sample(10.0, busy=2, ask=90.0), sample(20.0, busy=6, ask=110.0)))
    assert measured("price.ask.p50", run) == 100.0
    assert measured("price.ask.variation", run) == pytest.approx(0.1)
    assert measured("utilisation", run) == pytest.approx(0.4)
    assert measured("utilisation", run, from_s=30.0) is None
    assert measured("price.ask.variation", run, from_s=20.0) is None


def test_markets_weigh_as_many_as_they_have_slots() -> None:
    one = sample(20.0, slots=30, busy=30, ask=100.0)
    both = msgspec.structs.replace(one, markets=(*one.markets, *sample(20.0, ask=200.0).markets))
    run = result(samples=(both,))
    assert measured("price.ask.p50", run) == 125.0
    assert measured("utilisation", run) == 0.75


def test_what_is_at_risk_is_the_most_of_the_span_and_providers_are_the_least() -> None:
    run = result(samples=(sample(0.0, unpaid_nanoton=99, up=1), sample(10.0, unpaid_nanoton=5, channels=3),
                          sample(20.0, unpaid_nanoton=7, unclaimed_nanoton=4)))  # fmt: skip
    assert measured("at_risk.unpaid_most", run) == 7
    assert measured("at_risk.unclaimed_most", run) == 4
    assert measured("chain.channels_most", run) == 3
    assert measured("providers.up_least", run) == 2


def test_providers_and_attackers_are_counted_over_the_whole_run() -> None:
    run = result(
        providers=(provider("a", 100, 30, 10), provider("a", 50), provider("b", 850)),
        attackers=(Attacker("sybils", 3, 120, 20), Attacker("liars", 1, 0, 50)),
        jobs=(job(20.0, paid_nanoton=400),), chain_fees_nanoton=100,
    )  # fmt: skip
    assert measured("providers.earned", run, "a") == 75
    assert measured("providers.profit", run, "a") == 55
    assert measured("attackers.gained", run) == 50
    assert measured("attackers.gained", run, "sybils") == 100
    assert measured("attackers.gained_share", run) == 0.05
    assert measured("chain.fees_share", run) == 0.25


def test_traffic_is_what_moved_between_two_samples_for_each_job_that_ended() -> None:
    run = result(samples=(sample(10.0, messages=100, bytes=1000, done=5), sample(20.0),
                          sample(30.0, messages=500, bytes=9000, done=8, failed=1)))  # fmt: skip
    assert measured("traffic.messages_per_job", run) == 100
    assert measured("traffic.bytes_per_job", run) == 2000
    assert measured("traffic.bytes_per_job", run, to_s=20.0) is None


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_run_in_which_nothing_happened_is_measured_without_an_error(name: str) -> None:
    assert not measured(name, result())


def test_marks_say_what_was_expected_measured_and_whether_it_holds() -> None:
    scenario = Scenario("t", "a", 1000.0, expect=(
        Expectation("jobs.done_share", at_least=0.5),
        Expectation("jobs.done_share", at_least=0.9, group="users", from_s=0.0, to_s=25.0),
        Expectation("first_token.p95", at_most=1.0),
    ))  # fmt: skip
    first, second, third = marks(result(jobs=(job(0.0, "failed"), job(20.0), job(30.0, "failed"))), scenario)
    assert (first.name, first.measured, first.holds) == ("jobs.done_share", 0.5, True)
    assert (second.name, second.measured, second.holds) == ("jobs.done_share of users, 0 s to 25 s", 0.5, False)
    assert (third.measured, third.holds, third.at_most) == (None, False, 1.0)
