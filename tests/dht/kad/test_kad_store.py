"""Records, providers, quorums and budgets: the better value wins, and whoever stores too much loses his own."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dht.kad import BadMessage, InvalidRecord, KadError, Snapshot, SqliteStorage, StorageError, StoreRefused, key_of
from dht.kad.answers import Answers, is_multihash, rfc3339
from dht.kad.contacts import Contact, contact_of
from dht.kad.handover import due_to
from dht.kad.keys import peer_bytes, peer_key
from dht.kad.limits import HANDOVER_MARGIN_S, MAX_OWN_RECORDS, MAX_SENT_PROVIDERS, OUTAGE_FAILURES
from dht.kad.messages import Message, MessageType, Record
from dht.kad.providers import ProviderStore
from dht.kad.publications import Publication, Publications
from dht.kad.rates import PeerBudget
from dht.kad.routing import RoutingTable
from dht.kad.session import AnswerTimes
from dht.kad.store import RecordStore
from dht.kad.validators import Validators, namespace_of
from dht.kad.values import ProviderQuorum, ValueQuorum
from transport.identity import Identity

IDS = [Identity(number.to_bytes(32, "big")).peer_id for number in range(400)]
OWN = IDS[0]
OWN_KEY = peer_key(OWN)
NOW = 1_800_000_000.0


class Greatest:
    """Any value but ``bad``; the greatest wins; ``end`` says when it ends."""

    self_certifying = False

    def __init__(self, end: float = float("inf")) -> None:
        self.end = end

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        if value == b"bad":
            raise InvalidRecord("bad")
        return self.end

    def select(self, key: bytes, values: Any) -> int:
        return list(values).index(max(values))


def validators(end: float = float("inf")) -> Validators:
    return Validators({"t": Greatest(end)})


def store(**options: Any) -> RecordStore:
    return RecordStore(OWN, OWN_KEY, options.pop("validators", validators()), **options)


def peer(number: int, ip: str | None = None) -> Contact:
    return contact_of(IDS[number], [f"/ip4/{ip or f'{20 + number // 200}.{number % 200}.1.1'}/tcp/4001"])


# --- validators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        (b"/t/\xff\x00/", "t"),
        (b"/pk/abc", "pk"),
        (b"t/abc", None),
        (b"/t", None),
        (b"/t/", None),
        (b"//x", None),
        (b"/\xc3\xa9/x", None),
        (b"/" + b"a" * 33 + b"/x", None),
        (b"", None),
    ],
)
def test_a_key_has_a_namespace_and_any_bytes_behind_it(key: bytes, namespace: str | None) -> None:
    assert namespace_of(key) == namespace


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"/u/x", b""), (b"x", b""), (b"/t/" + bytes(200), b""), (b"/t/x", bytes(9000)), (b"/t/x", b"bad")],
)
def test_what_no_validator_vouches_for_is_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(InvalidRecord):
        store().put(key, value, IDS[1], NOW)


def test_a_validator_that_stumbles_over_a_strangers_bytes_refuses_them() -> None:
    class Faulty(Greatest):
        def validate(self, key: bytes, value: bytes, now: float) -> float:
            return float(value[7])

    with pytest.raises(InvalidRecord, match="IndexError"):
        store(validators=Validators({"t": Faulty()})).put(b"/t/k", b"", IDS[1], NOW)


# --- records --------------------------------------------------------------------------------------------------------


def test_the_better_value_wins_and_the_worse_one_is_answered_with_it() -> None:
    records = store()
    records.put(b"/t/k", b"2", IDS[1], NOW)
    assert records.put(b"/t/k", b"1", IDS[2], NOW).value == b"2"
    assert records.put(b"/t/k", b"3", IDS[2], NOW).sender == IDS[2]
    held = records.get(b"/t/k", NOW)
    assert held is not None
    assert held.value == b"3"


def test_an_equal_value_renews_the_record_and_stays_its_first_senders() -> None:
    records = store(ttl_s=100)
    records.put(b"/t/k", b"1", IDS[1], NOW)
    again = records.put(b"/t/k", b"1", IDS[2], NOW + 50)
    assert (again.sender, again.received_at, again.expires_at) == (IDS[1], NOW + 50, NOW + 150)


def test_a_record_ends_with_its_validator_or_the_ttl_whichever_is_first() -> None:
    for end, ttl, expected in ((NOW + 10, 100, 10), (NOW + 1000, 100, 100)):
        records = store(validators=validators(end), ttl_s=ttl)
        records.put(b"/t/k", b"1", IDS[1], NOW)
        assert records.get(b"/t/k", NOW + expected - 1)
        assert records.get(b"/t/k", NOW + expected) is None
        assert records.expire(NOW + expected) == 1
        assert (len(records), records.size) == (0, 0)
    with pytest.raises(InvalidRecord, match="expired"):
        store(validators=validators(NOW)).put(b"/t/k", b"1", IDS[1], NOW)


def test_a_flood_costs_the_flooder_its_own_records_and_nobody_else_his() -> None:
    records = store(max_records_per_sender=10, max_records=100)
    for number in range(20):
        records.put(b"/t/honest%d" % number, b"x", IDS[1 + number % 4], NOW)
    refused = 0
    for number in range(500):
        try:
            records.put(b"/t/flood%d" % number, b"x", IDS[9], NOW)
        except StoreRefused:
            refused += 1
    kept = [record for record in records if record.sender == IDS[9]]
    assert len(kept) == 10
    assert refused > 300
    assert all(records.get(b"/t/honest%d" % number, NOW) for number in range(20))
    flood = sorted(key_of(b"/t/flood%d" % number) ^ OWN_KEY for number in range(500))
    assert sorted(record.point ^ OWN_KEY for record in kept) == flood[:10]  # those that we are most needed for


def test_bytes_are_bounded_as_well_as_numbers() -> None:
    records = store(max_bytes_per_sender=1000)
    for number in range(50):
        try:
            records.put(b"/t/%03d" % number, bytes(94), IDS[1], NOW)
        except StoreRefused:
            continue
    assert records.size == 1000


def test_a_full_store_takes_from_whoever_has_most() -> None:
    records = store(max_records=50, max_records_per_sender=40)
    for number in range(40):
        records.put(b"/t/big%d" % number, b"x", IDS[1], NOW)
    for number in range(20):
        records.put(b"/t/small%d" % number, b"x", IDS[2], NOW)
    assert len(records) == 50
    assert sum(record.sender == IDS[2] for record in records) == 20


def test_our_own_records_are_never_taken_for_a_stranger() -> None:
    records = store(max_records=10, max_records_per_sender=5)
    for number in range(10):
        records.put(b"/t/own%d" % number, b"x", OWN, NOW)
    with pytest.raises(StoreRefused):
        records.put(b"/t/other", b"x", IDS[1], NOW)
    assert sum(record.sender == OWN for record in records) == 10


def test_an_update_that_finds_no_room_leaves_the_older_value() -> None:
    records = store(max_bytes_per_sender=100)
    records.put(b"/t/k", b"1", IDS[1], NOW)
    with pytest.raises(StoreRefused):
        records.put(b"/t/k", b"2" * 200, IDS[2], NOW)
    held = records.get(b"/t/k", NOW)
    assert held is not None
    assert held.value == b"1"


def test_what_others_have_not_stored_for_long_is_due_for_republishing() -> None:
    records = store()
    for number in range(3):
        records.put(b"/t/%d" % number, b"x", IDS[1], NOW + number)
    records.put(b"/t/own", b"x", OWN, NOW)
    assert [r.key for r in records.to_republish(NOW + 101, 100, 8)] == [b"/t/0", b"/t/1"]
    records.put(b"/t/0", b"x", IDS[2], NOW + 50)  # somebody else did it
    assert [r.key for r in records.to_republish(NOW + 101, 100, 8)] == [b"/t/1"]


class StoreMachine(RuleBasedStateMachine):
    """Whatever comes, the sums are right and the bounds hold."""

    def __init__(self) -> None:
        super().__init__()
        self.records = store(max_records=12, max_bytes=160, max_records_per_sender=6, max_bytes_per_sender=80, ttl_s=50)
        self.now = NOW

    @rule(key=st.integers(0, 20), value=st.binary(max_size=40), sender=st.integers(1, 4))
    def put(self, key: int, value: bytes, sender: int) -> None:
        before = self.records.get(b"/t/%d" % key, self.now)
        try:
            held = self.records.put(b"/t/%d" % key, value, IDS[sender], self.now)
        except (StoreRefused, InvalidRecord):
            return
        assert held.value == max(value, before.value if before else value)

    @rule(seconds=st.integers(0, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.records.expire(self.now)

    @invariant()
    def holds(self) -> None:
        everything = list(self.records)
        assert len(everything) <= 12
        assert self.records.size == sum(record.size for record in everything) <= 160
        for sender in IDS[1:5]:
            mine = [record for record in everything if record.sender == sender]
            assert len(mine) <= 6
            assert sum(record.size for record in mine) <= 80


TestStore = StoreMachine.TestCase


# --- providers ------------------------------------------------------------------------------------------------------


def test_a_provider_stands_until_its_time_is_over_and_is_renewed_by_itself() -> None:
    providers = ProviderStore(ttl_s=100)
    providers.add(b"k", peer(1), NOW)
    providers.add(b"k", peer(2), NOW + 50)
    providers.add(b"k", peer(1), NOW + 60)
    assert providers.get(b"k", NOW + 140, 10, random.Random(1)) == [peer(2), peer(1)]
    assert providers.get(b"k", NOW + 155, 10, random.Random(1)) == [peer(1)]
    assert providers.expire(NOW + 155) == 1
    assert len(providers) == 1


def test_many_providers_take_turns_in_being_named() -> None:
    providers = ProviderStore()
    for number in range(1, 300):
        providers.add(b"k", peer(number), NOW)
    rng = random.Random(1)
    seen = {p.peer_id for _ in range(60) for p in providers.get(b"k", NOW, MAX_SENT_PROVIDERS, rng)}
    assert len(seen) == 299


def test_a_flood_of_providers_from_one_network_displaces_itself() -> None:
    providers = ProviderStore(max_per_key=50)
    for number in range(1, 41):
        providers.add(b"k", peer(number), NOW)
    for number in range(100, 399):
        providers.add(b"k", peer(number, ip=f"9.9.9.{number % 250 + 1}"), NOW)
    left = providers.get(b"k", NOW, 100, random.Random(1))
    assert len(left) == 50
    assert {p.peer_id for p in left} >= set(IDS[1:41])


def test_one_provider_of_everything_loses_its_own_oldest() -> None:
    providers = ProviderStore(max_per_sender=10, max_records=100, max_keys=50)
    providers.add(b"honest", peer(2), NOW)
    for number in range(200):
        providers.add(b"%d" % number, peer(1), NOW)
    assert len(providers) == 11
    assert providers.get(b"honest", NOW, 10, random.Random(1)) == [peer(2)]
    for number in range(200):
        providers.add(b"x%d" % number, peer(3 + number % 100), NOW)
    assert len(providers._keys) == 50


# --- quorums --------------------------------------------------------------------------------------------------------


def test_the_best_value_wins_and_holders_of_worse_ones_are_named() -> None:
    values = ValueQuorum(b"/t/k", validators(), quorum=3, paths=3)
    values.add(peer(1), 0, b"1", NOW)
    values.add(peer(2), 0, b"3", NOW)
    values.add(peer(3), 1, b"2", NOW)
    values.add(peer(4), 2, b"3", NOW)
    assert values.best == b"3"
    assert values.stale() == [peer(1), peer(3)]
    assert values.enough
    with pytest.raises(InvalidRecord):
        values.add(peer(5), 2, b"bad", NOW)
    assert values.count == 4


def test_replays_on_one_path_are_not_enough() -> None:
    values = ValueQuorum(b"/t/k", validators(), quorum=3, paths=3)
    for number in range(10):
        values.add(peer(number + 1), 1, b"old", NOW)
        assert not values.enough
    values.add(peer(20), 2, b"old1", NOW)
    assert values.enough
    assert values.best == b"old1"
    single = ValueQuorum(b"/t/k", validators(), quorum=1, paths=3)
    single.add(peer(1), 0, b"x", NOW)
    assert single.enough


@given(st.permutations([(1, b"1"), (2, b"2"), (3, b"2"), (4, b"0"), (5, b"3")]))
def test_the_order_of_answers_does_not_matter(answers: list[tuple[int, bytes]]) -> None:
    values = ValueQuorum(b"/t/k", validators(), quorum=9, paths=3)
    for number, value in answers:
        values.add(peer(number), 0, value, NOW)
    assert values.best == b"3"
    assert {p.peer_id for p in values.stale()} == {IDS[n] for n in (1, 2, 3, 4)}


def test_a_path_full_of_invented_providers_gets_its_share_and_no_more() -> None:
    found = ProviderQuorum([], limit=10, paths=3)
    found.add(0, [peer(number) for number in range(100, 200)])
    assert not found.enough
    found.add(1, [peer(1), peer(2), contact_of(IDS[3], [])])
    assert not found.enough
    found.add(2, [peer(2, ip="7.7.7.7"), peer(4)])
    assert found.enough
    result = found.result()
    assert len(result) == 10
    assert {IDS[1], IDS[2], IDS[4]} <= {p.peer_id for p in result}
    assert len(next(p for p in result if p.peer_id == IDS[2]).addrs) == 2


# --- answers --------------------------------------------------------------------------------------------------------


def answers(table: RoutingTable | None = None, providers: ProviderStore | None = None) -> Answers:
    known = table or RoutingTable(OWN)
    own = contact_of(OWN, ["/ip4/9.9.9.9/tcp/1"])
    return Answers(known, store(), providers or ProviderStore(), lambda: own, random.Random(1), 20)


def full_table() -> RoutingTable:
    table = RoutingTable(OWN)
    for number in range(1, 200):
        table.answered(peer(number), 0.0)
    return table


def test_find_node_names_the_k_nearest_but_not_the_asker() -> None:
    table = full_table()
    target = peer_bytes(IDS[5])
    reply = answers(table).answer(IDS[7], Message(MessageType.FIND_NODE, target), NOW)
    assert reply is not None
    assert list(reply.closer) == table.closest(key_of(target), 20, exclude=IDS[7])
    assert reply.closer[0].peer_id == IDS[5]
    mine = answers(table).answer(IDS[7], Message(MessageType.FIND_NODE, peer_bytes(IDS[7])), NOW)
    assert mine is not None
    assert IDS[7] not in [p.peer_id for p in mine.closer]


def test_a_node_asked_for_itself_names_itself_alone() -> None:
    reply = answers(full_table()).answer(IDS[1], Message(MessageType.FIND_NODE, peer_bytes(OWN)), NOW)
    assert reply is not None
    assert [(p.peer_id, p.texts()) for p in reply.closer] == [(OWN, (f"/ip4/9.9.9.9/tcp/1/p2p/{OWN}",))]


def test_put_value_echoes_the_record_and_a_stale_one_is_answered_with_the_newer() -> None:
    server = answers(full_table())

    def put(value: bytes) -> Message | None:
        request = Message(MessageType.PUT_VALUE, b"/t/k", Record(b"/t/k", value))
        return server.answer(IDS[1], request, NOW)

    for sent, held in ((b"2", b"2"), (b"2", b"2"), (b"1", b"2"), (b"3", b"3")):
        reply = put(sent)
        assert reply is not None
        assert reply.record == Record(b"/t/k", held, "2027-01-15T08:00:00.000Z")
    got = server.answer(IDS[2], Message(MessageType.GET_VALUE, b"/t/k"), NOW)
    assert got is not None
    assert got.record == Record(b"/t/k", b"3", "2027-01-15T08:00:00.000Z")
    assert len(got.closer) == 20


@pytest.mark.parametrize(
    "request_",
    [
        Message(MessageType.FIND_NODE),
        Message(MessageType.GET_VALUE),
        Message(MessageType.GET_PROVIDERS),
        Message(MessageType.PUT_VALUE, b"/t/k"),
        Message(MessageType.PUT_VALUE, b"/t/k", Record(b"/t/other", b"1")),
        Message(MessageType.ADD_PROVIDER, b"no multihash", providers=(peer(1),)),
    ],
)
def test_requests_that_no_honest_node_sends_are_named_so(request_: Message) -> None:
    with pytest.raises(BadMessage):
        answers().answer(IDS[1], request_, NOW)


KEY = b"\x12\x20" + sha256(b"model").digest()


def test_a_provider_speaks_for_itself_alone() -> None:
    server = answers(full_table())
    request = Message(MessageType.ADD_PROVIDER, KEY, providers=(peer(2), peer(1), contact_of(IDS[1], [])))
    assert server.answer(IDS[1], request, NOW) is None
    reply = server.answer(IDS[9], Message(MessageType.GET_PROVIDERS, KEY), NOW)
    assert reply is not None
    assert reply.providers == (peer(1),)
    assert len(reply.closer) == 20


def test_a_ping_is_answered() -> None:
    assert answers().answer(IDS[1], Message(MessageType.PING), NOW) == Message(MessageType.PING)


def test_times_are_written_as_rfc_3339_whatever_the_clock_says() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_800_000_000.25) == "2027-01-15T08:00:00.250Z"
    assert rfc3339(float("inf")).startswith("9999-12-31")
    assert rfc3339(-5) == rfc3339(0)


@pytest.mark.parametrize("key", [b"", b"\x12", b"\x12\x20abc", b"\x12\x20" + bytes(33), b"\x80\x01a"])
def test_a_multihash_says_its_own_length(key: bytes) -> None:
    assert not is_multihash(key)
    assert is_multihash(KEY)


# --- hand-over, budgets, times, publications ------------------------------------------------------------------------


def test_a_newcomer_gets_the_records_that_it_is_near_to_from_the_two_nearest_holders() -> None:
    everybody = [peer(number) for number in range(100)]
    newcomer = everybody[50]
    givers: dict[bytes, int] = {}
    wrongly = 0
    for me in everybody:
        if me is newcomer:
            continue
        table = RoutingTable(me.peer_id)
        for other in everybody:
            table.answered(other, 0.0)
        mine = RecordStore(me.peer_id, me.key, validators())
        for number in range(40):
            key = b"/t/%d" % number
            old = [p for p in everybody if p is not newcomer]
            if me in sorted(old, key=lambda p, k=key: p.key ^ key_of(k))[:20]:
                mine.put(key, b"x", IDS[1], NOW)
        for record, to in due_to(mine, table, {newcomer.peer_id: NOW}, 20):
            assert to is newcomer
            givers[record.key] = givers.get(record.key, 0) + 1
            nearest = sorted(everybody, key=lambda p, r=record: p.key ^ r.point)[:20]
            wrongly += newcomer not in nearest
    keys = [b"/t/%d" % number for number in range(40)]
    due = {key for key in keys if newcomer in sorted(everybody, key=lambda p, k=key: p.key ^ key_of(k))[:20]}
    assert set(givers) == due
    assert set(givers.values()) == {2}
    assert wrongly == 0


def test_what_was_stored_when_a_newcomer_was_long_known_is_not_handed_to_it() -> None:
    everybody = [peer(number) for number in range(30)]
    me, newcomer = everybody[:2]
    table = RoutingTable(me.peer_id)
    for other in everybody[1:]:
        table.answered(other, 0.0)
    mine = RecordStore(me.peer_id, me.key, validators())
    for number in range(200):
        mine.put(b"/t/%d" % number, b"x", IDS[1], NOW)
    handed = {
        known_s: len(list(due_to(mine, table, {newcomer.peer_id: NOW - known_s}, 20)))
        for known_s in (0.0, HANDOVER_MARGIN_S, HANDOVER_MARGIN_S + 0.1)
    }
    assert handed[0.0] == handed[HANDOVER_MARGIN_S] > 0
    assert handed[HANDOVER_MARGIN_S + 0.1] == 0


def test_a_budget_refills_and_says_how_long_to_wait() -> None:
    budget = PeerBudget(burst=3, per_s=2)
    assert [budget.charge("a", 0.0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert budget.charge("b", 0.0) == 0
    assert budget.charge("a", 100.0) == 0
    small = PeerBudget(1, 1, max_peers=10)
    for number in range(100):
        small.charge(str(number), 0.0)
    assert len(small) == 10


def test_timeouts_follow_the_answers_and_fall_back_when_none_come() -> None:
    times = AnswerTimes()
    assert times.timeout_s == 5.0
    for _ in range(50):
        times.answered(0.1)
    assert times.timeout_s == 1.0
    for took in (1.0, 3.0) * 10:
        times.answered(took)
    assert 4.0 < times.timeout_s <= 10.0
    for _ in range(50):
        times.answered(0.1)
    for _ in range(OUTAGE_FAILURES):
        times.missed()
    assert times.timeout_s == 5.0


def test_publications_come_due_and_are_replaced_by_key() -> None:
    ours = Publications()
    ours.add(Publication(b"k", b"1"), 10.0)
    ours.add(Publication(b"k", b"2"), 12.0)
    ours.add(Publication(b"k", None), 5.0)
    assert ours.due(11.0, 9) == [Publication(b"k", None)]
    assert ours.due(12.0, 9) == [Publication(b"k", None), Publication(b"k", b"2")]
    ours.done(Publication(b"k", None), 50.0)
    ours.done(Publication(b"k", b"1"), 50.0)  # replaced meanwhile
    assert ours.due(12.0, 9) == [Publication(b"k", b"2")]
    ours.withdraw_record(b"k")
    ours.withdraw_provided(b"k")
    assert len(ours) == 0
    for number in range(MAX_OWN_RECORDS):
        ours.add(Publication(b"%d" % number, b""), 0.0)
    with pytest.raises(KadError, match="withdraw some"):
        ours.add(Publication(b"one more", b""), 0.0)
    ours.add(Publication(b"1", b"new"), 0.0)


# --- storage --------------------------------------------------------------------------------------------------------


def test_a_snapshot_survives_and_is_replaced_whole(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "kad.db")
    assert storage.load() == Snapshot()
    first = Snapshot(tuple(peer(n) for n in range(1, 50)), (Publication(b"\xff", b"v"), Publication(KEY, None)))
    storage.save(first)
    assert SqliteStorage(tmp_path / "kad.db").load() == first
    storage.save(Snapshot((peer(1),)))
    assert storage.load() == Snapshot((peer(1),))


def test_a_save_that_fails_leaves_the_last_snapshot(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "kad.db")
    storage.save(Snapshot((peer(1),)))
    broken: Any = Snapshot((peer(2), peer(3)), (Publication(b"k", b"v"), Publication(None, b"v")))  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        storage.save(broken)
    assert storage.load() == Snapshot((peer(1),))


def test_damage_is_an_error_that_says_what_to_do_and_a_bad_row_is_left_out(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    path = tmp_path / "kad.db"
    SqliteStorage(path).save(Snapshot((peer(1), peer(2))))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE peers SET peer = x'0001' WHERE place = 0")
        connection.commit()
    assert SqliteStorage(path).load() == Snapshot((peer(2),))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="version 9"):
        SqliteStorage(path).load()
    (tmp_path / "bad.db").write_bytes(b"no database " * 100)
    with pytest.raises(StorageError, match="move it away"):
        SqliteStorage(tmp_path / "bad.db").load()
