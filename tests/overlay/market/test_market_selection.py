"""Whom a client asks, and how it compares."""

from __future__ import annotations

import collections
from dataclasses import replace
from random import Random

import pytest

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.errors import TooExpensive
from overlay.market import Candidate, ClientPolicy, Want, limits, shortlist
from overlay.market.selection import Bid, acceptable, outdone, quotes_asked, ranked, to_award, to_counter
from transport.identity import Identity

U = Unit.COMPLETION
PEERS = [Identity(n.to_bytes(32, "big")).peer_id for n in range(1, 301)]
WANT = Want(Task.CHAT, "demo", Usage({U: 1_000_000}), 10**9)


def candidate(n, price=1000, wait_ms=0, speed=0.0):
    return Candidate(PEERS[n], Prices({U: price}), wait_ms, speed)


def bid(candidate, start_ms=0):
    return Bid(candidate, candidate.asks, start_ms)


def policy(cap=1000, **changes):
    return ClientPolicy(Prices({U: cap}), **changes)


def test_at_most_eight_are_asked_and_the_cheap_come_first():
    everyone = [candidate(n, price=100 * (n + 1)) for n in range(40)]
    chosen = shortlist(everyone, WANT, policy(cap=10_000), Random(1))
    assert len(chosen) == limits.SHORTLIST
    assert max(c.asks.per_million[U] for c in chosen) < 2500


def test_more_are_asked_the_less_records_tell_and_never_more_than_sixteen():
    asked = [quotes_asked(news_s) for news_s in (0.0, 1.0, 4.0, 6.0, 8.0, 1e6)]
    assert asked == [8, 8, 8, 12, 16, 16]
    everyone = [candidate(n) for n in range(60)]
    assert len(shortlist(everyone, WANT, policy(), Random(1), news_s=6.0)) == 12
    assert len(shortlist(everyone, WANT, policy(), Random(1), 3, news_s=6.0)) == 3


def test_the_hopeless_are_not_asked():
    dear, slow, queued, fine = (
        candidate(0, price=1101),
        candidate(1, speed=1000.0),
        candidate(2, wait_ms=10_001),
        candidate(3, price=1100, speed=200_000.0),
    )
    assert shortlist([dear, slow, queued, fine], WANT, policy(deadline_s=10.0), Random(1)) == [fine]


def test_denied_and_not_allowed_providers_are_never_asked():
    everyone = [candidate(n) for n in range(4)]
    kept = shortlist(everyone, WANT, policy(deny=[PEERS[0]], allow=PEERS[:2]), Random(1))
    assert [c.provider for c in kept] == [PEERS[1]]


def test_a_slower_provider_loses_to_a_dearer_one_when_time_is_worth_it():
    fast, slow = candidate(0, price=900, speed=1e6), candidate(1, price=500, speed=1e5)
    for value, best in ((0, slow), (100, fast)):
        held = policy(value_of_time_nanoton_per_s=value)
        assert ranked([bid(fast), bid(slow)], WANT, held)[0].candidate is best


def test_a_quote_is_accepted_only_if_the_job_would_be_done_in_time():
    slow, queued, fine = candidate(0, speed=1e5), candidate(1, speed=1e6), candidate(2, speed=1e6)
    bids = [bid(slow), bid(queued, start_ms=9_500), bid(fine, start_ms=8_000)]
    held = policy(deadline_s=9.5)
    assert to_award(bids, WANT, held) == [bids[2]]
    assert to_counter(bids, WANT, held) == []


def test_where_the_cap_covers_time_a_low_price_does_not_make_up_for_a_long_wait():
    late, soon = bid(candidate(0, price=300), start_ms=8_000), bid(candidate(1, price=900))
    for covers, accepted in ((False, [soon, late]), (True, [soon])):
        held = policy(value_of_time_nanoton_per_s=100, cap_covers_time=covers)
        assert to_award([late, soon], WANT, held) == accepted
    assert acceptable(late, WANT, policy())


def test_the_best_three_are_asked_to_yield_when_every_quote_is_too_dear():
    bids = [bid(candidate(n, price=1001 + n)) for n in range(5)]
    assert to_counter(bids, WANT, policy()) == bids[:3]
    assert to_counter([*bids, bid(candidate(9, price=1000))], WANT, policy()) == []


