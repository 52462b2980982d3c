"""One look-up against tables that are simply lists: it finds the nearest, and liars spoil their own path alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.kad.config import KadConfig
from dht.kad.contacts import Contact, contact_of
from dht.kad.density import Density
from dht.kad.keys import key_of, peer_key
from dht.kad.limits import MAX_REQUESTS, MAX_SHORTLIST, MAX_WINDOW, SETTLED, SLOW_S
from dht.kad.lookup import Lookup
from transport.identity import Identity, PeerId

IDS = [Identity(number.to_bytes(32, "big")).peer_id for number in range(1000)]
CONFIG = KadConfig()


def peer(number: int, ip: str | None = None) -> Contact:
    return contact_of(IDS[number], [f"/ip4/{ip or f'{20 + number // 200}.{number % 200}.1.1'}/tcp/4001"])


def nearest(peers: list[Contact], target: int, n: int) -> list[Contact]:
    return sorted(peers, key=lambda p: p.key ^ target)[:n]


def tables(peers: list[Contact], rng: random.Random, known: int = 60) -> dict[PeerId, list[Contact]]:
    """What each peer knows: its own nearest and others at random, as after years of a network."""
    found = {}
    for me in peers:
        near = nearest(peers, me.key, 25)
        found[me.peer_id] = list({p.peer_id: p for p in [*near, *rng.sample(peers, min(known, len(peers)))]}.values())
    return found


Answer = Callable[[Contact], list[Contact] | None]


def drive(lookup: Lookup, answer: Answer, rng: random.Random) -> int:
    """Run a look-up to its end, answers in any order; how many were in flight at most."""
    flying: list[Contact] = []
    width = 0
    while True:
        while (step := lookup.next_request(0.0)) is not None:
            flying.append(step.contact)
        width = max(width, len(flying))
        if not flying:
            assert lookup.idle
            return width
        asked = flying.pop(rng.randrange(len(flying)))
        told = answer(asked)
        if told is None:
            lookup.failed(asked)
        else:
            lookup.answered(asked, told)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
def test_it_finds_the_k_nearest_that_live(seed: int, paths: int, dead: float) -> None:
    rng = random.Random(seed)
    peers = [peer(number) for number in rng.sample(range(1000), 150)]
    knows = tables(peers, rng)
    alive = {p.peer_id for p in peers if rng.random() >= dead}
    target = rng.getrandbits(256)
    seeds = nearest(rng.sample(peers, 40), target, 20)
    lookup = Lookup(target, seeds, KadConfig(paths=paths))
    heard = set(seeds)

    def answer(asked: Contact) -> list[Contact] | None:
        if asked.peer_id not in alive:
            return None
        told = nearest(knows[asked.peer_id], target, 20)
        heard.update(told)
        return told

    drive(lookup, answer, rng)
    found = lookup.closest(20)
    assert found == nearest([p for p in heard if p.peer_id in alive], target, 20)  # nobody was forgotten
    truth = nearest([p for p in peers if p.peer_id in alive], target, 20)
    assert len(set(found) & set(truth)) >= (18 if dead == 0.0 else 14)
    assert 1 <= lookup.hops <= 6


def test_paths_cost_nothing_among_the_honest() -> None:
    costs = {}
    for paths in (1, 3):
        costs[paths] = 0
        for seed in range(12):
            rng = random.Random(seed)
            peers = [peer(number) for number in rng.sample(range(1000), 300)]
            knows = tables(peers, rng)
            target = rng.getrandbits(256)
            lookup = Lookup(target, nearest(rng.sample(peers, 40), target, 20), KadConfig(paths=paths))
            drive(lookup, lambda p, k=knows, t=target: nearest(k[p.peer_id], t, 20), rng)
            costs[paths] += lookup.requests
            assert set(lookup.holders()) == set(lookup.closest(20))
    assert costs[3] <= 1.25 * costs[1]


def test_a_store_need_not_ask_the_farther_holders_first_and_finds_the_same_ones() -> None:
    asked = {}
    for settled in (None, SETTLED):
        asked[settled] = 0
        for seed in range(12):
            rng = random.Random(seed)
            peers = [peer(number) for number in rng.sample(range(1000), 300)]
            knows = tables(peers, rng)
            target = rng.getrandbits(256)
            lookup = Lookup(target, nearest(rng.sample(peers, 40), target, 20), CONFIG, settled=settled)
            drive(lookup, lambda p, k=knows, t=target: nearest(k[p.peer_id], t, 20), rng)
            asked[settled] += lookup.requests
            assert len(set(lookup.holders()) & set(nearest(peers, target, 20))) >= 19
    assert asked[SETTLED] < 0.75 * asked[None]


def test_who_is_named_on_one_path_alone_is_asked_before_a_record_is_sent_to_him() -> None:
    target = 0
    line = nearest([peer(number) for number in range(60)], target, 60)
    lookup = Lookup(target, line[40:], CONFIG, settled=SETTLED)
    liar = line[40]
    drive(lookup, lambda p: line[:20] if p is liar else ([] if p in line[:20] else line[20:40]), random.Random(1))
    assert set(line[:20]) <= set(lookup.closest(40))  # all of them were asked, and answered


def test_of_those_who_may_hold_it_the_connected_are_asked_first_where_one_answer_is_enough() -> None:
    target = 0
    line = nearest([peer(number) for number in range(60)], target, 60)
    handy = {line[9].peer_id, line[30].peer_id}
    lookup = Lookup(target, line[20:40], KadConfig(paths=1), handy=lambda p: p in handy, reach=line[20].key ^ target)
    first = lookup.next_request(0.0)
    assert first
    assert first.contact is line[20]
    lookup.answered(first.contact, line[:20])
    second = lookup.next_request(0.0)
    assert second
    assert second.contact is line[9]
    third = lookup.next_request(0.0)
    assert third
    assert third.contact is line[0]


def test_no_more_than_alpha_are_in_flight_while_it_gets_nearer_and_the_last_round_is_wide() -> None:
    rng = random.Random(1)
    target = rng.getrandbits(256)
    line = nearest([peer(number) for number in range(600)], target, 600)[::-1]  # farthest first
    lookup = Lookup(target, line[:20], CONFIG)
    asked = []
    while (step := lookup.next_request(0.0)) is not None:
        asked.append(step.contact)
    assert len(asked) == 3
    assert drive(Lookup(target, line[:20], CONFIG), lambda p: [], rng) <= 9


def test_a_peer_that_is_slow_holds_no_place_and_may_still_answer() -> None:
    target = 0
    lookup = Lookup(
        target, nearest([peer(n) for n in range(30)], target, 20), KadConfig(paths=1, alpha=1, final_width=1)
    )
    first = lookup.next_request(0.0)
    assert first is not None
    assert lookup.next_request(SLOW_S / 2) is None
    second = lookup.next_request(SLOW_S)
    assert second is not None
    assert second != first
    lookup.answered(first.contact, [])
    assert lookup.closest(20) == [first.contact]


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    lookup = Lookup(0, [peer(1)], CONFIG)
    lookup.answered(peer(2), [peer(3)])
    lookup.failed(peer(1))
    step = lookup.next_request(0.0)
    assert step is not None
    lookup.answered(step.contact, [])
    lookup.answered(step.contact, [peer(4)])  # twice
    assert lookup.next_request(0.0) is None
    assert lookup.requests == 1
    assert lookup.failures == 0


def test_nobody_is_asked_in_an_empty_network_and_we_never_ask_ourselves() -> None:
    lookup = Lookup(5, [], CONFIG)
    assert lookup.next_request(0.0) is None
    assert lookup.hops == 0
    own = Lookup(5, [peer(1), peer(2)], CONFIG, own_key=peer_key(IDS[1]))
    steps = [own.next_request(0.0), own.next_request(0.0)]
    assert [step and step.contact for step in steps] == [peer(2), None]


def sybils(target: int, count: int, honest: list[Contact], *, ip: str | None) -> list[Contact]:
    """Ids nearer to ``target`` than any honest peer, as a search for keys would give; of one network or of many."""
    bound = min(p.key ^ target for p in honest)
    found: list[Contact] = []
    for number in range(count):
        sybil = Contact.__new__(Contact)
        sybil.peer_id = PeerId(f"sybil{number}")
        place = ip or f"{60 + number // 200}.{number % 200}.1.1"
        model = contact_of(IDS[0], [f"/ip4/{place}/tcp/4001"])
        sybil.addrs, sybil.networks, sybil.shares, sybil.wire = model.addrs, model.networks, model.shares, b""
        sybil.key = target ^ (1 + bound * (number + 1) // (count + 2))
        found.append(sybil)
    return found


@pytest.mark.parametrize("settled", [None, SETTLED])
@pytest.mark.parametrize("answering", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_liar_whose_friends_are_nearest_of_all_spoils_only_its_own_path(
    answering: bool, seed: int, settled: int | None
) -> None:
    rng = random.Random(seed)
    peers = [peer(number) for number in rng.sample(range(1000), 150)]
    knows = tables(peers, rng)
    target = rng.getrandbits(256)
    friends = sybils(target, 60, peers, ip=None)
    seeds = nearest(rng.sample(peers, 40), target, 20)
    liar = seeds[rng.randrange(3)]

    def answer(asked: Contact) -> list[Contact] | None:
        if asked in friends or asked is liar:
            return friends[:20] if answering or asked is liar else None
        return nearest(knows[asked.peer_id], target, 20)

    lookup = Lookup(target, seeds, CONFIG, settled=settled)
    drive(lookup, answer, rng)
    truth = nearest([p for p in peers if p is not liar], target, 7)
    assert len(set(lookup.holders()) & set(truth)) >= 6  # a record goes to the honest ones as well
    assert lookup.requests <= MAX_REQUESTS


def test_outsiders_are_asked_first_however_far_they_are_and_what_they_tell_counts() -> None:
    rng = random.Random(1)
    peers = [peer(number) for number in rng.sample(range(1000), 150)]
    knows = tables(peers, rng)
    target = rng.getrandbits(256)
    crowd = sybils(target, 20, nearest(peers, target, 20)[9:], ip=None)  # nearer than all but nine honest ones
    far = nearest(peers, target, 150)[-3:]

    def answer(asked: Contact) -> list[Contact]:
        return crowd if asked in crowd else nearest(knows[asked.peer_id], target, 20)

    blind = Lookup(target, crowd, CONFIG)
    drive(blind, answer, rng)
    assert not set(blind.closest(20)) & set(peers)
    lookup = Lookup(target, crowd, CONFIG, outsiders=far)
    first = [lookup.next_request(0.0) for _ in far]
    assert {step.contact for step in first if step} == set(far)
    for step in first:
        assert step is not None
        lookup.answered(step.contact, answer(step.contact))
    drive(lookup, answer, rng)
    assert len(set(nearest(peers, target, 9)) & set(lookup.closest(29))) >= 5


@pytest.mark.parametrize("settled", [None, SETTLED])
def test_where_ids_are_too_dense_a_record_goes_to_all_who_should_be_nearest(settled: int | None) -> None:
    """The attacker holds the 30 nearest ids, of 30 networks, and the honest name them truthfully."""
    honest_holders = {}
    for known in (False, True):
        honest_holders[known] = 0
        for seed in range(8):
            rng = random.Random(seed)
            peers = [peer(number) for number in rng.sample(range(1000), 150)]
            knows = tables(peers, rng)
            target = rng.getrandbits(256)
            friends = sybils(target, 30, peers, ip=None)
            density = Density()
            for _ in range(7):
                density.note(nearest(peers, key := rng.getrandbits(256), 20)[-1].key ^ key)
            radius = density.radius(1 << 255) if known else 0

            def answer(p: Contact, k=knows, t=target, f=friends) -> list[Contact]:  # type: ignore[no-untyped-def]
                return f[:20] if p in f else nearest([*k[p.peer_id], *f[:10]], t, 20)

            seeds = nearest(rng.sample(peers, 40), target, 20)
            lookup = Lookup(target, seeds, CONFIG, radius=radius, settled=settled)
            drive(lookup, answer, rng)
            honest_holders[known] += sum(p not in friends for p in lookup.holders())
            assert len(lookup.holders()) <= MAX_WINDOW
    assert honest_holders[True] >= 8 * 8
    assert honest_holders[True] > honest_holders[False]


def test_the_radius_costs_the_honest_next_to_nothing() -> None:
    costs = {}
    for known in (False, True):
        costs[known] = 0
        for seed in range(20):
            rng = random.Random(seed)
            peers = [peer(number) for number in rng.sample(range(1000), 300)]
            knows = tables(peers, rng)
            density = Density()
            for _ in range(7):
                density.note(nearest(peers, key := rng.getrandbits(256), 20)[-1].key ^ key)
            target = rng.getrandbits(256)
            radius = density.radius(1 << 255) if known else 0
            lookup = Lookup(target, nearest(rng.sample(peers, 40), target, 20), CONFIG, radius=radius)
            drive(lookup, lambda p, k=knows, t=target: nearest(k[p.peer_id], t, 20), rng)
            costs[known] += lookup.requests + len(lookup.holders())
    assert costs[False] <= costs[True] <= 1.05 * costs[False]


def test_the_radius_follows_the_median_and_never_exceeds_our_own_neighbourhood() -> None:
    density = Density()
    assert density.radius(10**6) == 0
    for reach in (1000, 10, 1200, 1100, 5):  # two of five keys are crowded by an attacker
        density.note(reach)
    assert density.radius(None) == 0
    assert density.radius(10**6) == 700
    assert density.radius(100) == 70
    for _ in range(15):
        density.note(300)  # the network has grown
    assert density.radius(10**6) == 210


def test_on_a_single_path_the_same_liar_wins() -> None:
    rng = random.Random(3)
    peers = [peer(number) for number in rng.sample(range(1000), 150)]
    target = rng.getrandbits(256)
    friends = sybils(target, 60, peers, ip=None)
    liar = nearest(peers, target, 1)[0]
    lookup = Lookup(target, [liar, *peers[:19]], KadConfig(paths=1))
    drive(lookup, lambda asked: friends[:20], rng)
    assert set(lookup.holders()) <= {*friends, liar}


def test_a_flood_of_ids_from_one_network_gets_two_places_among_the_k() -> None:
    for seed in range(10):
        rng = random.Random(seed)
        peers = [peer(number) for number in rng.sample(range(1000), 150)]
        knows = tables(peers, rng)
        target = rng.getrandbits(256)
        flood = sybils(target, 60, peers, ip="99.9.9.9")
        lookup = Lookup(target, nearest(rng.sample(peers, 40), target, 20), CONFIG)
        drive(
            lookup,
            lambda p, k=knows, t=target, f=flood: f[:20] if p in f else [*f[:10], *nearest(k[p.peer_id], t, 20)],
            rng,
        )
        found = lookup.closest(20)
        assert sum(p in flood for p in found) == 2
        assert len(set(found) & set(nearest(peers, target, 18))) == 18


def test_wrong_addresses_told_on_one_path_do_not_hide_a_peer_from_the_others() -> None:
    target = key_of(b"somewhere")
    victim = nearest([peer(n) for n in range(1000)], target, 1)[0]
    wrong = contact_of(victim.peer_id, ["/ip4/66.6.6.6/tcp/1"])
    others = nearest([peer(n) for n in range(1000)], target, 30)[10:13]
    lookup = Lookup(target, others, CONFIG)
    steps = [step for step in (lookup.next_request(0.0) for _ in range(3)) if step]
    lookup.answered(steps[0].contact, [wrong])
    asked = lookup.next_request(0.0)
    assert asked is not None
    assert asked.contact == wrong
    lookup.answered(steps[1].contact, [victim])  # told while the wrong address is tried
    lookup.failed(wrong)
    lookup.answered(steps[2].contact, [])
    again = lookup.next_request(0.0)
    assert again is not None
    assert again.contact == victim
    lookup.answered(victim, [])
    assert lookup.closest(1) == [victim]


def test_a_path_of_dead_ends_is_given_up() -> None:
    target = 0
    peers = nearest([peer(n) for n in range(1000)], target, 1000)
    dead = set(peers[:200])
    lookup = Lookup(target, peers[500:503], CONFIG)
    liar = peers[500]
    drive(lookup, lambda p: None if p in dead else peers[:100] if p is liar else peers[200:220], random.Random(1))
    assert lookup.failures <= 25
    assert set(lookup.closest(20)) >= set(peers[200:219])


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_lies_of_every_kind_end_in_bounded_work(seed: int) -> None:
    rng = random.Random(seed)
    peers = [peer(number) for number in range(1000)]
    lookup = Lookup(rng.getrandbits(256), rng.sample(peers, 20), CONFIG)

    def answer(asked: Contact) -> list[Contact] | None:
        return None if rng.random() < 0.3 else rng.choices(peers, k=rng.randrange(40))

    drive(lookup, answer, rng)
    assert lookup.requests <= MAX_REQUESTS
    assert len(lookup._order) == len(lookup._peers) <= MAX_SHORTLIST
    assert lookup._order == sorted(lookup._order)
