"""Attacks on whole nodes: the node stays up and useful to the honest; the offender's budget is spent, not theirs."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dht.kad import key_of
from dht.kad.contacts import contact_of
from dht.kad.keys import peer_bytes, peer_key
from dht.kad.limits import IDLE_STREAM_S, MAX_REQUEST_BYTES, MAX_STREAMS_PER_PEER, OPEN_S, TABLE_PER_NARROW
from dht.kad.messages import Message, MessageType, Record, encode_message, parse_message
from transport.host import HostError, StreamError

PROTOCOL = "/cocoon/test/kad/1.0.0"
EPOCH = 1_800_000_000.0


def of(node: Any) -> Any:
    return node._host.peer_id


def holds(node: Any, key: bytes) -> bool:
    return node._records.get(key, float("-inf")) is not None


async def ask(attacker: Any, node: Any, data: bytes) -> bytes | None:
    """Send raw bytes as ``attacker`` and return the reply; None if the stream was cut."""
    stream = await attacker.open_stream(of(node), PROTOCOL, addrs=node._host.addrs)
    try:
        await stream.send(data)
        return await stream.receive(1 << 20)
    except StreamError:
        return None
    finally:
        await stream.aclose()


def put(key: bytes, value: bytes) -> bytes:
    return encode_message(Message(MessageType.PUT_VALUE, key, Record(key, value)))


PING = encode_message(Message(MessageType.PING))


# --- malformed ----------------------------------------------------------------------------------------------------


async def test_garbage_gets_its_sender_dropped_and_nobody_else(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(10)
    attacker, bystander = network.host(900), network.host(901)
    garbage = [b"", b"\xff" * 50, b"\x08\x09", b"\x0b", b"\x12\x7f", b"\x42\x00", PING[:1], put(b"/plain/k", b"1")[:-2]]
    cut = [data for data in garbage if await ask(attacker, nodes[0], data) is None]
    assert len(cut) == len(garbage)
    assert attacker.peer_id not in nodes[0]._host.dropped  # ten are forgiven
    for _ in range(5):
        await ask(attacker, nodes[0], b"\xff")
    assert "kad:" in nodes[0]._host.dropped[attacker.peer_id]
    assert list(nodes[0]._host.dropped) == [attacker.peer_id]
    await nodes[0]._host.drop(of(nodes[1]), "broke another protocol")
    await trio.sleep(1)
    assert of(nodes[1]) not in nodes[0]._table
    assert await ask(bystander, nodes[0], PING) == PING
    assert nodes[0].stats().refused >= 13


async def test_a_request_over_the_limit_costs_its_stream_alone(autojump_clock: MockClock, network: Any) -> None:
    node = await network.node(1)
    attacker = network.host(900)
    assert await ask(attacker, node, bytes(MAX_REQUEST_BYTES + 1)) is None
    assert await ask(attacker, node, put(b"/plain/k", bytes(8193))) is None
    assert node.stats().records == 0
    assert await ask(attacker, node, PING) == PING


async def test_an_idle_stream_is_closed_and_a_peer_has_few_at_once(autojump_clock: MockClock, network: Any) -> None:
    node = await network.node(1)
    attacker, honest = network.host(900), network.host(901)
    streams = [await attacker.open_stream(of(node), PROTOCOL, addrs=node._host.addrs) for _ in range(100)]
    await trio.sleep(0.1)
    assert node._server._open == MAX_STREAMS_PER_PEER
    assert await ask(honest, node, PING) == PING
    await trio.sleep(IDLE_STREAM_S)
    assert node._server._open == 0
    with pytest.raises(StreamError):
        await streams[0].receive(10)
    assert node._server._streams == {}


async def test_a_greedy_peer_is_slowed_down_and_then_cut(autojump_clock: MockClock, network: Any) -> None:
    node = await network.node(1)
    attacker, honest = network.host(900), network.host(901)
    stream = await attacker.open_stream(of(node), PROTOCOL, addrs=node._host.addrs)
    started = trio.current_time()
    for _ in range(500):
        await stream.send(PING)
    for _ in range(400):
        await stream.receive(100)
    assert trio.current_time() - started >= 3.9  # two hundred at once, then fifty a second
    before = trio.current_time()
    assert await ask(honest, node, PING) == PING
    assert trio.current_time() - before < 0.2


# --- bad records --------------------------------------------------------------------------------------------------


async def test_bad_records_are_refused_wherever_they_come_from(
    autojump_clock: MockClock, network: Any, signed: Any
) -> None:
    nodes = await network.nodes(12)
    author, thief = network.identity(7000), network.identity(7001)
    key = signed.key(author)
    now = EPOCH + trio.current_time()
    good = signed.value(author, 5)
    await nodes[0].put(key, good)
    attacker = network.host(900)
    bad = [
        signed.value(thief, 9),  # somebody else's key
        signed.value(author, 9, issued_at=now + 3600),  # from the future
        signed.value(author, 9, issued_at=now - 1000, ttl=10),  # over
        good[:-1],
        good + b"\x00",
        b"",
    ]
    for value in bad:
        assert await ask(attacker, nodes[3], put(key, value)) is None
    stale = await ask(attacker, nodes[3], put(key, signed.value(author, 4)))
    assert stale is not None
    reply = parse_message(stale)
    assert reply.record is not None
    assert reply.record.value == good  # it is told the newer one
    assert nodes[3]._records.get(key, now).value == good
    assert await ask(attacker, nodes[3], put(b"/nobody/k", b"x")) is None


async def test_a_holder_that_returns_bad_values_changes_nothing(
    autojump_clock: MockClock, network: Any, signed: Any
) -> None:
    nodes = await network.nodes(30)
    author = network.identity(7000)
    key, old, new = signed.key(author), signed.value(author, 1), signed.value(author, 2)
    await nodes[0].put(key, new)
    liars = sorted(nodes[1:], key=lambda node: peer_key(of(node)) ^ key_of(key))[:8]
    lies = [b"", b"nonsense", old, signed.value(network.identity(7001), 9), new[:-1], old, old, old]
    for liar, lie in zip(liars, lies, strict=True):  # the eight nearest holders, which are asked
        liar._records.get(key, EPOCH).value = lie
    for reader in [node for node in nodes[1:] if node not in liars][:10]:
        reader._records.remove(key)
        assert await reader.get(key) == new


# --- lying about peers --------------------------------------------------------------------------------------------


def grind(network: Any, key: bytes, count: int, among: int = 3000) -> list[int]:
    """Numbers of identities nearest to ``key``: what an attacker gets by making keys until some fit."""
    numbers = range(100_000, 100_000 + among)
    return sorted(numbers, key=lambda n: peer_key(network.identity(n).peer_id) ^ key_of(key))[:count]


class Sybil:
    """Answers every request with its friends, and stores nothing."""

    def __init__(self, host: Any, friends: list[Any]) -> None:
        self.host = host
        self.friends = friends
        host.set_handler(PROTOCOL, self.serve)

    async def serve(self, stream: Any) -> None:
        while True:
            request = parse_message(await stream.receive(1 << 20))
            own = request.key == peer_bytes(self.host.peer_id)
            named = [self.host] if own else self.friends[:20]
            closer = tuple(contact_of(host.peer_id, host.addrs) for host in named if host.peer_id != stream.peer_id)
            await stream.send(encode_message(Message(request.type, request.key, request.record, closer)))


async def sybils(network: Any, key: bytes, nodes: list[Any], count: int, ip: Any) -> list[Any]:
    hosts = [network.host(number, ip=ip(index)) for index, number in enumerate(grind(network, key, count))]
    for host in hosts:
        Sybil(host, hosts)
    for index, host in enumerate(hosts):  # they make themselves known
        for node in nodes[index::5]:
            await host.connect(node._host.addrs[0])
    await trio.sleep(30)
    return hosts


@pytest.mark.parametrize("spread", [True, False], ids=["of-many-networks", "of-one-slash-24"])
async def test_sybils_around_a_key_do_not_hide_its_value(autojump_clock: MockClock, network: Any, spread: bool) -> None:
    """A fifth of all nodes, with ids nearer to the key than any honest one's, naming nobody but each other."""
    key = b"/plain/wanted"
    nodes = await network.nodes(36)
    flood = await sybils(network, key, nodes, 10, lambda n: f"{150 + n}.7.7.7" if spread else f"9.9.9.{n + 1}")
    assert sum(of(flood_host) in node._table for node in nodes for flood_host in map(_as_node, flood)) > 40
    assert await nodes[0].put(key, b"here") >= 10
    assert sum(holds(node, key) for node in nodes) >= 10
    readers = [node for node in nodes if not holds(node, key)]
    found = [await node.get(key) for node in readers]
    assert len(readers) >= 12
    assert found.count(b"here") >= 0.95 * len(readers)


