"""The tree of shards: keys, what a listing tells, and whether providers and readers find their way in any market."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht import CapacityRecord, Offer
from dht.limits import MAX_SHARD_BITS, PROVIDER_TTL_S, SHARD_ASK, SHARD_CAP, SHARD_SAMPLE, SURVEY_LOOKUPS, WALK_LOOKUPS
from dht.shards import ANY_MODEL, Shard, Sold, key_of, point_of, read, sold_in, weight
from dht.walks import Place, Survey, Walk
from transport.identity import PeerId

SOLD = Sold("chat", "demo", "plain")
WANT = 8

_names: dict[Shard, bytes] = {}


def name(shard: Shard) -> bytes:
    """The keys of one market, each hashed once for all tests."""
    if shard not in _names:
        _names[shard] = key_of("main", SOLD, shard)
    return _names[shard]


def peers(count: int, seed: int = 0) -> list[PeerId]:
    return [PeerId(f"12D3Koo{seed}-{number}") for number in range(count)]


class Table:
    """A hash table without a network: provider records that lapse."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.records: dict[bytes, dict[PeerId, float]] = {}
        self.reads: Counter[bytes] = Counter()

    def provide(self, key: bytes, peer: PeerId) -> None:
        self.records.setdefault(key, {})[peer] = self.now + PROVIDER_TTL_S

    def find(self, key: bytes) -> list[PeerId]:
        self.reads[key] += 1
        listed = [peer for peer, until in self.records.get(key, {}).items() if until > self.now]
        return listed if len(listed) <= SHARD_ASK else self.rng.sample(listed, SHARD_ASK)

    def held(self) -> list[int]:
        return [sum(until > self.now for until in listed.values()) for listed in self.records.values()]


class Town:
    """Providers that survey and announce themselves as :class:`dht.listing.Listing` does, in virtual time."""

    def __init__(self, seed: int) -> None:
        self.table = Table(seed)
        self.rng = Random(seed)
        self.places: dict[PeerId, Place | None] = {}
        self.waits: dict[PeerId, float] = {}
        self.due: list[tuple[float, PeerId]] = []
        self.lookups: list[int] = []

    def join(self, newcomers: list[PeerId], within_s: float = 600.0) -> None:
        for peer in newcomers:
            self.places[peer], self.waits[peer] = None, 10.0
            heappush(self.due, (self.table.now + self.rng.uniform(0, within_s), peer))

    def leave(self, count: int) -> None:
        for peer in self.rng.sample(sorted(self.places), count):
            del self.places[peer]

    def run(self, seconds: float) -> None:
        until = self.table.now + seconds
        while self.due and self.due[0][0] < until:
            self.table.now, peer = heappop(self.due)
            if peer in self.places:
                self._announce(peer)
                heappush(self.due, (self.table.now + self.waits[peer] * self.rng.uniform(0.8, 1.2), peer))
                self.waits[peer] = min(3 * self.waits[peer], PROVIDER_TTL_S / 3)
        self.table.now = until

    def _announce(self, peer: PeerId) -> None:
        before = self.places[peer]
        survey = Survey(name, peer, depth=before.depth if before else None)
        while (shard := survey.next) is not None:
            survey.answer(self.table.find(name(shard)))
        assert survey.lookups <= SURVEY_LOOKUPS
        self.lookups.append(survey.lookups)
        self.places[peer] = survey.place
        for shard in survey.shards():
            self.table.provide(name(shard), peer)


def search(table: Table, rng: Random, depth: int | None = None) -> Walk:
    walk = Walk(name, want=WANT, rng=rng, depth=depth)
    while (shard := walk.next) is not None:
        walk.answer(table.find(name(shard)))
    assert walk.lookups <= WALK_LOOKUPS
    return walk


