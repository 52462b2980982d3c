"""When to claim: the caps and deadlines always hold, and what is paid in all is never far above the least possible."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from overlay.channels.settling import ClaimCost, ClaimPolicy, Exposures, Waiting, Why, choose

DAY = 86_400
TON = 1_000_000_000
COST = ClaimCost(2_700_000, 5_000_000)
POLICY = ClaimPolicy(TON, 20 * TON, 1000)

sums = st.integers(0, 3 * TON)
policies = st.builds(
    ClaimPolicy, st.integers(1, 2 * TON), st.integers(0, 30 * TON), st.integers(0, 1_000_000), st.integers(0, TON // 10)
)
costs = st.builds(ClaimCost, st.integers(0, TON // 10), st.integers(1, TON // 10))
NOW = 1_000_000


@st.composite
def crowds(draw):
    made = []
    for number in range(draw(st.integers(0, 12))):
        deadline = NOW + draw(st.integers(-3600, 7 * DAY))
        made.append(
            Waiting(
                f"c{number}", draw(sums), deadline, deadline - draw(st.integers(0, 3600)), draw(st.integers(0, 10**16))
            )
        )
    return draw(st.permutations(made))


def by_name(chosen):
    return {each.channel: each.why for each in chosen}


@given(crowds(), costs, policies)
def test_no_deadline_and_no_cap_is_passed_and_no_dust_is_claimed(crowd, cost, policy):
    chosen = by_name(choose(NOW, crowd, cost, policy))
    for w in crowd:
        worth = w.unclaimed_nanoton > policy.dust_nanoton
        if worth and (w.deadline_s <= NOW or w.unclaimed_nanoton >= policy.settle_at_nanoton):
            assert w.channel in chosen
        if not worth:
            assert w.channel not in chosen
    left = sum(
        w.unclaimed_nanoton for w in crowd if w.channel not in chosen and w.unclaimed_nanoton > policy.dust_nanoton
    )
    assert left <= policy.unclaimed_cap_nanoton


@given(crowds(), costs, policies)
def test_the_choice_does_not_depend_on_the_order_and_deadlines_lead_it(crowd, cost, policy):
    chosen = choose(NOW, crowd, cost, policy)
    assert chosen == choose(NOW, list(reversed(crowd)), cost, policy)
    urgent = [each.why is Why.DEADLINE for each in chosen]
    assert urgent == sorted(urgent, reverse=True)


@given(crowds(), costs, policies, st.integers(0, TON))
def test_a_dearer_fee_never_makes_more_channels_claim_for_their_risk(crowd, cost, policy, more):
    dearer = ClaimCost(cost.base_nanoton + more, cost.each_nanoton + more)
    now, then = by_name(choose(NOW, crowd, cost, policy)), by_name(choose(NOW, crowd, dearer, policy))
    assert {c for c, why in then.items() if why is Why.RISK} <= set(now)


@given(crowds(), costs, policies)
def test_company_joins_only_a_message_that_leaves_anyway(crowd, cost, policy):
    chosen = by_name(choose(NOW, crowd, cost, policy))
    company = {c for c, why in chosen.items() if why is Why.COMPANY}
    assert not company or company < set(chosen)


def test_what_will_not_grow_any_more_goes_along_when_a_message_leaves():
    waiting = Waiting("quiet", 1000, NOW + 1800, NOW - 1, 0)
    assert choose(NOW, [waiting], COST, POLICY) == []
    due = Waiting("due", 1000, NOW, NOW, 0)
    assert [each.channel for each in choose(NOW, [waiting, due], COST, POLICY)] == ["due", "quiet"]


@given(st.integers(1, 10 * TON), st.lists(st.integers(-100, 1000), max_size=20))
def test_exposure_is_sum_times_time_and_a_clock_that_goes_back_adds_nothing(unclaimed, steps):
    exposures, now, latest, expected = Exposures.empty(), NOW, NOW, 0
    exposures.grow("c", unclaimed, now)
    for step in steps:
        now += step
        expected += unclaimed * max(0, now - latest)
        latest = max(latest, now)
        assert exposures.grow("c", unclaimed, now) == expected
    exposures.claimed("c")
    assert exposures.grow("c", unclaimed, now) == 0


# ---- how good the rule is ----

STEP = 3600
RATE = 20_000  # parts per million a day: high, so that a hundred steps see several claims
FEE = COST.alone_nanoton


def held(sum_nanoton, steps=1):
    """What waiting costs, in millionths of a nanoTON·days, so that all stays integer."""
    return sum_nanoton * steps * STEP * RATE


def online(earned):
    """Fees and risk of the policy over a channel's life, claimed at the end in any case."""
    policy = replace(POLICY, settle_at_nanoton=10**18, unclaimed_cap_nanoton=10**18, risk_ppm_per_day=RATE)
    exposures, unclaimed, total, claims, overshoot = Exposures.empty(), 0, 0, 0, 0
    end = len(earned) * STEP
    for number, amount in enumerate(earned):
        now = number * STEP
        w = Waiting("c", unclaimed, end, end, exposures.grow("c", unclaimed, now))
        if choose(now, [w], COST, policy):
            exposures.claimed("c")
            overshoot += held(unclaimed)
            unclaimed, claims = 0, claims + 1
        unclaimed += amount
        exposures.grow("c", unclaimed, now)
        total += held(unclaimed)
    return total, claims + 1, overshoot


def offline(earned):
    """The least possible, by dynamic programming over the last claim before each moment."""
    fee = FEE * 1_000_000 * DAY
    best = [fee]  # best[i]: the least cost of everything up to moment i, the claim at i included
    for end in range(1, len(earned) + 1):
        waiting, options = 0, []
        for start in range(end - 1, -1, -1):
            waiting += held(earned[start], end - start)
            options.append(best[start] + waiting + fee)
        best.append(min(options))
    return best[-1] - fee  # the claim at moment 0 was free of charge


@given(st.lists(st.integers(0, TON // 4), min_size=1, max_size=40))
def test_fees_and_risk_are_at_most_twice_what_knowing_the_future_would_have_cost(earned):
    risk, claims, overshoot = online(earned)
    fee = FEE * 1_000_000 * DAY
    # Each wait may overshoot by the step in which it passed the fee; the last claim has to be made by everybody.
    assert risk + claims * fee <= 2 * offline(earned) + fee + overshoot


def test_a_steady_earner_is_claimed_as_often_as_the_economic_order_quantity_says():
    earned = [TON // 20] * 400
    _, claims, _ = online(earned)
    # sqrt(2 × fee / (earned a day × rate)), in steps
    interval = (2 * FEE / (24 * earned[0] * RATE / 1_000_000)) ** 0.5 * 24
    assert abs(len(earned) / claims - interval) < 2, (len(earned) / claims, interval)
