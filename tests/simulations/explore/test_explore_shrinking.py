from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from simulations.explore.failures import Failure
from simulations.explore.mixes import Pool, mix
from simulations.explore.shrinking import shrink, size
from simulations.scenarios.checks import check
from simulations.scenarios.model import AttackGroup, ClientGroup, Demand, Fault, ProviderGroup, Scenario
from simulations.scenarios.registries import Registries

ANY = Registries()
RICH = Scenario(
    title="rich",
    about="",
    duration_s=1000.0,
    providers=(
        ProviderGroup("a", 9, behaviour="liar", options={"x": 1}),
        ProviderGroup("b", 4, behaviour="cheat", floor=2.0),
    ),
    clients=(ClientGroup("c", 9, Demand(90.0, retries=5)), ClientGroup("d", 3, Demand(10.0, curve=((100.0, 3.0),)))),
    faults=(Fault("crash", 100.0, 50.0, "a", 0.5), Fault("loss", 300.0, 9.0), Fault("churn", 800.0, 100.0, "d")),
    attackers=(AttackGroup("sybil", 9, 10.0, {"y": 2, "z": 3}), AttackGroup("flood", 3)),
)
POOL = Pool.of((RICH,))


def planted(needed_faults, least_clients, least_providers, seeds, at_s=None):
    """A failure that takes certain faults, so many clients and providers, and a seed of some."""
    calls = []

    def fails(scenario, seed):
        calls.append((scenario, seed))
        kinds = {fault.kind for fault in scenario.faults}
        clients = sum(group.count for group in scenario.clients)
        providers = sum(group.count for group in scenario.providers)
        if needed_faults <= kinds and clients >= least_clients and providers >= least_providers and seeds(seed):
            last_s = max((fault.at_s for fault in scenario.faults if fault.kind in needed_faults), default=0.0)
            return Failure("invariant", "planted", "", last_s if at_s is None else at_s, 1)
        return Failure("crash", "another one", "") if clients == 1 else None

    return fails, calls


@settings(max_examples=8)
@given(
    mix_seed=st.integers(0, 10**6),
    least_clients=st.integers(0, 6),
    least_providers=st.integers(0, 4),
    any_seed=st.booleans(),
)
@pytest.mark.slow
def test_what_is_left_of_a_planted_failure_is_only_what_it_needs(mix_seed, least_clients, least_providers, any_seed):
    scenario = mix(mix_seed, POOL, ANY)
    needed = {fault.kind for fault in scenario.faults[:2]}
    least_clients = min(least_clients, sum(group.count for group in scenario.clients))
    least_providers = min(least_providers, sum(group.count for group in scenario.providers))
    if least_clients + least_providers == 0:
        least_clients = 1
    fails, calls = planted(needed, least_clients, least_providers, lambda seed: any_seed or seed == mix_seed)
    failure = fails(scenario, mix_seed)
    if failure is None or failure.name != "planted":
        return
    calls.clear()
    small = shrink(scenario, mix_seed, failure, fails, clock=itertools.count().__next__, max_runs=2000, max_s=1e9)
    assert small.finished
    assert small.runs == len(calls)
    assert small.failure.signature == failure.signature
    assert fails(small.scenario, small.seed).signature == failure.signature
    assert {fault.kind for fault in small.scenario.faults} == needed
    assert len(small.scenario.faults) == len(needed)
    assert sum(group.count for group in small.scenario.clients) == least_clients
    assert sum(group.count for group in small.scenario.providers) == least_providers
    assert small.scenario.attackers == ()
    assert all(group.options == {} and group.config == {} for group in small.scenario.providers)
    assert small.seed == (0 if any_seed else mix_seed)
    assert size(small.scenario, small.seed) <= size(scenario, mix_seed)


def test_it_ends_just_after_the_failure():
    fails, calls = planted({"loss"}, 1, 0, lambda _: True)
    small = shrink(RICH, 5, fails(RICH, 5), fails, clock=lambda: 0.0)
    assert small.scenario.duration_s <= 301.0
    for scenario, _ in calls:
        check(scenario, "candidate", ANY)  # nothing impossible is ever run


def test_a_step_that_fails_in_another_way_is_not_taken():
    fails, _ = planted({"loss"}, 0, 1, lambda _: True)

    def fails_unless_alone(scenario, seed):
        return None if len(scenario.faults) == 1 else fails(scenario, seed)

    small = shrink(RICH, 5, fails_unless_alone(RICH, 5), fails_unless_alone, clock=lambda: 0.0)
    assert len(small.scenario.faults) == 2


@pytest.mark.parametrize(("max_runs", "max_s"), [(7, 1e9), (10**6, 7)])
def test_runs_and_time_bound_it_and_the_best_so_far_is_kept(max_runs, max_s):
    fails, calls = planted({"loss"}, 3, 0, lambda _: True)
    failure = fails(RICH, 5)
    calls.clear()
    ticks = itertools.count()
    small = shrink(RICH, 5, failure, fails, clock=lambda: next(ticks), max_runs=max_runs, max_s=max_s)
    assert not small.finished
    assert small.runs == len(calls) <= 7
    assert size(small.scenario) < size(RICH)


def test_a_fault_on_a_group_that_goes_goes_too():
    def fails(scenario, seed):
        return Failure("invariant", "planted", "") if any(group.name == "c" for group in scenario.clients) else None

    small = shrink(replace(RICH, attackers=()), 0, Failure("invariant", "planted", ""), fails, clock=lambda: 0.0)
    assert [group.name for group in small.scenario.clients] == ["c"]
    assert small.scenario.providers == small.scenario.faults == ()
    assert small.scenario.clients[0] == ClientGroup("c", 1, Demand(1.0), joins_s=(0.0, 1.0))
