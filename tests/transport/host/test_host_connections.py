"""A full host: the policy attacked by Hypothesis, then real hosts with few places."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from transport.host import HostStream, StreamError
from transport.host.connections import ConnectionLimits, Held, make_room
from transport.host.origins import Origin, origin_of
from transport.identity import Identity, PeerId

LIMITS = ConnectionLimits(total=12, inbound=9, per_address=3, per_network=5, local=6, per_peer=2, grace_s=10.0)
NOW = 1000.0

ORIGINS = [Origin(f"10.0.{net}.{host}", f"10.0.{net}.0/24") for net in range(3) for host in range(3)]
ORIGINS.append(Origin("127.0.0.1", "127.0.0.0/24", True))

newcomers = st.builds(
    Held,
    key=st.just(0),
    peer=st.sampled_from([PeerId(f"peer{n}") for n in range(8)]),
    origin=st.sampled_from(ORIGINS),
    inbound=st.booleans(),
    protected=st.sampled_from([False, False, False, True]),
    streams=st.integers(0, 2),
    opened_at=st.just(NOW),
    used_at=st.just(NOW),
)


def held(key: int, **what: Any) -> Held:
    settled = {"opened_at": 0.0, "used_at": float(key), "streams": 0, "protected": False, "inbound": True}
    return Held(**{"key": key, "peer": PeerId(f"p{key}"), "origin": ORIGINS[key % 9], **settled, **what})


def arrive(table: list[Held], newcomer: Held, now: float) -> tuple[list[Held], list[Held]]:
    """The table after ``newcomer`` came, and who left for it."""
    leaving = make_room(table, newcomer, now, LIMITS)
    everyone = [*table, newcomer]
    return [c for c in everyone if c.key not in leaving], [c for c in everyone if c.key in leaving]


@given(st.lists(st.tuples(newcomers, st.floats(0.0, 8.0)), max_size=60))
def test_every_limit_holds_whatever_arrives(arrivals: list[tuple[Held, float]]) -> None:
    table: list[Held] = []
    now = NOW
    for key, (shape, wait) in enumerate(arrivals, 1):
        now += wait
        newcomer = Held(**{**shape.__dict__, "key": key, "opened_at": now, "used_at": now})
        before = table
        table, left = arrive(table, newcomer, now)
        inbound = [c for c in table if c.inbound]
        assert len(table) <= LIMITS.total
        assert len(inbound) <= LIMITS.inbound
        for group in {c.origin for c in inbound}:
            assert sum(c.origin.address == group.address for c in inbound) <= (6 if group.local else 3)
            assert sum(c.origin.network == group.network for c in inbound) <= (6 if group.local else 5)
        assert max((sum(c.peer == peer for c in table) for peer in {c.peer for c in table}), default=0) <= 2
        for gone in left:
            of_the_same_peer = gone.peer == newcomer.peer
            assert not gone.protected or of_the_same_peer
            if gone.key != newcomer.key and newcomer.inbound and now - gone.opened_at < LIMITS.grace_s:
                crowd = [c for c in before if c.inbound and c.origin.network == gone.origin.network]
                ours = [c for c in before if c.inbound and c.origin.network == newcomer.origin.network]
                assert of_the_same_peer or len(crowd) > len(ours)
        if newcomer not in table:
            assert left == [newcomer]  # a refusal costs nobody else his place


@given(st.lists(newcomers, min_size=1, max_size=40))
def test_a_peer_that_we_dial_gets_in_while_a_stranger_stands(shapes: list[Held]) -> None:
    table: list[Held] = []
    for key, shape in enumerate(shapes, 1):
        table, _ = arrive(table, Held(**{**shape.__dict__, "key": key}), NOW)
    ours = held(99, inbound=False, opened_at=NOW)
    after, _ = arrive(table, ours, NOW)
    assert (ours in after) or not any(c.inbound and not c.protected for c in table)


def test_the_idle_go_before_the_busy_and_the_longest_unused_first() -> None:
    table = [held(key, origin=ORIGINS[key], streams=1 if key in (0, 3) else 0) for key in range(9)]
    newcomer = held(50, origin=Origin("192.0.2.1", "192.0.2.0/24"), opened_at=NOW)
    assert make_room(table, newcomer, NOW, LIMITS) == [1]
    table = [c for c in table if c.key != 1]
    table.append(held(51, origin=Origin("192.0.3.1", "192.0.3.0/24"), used_at=-1.0))
    assert make_room(table, newcomer, NOW, LIMITS) == [4]  # of the most crowded network, though 51 was idle for longer


def test_a_second_peer_of_a_full_address_waits_for_the_grace_of_the_others() -> None:
    table = [held(key, origin=ORIGINS[0], opened_at=NOW - 1) for key in range(3)]
    newcomer = held(9, origin=ORIGINS[0], opened_at=NOW)
    assert make_room(table, newcomer, NOW, LIMITS) == [9]
    assert make_room(table, newcomer, NOW + LIMITS.grace_s, LIMITS) == [0]


def test_a_third_connection_of_one_peer_closes_its_oldest() -> None:
    table = [held(key, peer=PeerId("same"), opened_at=NOW - key, protected=True) for key in (1, 2)]
    assert make_room(table, held(3, peer=PeerId("same"), opened_at=NOW), NOW, LIMITS) == [2]


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="makes no sense"):
        ConnectionLimits(total=5, inbound=6)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.7", Origin("192.0.2.7", "192.0.2.0/24")),
        ("::ffff:192.0.2.7", Origin("192.0.2.7", "192.0.2.0/24")),
        ("2001:db8:1:2:3:4:5:6", Origin("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("fe80::1%eth0", Origin("fe80::/64", "fe80::/48")),
        ("127.0.0.9", Origin("127.0.0.9", "127.0.0.0/24", True)),
        ("::1", Origin("::1", "::1", True)),
        ("nonsense", Origin("?", "?")),
        (None, Origin("?", "?")),
    ],
)
def test_an_address_is_counted_with_what_one_customer_gets(host: str | None, origin: Origin) -> None:
    assert origin_of(host) == origin


# --- real hosts ---------------------------------------------------------------------------------------------------

FEW = ConnectionLimits(total=12, inbound=8, local=8, grace_s=0.3)
ECHO = "/test/echo/1"


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(100))


async def connected_to(host: Any) -> set[PeerId]:
    return {info.peer_id for info in host.peers()}


async def test_idle_authenticated_peers_cannot_keep_an_honest_newcomer_out(new_host: Any) -> None:
    async with new_host(limits=FEW) as server, AsyncExitStack() as stack:
        server.set_handler(ECHO, echo)
        friend = await stack.enter_async_context(new_host(listen=[]))
        await friend.connect(server.addrs[0])
        working = await friend.open_stream(server.peer_id, ECHO)
        await working.send(b"in use")
        assert await working.receive(10) == b"in use"
        for _ in range(FEW.inbound + 4):
            idler = await stack.enter_async_context(new_host(listen=[]))
            await idler.connect(server.addrs[0])
            await trio.sleep(0.05)
        assert len(server.peers()) <= FEW.inbound
        await trio.sleep(FEW.grace_s)
        newcomer = await stack.enter_async_context(new_host(listen=[]))
        with trio.fail_after(2):
            stream = await newcomer.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            await stream.send(b"hello")
            assert await stream.receive(10) == b"hello"
            await working.send(b"still here")  # who uses its connection keeps it
            assert await working.receive(10) == b"still here"
        assert len(server.peers()) <= FEW.inbound
        assert server._manager.trimmed >= 5


async def test_a_flood_of_newcomers_does_not_lock_the_host_behind_its_own_door(new_host: Any) -> None:
    few = ConnectionLimits(total=4, inbound=4, local=4, grace_s=60.0)
    async with new_host(limits=few) as victim, new_host() as chosen, AsyncExitStack() as stack:
        for _ in range(6):
            flooder = await stack.enter_async_context(new_host(listen=[]))
            await flooder.connect(victim.addrs[0])
        assert await victim.connect(chosen.addrs[0]) == chosen.peer_id
        await trio.sleep(0.3)
        assert chosen.peer_id in await connected_to(victim)
        assert len(victim.peers()) <= few.total


async def test_a_protected_peer_stays_though_it_is_idle(new_host: Any) -> None:
    few = ConnectionLimits(total=3, inbound=3, local=3, per_peer=1, grace_s=0.0)
    async with new_host(limits=few) as server, AsyncExitStack() as stack:
        dear = await stack.enter_async_context(new_host(listen=[]))
        assert server.protect(dear.peer_id, "has a channel with us")
        await dear.connect(server.addrs[0])
        for _ in range(6):
            await (await stack.enter_async_context(new_host(listen=[]))).connect(server.addrs[0])
            await trio.sleep(0.02)
        assert dear.peer_id in await connected_to(server)
        assert not server.protect(PeerId("another"), "too many")  # half of three places is one
        server.unprotect(dear.peer_id, "has a channel with us")
        for _ in range(4):
            await (await stack.enter_async_context(new_host(listen=[]))).connect(server.addrs[0])
            await trio.sleep(0.02)
        assert dear.peer_id not in await connected_to(server)


async def test_one_peer_has_at_most_two_connections(new_host: Any) -> None:
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from transport.host import hardening

    async with new_host() as server, new_host(identity=Identity(b"many" * 8), listen=[]) as greedy:
        target = ID.from_string(server.peer_id)
        for _ in range(6):
            await hardening.dial(greedy._swarm, Multiaddr(server.addrs[0]), target)
        with trio.fail_after(10):
            while len(server._connections()) > 2:
                await trio.sleep(0.01)
        with trio.fail_after(10):  # and the closed ones leave upstream's table as well
            while len(server._swarm.get_connections()) > 2:
                await trio.sleep(0.01)


async def test_a_trimmed_peer_hears_of_it(new_host: Any) -> None:
    few = ConnectionLimits(total=2, inbound=2, local=2, per_peer=1, grace_s=0.0)
    async with new_host(limits=few) as server, AsyncExitStack() as stack:
        first = await stack.enter_async_context(new_host(listen=[]))
        await first.connect(server.addrs[0])
        for _ in range(2):
            await (await stack.enter_async_context(new_host(listen=[]))).connect(server.addrs[0])
        with trio.fail_after(5):
            while first.peers():
                await trio.sleep(0.01)
        stream = await first.open_stream(server.peer_id, "/test/none/1", addrs=server.addrs)
        with pytest.raises(StreamError):
            await stream.wait_opened()
