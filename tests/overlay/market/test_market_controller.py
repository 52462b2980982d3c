"""How the price moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.usage import Prices, Unit
from overlay.market import Load, PriceController

BASE = Prices({Unit.PROMPT: 100_000, Unit.COMPLETION: 400_000})
IDLE, FULL, QUEUED = Load(0, 4, 0.0), Load(4, 4, 3.0), Load(4, 4, 8.0)


def run(controller, load, seconds, start=0.0):
    for step in range(seconds):
        controller.update(load, start + step)
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


def test_one_step_is_at_most_two_percent():
    controller = PriceController(BASE, level=2.0)
    controller.update(IDLE, 0)
    controller.update(Load(4, 4, 1000.0), 1)
    assert controller.level == pytest.approx(2.0 * 2.718281828**0.02, rel=1e-9)


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
