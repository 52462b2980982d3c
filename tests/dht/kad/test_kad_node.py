"""Whole nodes on a network in memory, under trio's mock clock: what they store they find, and it stays found."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import dht.kad
from dht.kad import InvalidRecord, KadConfig, Kademlia, KadError, LookupReport, SqliteStorage, StoreRefused, key_of
from dht.kad.contacts import contact_of
from dht.kad.keys import peer_key

LONG_AGO = float("-inf")


def multihash(text: str) -> bytes:
    return b"\x12\x20" + sha256(text.encode()).digest()


def holds(node: Any, key: bytes) -> bool:
    return node._records.get(key, LONG_AGO) is not None


def of(node: Any) -> Any:
    return node._host.peer_id


def nearest(nodes: list[Any], key: bytes, n: int) -> list[Any]:
    return sorted(nodes, key=lambda node: peer_key(of(node)) ^ key_of(key))[:n]


async def until(condition: Any, seconds: float = 300) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(1)


# --- values and peers -------------------------------------------------------------------------------------------------


async def test_a_value_is_read_by_nodes_that_do_not_hold_it(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(36)
    key = b"/plain/\xff\x00answer"
    assert await nodes[5].put(key, b"42") == 20
    strangers = [node for node in nodes if not holds(node, key)]
    assert 15 <= len(strangers) <= 16
    for node in strangers:
        assert await node.get(key) == b"42"
        assert await node.get(b"/plain/other") is None


async def test_a_value_that_its_key_certifies_is_taken_from_whoever_has_it_first(
    autojump_clock: MockClock, network: Any
) -> None:
    reports: list[LookupReport] = []
    nodes = await network.nodes(36, on_lookup=reports.append)
    value = b"content"
    key = b"/hash/" + sha256(value).digest()
    await nodes[5].put(key, value)
    for node in nodes:
        reports.clear()
        assert await node.get(key) == value
        asked = [report.requests for report in reports if report.kind.name == "GET_VALUE"]
        assert asked == [] if holds(node, key) else 1 <= asked[0] <= 6  # nine valid values are what others take


async def test_those_that_hold_a_value_are_the_nearest_of_all(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(36)
    for number in range(5):
        key = b"/plain/%d" % number
        await nodes[number].put(key, b"x")
        assert all(holds(node, key) for node in nearest(nodes, key, 19))
        found = [peer.peer_id for peer in await nodes[-1].closest(key)]
        assert found == [of(node) for node in nearest(nodes[:-1], key, 20)]


async def test_a_newer_value_replaces_the_older_and_stale_holders_are_corrected(
    autojump_clock: MockClock, network: Any, signed: Any
) -> None:
    nodes = await network.nodes(30)
    author = network.identity(7777)
    key, old, new = signed.key(author), signed.value(author, 1), signed.value(author, 2)
    await nodes[1].put(key, old, republish=False)
    await nodes[2].put(key, new)
    with pytest.raises(StoreRefused, match="better value"):
        await nodes[2].put(key, old)
    for node in nearest(nodes, key, 4):  # as if they had been away meanwhile
        node._records.remove(key)
        node._records.put(key, old, of(nodes[1]), dht_now())
    reader = nearest(nodes, key, 30)[-1]
    assert await reader.get(key, quorum=20) == new
    await trio.sleep(5)
    assert all(node._records.get(key, dht_now()).value == new for node in nearest(nodes, key, 4))


def dht_now() -> float:
    return 1_800_000_000.0 + trio.current_time()


async def test_providers_are_found_with_their_addresses(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(30)
    key = multihash("model")
    assert await nodes[3].provide(key) == 20
    await nodes[4].provide(key)
    assert await nodes[20].find_providers(multihash("other")) == []
    found = await nodes[20].find_providers(key)
    assert {(p.peer_id, p.addrs) for p in found} == {(of(n), tuple(n._host.addrs)) for n in nodes[3:5]}
    assert [p.peer_id for p in await nodes[3].find_providers(key)] == [of(nodes[4])]  # others, not itself
    assert len(await nodes[20].find_providers(key, limit=1)) == 1
    with pytest.raises(KadError, match="multihash"):
        await nodes[3].provide(b"model")


async def test_a_peer_is_found_by_its_id(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(36)
    for seeker, sought in ((nodes[5], nodes[30]), (nodes[35], nodes[7])):
        found = await seeker.find_peer(of(sought))
        assert found is not None
        assert (found.peer_id, found.addrs, found.answered) == (of(sought), tuple(sought._host.addrs), True)
    assert await nodes[5].find_peer(network.identity(9999).peer_id) is None
    with pytest.raises(ValueError, match="peer id"):
        await nodes[5].find_peer("nonsense")


async def test_a_node_alone_answers_at_once(autojump_clock: MockClock, network: Any) -> None:
    node = await network.node(1)
    assert await node.bootstrap() == 0
    assert await node.put(b"/plain/k", b"1") == 0
    assert await node.get(b"/plain/k") == b"1"
    assert await node.get(b"/plain/other") is None
    assert await node.closest(b"k") == []
    assert await node.find_providers(multihash("x")) == []
    assert node.stats().lookups == 0  # nobody was asked
    with pytest.raises(InvalidRecord):
        await node.put(b"/unknown/k", b"1")


# --- joining and staying ----------------------------------------------------------------------------------------------


async def test_a_node_that_is_merely_connected_joins_by_itself(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(30)
    late = await network.node(100)
    await late._host.connect(nodes[3]._host.addrs[0])
    await trio.sleep(10)
    assert late.stats().peers >= 15
    assert sum(of(late) in [p.peer_id for p in node.peers()] for node in nodes) >= 15


async def test_a_client_finds_and_enters_nobodys_table(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(25)
    await nodes[1].put(b"/plain/k", b"1")
    client = await network.node(200, nodes[0], client_only=True)
    assert client.stats().peers >= 20
    assert await client.get(b"/plain/k") == b"1"
    assert await client.put(b"/plain/mine", b"2") == 20
    assert await nodes[24].get(b"/plain/mine") == b"2"
    await trio.sleep(120)
    assert not any(of(client) in [p.peer_id for p in node.peers()] for node in nodes)
    with pytest.raises(KadError, match="no address"):
        await client.provide(multihash("x"))


async def test_values_outlive_a_third_of_the_network_and_the_dead_leave_the_tables(
    autojump_clock: MockClock, network: Any
) -> None:
    nodes = await network.nodes(36, config=KadConfig(check_after_s=300))
    for number in range(10):
        await nodes[number].put(b"/plain/%d" % number, b"v%d" % number, republish=False)
    for node in nodes[24:]:
        node._host.stop()
    alive, dead = nodes[:24], {of(node) for node in nodes[24:]}
    for number in range(10):
        assert await alive[23 - number].get(b"/plain/%d" % number) == b"v%d" % number
    await trio.sleep(900)
    assert not any(peer.peer_id in dead for node in alive for peer in node.peers())


async def test_records_move_to_the_nodes_that_are_nearest_now(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(25)
    keys = [b"/plain/%d" % number for number in range(20)]
    for key in keys:
        await nodes[0].put(key, key, republish=False)
    late = [await network.node(100 + number, nodes[0]) for number in range(12)]
    await trio.sleep(200)
    due = [(node, key) for key in keys for node in nearest([*nodes, *late], key, 20) if node in late]
    assert len(due) > 60
    assert sum(holds(node, key) for node, key in due) >= 0.95 * len(due)


async def test_holders_republish_what_its_author_no_longer_does(autojump_clock: MockClock, network: Any) -> None:
    config = KadConfig(republish_s=600)
    nodes = await network.nodes(30, config=config)
    await nodes[0].put(b"/plain/k", b"1", republish=False)
    holders = [node for node in nodes if holds(node, b"/plain/k")]
    for node in holders[2:]:
        node._records.remove(b"/plain/k")
    await trio.sleep(1500)
    assert sum(holds(node, b"/plain/k") for node in nodes) >= 20


async def test_an_author_renews_its_records_and_provided_keys_until_it_withdraws_them(
    autojump_clock: MockClock, network: Any
) -> None:
    config = KadConfig(republish_s=600, provider_republish_s=600, record_ttl_s=1500, provider_ttl_s=1500)
    nodes = await network.nodes(6, config=config)
    key = multihash("m")
    await nodes[0].put(b"/plain/k", b"1")
    await nodes[0].provide(key)
    await trio.sleep(5000)
    assert await nodes[5].get(b"/plain/k") == b"1"
    assert len(await nodes[5].find_providers(key)) == 1
    nodes[0].withdraw(key)
    await trio.sleep(3000)
    assert await nodes[5].find_providers(key) == []


async def test_a_record_is_gone_when_its_validator_says_so(
    autojump_clock: MockClock, network: Any, signed: Any
) -> None:
    nodes = await network.nodes(8)
    author = network.identity(7777)
    await nodes[0].put(signed.key(author), signed.value(author, 1, issued_at=dht_now(), ttl=120))
    assert await nodes[7].get(signed.key(author)) is not None
    await trio.sleep(240)
    assert await nodes[7].get(signed.key(author)) is None
    assert not any(node.stats().records for node in nodes)
    assert nodes[0].stats().publications == 0
    with pytest.raises(InvalidRecord, match="expired"):
        await nodes[0].put(signed.key(author), signed.value(author, 2, issued_at=dht_now() - 200, ttl=120))


async def test_an_outage_of_our_own_does_not_empty_the_table(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(30)
    node = nodes[7]
    before = node.stats().peers
    node._host.down = True
    for number in range(20):
        assert await node.get(b"/plain/%d" % number) is None
    assert node.stats().peers >= before - 10
    node._host.down = False
    await nodes[1].put(b"/plain/k", b"1")
    await trio.sleep(200)
    assert await node.get(b"/plain/k") == b"1"


async def test_a_restarted_node_needs_no_bootstrap(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(20)
    host = network.host(500)
    node = Kademlia(host, "test", validators={}, clock=dht_now, rng=random.Random(1))
    node._saved = (nodes[3]._table.get(of(nodes[2])),)  # a file would need a thread, which a mock clock does not await
    async with node:
        await until(lambda: node.stats().peers >= 15)


# --- cost -------------------------------------------------------------------------------------------------------------


async def test_an_idle_node_is_one_task(autojump_clock: MockClock, network: Any) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with Kademlia(network.host(1), "test", validators={}):
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living - before == 1


async def test_a_cancelled_query_leaves_nothing_in_flight(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(30)
    await trio.sleep(100)
    for node in nodes:
        node._host.mute_s = 3.0
    before = trio.lowlevel.current_statistics().tasks_living
    for operation in (nodes[0].get(b"/plain/k"), nodes[0].put(b"/plain/k", b"1"), nodes[0].bootstrap()):
        with trio.move_on_after(0.5) as scope:
            await operation
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert trio.lowlevel.current_statistics().tasks_living <= before


async def test_a_look_up_that_outlives_its_node_ends_in_peace(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(30)
    host = network.host(300)
    async with trio.open_nursery() as nursery:
        known = nodes[0]._validators._by_namespace
        async with Kademlia(host, "test", validators=known, clock=nodes[0]._clock, rng=random.Random(1)) as kad:
            await host.connect(nodes[0]._host.addrs[0])
            await kad.bootstrap()
            for number in range(500, 540):  # whoever fails makes room for one of these, who is asked first
                kad._table.remember(contact_of(network.identity(number).peer_id, ["/ip4/30.1.1.1/tcp/4001"]))
            for node in nodes:
                node._host.mute_s = 1000.0
            nursery.start_soon(kad.get, b"/plain/k")
            await trio.sleep(0.1)


async def test_look_ups_are_reported(autojump_clock: MockClock, network: Any) -> None:
    reports: list[LookupReport] = []
    nodes = await network.nodes(30)
    node = await network.node(300, nodes[0], on_lookup=reports.append)
    await nodes[1].put(b"/plain/k", b"1")
    reports.clear()
    assert await node.get(b"/plain/k") == b"1"
    (report,) = reports
    assert (report.kind.name, report.found) == ("GET_VALUE", True)
    assert 1 <= report.hops <= 3
    assert 5 <= report.requests <= 14
    assert report.took_s > 0
    assert node.stats().lookups >= 2
    assert sum(other.stats().served["GET_VALUE"] for other in nodes) >= 5


def test_one_seed_gives_one_run(network_type: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on the order of sets, on unseeded chance or on what time it is."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)

    async def run(log: list[Any]) -> None:
        trio._core._run._r.seed(1)
        async with trio.open_nursery() as nursery:
            network = network_type(nursery)
            network.on_stream = lambda opener, to: log.append((trio.current_time(), opener, to))
            nodes = await network.nodes(15)
            await nodes[0].put(b"/plain/k", b"1")
            await trio.sleep(1000)
            nursery.cancel_scope.cancel()

    runs: list[list[Any]] = [[], []]
    for log in runs:
        trio.run(run, log, clock=MockClock(autojump_threshold=0))
    assert len(runs[0]) > 300
    assert runs[0] == runs[1]


def test_the_facade_offers_what_it_names_and_is_sorted() -> None:
    names: Any = dht.kad.__all__
    assert names == sorted(names)
    assert all(getattr(dht.kad, name) is not None for name in names)


async def test_a_node_on_real_time_saves_what_it_knows(network: Any, tmp_path: Path) -> None:
    network.latency_s = 0.001
    first = await network.node(1)
    path = tmp_path / "kad.db"
    options: Any = {"validators": {"plain": first._queries._validators._by_namespace["plain"]}, "clock": dht_now}
    host = network.host(2)
    async with Kademlia(host, "test", storage=SqliteStorage(path), **options) as node:
        await host.connect(first._host.addrs[0])
        assert await node.bootstrap() == 1
        await node.put(b"/plain/k", b"1")
    host.stop()
    host.handlers.clear()
    host.down = False
    assert [peer.peer_id for peer in SqliteStorage(path).load().peers] == [of(first)]
    async with Kademlia(host, "test", storage=SqliteStorage(path), **options) as node:
        with trio.fail_after(5):
            while not node.stats().peers:  # nobody told it of the first node
                await trio.sleep(0.01)
        assert node.stats().publications == 1
