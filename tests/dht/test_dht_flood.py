"""Index flooding: what an attacker with as many identities as he likes displaces, and what he does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock

from dht import CapacityIndex, CapacityRecord, Directory, Offer, SignedRecord, Source, Verdict, sign_record
from dht.limits import GOSSIP_BURST, GOSSIP_PER_S, MAX_DEALT_WITH, MAX_RECORDS, NEWCOMERS_SHARE, SETTLED_AFTER_S
from dht.pool import Pool, Standing
from transport.host import GossipMessage
from transport.identity import Identity, PeerId

TOPIC = "/cocoon/main/capacity/1"


def record(peer: str, at: int, model: str = "m") -> SignedRecord:
    """As if verified; the index looks at no signature."""
    said = CapacityRecord("main", offers=(Offer("chat", model, "plain", {"prompt": 1}),), issued_at=at, seq=at)
    return SignedRecord(PeerId(peer), said, f"{peer} {at} {model}".encode())


def known(index: CapacityIndex, at: int, prefix: str) -> int:
    return sum(peer.startswith(prefix) for peer, _, _ in index.providers("chat", now=at))


def renew(index: CapacityIndex, peers: list[str], start: int, end: int) -> None:
    """Honest providers at work: each renews its record every 40 s."""
    for at in range(start, end, 40):
        for peer in peers:
            index.add(record(peer, at), at)


def test_a_flood_of_new_identities_displaces_newcomers_and_no_settled_provider() -> None:
    index = CapacityIndex(max_records=1000, max_per_model=1000)
    renew(index, [f"old{number}" for number in range(400)], 0, 400)
    for number in range(20_000):
        index.add(record(f"fake{number}", 400), 400)
    assert known(index, 400, "old") == 400
    assert known(index, 400, "fake") == 600
    assert len(index) == 1000


def test_where_settled_providers_fill_the_index_a_flood_gets_half_and_no_more() -> None:
    index = CapacityIndex(max_records=1000, max_per_model=1000)
    renew(index, [f"old{number}" for number in range(1000)], 0, 400)
    for number in range(20_000):
        index.add(record(f"fake{number}", 400), 400)
    assert known(index, 400, "old") == 500
    assert known(index, 400, "fake") == 500


def test_a_flood_in_one_market_displaces_nobody_in_another() -> None:
    index = CapacityIndex(max_records=1000, max_per_model=200)
    for number in range(50):
        index.add(record(f"rare{number}", 0, "rare"), 0)
    for number in range(5_000):
        index.add(record(f"fake{number}", 0, "popular"), 0)
    assert known(index, 0, "rare") == 50
    assert known(index, 0, "fake") == 200


def test_a_patient_attacker_whose_identities_all_settled_still_displaces_nobody_dealt_with() -> None:
    index = CapacityIndex(max_records=300, max_per_model=300)
    for number in range(20):
        index.deal_with(PeerId(f"used{number}"))
    renew(index, [f"used{number}" for number in range(20)], 0, 40)
    renew(index, [f"fake{number}" for number in range(1000)], 40, 400)
    assert {peer for peer, _, _ in index.providers("chat", now=110) if peer.startswith("used")} == {
        f"used{number}" for number in range(20)
    }
    assert len(index) == 300


def test_who_is_dealt_with_is_kept_from_the_first_deal_on_even_in_a_flood() -> None:
    index = CapacityIndex(max_records=100, max_per_model=100)
    index.add(record("good", 0), 0)
    index.deal_with(PeerId("good"))
    for number in range(1000):
        index.add(record(f"fake{number}", 60), 60)
    assert index.get(PeerId("good"), 60) is not None
    assert index.add(record("good", 61), 61) is Verdict.NEWS


def test_as_many_as_are_remembered_are_kept_and_the_longest_unused_is_forgotten() -> None:
    index = CapacityIndex(max_records=MAX_DEALT_WITH + 10, max_per_model=MAX_RECORDS)
    for number in range(MAX_DEALT_WITH + 1):
        index.add(record(f"used{number:04}", 0), 0)
        index.deal_with(PeerId(f"used{number:04}"))
    for number in range(100):
        index.add(record(f"fake{number}", 1), 1)
    assert index.get(PeerId("used0000"), 1) is None
    assert known(index, 1, "used") == MAX_DEALT_WITH


def test_our_own_record_is_never_displaced_and_where_a_record_came_from_is_known() -> None:
    index = CapacityIndex(max_records=10, max_per_model=10)
    index.add(record("me", 0), 0, Source.OWN)
    for number in range(100):
        index.add(record(f"fake{number}", 1), 1, Source.NEIGHBOUR)
    heard = index.heard(PeerId("me"))
    assert heard is not None
    assert heard.source is Source.OWN
    assert index.heard(PeerId("fake99")).source is Source.NEIGHBOUR  # type: ignore[union-attr]


def test_what_one_honest_neighbour_of_eight_tells_stays_known_while_the_others_flood() -> None:
    index = CapacityIndex(max_records=4000, max_per_model=800)
    for number in range(60):
        index.add(record(f"good{number}", 0), 0, Source.NEIGHBOUR, PeerId("honest"))
    for number in range(14_000):
        index.add(record(f"fake{number}", 1), 1, Source.NEIGHBOUR, PeerId(f"attacker{number % 7}"))
    assert known(index, 1, "good") == 60
    assert known(index, 1, "fake") == 740


def test_a_flood_by_gossip_leaves_what_neighbours_told_and_searches_found() -> None:
    index = CapacityIndex(max_records=4000, max_per_model=300)
    for number in range(60):
        index.add(record(f"told{number}", 0), 0, Source.NEIGHBOUR, PeerId("honest"))
        index.add(record(f"found{number}", 0), 0, Source.PROVIDER)
    for number in range(5_000):
        index.add(record(f"fake{number}", 1), 1, Source.GOSSIP)
    assert (known(index, 1, "told"), known(index, 1, "found"), known(index, 1, "fake")) == (60, 60, 180)


def test_settling_takes_renewals_over_time_and_a_gap_begins_anew() -> None:
    index = CapacityIndex()
    index.add(record("a", 0), 0)
    assert index.add(record("a", int(SETTLED_AFTER_S)), SETTLED_AFTER_S) is Verdict.NEWS
    assert index._all.standing(PeerId("a")) is Standing.SETTLED
    index.sweep(5000)
    index.add(record("a", 5000), 5000)
    assert index._all.standing(PeerId("a")) is Standing.NEWCOMER


# --- the pool, against a naive one ------------------------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Random use; the model picks who goes by brute force."""

    LIMIT = 6

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(self.LIMIT)
        self.model: dict[PeerId, tuple[Standing, int, str]] = {}

    @rule(
        peer=st.sampled_from([PeerId(name) for name in "abcdefghijkl"]),
        standing=st.sampled_from(Standing),
        at=st.integers(0, 5),
        teller=st.sampled_from("xyz"),
    )
    def put(self, peer: PeerId, standing: Standing, at: int, teller: str) -> None:
        self.pool.put(peer, standing, at, teller)
        self.model[peer] = (standing, at, teller)
        while (surplus := self.pool.surplus()) is not None:
            assert surplus == self._expected()
            self.pool.drop(surplus)
            del self.model[surplus]

    @rule(peer=st.sampled_from([PeerId(name) for name in "abcdefghijkl"]))
    def drop(self, peer: PeerId) -> None:
        self.pool.drop(peer)
        self.model.pop(peer, None)

    def _expected(self) -> PeerId:
        newcomers, settled, dealt = (
            [p for p, (rank, _, _) in self.model.items() if rank is standing] for standing in Standing
        )
        half = int(self.LIMIT * NEWCOMERS_SHARE)
        newcomers_go = len(newcomers) > half or len(settled) + len(dealt) <= half
        order = [newcomers, settled, dealt] if newcomers_go else [settled, newcomers, dealt]
        group = next(group for group in order if group)
        if group is newcomers:
            told = Counter(self.model[peer][2] for peer in newcomers)
            most = max(told, key=lambda teller: (told[teller], teller))
            group = [peer for peer in newcomers if self.model[peer][2] == most]
        return min(group, key=lambda peer: (self.model[peer][1], peer))

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert sorted(self.pool) == sorted(self.model)
        assert len(self.pool) == len(self.model) <= self.LIMIT
        assert all(peer in self.pool for peer in self.model)
        assert all(self.pool.standing(peer) is held[0] for peer, held in self.model.items())
        assert sum(queue.count for queue in self.pool._queues.values()) == len(self.model)
        assert all(len(queue.heap or ()) <= 2 * queue.count + 17 for queue in self.pool._queues.values())


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- gossip -----------------------------------------------------------------------------------------------------------


