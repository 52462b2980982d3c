"""The routing table: nearest first, old peers stay, the dead leave, no network fills it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dht.kad.config import Diversity
from dht.kad.contacts import Contact, contact_of
from dht.kad.keys import common_bits, key_of, peer_key, random_key_in_bucket
from dht.kad.limits import MAX_FAILURES, MAX_REPLACEMENTS
from dht.kad.routing import RoutingTable
from transport.identity import Identity, PeerId


def peer_id(number: int) -> PeerId:
    return Identity(number.to_bytes(32, "big")).peer_id


OWN = peer_id(10**6)
IDS = [peer_id(number) for number in range(400)]


def peer(number: int, ip: str | None = None) -> Contact:
    return contact_of(IDS[number], [f"/ip4/{ip or f'{20 + number // 200}.{number % 200}.1.1'}/tcp/4001"])


def in_bucket(index: int) -> list[int]:
    return [n for n in range(len(IDS)) if common_bits(peer_key(IDS[n]), peer_key(OWN)) == index]


@given(st.sets(st.integers(0, 399), max_size=120), st.integers(0, 2**256 - 1), st.integers(1, 30), st.integers(0, 399))
def test_closest_is_what_sorting_everybody_would_give(known: set[int], key: int, n: int, excluded: int) -> None:
    table = RoutingTable(OWN)
    for number in sorted(known):
        table.answered(peer(number), 0.0)
    truth = sorted((p for p in table if p.peer_id != IDS[excluded]), key=lambda p: p.key ^ key)
    assert table.closest(key, n, exclude=IDS[excluded]) == truth[:n]


def test_closest_to_our_own_key_is_right_too() -> None:
    table = RoutingTable(OWN)
    for number in range(100):
        table.answered(peer(number), 0.0)
    assert table.closest(table.own_key, 5) == sorted(table, key=lambda p: p.key ^ table.own_key)[:5]


def test_a_full_bucket_keeps_its_old_peers_and_remembers_the_newcomer() -> None:
    table = RoutingTable(OWN, k=3)
    numbers = in_bucket(0)[:10]
    for number in numbers:
        table.answered(peer(number), float(number))
    assert [p.peer_id for p in table] == [IDS[n] for n in numbers[:3]]
    assert not table.wants(peer(numbers[4]))
    assert table.take_replacement(peer(numbers[0]).key) is None  # the bucket is full
    assert table.failed(IDS[numbers[0]])  # a replacement waits: the first failure is enough
    assert table.take_replacement(peer(numbers[0]).key) == peer(numbers[-1])  # the newest


def test_without_a_replacement_a_peer_leaves_at_its_second_failure_and_is_not_told_meanwhile() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), 0.0)
    assert not table.failed(IDS[1])
    assert table.closest(0, 20) == []
    table.answered(peer(1), 1.0)  # it was there after all
    assert table.closest(0, 20) == [peer(1)]
    assert [table.failed(IDS[1]) for _ in range(MAX_FAILURES)] == [False, True]
    assert IDS[1] not in table
    assert not table.failed(IDS[1])


def test_a_newcomer_takes_the_place_of_a_peer_that_failed() -> None:
    table = RoutingTable(OWN, k=2)
    first, second, third = in_bucket(0)[:3]
    table.answered(peer(first), 0.0)
    table.answered(peer(second), 0.0)
    table.failed(IDS[second])
    assert table.wants(peer(third))
    assert table.answered(peer(third), 1.0)
    assert [p.peer_id for p in table] == [IDS[first], IDS[third]]


def test_replacements_are_bounded_and_unverified_peers_never_enter_by_themselves() -> None:
    table = RoutingTable(OWN, k=1)
    numbers = in_bucket(0)
    table.answered(peer(numbers[0]), 0.0)
    for number in numbers[1:50]:
        table.remember(peer(number))
    assert len(table) == 1
    table.remove(IDS[numbers[0]])
    taken = []
    while (replacement := table.take_replacement(peer(numbers[0]).key)) is not None:
        taken.append(replacement)
    assert len(taken) == MAX_REPLACEMENTS
    assert len(table) == 0


def test_one_slash_24_has_two_places_in_a_bucket_and_five_in_the_table() -> None:
    table = RoutingTable(OWN)
    flood = [peer(number, ip=f"9.9.9.{number % 250 + 1}") for number in range(300)]
    for sybil in flood:
        table.answered(sybil, 0.0)
    assert len(table) == Diversity().table_narrow == 5
    assert max(table.bucket_sizes()) == Diversity().bucket_narrow == 2
    honest = [peer(number) for number in range(300, 340)]
    for other in honest:
        assert table.answered(other, 0.0) or not table.wants(other)
    assert len(table) > 30


def test_one_slash_16_has_twenty_places_in_the_table() -> None:
    table = RoutingTable(OWN)
    for number in range(300):
        table.answered(peer(number, ip=f"9.9.{number % 250}.1"), 0.0)
    assert len(table) == Diversity().table_wide == 20


def test_what_is_seen_of_a_connection_counts_more_than_what_is_claimed() -> None:
    table = RoutingTable(OWN)
    for number in range(300):  # claims addresses all over the world, connects from one machine
        table.answered(peer(number), 0.0, seen=(b"4\x09\x09\x09", b"4\x09\x09"))
    assert len(table) == Diversity().table_narrow


def test_outsiders_are_of_other_slash_16s_one_of_each_where_the_near_ones_are_of_few() -> None:
    table = RoutingTable(OWN)
    crowd = [peer(number, ip=f"9.{number % 3}.{number}.1") for number in range(60)]
    others = [peer(number, ip=f"{100 + number % 4}.7.{number % 200}.1") for number in range(300, 340)]
    for each in [*others, *crowd]:
        table.answered(each, 0.0)
    near = [each for each in crowd if each.peer_id in table]
    found = table.outsiders(near, 6)
    assert sorted(network for each in found for network in each.networks if len(network) == 3) == [
        bytes([ord("4"), 100 + number, 7]) for number in range(4)
    ]
    assert len(table.outsiders(near, 2)) == 2
    for each in found:
        table.failed(each.peer_id)
    assert not set(found) & set(table.outsiders(near, 6))


def test_peers_of_many_networks_or_of_none_that_counts_need_no_outsiders() -> None:
    table = RoutingTable(OWN)
    many = [peer(number) for number in range(300)]
    for each in many:
        table.answered(each, 0.0)
    near = table.closest(table.own_key, 20)
    assert len(near) == 20
    assert table.outsiders(near, 6) == []
    assert table.outsiders([], 6) == []
    at_home = RoutingTable(OWN)
    for number in range(40):
        at_home.answered(peer(number, ip="192.168.1.5"), 0.0)
    assert at_home.outsiders(at_home.closest(at_home.own_key, 20), 6) == []


def test_private_addresses_are_not_counted() -> None:
    table = RoutingTable(OWN)
    for number in in_bucket(0)[:20]:
        assert table.answered(peer(number, ip="192.168.1.5"), 0.0)


def test_a_peer_that_moves_into_a_full_network_leaves() -> None:
    table = RoutingTable(OWN)
    numbers = in_bucket(0)[:3]
    for number in numbers[:2]:
        table.answered(peer(number, ip="9.9.9.9"), 0.0)
    table.answered(peer(numbers[2]), 0.0)
    assert not table.answered(peer(numbers[2], ip="9.9.9.1"), 1.0, own_word=True)
    assert IDS[numbers[2]] not in table


def test_only_a_peers_own_word_changes_its_addresses() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), 0.0)
    table.answered(peer(1, ip="6.6.6.6"), 1.0)
    assert table.get(IDS[1]) == peer(1)
    table.answered(peer(1, ip="7.7.7.7"), 2.0, own_word=True)
    assert table.get(IDS[1]) == peer(1, ip="7.7.7.7")


def test_we_never_enter_our_own_table() -> None:
    table = RoutingTable(OWN)
    own = contact_of(OWN, ["/ip4/9.9.9.9/tcp/1"])
    assert not table.wants(own)
    assert not table.answered(own, 0.0)
    table.remember(own)
    assert len(table) == 0


def test_checks_are_due_for_those_who_failed_and_the_longest_silent() -> None:
    table = RoutingTable(OWN)
    for number in range(5):
        table.answered(peer(number), float(number))
    assert table.to_check(10.0, 100.0, 8) == []
    table.failed(IDS[4])
    assert table.to_check(10.0, 100.0, 8) == [peer(4), peer(3)]  # the last one seen, to tell an outage of our own
    assert table.to_check(102.0, 100.0, 3) == [peer(4), peer(0), peer(3)]  # whoever was silent may all be dead
    table.alive(IDS[0], 102.0)
    assert table.to_check(102.0, 100.0, 3) == [peer(4), peer(1), peer(0)]


def test_buckets_up_to_the_kth_neighbour_are_refreshed_once_an_interval() -> None:
    table = RoutingTable(OWN, k=20)
    for number in range(300):
        table.answered(peer(number), 0.0)
    due = table.to_refresh(0.0, 3600.0, 12)
    kth = sorted(common_bits(p.key, table.own_key) for p in table)[-20]
    assert due == list(range(kth + 1))
    for index in due:
        key = random_key_in_bucket(table.own_key, index, random.Random(1))
        assert common_bits(key_of(key), table.own_key) == index
        table.touch(key_of(key), 1.0)
    assert table.to_refresh(3600.0, 3600.0, 12) == []
    assert table.to_refresh(3601.0, 3600.0, 12) == due


def test_a_table_of_fewer_than_k_needs_no_bucket_refresh() -> None:
    table = RoutingTable(OWN)
    for number in range(10):
        table.answered(peer(number), 0.0)
    assert table.to_refresh(1e6, 0.0, 12) == []


class TableMachine(RuleBasedStateMachine):
    """Whatever happens, the bounds hold and the counts are those of the entries."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(OWN, k=4)
        self.now = 0.0

    @rule(
        number=st.integers(0, 60), ip=st.sampled_from(["9.9.9.1", "9.9.8.1", "8.8.8.8", "10.0.0.1"]), own=st.booleans()
    )
    def answered(self, number: int, ip: str, own: bool) -> None:
        self.now += 1
        self.table.answered(peer(number, ip), self.now, own_word=own)

    @rule(number=st.integers(0, 60))
    def failed(self, number: int) -> None:
        left = self.table.failed(IDS[number])
        assert not left or IDS[number] not in self.table

    @rule(number=st.integers(0, 60))
    def remember(self, number: int) -> None:
        self.table.remember(peer(number))

    @rule(number=st.integers(0, 60))
    def remove(self, number: int) -> None:
        self.table.remove(IDS[number])
        assert IDS[number] not in self.table

    @rule(number=st.integers(0, 60))
    def alive(self, number: int) -> None:
        assert self.table.alive(IDS[number], self.now) == (IDS[number] in self.table)

    @invariant()
    def holds(self) -> None:
        counted: dict[bytes, int] = {}
        for bucket in self.table._buckets:
            assert len(bucket) <= 4
            for entry in bucket.values():
                for network in entry.networks:
                    counted[network] = counted.get(network, 0) + 1
        assert all(count <= 20 for count in counted.values())
        assert all(count <= 5 for network, count in counted.items() if len(network) == 4)
        assert len(self.table) == len({p.peer_id for p in self.table})
        assert all(len(waiting) <= MAX_REPLACEMENTS for waiting in self.table._replacements.values())

    @invariant()
    def what_it_remembers_is_what_counting_gives(self) -> None:
        entries = [entry for bucket in self.table._buckets for entry in bucket.values()]
        own, answering = self.table.own_key, [entry.contact for entry in entries if not entry.failures]
        answering.sort(key=lambda contact: contact.key ^ own)
        assert self.table._failing == len(entries) - len(answering)
        assert self.table.closest(own, 4) == answering[:4]
        assert self.table.reach() == (answering[3].key ^ own if len(answering) > 3 else None)


TestTable = TableMachine.TestCase


def test_a_stranger_kind_of_id_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="peer id"):
        contact_of(PeerId("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"), [])