def _as_node(host: Any) -> Any:
    class Node:
        _host = host

    return Node


async def test_a_sybil_that_invents_peers_costs_a_bounded_time(autojump_clock: MockClock, network: Any) -> None:
    network.silent_failures = True  # invented peers do not refuse a dial, they say nothing
    key = b"/plain/wanted"
    nodes = await network.nodes(30)
    await nodes[0].put(key, b"here")
    invented = []
    for index, number in enumerate(grind(network, key, 40, among=4000)):
        invented.append(network.host(number, ip=f"{100 + index}.9.9.9"))
        invented[-1].down = True
    liar = network.host(555)
    Sybil(liar, invented)
    for node in nodes:
        await liar.connect(node._host.addrs[0])
    await trio.sleep(30)
    started = trio.current_time()
    for node in [node for node in nodes if not holds(node, key)]:
        assert await node.get(key) == b"here"
        assert len(await node.closest(key)) >= 19
    assert trio.current_time() - started < 10 * 10


async def test_one_slash_24_cannot_fill_a_table(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(15)
    for number in range(60):
        host = network.host(2000 + number, ip=f"66.6.6.{number + 1}")
        Sybil(host, [host])
        await host.connect(nodes[0]._host.addrs[0])
    await trio.sleep(120)
    flood = [peer for peer in nodes[0].peers() if any("/66.6.6." in addr for addr in peer.addrs)]
    assert 1 <= len(flood) <= TABLE_PER_NARROW
    assert nodes[0].stats().peers - len(flood) == 14


async def test_wrong_addresses_told_of_a_peer_do_not_enter_a_table(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(5)
    victim = await network.node(100)
    await victim._host.connect(nodes[0]._host.addrs[0])  # node 0 knows it by a connection that it made itself
    await trio.sleep(5)
    nodes[0]._neighbours.answered(contact_of(of(victim), ["/ip4/66.6.6.6/tcp/1"]))
    await trio.sleep(5)
    assert nodes[0]._table.get(of(victim)).texts() == tuple(victim._host.addrs)
    nodes[0]._table.remove(of(victim))
    nodes[0]._neighbours.answered(contact_of(of(victim), ["/ip4/66.6.6.6/tcp/1"]))  # as a liar's word, not yet known
    await trio.sleep(5)
    assert nodes[0]._table.get(of(victim)).texts() == tuple(victim._host.addrs)


async def test_providers_that_a_liar_invents_do_not_crowd_out_the_true_ones(
    autojump_clock: MockClock, network: Any
) -> None:
    nodes = await network.nodes(30)
    key = b"\x12\x20" + sha256(b"model").digest()
    for node in nodes[1:4]:
        await node.provide(key)
    liar = min(nodes[5:], key=lambda node: peer_key(of(node)) ^ key_of(key))
    invented = [contact_of(network.identity(3000 + n).peer_id, [f"/ip4/80.{n}.1.1/tcp/1"]) for n in range(60)]
    liar._providers.get = lambda *_: invented
    readers = [node for node in nodes[20:] if node is not liar]
    true = {of(node) for node in nodes[1:4]}
    seen = [true & {peer.peer_id for peer in await reader.find_providers(key, limit=20)} for reader in readers]
    assert min(map(len, seen)) >= 2  # a holder at the edge may know of fewer than all three
    assert sum(map(len, seen)) >= 0.9 * 3 * len(readers)


# --- floods and stalls --------------------------------------------------------------------------------------------


async def test_a_flood_of_records_displaces_the_flooders_own(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(5)
    nodes[0]._records._max_records, nodes[0]._records._max_sender_records = 200, 100
    for number in range(50):
        await nodes[1 + number % 4].put(b"/plain/honest%d" % number, b"x")
    attacker = network.host(900)
    stream = await attacker.open_stream(of(nodes[0]), PROTOCOL, addrs=nodes[0]._host.addrs)
    for number in range(600):
        try:
            await stream.send(put(b"/plain/flood%d" % number, bytes(100)))
            await stream.receive(1 << 20)
        except HostError:
            stream = await attacker.open_stream(of(nodes[0]), PROTOCOL, addrs=nodes[0]._host.addrs)
    held = list(nodes[0]._records)
    assert sum(record.sender == attacker.peer_id for record in held) == 100
    assert all(holds(nodes[0], b"/plain/honest%d" % number) for number in range(50))


async def test_peers_that_stall_delay_a_look_up_by_a_timeout_or_two(autojump_clock: MockClock, network: Any) -> None:
    nodes = await network.nodes(32)
    for number in range(5):
        await nodes[number].put(b"/plain/%d" % number, b"x")
    for node in nodes[5::4]:  # a quarter
        node._host.mute_s = 1000.0
    for number in range(5):
        started = trio.current_time()
        assert await nodes[4].get(b"/plain/%d" % number) == b"x"
        assert await nodes[3].put(b"/plain/new%d" % number, b"y") >= 14
        assert trio.current_time() - started < 5 * OPEN_S  # a get of two steps, a put of three


async def test_replies_of_the_wrong_type_or_garbage_are_as_good_as_none(
    autojump_clock: MockClock, network: Any
) -> None:
    nodes = await network.nodes(25)
    await nodes[0].put(b"/plain/k", b"1")
    replies = [b"\xff\xff", PING, b"", encode_message(Message(MessageType.GET_VALUE, b"x", Record(b"/plain/x", b"2")))]
    for number, reply in enumerate(replies):
        host = network.host(600 + number)

        async def serve(stream: Any, reply: bytes = reply, host: Any = host) -> None:
            request = parse_message(await stream.receive(1 << 20))
            own = Message(MessageType.FIND_NODE, closer=(contact_of(host.peer_id, host.addrs),))
            await stream.send(encode_message(own) if request.key == peer_bytes(host.peer_id) else reply)

        host.set_handler(PROTOCOL, serve)
        for node in nodes:
            await host.connect(node._host.addrs[0])
    await trio.sleep(10)
    for node in nodes[15:]:
        node._records.remove(b"/plain/k")
    for node in nodes[1:]:
        assert await node.get(b"/plain/k") == b"1"