def settled(count: int, seed: int) -> Table:
    """A market of ``count`` as it is when everybody has found his place: built from the rule, not by the machines."""
    table = Table(seed)
    crowd = sorted(peers(count, seed), key=point_of)

    def split(members: list[PeerId], shard: Shard) -> list[tuple[int, list[PeerId]]]:
        if len(members) <= SHARD_CAP:
            for peer in members:
                table.provide(name(shard), peer)
            return [(shard.depth, members)]
        below = (Shard(shard.depth + 1, 2 * shard.prefix), Shard(shard.depth + 1, 2 * shard.prefix + 1))
        parts = [[p for p in members if Shard.of(point_of(p), shard.depth + 1) == side] for side in below]
        leaves = [leaf for part, side in zip(parts, below, strict=True) for leaf in split(part, side)]
        for depth, leaf in leaves:
            for peer in leaf:
                if weight(name(shard), peer) * len(leaf) * 2 ** (depth - shard.depth) < SHARD_SAMPLE:
                    table.provide(name(shard), peer)
        return leaves

    split(crowd, Shard(0, 0))
    return table


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_the_sha2_256_multihash_of_a_text_that_another_can_write() -> None:
    text = b"cocoon:directory/1\nmain\nchat\ndemo\nplain\n0101"
    assert key_of("main", SOLD, Shard(4, 5)) == b"\x12\x20" + hashlib.sha256(text).digest()
    assert Shard(0, 0).bits == ""
    assert Shard(3, 1).bits == "001"


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,5}", fullmatch=True)
shards = st.integers(0, MAX_SHARD_BITS).flatmap(lambda d: st.builds(Shard, st.just(d), st.integers(0, 2**d - 1)))
keyed = st.tuples(names, st.builds(Sold, names, names | st.just(ANY_MODEL), names), shards)


@given(keyed, keyed)
def test_what_differs_in_anything_has_another_key(a: tuple[str, Sold, Shard], b: tuple[str, Sold, Shard]) -> None:
    assert (key_of(*a) == key_of(*b)) is (a == b)


@given(st.integers(0, 2**64 - 1), st.integers(1, MAX_SHARD_BITS))
def test_a_shard_and_its_sibling_make_the_one_above(point: int, depth: int) -> None:
    shard = Shard.of(point, depth)
    assert shard.bits == f"{point:064b}"[:depth]
    assert {shard.prefix, shard.sibling.prefix} == {2 * Shard.of(point, depth - 1).prefix + bit for bit in (0, 1)}


def test_a_provider_is_listed_by_each_model_and_tier_and_once_for_any_model() -> None:
    sold = tuple(Offer("chat", model, "plain", {"prompt": 1}) for model in ("a", "b"))
    record = CapacityRecord("main", offers=(*sold, Offer("transcribe", "w", "verified", {"audio_ms": 1})))
    assert sold_in(record) == [
        Sold("chat", "a", "plain"),
        Sold("chat", "", "plain"),
        Sold("chat", "b", "plain"),
        Sold("transcribe", "w", "verified"),
        Sold("transcribe", "", "verified"),
    ]


# --- what a listing tells -------------------------------------------------------------------------------------------


def test_leaves_and_samples_are_told_apart_in_97_of_100_cases_and_samples_measure_the_market() -> None:
    rng = Random(1)
    crowd = peers(3000, 5)
    wrong, ratios = 0, []
    for number in range(300):
        key = name(Shard(12, number))
        leaf = rng.sample(crowd, rng.randint(5, SHARD_CAP))
        below = rng.randint(3 * SHARD_CAP, 3000)
        sample = sorted(rng.sample(crowd, below), key=lambda peer: weight(key, peer))[:SHARD_SAMPLE]
        assert read(key, leaf).count == len(leaf)
        wrong += read(key, leaf).inner + (not read(key, sample).inner)
        ratios.append(read(key, sample).size / below)
    assert wrong <= 0.03 * 600
    assert sorted(ratios)[150] == pytest.approx(1.0, abs=0.15)
    assert sorted(ratios)[15] > 0.35
    assert sorted(ratios)[285] < 2.5


