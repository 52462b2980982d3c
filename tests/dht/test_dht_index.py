"""The capacity index against a naive model, and its bounds."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dht import CapacityIndex, CapacityRecord, Offer, SignedRecord, Verdict
from dht.limits import CLOCK_SKEW_S, MAX_TTL_S
from transport.identity import PeerId

PEERS = [PeerId(name) for name in "abcdef"]


def signed(peer: str, **changes: Any) -> SignedRecord:
    """A record as if verified; the index looks at no signature."""
    models = changes.pop("models", ["m"])
    sold = tuple(Offer("chat", model, "plain", {"prompt": 1}) for model in models)
    record = CapacityRecord(**{"subnet": "main", "offers": sold, "issued_at": 1000, "seq": 1, **changes})
    return SignedRecord(PeerId(peer), record, repr(record).encode())


class IndexMachine(RuleBasedStateMachine):
    """The model keeps every record ever offered and looks for the newest of each peer by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10_000
        self.index = CapacityIndex(max_records=100)
        self.taken: dict[PeerId, SignedRecord] = {}

    @rule(seconds=st.integers(0, 400))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.index.sweep(self.now)

    @rule(
        peer=st.sampled_from(PEERS),
        seq=st.integers(1, 12),
        age=st.integers(-CLOCK_SKEW_S - 20, 300),
        ttl=st.sampled_from([0, 10, 120, MAX_TTL_S]),
        models=st.lists(st.sampled_from(["m", "n", "o"]), unique=True, max_size=3),
    )
    def offer(self, peer: PeerId, seq: int, age: int, ttl: int, models: list[str]) -> None:
        offered = signed(peer, seq=seq, issued_at=self.now - age, ttl_s=ttl, models=models if ttl else [])
        lifetime = ttl or MAX_TTL_S + CLOCK_SKEW_S
        held = self.taken.get(peer)
        # What is swept can matter no more, but not everything that could be swept has been.
        forgettable = held is not None and self.now >= held.record.issued_at + MAX_TTL_S + CLOCK_SKEW_S
        verdict = self.index.add(offered, self.now)
        if age < -CLOCK_SKEW_S or age >= lifetime:
            assert verdict is Verdict.STALE
        elif held is None or held.record.seq < seq:
            assert verdict is Verdict.NEWS
        elif not forgettable:
            expected = Verdict.KNOWN if held.envelope == offered.envelope else Verdict.FORGED
            assert verdict is (Verdict.STALE if held.record.seq > seq else expected)
        if verdict is Verdict.NEWS:
            self.taken[peer] = offered

    def _standing(self) -> dict[PeerId, CapacityRecord]:
        return {
            peer: held.record
            for peer, held in self.taken.items()
            if held.record.ttl_s and self.now < held.record.issued_at + held.record.ttl_s
        }

    @invariant()
    def it_knows_what_stands_and_nothing_else(self) -> None:
        standing = self._standing()
        for model in (None, "m", "n", "o"):
            found = self.index.providers("chat", model, "plain", now=self.now)
            expected = sorted(
                (peer, sold.model)
                for peer, record in standing.items()
                for sold in record.offers
                if model in (None, sold.model)
            )
            assert sorted((peer, sold.model) for peer, _, sold in found) == expected
        assert self.index.providers("chat", None, "attested-gpu", now=self.now) == []
        assert self.index.providers("transcribe", now=self.now) == []
        models = {("chat", sold.model) for record in standing.values() for sold in record.offers}
        assert self.index.models(now=self.now) == sorted(models)
        for peer in PEERS:
            assert self.index.get(peer, self.now) == standing.get(peer)

    @invariant()
    def pages_give_every_standing_record_once(self) -> None:
        seen: list[str] = []
        after, more = "", True
        while more:
            page, more = self.index.page(after, 2, now=self.now)
            assert len(page) <= 2
            seen += [held.peer_id for held in page if not held.record.withdrawn]
            after = page[-1].peer_id if page else after
        assert seen == sorted(self._standing())


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_withdrawn_record_cannot_be_brought_back_by_replaying_it() -> None:
    index = CapacityIndex()
    old = signed("a", seq=1, issued_at=1000, ttl_s=MAX_TTL_S)
    index.add(old, 1000)
    index.add(signed("a", seq=2, issued_at=1001, ttl_s=0, models=[]), 1001)
    for now in range(1001, 1001 + MAX_TTL_S + 200, 50):
        index.sweep(now)
        assert index.add(old, now) is Verdict.STALE
        assert index.providers("chat", now=now) == []


