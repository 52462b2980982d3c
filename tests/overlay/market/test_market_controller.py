"""How the price moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.usage import Prices, Unit
from overlay.market import Load, PriceController
from overlay.market.controller import SHIPPED
from overlay.market.heard import SLACK, STIR_FROM, MarketLoad

BASE = Prices({Unit.PROMPT: 100_000, Unit.COMPLETION: 400_000})
IDLE, FULL, QUEUED = Load(0, 4, 0.0), Load(4, 4, 1.0), Load(4, 4, 8.0)


def run(controller, load, seconds, start=0.0, told=()):
    for step in range(seconds):
        controller.update(load, start + step, told)
    return start + seconds


def test_the_price_rises_under_load_and_falls_when_idle():
    controller = PriceController(BASE, level=2.0)
    now = run(controller, QUEUED, 30)
    high = controller.level
    assert high > 2.0
    run(controller, IDLE, 60, now)
    assert controller.level < high


def test_the_level_rests_at_the_target_load():
    controller = PriceController(BASE, level=2.0)
    run(controller, FULL, 100)
    assert controller.level == pytest.approx(2.0)


def test_one_step_is_at_most_two_percent_and_a_fifth():
    controller = PriceController(BASE, level=2.0)
    controller.update(IDLE, 0)
    controller.update(Load(4, 4, 1000.0), 1)
    assert 2.0 < controller.level <= 2.0 * math.exp(SHIPPED.stirred_gain)


def test_a_price_moves_slowly_in_a_quiet_market_and_quickly_in_one_that_fills():
    quiet, filling = PriceController(BASE, level=2.0), PriceController(BASE, level=2.0)
    usual = [FULL.pressure] * 16
    for controller in (quiet, filling):
        run(controller, FULL, 100, told=usual)
    for controller, told in ((quiet, usual), (filling, [1.9] * 16)):
        run(controller, QUEUED, 20, 100, told)
    assert math.log(quiet.level / 2.0) < 20.5 * SHIPPED.calm_gain
    assert math.log(filling.level / 2.0) > 1.5 * math.log(quiet.level / 2.0)


def test_what_others_tell_never_turns_the_price_round():
    # One's own load says where to; an inventor of records can only say how fast.
    for told in ([0.0] * 16, [1e9] * 16, [-5.0] * 16):
        controller = PriceController(BASE, level=2.0)
        run(controller, IDLE, 30, told=told)
        assert controller.level < 2.0
        controller = PriceController(BASE, level=2.0)
        run(controller, QUEUED, 30, told=told)
        assert controller.level > 2.0


def test_a_provider_fuller_than_the_others_asks_more_than_one_that_is_as_full_as_they_are():
    alone, among = PriceController(BASE, level=2.0), PriceController(BASE, level=2.0)
    run(alone, FULL, 60, told=[0.95] * 16)
    run(among, FULL, 60, told=[1.15] * 16)
    alone.level = among.level
    assert alone.ask(FULL).per_million[Unit.PROMPT] > among.ask(FULL).per_million[Unit.PROMPT]


@settings(max_examples=25)
@given(st.floats(0, 1), st.floats(0, 2), st.lists(st.floats(-1e6, 1e6), min_size=16, max_size=16), st.randoms())
def test_whoever_owns_a_share_of_the_records_moves_a_quote_by_no_more_than_that_share(share, honest, lies, rng):
    told = [rng.choice(lies) if rng.random() < share else honest for _ in range(16)]
    invented = sum(1 for a in told if a != honest) / 16
    truthful, misled = PriceController(BASE, level=3.0), PriceController(BASE, level=3.0)
    run(truthful, FULL, 2, told=[honest] * 16)
    run(misled, FULL, 2, told=told)
    truthful.level = misled.level
    ratio = misled.ask(FULL).per_million[Unit.COMPLETION] / truthful.ask(FULL).per_million[Unit.COMPLETION]
    # The steepest a quote is in what all have: far_gain + common_gain - own_gain above, own_gain - common_gain within.
    assert abs(math.log(ratio)) <= 0.3 * 2 * invented + 1e-3


def test_a_rising_load_moves_the_price_before_it_passes_the_target():
    # The damping term: the load is below the target, but rising fast.
    controller = PriceController(BASE, level=2.0)
    run(controller, IDLE, 20)
    before = controller.level
    controller.update(Load(4, 4, 0.0), 20)
    assert controller.level > before


def test_an_idle_provider_asks_its_cost_and_a_swamped_one_its_cap():
    controller = PriceController(BASE, cost=0.5, cap=3.0, level=2.0)
    run(controller, IDLE, 500)
    assert controller.ask(IDLE) == controller.floor == Prices({Unit.PROMPT: 50_000, Unit.COMPLETION: 200_000})
    run(controller, Load(4, 4, 60.0), 500, 1000)
    assert controller.ask(QUEUED) == controller.ceiling == Prices({Unit.PROMPT: 300_000, Unit.COMPLETION: 1_200_000})


def test_a_long_sleep_is_not_made_up_for():
    controller = PriceController(BASE, level=2.0)
    controller.update(QUEUED, 0)
    controller.update(QUEUED, 100_000)
    assert controller.level < 2.3


def test_a_busier_moment_is_quoted_dearer_at_once():
    controller = PriceController(BASE, level=2.0)
    cost = [controller.ask(load).per_million[Unit.COMPLETION] for load in (IDLE, Load(2, 4, 0.0), FULL, QUEUED)]
    assert cost == sorted(cost)
    assert cost[0] < cost[-1]
    assert all(type(price) is int for price in cost)


def test_price_finds_the_point_where_demand_meets_supply():
    # Demand falls with the price: eight jobs want in at the cost, and one fewer for every tenth above it. Four fit.
    controller = PriceController(BASE)
    load = IDLE
    for now in range(600):
        controller.update(load, now)
        paid = controller.ask(load).per_million[Unit.PROMPT] / 100_000
        demand = max(0.0, 8 - (paid - 1) * 10)
        waiting = max(0.0, demand - 4)
        load = Load(min(4, round(demand)), 4, waiting * 2.0)
    assert 1.2 < controller.ask(load).per_million[Unit.PROMPT] / 100_000 < 1.45


@given(
    st.lists(st.tuples(st.integers(0, 64), st.floats(0, 1e6), st.floats(0, 1e4)), max_size=60),
    st.floats(0.01, 10),
    st.floats(1, 1000),
)
def test_the_ask_stays_between_cost_and_cap_whatever_happens(loads, cost, ratio):
    controller = PriceController(BASE, cost=cost, cap=cost * ratio)
    now = 0.0
    for busy, wait_s, step in loads:
        now += step
        load = Load(busy, 8, wait_s)
        controller.update(load, now)
        for unit, price in controller.ask(load).per_million.items():
            assert controller.floor.per_million[unit] <= price <= controller.ceiling.per_million[unit]


def test_a_cap_below_the_cost_is_refused():
    with pytest.raises(ValueError, match="cost"):
        PriceController(BASE, cost=2.0, cap=1.0)


def test_a_market_stirs_when_its_load_leaves_the_usual_and_calms_when_that_has_become_usual():
    market = MarketLoad.beginning([1.1] * 16, 0.0)
    for _ in range(60):
        market.hear([1.1] * 16, 0.0, 1.0)
    assert market.stir(1.1) == 0.0
    for _ in range(10):
        market.hear([1.8] * 16, 0.0, 1.0)
    assert market.stir(1.1) == 1.0
    for _ in range(300):
        market.hear([1.8] * 16, 0.0, 1.0)
    assert market.stir(1.1) == 0.0


def test_a_market_far_under_its_target_never_calms():
    market = MarketLoad.beginning([0.5] * 16, 0.0)
    for _ in range(300):
        market.hear([0.5] * 16, 0.0, 1.0)
    assert market.stir(1.1) == 1.0
    assert MarketLoad.beginning([1.1 - SLACK - STIR_FROM], 0.0).stir(1.1) == pytest.approx(0.0)


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(allow_nan=False), max_size=16), max_size=30), st.floats(0, 1e6), st.floats(0, 5))
def test_what_is_heard_stays_within_what_is_possible_whatever_is_told(rounds, own, step_s):
    market = MarketLoad.beginning((), own)
    for told in rounds:
        market.hear(told, own, step_s)
        assert 0 <= market.now <= 2
        assert 0 <= market.usual <= 2
        assert 0 <= market.stir(1.1) <= 1


def test_a_provider_that_hears_of_nobody_takes_its_own_load_for_the_markets():
    deaf, alone = PriceController(BASE, level=2.0), PriceController(BASE, level=2.0)
    run(deaf, QUEUED, 30)
    run(alone, QUEUED, 30, told=[QUEUED.pressure] * 16)
    assert deaf.level == pytest.approx(alone.level)