def test_one_or_two_providers_are_a_leaf_whatever_their_weights_but_in_one_case_of_fifty() -> None:
    crowd = peers(3000, 6)
    key = name(Shard(0, 0))
    alone = sum(read(key, [peer]).inner for peer in crowd)
    pairs = sum(read(key, crowd[number : number + 2]).inner for number in range(0, 3000, 2))
    assert 0 < alone <= 0.02 * 3000
    assert pairs <= 0.002 * 1500
    few_of_many = sorted(crowd, key=lambda peer: weight(key, peer))[:2]
    assert read(key, few_of_many).inner  # two that are left of a sample of thousands say so


def test_a_false_listing_or_two_do_not_make_a_sample_look_like_a_leaf() -> None:
    key = name(Shard(3, 1))
    ranked = sorted(peers(2000), key=lambda peer: weight(key, peer))
    assert read(key, [*ranked[:8], ranked[-1]]).inner
    assert read(key, [*ranked[:9], ranked[-1], ranked[-2]]).inner


# --- any market -----------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.one_of(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 20_000)), st.integers(0, 2**32), st.booleans()
)
def test_in_any_market_a_reader_finds_eight_or_all_with_few_look_ups(count: int, seed: int, cold: bool) -> None:
    table, rng = settled(count, seed % 3), Random(seed)
    depth = None if cold else search(table, rng).depth
    lookups = []
    for _ in range(40):
        walk = search(table, rng, depth)
        assert len(walk.found()) >= min(WANT, count)
        lookups.append(walk.lookups)
    assert sum(lookups) / len(lookups) <= (4.5 if cold or count == 0 else 2.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400), st.integers(0, 2), st.integers(0, MAX_SHARD_BITS), st.integers(0, 2**32))
def test_whatever_a_reader_believed_before_it_finds_eight_or_all(
    count: int, seed: int, guess: int, reader: int
) -> None:
    walk = search(settled(count, seed), Random(reader), guess)
    assert len(walk.found()) >= min(WANT, count)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 200), max_size=60), max_size=20), st.integers(0, 2**32), st.booleans())
def test_lies_end_a_search_and_a_survey_within_their_look_ups(answers: list[list[int]], seed: int, cold: bool) -> None:
    crowd, told = peers(201), iter(answers)
    walk = Walk(name, want=WANT, rng=Random(seed), depth=None if cold else seed % (MAX_SHARD_BITS + 1))
    while walk.next is not None:
        walk.answer(crowd[number] for number in next(told, []))
    for _ in range(5):
        walk.more(3)
        while walk.next is not None:
            walk.answer(crowd[number] for number in next(told, []))
    assert walk.lookups <= WALK_LOOKUPS
    assert len(set(walk.found())) == len(walk.found())
    told = iter(answers)
    survey = Survey(name, crowd[0], depth=None if cold else seed % (MAX_SHARD_BITS + 1))
    while survey.next is not None:
        survey.answer(crowd[number] for number in next(told, []))
    assert survey.lookups <= SURVEY_LOOKUPS
    assert survey.place is not None
    assert survey.shards()[0] == Shard.of(point_of(crowd[0]), survey.place.depth)


def test_a_reader_who_cannot_use_what_it_found_is_led_to_others_until_the_market_is_through() -> None:
    table = settled(60, 0)
    walk = search(table, Random(3))
    seen = set(walk.found())
    for _ in range(20):
        walk.more(WANT)
        while walk.next is not None:
            walk.answer(table.find(name(walk.next)))
        seen |= set(walk.found())
    assert seen == set(peers(60, 0))


