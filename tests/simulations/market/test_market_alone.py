"""The market alone: it replays, it loses no money, and it is worth more than what others do."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import pytest

from compute.usage import Prices
from simulations.market import Cocoon, Golem, Options, Ours, make_workload
from simulations.market.deviations import DEVIATIONS, gain, honest, setting
from simulations.market.floor import UNIT, Floor
from simulations.market.measure import efficiency, move, service
from simulations.market.workload import Segment, shocks, steady


def digest(floor):
    text = repr([(o.provider, o.paid_nanoton, o.finished_s, o.messages) for o in floor.outcomes])
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def market():
    return make_workload(2, providers=12, segments=steady(150.0))


@pytest.fixture(scope="module")
def ours(market):
    return Floor(market, Ours()).run()


def test_one_seed_gives_one_market_however_hashes_are_seeded():
    script = (
        "import hashlib; from simulations.market import *; from simulations.market.workload import shocks\n"
        "w = make_workload(1, providers=8, segments=shocks(15.0, 5.0))\n"
        "f = Floor(w, Ours(Options(standing_s=20.0))).run()\n"
        "t = repr([(o.provider, o.paid_nanoton, o.finished_s, o.messages) for o in f.outcomes])\n"
        "print(hashlib.sha256(t.encode()).hexdigest())"
    )
    here = digest(
        Floor(make_workload(1, providers=8, segments=shocks(15.0, 5.0)), Ours(Options(standing_s=20.0))).run()
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == here


def test_what_is_paid_is_the_agreed_price_and_never_under_the_cost_or_over_the_cap(market, ours):
    for job, outcome in zip(market.jobs, ours.outcomes, strict=True):
        if outcome.provider < 0:
            assert outcome.paid_nanoton == outcome.cost_nanoton == 0
            continue
        price = Prices({UNIT: outcome.price_nanoton_per_munit})
        assert type(outcome.paid_nanoton) is int
        assert outcome.paid_nanoton == price.cost_nanoton(ours.usages[job.number])
        cost = market.providers[outcome.provider].cost_nanoton_per_munit
        assert cost <= outcome.price_nanoton_per_munit <= job.value_nanoton_per_munit


def test_no_machine_runs_more_jobs_than_it_has_slots(market, ours):
    for provider in market.providers:
        events = []
        for outcome in ours.outcomes:
            if outcome.provider == provider.number:
                events += [(outcome.started_s, 1), (outcome.finished_s, -1)]
        running = most = 0
        for _, change in sorted(events):
            running += change
            most = max(most, running)
        assert most <= provider.slots


def test_our_market_is_worth_more_than_the_others_and_no_more_than_the_bound(market, ours):
    found = efficiency(ours, "steady")
    for other in (Cocoon(), Golem()):
        assert efficiency(Floor(market, other).run(), "steady") < found
    assert 0.9 < found <= 1.0
    assert service(ours, "steady").late < 0.02


def test_standing_agreements_do_not_queue_a_clients_jobs_up_at_one_provider(market):
    standing = Floor(market, Ours(Options(standing_s=60.0))).run()
    assert efficiency(standing, "steady") > 0.85
    assert service(standing, "steady").wait_s < 5


def test_jobs_of_providers_that_vanish_are_done_elsewhere():
    workload = make_workload(5, providers=12, segments=[Segment("a", 0.0, 40.0), Segment("b", 40.0, 80.0, lost=0.3)])
    floor = Floor(workload, Ours()).run()
    moved = [o for o in floor.outcomes if o.restarts]
    assert moved
    assert any(o.provider >= 0 for o in moved)
    for outcome in floor.outcomes:
        assert not (outcome.provider in workload.lost and outcome.finished_s > 40.0)


def test_a_channel_is_paid_for_once_for_each_pair():
    workload = make_workload(1, providers=6, segments=steady(30.0), clients_per_provider=1)
    floor = Floor(workload, Ours(Options(channels=True))).run()
    opened = sum(o.setup_nanoton > 0 for o in floor.outcomes)
    pairs = {(j.client, o.provider) for j, o in zip(workload.jobs, floor.outcomes, strict=True) if o.provider >= 0}
    assert 0 < opened <= 36
    assert len(pairs) <= opened


def test_withholding_does_not_pay():
    deviation = next(d for d in DEVIATIONS if d.name == "withhold")
    assert gain(deviation, honest(setting(1, 12, 300.0))) < 0


def test_a_move_is_timed_until_the_price_stays_near_its_new_level():
    segment = Segment("x2", 100.0, 300.0)
    series = [1.0] * 100 + [1 + n / 40 for n in range(20)] + [1.65] * 5 + [1.5] * 175
    found = move(series, segment)
    assert found.seconds == pytest.approx(24, abs=1)
    assert found.overshoot == pytest.approx(0.1)
    assert not math.isnan(found.seconds)