def test_two_records_of_one_sequence_number_are_a_forgery_and_the_first_stands() -> None:
    index = CapacityIndex()
    assert index.add(signed("a", models=["m"]), 1000) is Verdict.NEWS
    assert index.add(signed("a", models=["n"]), 1000) is Verdict.FORGED
    assert index.models(now=1000) == [("chat", "m")]


def test_when_full_the_oldest_goes() -> None:
    index = CapacityIndex(max_records=3)
    for number in range(5):
        index.add(signed(f"p{number}", issued_at=1000 + number), 1004)
    assert [peer for peer, _, _ in index.providers("chat", now=1004)] == ["p2", "p3", "p4"]
    assert len(index) == 3


def test_when_full_what_has_expired_long_ago_goes_first() -> None:
    index = CapacityIndex(max_records=2)
    index.add(signed("old", issued_at=1000, ttl_s=10), 1000)
    index.add(signed("a", issued_at=1700, ttl_s=600), 1700)
    index.add(signed("b", issued_at=1690, ttl_s=600), 1700)
    assert [peer for peer, _, _ in index.providers("chat", now=1700)] == ["a", "b"]


def test_a_popular_model_does_not_crowd_out_the_others() -> None:
    index = CapacityIndex(max_records=100, max_per_model=3)
    index.add(signed("rare", issued_at=990, models=["rare"]), 1000)
    for number in range(20):
        index.add(signed(f"p{number:02}", issued_at=1000 + number, models=["popular", "second"]), 1019)
    assert [peer for peer, _, _ in index.providers("chat", "popular", now=1019)] == ["p17", "p18", "p19"]
    assert [peer for peer, _, _ in index.providers("chat", "rare", now=1019)] == ["rare"]
    assert len(index) == 4


def test_a_newcomer_older_than_all_others_does_not_stay_in_a_full_market() -> None:
    index = CapacityIndex(max_per_model=1)
    index.add(signed("young", issued_at=1000), 1000)
    index.add(signed("old", issued_at=900, ttl_s=600, models=["m", "n"]), 1000)
    assert [peer for peer, _, _ in index.providers("chat", now=1000)] == ["young"]
    assert index.models(now=1000) == [("chat", "m")]


def test_judging_changes_nothing() -> None:
    index = CapacityIndex()
    first = signed("a")
    assert index.judge(first, 1000) is Verdict.NEWS
    assert len(index) == 0
    index.add(first, 1000)
    newer = replace(first, record=replace(first.record, seq=2))
    assert index.judge(newer, 1000) is Verdict.NEWS
    assert index.judge(first, 1000) is Verdict.KNOWN


def test_a_sample_is_of_standing_offers_of_the_model_and_reaches_every_seller() -> None:
    index = CapacityIndex(max_records=100)
    for peer in "abcd":
        index.add(signed(peer, models=["m"] if peer != "d" else ["n"], ttl_s=10 if peer == "c" else 100), 1000)
    rows = index.sample("chat", "m", 64, Random(1), now=1050)
    assert {(peer, offer.model) for peer, _, offer in rows} == {("a", "m"), ("b", "m")}
    assert 20 < len(rows) < 60  # those picked whose record has expired are not replaced
    assert index.sample("chat", "o", 64, Random(1), now=1050) == []
