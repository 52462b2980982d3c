"""Other ways of finding prices in a whole world: the same people want the same, and only prices and choices differ."""

from __future__ import annotations

from typing import Any

import pytest

from compute.scheduler import Load
from overlay.config import load_config
from simulations.results import RunResult
from simulations.scenarios.model import Scenario
from simulations.world import run
from simulations.world.measures import figures
from simulations.world.policies import BASELINES, OURS, POLICIES, Cocoon, Dispatcher, Golem, Posted, policy

SEED = 3


@pytest.fixture(scope="module")
def runs() -> dict[str, RunResult]:
    """One of each, made when it is asked for."""
    return {}


@pytest.fixture
def made(runs: dict[str, RunResult], town: Any) -> Any:
    scenario: Scenario = town(providers=2, clients=6, duration_s=40.0, jobs_per_hour=700.0)

    def make(name: str) -> RunResult:
        if name not in runs:
            runs[name] = run(scenario, SEED, baseline=name)
        return runs[name]

    return make


def test_an_unknown_policy_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no policy 'golm'; did you mean 'golem'"):
        policy("golm")
    assert policy(OURS).name == OURS
    assert all(POLICIES[name]().name == name for name in BASELINES)


def test_posted_prices_do_not_move_and_nobody_waits() -> None:
    config = load_config(None, environ={})
    posted = Golem().provider(config)
    assert posted.price.completion == round(config.price.completion * Golem.margin)
    assert posted.price.cap_ratio == 1.0
    assert posted.node.queue_per_engine == 0
    assert Dispatcher().provider(config).price.completion == config.price.completion


@pytest.mark.parametrize("floor", [0, 1, 999, 61_234_567, 10**12])
def test_cocoons_coefficients_are_steps_at_or_above_what_an_owner_wants(floor: int) -> None:
    price = Cocoon().price(floor)
    assert 2 * floor <= price <= 1.06 * 2 * floor + 1


def test_each_chooses_by_its_own_rule() -> None:
    idle, half, full = Load(0, 4, 0, 0.0), Load(2, 4, 0, 0.0), Load(4, 4, 3, 9.0)
    assert Cocoon().rank(900, idle, 0.0) < Cocoon().rank(100, half, 0.0)  # type: ignore[operator]  # both have room
    assert Golem().rank(900, idle, 0.0) > Golem().rank(100, half, 0.0)  # type: ignore[operator]  # both have room
    assert Cocoon().rank(1, full, 0.0) is Golem().rank(1, full, 0.0) is None
    assert Dispatcher().rank(100, full, 50.0) == 150.0


@pytest.mark.parametrize("name", ["golem", "cocoon"])
def test_a_baseline_serves_the_same_demand_at_prices_that_stay(made: Any, name: str) -> None:
    ours, theirs = made(OURS), made(name)
    firsts = [
        {job.client: (job.asked_at_s, job.wanted, job.value_per_million) for job in reversed(result.jobs)}
        for result in (ours, theirs)
    ]
    assert firsts[0] == firsts[1]
    assert sum(job.outcome == "done" for job in theirs.jobs) > 10
    assert not theirs.violations
    asks = {market.ask_p50 for sample in theirs.samples for market in sample.markets}
    assert len(asks) == 1
    assert theirs.digest != ours.digest


def test_figures_count_what_was_asked_after_the_warm_up(made: Any) -> None:
    result = made("golem")
    found = figures(result, "golem")
    assert (found.policy, found.digest) == ("golem", result.digest)
    assert found.asked == len(result.jobs)
    assert found.done + found.failed + found.refused <= found.asked
    assert found.first_token_p50 is not None
    assert found.first_token_p50 < 10


def test_a_policy_that_says_nothing_of_where_a_job_goes_is_no_policy() -> None:
    with pytest.raises(TypeError, match="abstract method rank"):
        Posted()  # type: ignore[abstract]