def test_clients_do_not_herd_over_near_equal_providers():
    everyone = [candidate(n, price=900 + n // 10) for n in range(300)]
    hits = collections.Counter(
        c.provider for seed in range(300) for c in shortlist(everyone, WANT, policy(), Random(seed))
    )
    assert len(hits) > 250
    assert hits.most_common(1)[0][1] < 40


def test_every_unit_counts_for_the_cap_even_one_that_no_job_is_expected_to_use():
    held = policy(cap=1000)
    assert held.affords(Prices({U: 1000}))
    assert not held.affords(Prices({U: 1000, Unit.REASONING: 1}))
    assert not held.affords(Prices({U: 1001}))


def test_when_the_price_rules_everybody_out_the_error_names_the_cheapest():
    with pytest.raises(TooExpensive, match="completion 1500 against a cap of completion 1000") as caught:
        shortlist([candidate(0, price=2000), candidate(1, price=1500)], WANT, policy(), Random(1))
    assert caught.value.best == Prices({U: 1500})


def test_clients_herd_less_where_the_news_is_old():
    everyone = [candidate(n, price=500 + 5 * n) for n in range(60)]

    def asked(news_s):
        lists = (shortlist(everyone, WANT, policy(), Random(seed), 8, news_s=news_s) for seed in range(100))
        return collections.Counter(c.provider for chosen in lists for c in chosen)

    fresh, old, older = asked(1.0), asked(8.0), asked(3600.0)
    assert fresh == asked(0.0)
    assert max(fresh.values()) > 1.3 * max(old.values()) > max(older.values())
    assert len(fresh) < len(old)
    cheap = sum(older[c.provider] for c in everyone[:30])
    assert cheap > 0.55 * older.total()  # and the dearer half is asked less, however old it is


def test_an_empty_index_gives_an_empty_shortlist():
    assert shortlist([], WANT, policy(), Random(1)) == []


def quote(n, cost_nanoton, setup_nanoton=0, start_ms=0):
    """A quote at which a job of ``WANT`` costs that much."""
    who = replace(candidate(n), setup_nanoton=setup_nanoton)
    return Bid(who, Prices({Unit.COMPLETION: cost_nanoton * 1_000_000 // WANT.usage.get(Unit.COMPLETION)}), start_ms)


def firsts(bids, want, draws=4000):
    rng = Random(5)
    limits_of = policy(cap=10**9)
    order = [to_award(bids, want, limits_of, rng)[0].candidate.provider for _ in range(draws)]
    return collections.Counter(order)


def test_who_needs_a_channel_is_preferred_as_often_as_its_saving_is_part_of_what_the_channel_costs():
    ready, stranger = quote(1, 5_000), quote(2, 4_000, setup_nanoton=100_000)
    for jobs, share in ((1, 0.01), (10, 0.1), (50, 0.5)):
        found = firsts([stranger, ready], replace(WANT, jobs=jobs))[stranger.candidate.provider] / 4000
        assert found == pytest.approx(share, abs=0.02)


def test_a_saving_of_more_than_the_channel_costs_is_always_taken_and_a_loss_never():
    ready, stranger = quote(1, 500_000), quote(2, 300_000, setup_nanoton=100_000)
    assert firsts([ready, stranger], WANT) == {stranger.candidate.provider: 4000}
    dearer = quote(3, 600_000, setup_nanoton=1)
    assert firsts([ready, dearer], WANT) == {ready.candidate.provider: 4000}


def test_without_any_channel_the_best_offer_wins_and_all_are_kept_to_fall_back_on():
    cheap, dear = quote(1, 1_000, setup_nanoton=10**9), quote(2, 2_000, setup_nanoton=10**9)
    assert to_award([dear, cheap], WANT, policy(cap=10**9), Random(1)) == [cheap, dear]
    ready = quote(3, 1_500)
    assert to_award([dear, cheap, ready], WANT, policy(cap=10**9), Random(1)) == [ready, cheap, dear]


def test_an_agreement_is_outdone_by_a_record_that_is_clearly_better_in_money_and_time_together():
    mine = bid(candidate(0, price=1000, speed=100_000.0))
    assert not outdone(mine, [candidate(1, price=980, speed=100_000.0)], WANT, policy())
    assert outdone(mine, [candidate(1, price=960, speed=100_000.0)], WANT, policy())
    hurried = policy(value_of_time_nanoton_per_s=50)
    assert not outdone(mine, [candidate(1, price=960, wait_ms=2000, speed=100_000.0)], WANT, hurried)
    assert outdone(mine, [candidate(1, price=1000, speed=200_000.0)], WANT, hurried)
    assert not outdone(mine, [], WANT, policy())


def test_an_agreement_that_would_be_too_late_is_outdone_whoever_else_there_is():
    mine = bid(candidate(0, speed=100_000.0), start_ms=1000)
    assert outdone(mine, [], WANT, policy(deadline_s=10.5))
    assert not outdone(mine, [candidate(1, price=1, speed=1000.0)], WANT, policy(deadline_s=11.5))
