"""The jobs are as described, and the bound is a bound."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.market.optimum import upper_bound
from simulations.market.workload import (
    CLASSES,
    LOAD,
    MEAN_UNITS,
    Job,
    Provider,
    make_workload,
    shocks,
    split,
    steady,
    withhold,
)


@given(st.integers(0, 10_000), st.integers(4, 40))
@settings(max_examples=20, deadline=None)
def test_jobs_come_in_order_and_within_bounds(seed, providers):
    workload = make_workload(seed, providers=providers, segments=steady(10.0))
    assert len(workload.providers) == providers
    assert [job.number for job in workload.jobs] == list(range(len(workload.jobs)))
    times = [job.at_s for job in workload.jobs]
    assert times == sorted(times)
    for job in workload.jobs:
        assert 0 <= job.at_s < 10
        assert job.deadline_s > job.units / CLASSES[0].units_per_s
        assert 0 <= job.value_nanoton(1.0) <= job.value_nanoton(0.0)
        assert job.value_nanoton(job.deadline_s + 0.001) == 0
        assert type(job.value_nanoton_per_munit) is int


def test_demand_follows_the_segments():
    workload = make_workload(3, providers=20, segments=shocks(100.0, 0.0))
    work = {}
    for segment in workload.segments:
        jobs = [j for j in workload.jobs if segment.starts_s <= j.at_s < segment.ends_s]
        work[segment.name] = len(jobs)
    usual = LOAD * sum(p.capacity for p in workload.providers) / MEAN_UNITS * 100
    assert work["steady"] == pytest.approx(usual, rel=0.15)
    assert work["x2"] == pytest.approx(2 * usual, rel=0.15)
    assert work["half"] == pytest.approx(usual / 2, rel=0.25)
    assert statistics.fmean(j.units for j in workload.jobs) == pytest.approx(MEAN_UNITS, rel=0.1)


def test_sybils_and_withholding_change_who_offers_what():
    workload = make_workload(1, providers=12, segments=steady(5.0))
    number = next(p.number for p in workload.providers if p.slots == 8)
    sybils = split(workload, number, 8)
    assert sum(p.slots for p in sybils.providers if p.owner == number) == 8
    assert [p.number for p in sybils.providers] == list(range(12 + 7))
    assert withhold(workload, number, 0.25).providers[number].slots == 6


def job(number, units, value, deadline=1000.0, impatience=0.0):
    return Job(number, 0, 0.0, units, value, deadline, impatience)


def provider(number, hardware, cost):
    h = CLASSES[hardware]
    return Provider(number, hardware, h.slots, h.units_per_s, cost, number)


job_lists = st.lists(
    st.tuples(
        st.integers(1_000, 60_000), st.integers(1_000_000, 200_000_000), st.floats(5.0, 100.0), st.floats(0.0, 1.0)
    ),
    min_size=1,
    max_size=4,
)


@given(job_lists, st.lists(st.integers(1_000_000, 100_000_000), min_size=1, max_size=2), st.floats(1.0, 20.0))
@settings(max_examples=60, deadline=None)
def test_no_assignment_of_whole_jobs_is_worth_more_than_the_bound(jobs, costs, window):
    jobs = [job(n, u, v, d, i) for n, (u, v, d, i) in enumerate(jobs)]
    sellers = [provider(n, 2 * n, cost) for n, cost in enumerate(costs)]
    best = 0.0
    for choice in itertools.product([None, *sellers], repeat=len(jobs)):
        used = dict.fromkeys(range(len(sellers)), 0)
        worth = 0.0
        for one, seller in zip(jobs, choice, strict=True):
            if seller is not None:
                used[seller.number] += one.units
                cost = one.units * seller.cost_nanoton_per_munit / 1e6
                worth += one.value_nanoton(one.units / seller.units_per_s) - cost
        if all(used[s.number] <= s.capacity * window for s in sellers):
            best = max(best, worth)
    assert upper_bound(jobs, sellers, window).surplus_nanoton >= best - 1e-6 * abs(best) - 1e-6


def test_the_bound_is_tight_where_the_program_is_solved_by_hand():
    # One class, work for half of the jobs: the dearer half is served, and the price lies between the two values.
    dear = [job(n, 1000, 80_000_000) for n in range(100)]
    cheap = [job(100 + n, 1000, 50_000_000) for n in range(100)]
    seller = provider(0, 0, 20_000_000)
    window = 100 * 1000 / seller.capacity
    found = upper_bound(dear + cheap, [seller], window)
    assert found.surplus_nanoton == pytest.approx(100 * 1000 * (80 - 20), rel=1e-3)
    assert 49_900_000 < found.prices[0] < 80_100_000


def test_without_scarcity_everybody_whose_value_is_above_the_cost_is_served():
    jobs = [job(n, 1000, 80_000_000) for n in range(10)] + [job(10, 1000, 10_000_000)]
    found = upper_bound(jobs, [provider(0, 0, 20_000_000)], 1000.0)
    assert found.surplus_nanoton == pytest.approx(10 * 1000 * (80 - 20), rel=1e-3)