def test_readers_pick_providers_about_evenly() -> None:
    count, readers = 700, 10_000
    table, rng, depth = settled(count, 1), Random(1), None
    picked: Counter[PeerId] = Counter()
    for _ in range(readers):
        walk = search(table, rng, depth)
        depth = walk.depth
        picked.update(walk.found()[:WANT])
    shares = sorted(picked[peer] * count / (readers * WANT) for peer in peers(count, 1))
    assert shares[0] > 0.25
    assert shares[-1] < 2.5
    assert shares[count // 20] > 0.5
    assert shares[-count // 20] < 1.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "first", "next_ones"), [(3, 2.0, 1.0), (300, 4.2, 1.3), (3000, 2.8, 1.8), (10_000, 2.8, 1.5)]
)
def test_what_searches_cost_by_the_size_of_the_market(count: int, first: float, next_ones: float) -> None:
    cold, warm = [], []
    for seed in range(3):
        table, rng, depth = settled(count, seed), Random(seed), None
        for _ in range(150):
            cold.append(search(table, rng).lookups)
            walk = search(table, rng, depth if depth is not None else search(table, rng).depth)
            depth = walk.depth
            warm.append(walk.lookups)
    assert sum(cold) / len(cold) <= first
    assert sum(warm) / len(warm) <= next_ones
    assert sorted(cold)[len(cold) * 95 // 100] <= 4


# --- markets that change --------------------------------------------------------------------------------------------


def check(town: Town, cap: float = 1.25) -> None:
    """Nobody is hidden, no key holds much more than its cap, readers find enough with few look-ups."""
    held = town.table.held()
    assert max(held, default=0) <= cap * SHARD_CAP
    assert sum(held) <= 2.2 * max(20, len(town.places))
    rng, lookups = Random(7), []
    for _ in range(60):
        walk = search(town.table, rng)
        assert len([peer for peer in walk.found() if peer in town.places]) >= min(WANT, len(town.places))
        lookups.append(walk.lookups)
    assert sum(lookups) / 60 <= 5


@pytest.mark.parametrize("count", [1, 3, 25, 120])
def test_a_market_that_forms_by_itself_is_as_deep_as_it_needs(count: int) -> None:
    town = Town(count)
    town.join(peers(count))
    town.run(2.5 * PROVIDER_TTL_S)
    check(town)
    depths = [place.depth for place in town.places.values() if place]
    assert max(depths) == 0 if count <= SHARD_CAP else 1 <= max(depths) <= 5
    assert sum(town.lookups[-count:]) / count <= 3


def test_a_market_that_grows_tenfold_and_shrinks_to_a_tenth_settles_again() -> None:
    town = Town(1)
    town.join(peers(150))
    town.run(2.5 * PROVIDER_TTL_S)
    check(town)
    town.join(peers(1350, 1))
    town.run(700)
    rush = max(town.table.held())
    assert rush <= 150  # while newcomers have not yet seen each other, and until what they announced then lapses
    town.run(2.5 * PROVIDER_TTL_S)
    check(town)
    town.leave(1350)
    town.run(4 * PROVIDER_TTL_S)
    check(town)
    town.leave(147)
    town.run(4 * PROVIDER_TTL_S)
    check(town)
    assert {place.depth for place in town.places.values() if place} == {0}


@pytest.mark.slow
def test_ten_thousand_providers_settle_and_ninety_in_a_hundred_may_leave() -> None:
    town = Town(2)
    town.join(peers(1000))
    town.run(2.5 * PROVIDER_TTL_S)
    town.join(peers(9000, 1))
    town.run(2.5 * PROVIDER_TTL_S)
    check(town)
    town.leave(9000)
    town.run(4 * PROVIDER_TTL_S)
    check(town)


# --- who holds and serves it -----------------------------------------------------------------------------------------


def kad_point(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


@pytest.mark.parametrize("count", [10_000, 7_000])
def test_no_node_of_ten_thousand_holds_or_serves_two_percent_of_a_market(count: int) -> None:
    import numpy as np

    table = settled(count, 1)
    nodes = np.array([kad_point(peer.encode()) for peer in peers(10_000, 1)], dtype=np.uint64)
    shards = sorted(table.records)
    number = {peer: index for index, peer in enumerate(peers(count, 1))}

    def holders(key: bytes) -> list[int]:
        return [int(node) for node in np.argpartition(nodes ^ np.uint64(kad_point(key)), 20)[:20]]

    held: dict[int, set[int]] = {}
    for key in shards:
        members = [number[peer] for peer in table.records[key]]
        for node in holders(key):
            held.setdefault(node, set()).update(members)
    assert max(map(len, held.values())) / count < 0.02

    # A look-up is counted at each of the twenty, though not all of them are asked; all readers are newcomers.
    rng, table.reads = Random(1), Counter()
    for _ in range(4000):
        search(table, rng)
    served: Counter[int] = Counter()
    for key, reads in table.reads.items():
        for node in holders(key):
            served[node] += reads
    assert max(served.values()) / sum(table.reads.values()) < 0.02


# --- attackers --------------------------------------------------------------------------------------------------------


def fakes(count: int, fits: Callable[[PeerId], bool], seed: int) -> list[PeerId]:
    """Identities that an attacker made until enough of them fitted his purpose."""
    found: list[PeerId] = []
    number = 0
    while len(found) < count:
        peer = PeerId(f"fake{seed}-{number}")
        number += 1
        if fits(peer):
            found.append(peer)
    return found


def picks(table: Table, searches: int, cold: bool) -> tuple[float, float, float]:
    """Of what searches pick first: the attacker's share, the honest ones each, the look-ups each."""
    rng, depth = Random(5), None
    false = honest = lookups = 0
    for _ in range(searches):
        walk = search(table, rng, None if cold else depth)
        depth = walk.depth
        picked = walk.found()[:WANT]
        false += sum(peer.startswith("fake") for peer in picked)
        honest += sum(not peer.startswith("fake") for peer in walk.found())
        lookups += walk.lookups
    return false / (false + honest) if not honest else false / (searches * WANT), honest / searches, lookups / searches


def test_sybils_that_are_a_quarter_of_the_market_are_a_quarter_of_what_is_found() -> None:
    town = Town(4)
    town.join(peers(600))
    town.join(fakes(200, lambda _: True, 0))
    town.run(2.5 * PROVIDER_TTL_S)
    share, honest, lookups = picks(town.table, 1000, cold=True)
    assert share == pytest.approx(0.25, abs=0.05)
    assert honest >= WANT
    assert lookups <= 5


def test_sybils_crowded_into_a_sixteenth_of_the_tree_are_found_less_than_their_number() -> None:
    town = Town(4)
    town.join(peers(600))
    town.join(fakes(200, lambda peer: Shard.of(point_of(peer), 4).prefix == 5, 0))
    town.run(2.5 * PROVIDER_TTL_S)
    share, honest, _ = picks(town.table, 1000, cold=True)
    assert share <= 0.1
    assert honest >= WANT


def test_false_samples_in_every_inner_shard_cost_look_ups_and_hide_nobody() -> None:
    table = settled(3000, 1)
    _, _, honestly = picks(table, 300, cold=True)
    inner = [shard for shard, key in list(_names.items()) if read(key, table.records.get(key, {})).inner]
    for number, shard in enumerate(inner):
        for peer in fakes(SHARD_SAMPLE, lambda peer, shard=shard: weight(name(shard), peer) < 0.01, number):
            table.provide(name(shard), peer)
    share, honest, lookups = picks(table, 300, cold=True)
    assert share <= 0.05
    assert honest >= WANT
    assert honestly < lookups <= WALK_LOOKUPS / 2


def test_one_provider_can_be_hidden_in_the_table_by_a_crowd_around_it() -> None:
    """What it takes: more than a shard's worth of identities at every depth of its path. Stated in docs/attacks.md."""
    town = Town(4)
    victim = peers(1, 9)[0]
    town.join([*peers(300), victim])
    town.run(2.5 * PROVIDER_TTL_S)
    depth = town.places[victim].depth  # type: ignore[union-attr]
    assert depth <= 6
    for level in range(depth, MAX_SHARD_BITS + 1):  # made up without the work: their points are not looked at
        for number in range(SHARD_CAP + 2):
            town.table.provide(name(Shard.of(point_of(victim), level)), PeerId(f"fake-{level}-{number}"))
    survey = Survey(name, victim, depth=depth)
    while (shard := survey.next) is not None:
        survey.answer(town.table.find(name(shard)))
    assert survey.place is not None
    assert survey.place.depth > depth + 8
    _, honest, _ = picks(town.table, 300, cold=True)
    assert honest >= WANT  # everybody else is found as before