async def test_a_flood_of_one_origin_is_ignored_after_its_burst_and_others_are_heard(
    net: Any, autojump_clock: MockClock
) -> None:
    host = net.host(1)
    flooder, honest = Identity(b"f" * 32), Identity(b"h" * 32)
    offers = (Offer("chat", "m", "plain", {"prompt": 1}),)
    async with Directory(host, host.identity, "main", clock=net.wall) as directory:

        def gossip(who: Identity, seq: int) -> bool | None:
            said = CapacityRecord("main", offers=offers, seq=seq, issued_at=int(net.wall()))
            return host.validators[TOPIC](GossipMessage(TOPIC, who.peer_id, sign_record(who, said).envelope))

        verdicts = [gossip(flooder, seq) for seq in range(100)]
        assert verdicts == [True] * GOSSIP_BURST + [None] * (100 - GOSSIP_BURST)
        assert gossip(honest, 1) is True
        assert directory.index.heard(flooder.peer_id).signed.record.seq == GOSSIP_BURST - 1  # type: ignore[union-attr]
        autojump_clock.jump(2 / GOSSIP_PER_S)
        assert [gossip(flooder, seq) for seq in range(100, 104)] == [True, True, None, None]


async def test_what_is_too_big_is_rejected_flood_or_not_and_small_garbage_until_the_allowance_is_used(
    net: Any, autojump_clock: MockClock
) -> None:
    host = net.host(1)
    flooder = Identity(b"f" * 32)
    async with Directory(host, host.identity, "main", clock=net.wall):
        validate = host.validators[TOPIC]
        assert {validate(GossipMessage(TOPIC, Identity(b"b" * 32).peer_id, bytes(2000))) for _ in range(50)} == {False}
        verdicts = [validate(GossipMessage(TOPIC, flooder.peer_id, b"\xff" * 20)) for _ in range(50)]
        assert verdicts == [False] * GOSSIP_BURST + [None] * (50 - GOSSIP_BURST)
