"""What the virtual network does to its hosts: distance, bandwidth, loss, NATs, partitions, crashes, crowds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import simulations.network
from simulations.determinism import run_seeded
from simulations.network import REGIONS, Atlas, Nat, VirtualHost, VirtualNetwork, round_trip_s
from simulations.network.limits import CONNECT_ROUND_TRIPS, TICK_S
from simulations.network.timeline import Timeline
from transport.host import DialError, EventKind, HostStream, StreamError
from transport.host.limits import (
    DIALLER_ENOUGH,
    GOSSIP_DEGREE_HIGH,
    GOSSIP_DEGREE_LOW,
    MAX_CONNECTIONS,
    WRITE_STALL_S,
)
from transport.identity import Identity

ECHO = "/test/echo/1"


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


def simulated(scenario: Callable[[VirtualNetwork], Awaitable[None]], **conditions: Any) -> None:
    async def main() -> None:
        async with VirtualNetwork.running(random.Random(3), **conditions) as network:
            await scenario(network)

    run_seeded(3, main)


async def connected(one: VirtualHost, other: VirtualHost) -> HostStream:
    other.set_handler(ECHO, echo)
    return await one.open_stream(other.peer_id, ECHO, addrs=other.addrs)


def test_dialling_opening_and_asking_take_their_round_trips() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        near, far = network.atlas.place(region="eu-west"), network.atlas.place(region="oceania")
        trip = round_trip_s(near, far)
        assert trip > 0.3
        async with network.open(identity(1), near) as one, network.open(identity(2), far) as other:
            begin = trio.current_time()
            await one.connect(other.addrs[0])
            dialled = trio.current_time()
            stream = await connected(one, other)
            await stream.send(b"x")
            await stream.receive(1)
            answered = trio.current_time()
        assert dialled - begin == pytest.approx(CONNECT_ROUND_TRIPS * trip, abs=0.005)
        assert answered - dialled == pytest.approx(trip, abs=0.005)

    simulated(scenario, jitter_s=0.0)


def test_a_slow_line_takes_its_time_and_keeps_the_order() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        home = network.atlas.place(region="eu-west", hosted=False)
        async with network.open(identity(1), home) as one, network.open(identity(2)) as other:
            got: list[int] = []

            async def take(stream: HostStream) -> None:
                for _ in range(40):
                    got.append(len(await stream.receive(1 << 20)))

            other.set_handler("/take/1", take)
            stream = await one.open_stream(other.peer_id, "/take/1", addrs=other.addrs)
            begin = trio.current_time()
            sizes = [random.Random(n).randrange(1, 1 << 20) for n in range(40)]
            for size in sizes:
                await stream.send(bytes(size))
            while len(got) < 40:
                await trio.sleep(0.01)
            assert got == sizes
            assert trio.current_time() - begin >= sum(sizes) / home.up_bytes_per_s

    simulated(scenario)


def test_loss_delays_and_loses_nothing_while_the_connection_stands() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as one, network.open(identity(2)) as other:
            stream = await connected(one, other)
            slow = 0
            for number in range(100):
                begin = trio.current_time()
                await stream.send(b"%d" % number)
                assert await stream.receive(9) == b"%d" % number
                slow += trio.current_time() - begin > round_trip_s(one.place, other.place) + 0.15
            assert 5 <= slow <= 45

    simulated(scenario, loss=0.1)


def test_a_path_that_loses_nearly_everything_breaks_the_connection() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as one, network.open(identity(2)) as other:
            stream = await connected(one, other)
            network.loss = 0.99
            with pytest.raises(StreamError):
                for _ in range(50):
                    await stream.send(b"x")
                    await stream.receive(1)

    simulated(scenario)


@pytest.mark.parametrize("nat", [Nat.SYMMETRIC, Nat.DIAL_ONLY])
def test_behind_such_a_nat_a_host_has_no_address_and_is_reached_over_its_own_connections_only(nat: Nat) -> None:
    async def scenario(network: VirtualNetwork) -> None:
        place = network.atlas.place(nat=nat)
        async with (
            network.open(identity(1), place) as inside,
            network.open(identity(2)) as first,
            network.open(identity(3)) as second,
        ):
            assert inside.addrs == []
            await inside.connect(first.addrs[0])
            await inside.connect(second.addrs[0])
            await trio.sleep(1)
            seen = [host.peers()[0].addr for host in (first, second)]
            assert all(addr.startswith(f"/ip4/{place.ip4}/tcp/") for addr in seen)
            assert (seen[0] != seen[1]) == (nat is Nat.SYMMETRIC)
            await connected(first, inside)
            async with network.open(identity(4)) as stranger:
                with pytest.raises(DialError, match="no answer in time"):
                    await stranger.connect(seen[0])
                with pytest.raises(DialError, match="no answer in time"):
                    await stranger.connect(f"/ip4/{place.ip4}/tcp/{place.port}/p2p/{inside.peer_id}")

    simulated(scenario)


def test_a_full_cone_lets_strangers_in_once_the_host_has_dialled_out() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        place = network.atlas.place(nat=Nat.FULL_CONE)
        async with (
            network.open(identity(1), place) as inside,
            network.open(identity(2)) as friend,
            network.open(identity(3)) as stranger,
        ):
            with pytest.raises(DialError, match="no answer in time"):
                await stranger.connect(inside.addrs[0])
            await inside.connect(friend.addrs[0])
            await trio.sleep(1)
            assert friend.peers()[0].addr == inside.addrs[0]
            assert await stranger.connect(inside.addrs[0]) == inside.peer_id

    simulated(scenario)


def test_a_host_with_ipv4_alone_reaches_the_ipv4_address_of_one_with_both() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        both = network.atlas.place(ip4="9.8.7.6", ip6="2a02:1::1")
        old, new = network.atlas.place(ip4="9.8.7.5"), network.atlas.place(ip6="2a02:2::1")
        async with (
            network.open(identity(1), both) as target,
            network.open(identity(2), old) as four,
            network.open(identity(3), new) as six,
        ):
            assert [addr.partition("/tcp/")[0] for addr in target.addrs] == ["/ip4/9.8.7.6", "/ip6/2a02:1::1"]
            target.set_handler(ECHO, echo)
            for host in (four, six):
                stream = await host.open_stream(target.peer_id, ECHO, addrs=target.addrs)
                await stream.wait_opened()
            with pytest.raises(DialError, match="network is unreachable"):
                await four.connect(six.addrs[0])

    simulated(scenario)


def test_a_short_partition_delays_and_a_long_one_breaks() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as one, network.open(identity(2)) as other, one.events() as events:
            stream = await connected(one, other)
            network.split([one.peer_id])
            await stream.send(b"held")
            await trio.sleep(5)
            network.heal()
            assert await stream.receive(9) == b"held"
            assert len(one.peers()) == 1
            network.split([one.peer_id], [other.peer_id])
            begin = trio.current_time()
            await stream.send(b"lost")
            with pytest.raises(StreamError, match="does not answer"):
                await stream.receive(9)
            assert trio.current_time() - begin == pytest.approx(WRITE_STALL_S, abs=0.1)
            with pytest.raises(DialError, match="no answer in time"):
                await one.connect(other.addrs[0])
            await trio.sleep(60)
            assert (one.peers(), other.peers()) == ([], []), "the silent side found out by its keep-alive"
            network.heal()
            await one.connect(other.addrs[0])
            kinds = []
            with trio.move_on_after(1):
                async for event in events:
                    kinds.append(event.kind)
        assert kinds == [EventKind.LISTENING] * len(one.addrs) + [
            EventKind.CONNECTED,
            EventKind.DISCONNECTED,
            EventKind.CONNECTED,
        ]

    simulated(scenario)


def test_a_crash_is_silent_until_an_answer_is_missed_and_a_stop_is_heard_at_once() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as watcher:
            for crash in (False, True):
                async with network.open(identity(2)) as host:
                    await watcher.connect(host.addrs[0])
                    addr = host.addrs[0]
                    host.halt(crash=crash)
                    begin = trio.current_time()
                    while watcher.peers():
                        await trio.sleep(0.05)
                    took = trio.current_time() - begin
                    assert 25 < took < 35 if crash else took < 1
                reason = "no answer in time" if crash else "connection refused"
                with pytest.raises(DialError, match=reason):
                    await watcher.connect(addr)
            async with network.open(identity(2)) as again:
                assert again.addrs[0] == addr, "it comes back where it was"
                await watcher.connect(addr)

    simulated(scenario)


def test_two_hosts_that_dial_each_other_at_once_can_both_use_what_they_got() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as one, network.open(identity(2)) as other:
            streams: list[HostStream] = []

            async def call(caller: VirtualHost, called: VirtualHost) -> None:
                streams.append(await caller.open_stream(called.peer_id, ECHO, addrs=called.addrs))

            one.set_handler(ECHO, echo)
            other.set_handler(ECHO, echo)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, one, other)
                nursery.start_soon(call, other, one)
            for stream in streams:
                await stream.send(b"hi")
                assert await stream.receive(9) == b"hi"
            assert len(one.peers()) == len(other.peers()) == 1
            await one.drop(other.peer_id, "enough")
            await trio.sleep(1)
            assert one.peers() == other.peers() == []

    simulated(scenario)


def test_a_full_host_makes_room_by_closing_what_was_idle_longest() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with network.open(identity(1)) as popular, trio.open_nursery() as nursery:
            popular.set_handler(ECHO, echo)
            busy: list[HostStream] = []

            async def visit(number: int) -> None:
                async with network.open(identity(number)) as host:
                    await host.connect(popular.addrs[0])
                    if number == 2:
                        busy.append(await host.open_stream(popular.peer_id, ECHO))
                    await trio.sleep_forever()

            for number in range(2, MAX_CONNECTIONS + 12):
                nursery.start_soon(visit, number)
                await trio.sleep(2)
            assert MAX_CONNECTIONS - 30 < len(popular.peers()) <= MAX_CONNECTIONS
            peers = {info.peer_id for info in popular.peers()}
            assert identity(MAX_CONNECTIONS + 11).peer_id in peers
            assert identity(3).peer_id not in peers
            await busy[0].send(b"still here")
            assert await busy[0].receive(10) == b"still here"
            nursery.cancel_scope.cancel()

    simulated(scenario)


def test_gossip_reaches_everybody_once_through_meshes_of_bounded_degree() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        count, rng, heard = 60, random.Random(5), Counter[int]()
        async with trio.open_nursery() as nursery:
            hosts: list[VirtualHost] = []

            async def live(number: int) -> None:
                async with network.open(identity(number)) as host, host.subscribe("news", lambda _: True) as news:
                    hosts.append(host)
                    async for _ in news:
                        heard[number] += 1

            for number in range(1, count + 1):
                nursery.start_soon(live, number)
            await trio.sleep(1)
            for host in hosts:
                for other in rng.sample(hosts, 8):
                    if other is not host:
                        await host.connect(other.addrs[0])
            await trio.sleep(5)
            for number in range(5):
                await hosts[number].publish("news", b"%d" % number)
            await trio.sleep(3)
            assert heard == dict.fromkeys(range(1, count + 1), 5)
            degrees = [len(host.gossip.mesh("news")) for host in hosts]
            assert min(degrees) >= GOSSIP_DEGREE_LOW
            assert max(degrees) <= GOSSIP_DEGREE_HIGH
            nursery.cancel_scope.cancel()

    simulated(scenario)


def test_a_neighbour_outside_of_the_mesh_gets_what_it_missed_by_asking() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with (
            network.open(identity(1)) as one,
            network.open(identity(2)) as other,
            one.subscribe("news", lambda _: True),
            other.subscribe("news", lambda _: True) as news,
        ):
            await one.connect(other.addrs[0])
            await trio.sleep(3)
            (link,) = one.gossip.mesh("news")
            one.gossip.hear_prune((link, "news"))
            await one.publish("news", b"late")
            begin = trio.current_time()
            assert (await anext(news)).data == b"late"
            assert trio.current_time() - begin > round_trip_s(one.place, other.place)

    simulated(scenario)


def test_places_share_networks_as_data_centres_do_and_homes_do_not() -> None:
    atlas = Atlas(random.Random(1))
    places = [atlas.place() for _ in range(1000)]
    assert len({place.ip4 for place in places}) == 1000
    narrow = Counter(str(place.ip4).rpartition(".")[0] for place in places)
    assert 600 < len(narrow) < 950
    assert max(narrow.values()) >= 4
    assert 250 < sum(place.ip6 is not None for place in places) < 450
    assert {REGIONS[place.region] for place in places} == set(REGIONS)
    with pytest.raises(ValueError, match="not in"):
        atlas.place(region="atlantis")


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3000)), max_size=40))
def test_the_timeline_calls_everything_in_the_order_of_ticks_and_never_early(asked: list[tuple[float, int]]) -> None:
    called: list[tuple[int, float, int]] = []

    async def main() -> None:
        timeline = Timeline()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timeline.run)
            await trio.sleep(1)
            for index, (delay, not_before) in enumerate(asked):
                tick = timeline.at(
                    trio.current_time() + delay,
                    lambda i: called.append((i, trio.current_time(), timeline.tick)),
                    index,
                    not_before,
                )
                assert tick >= not_before
            await trio.sleep(10)
            nursery.cancel_scope.cancel()

    run_seeded(1, main)
    assert sorted(index for index, _, _ in called) == list(range(len(asked)))
    assert [tick for _, _, tick in called] == sorted(tick for _, _, tick in called)
    for index, when, tick in called:
        assert when == pytest.approx(tick * TICK_S, abs=1e-9)
        assert tick * TICK_S >= 1 + asked[index][0] - 1e-6


def test_the_facade_offers_what_it_names() -> None:
    names: Any = simulations.network.__all__
    assert len(names) == len(set(names))
    assert all(getattr(simulations.network, name) is not None for name in names)


def test_a_host_that_dials_many_at_once_keeps_to_its_bound() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        most = 0
        async with network.open(identity(1)) as curious, trio.open_nursery() as nursery:

            async def visit(addr: str) -> None:
                nonlocal most
                try:
                    await curious.connect(addr)
                except DialError:
                    return
                most = max(most, len(curious.peers()))

            async def be_there(number: int) -> None:
                async with network.open(identity(number)) as host:
                    nursery.start_soon(visit, host.addrs[0])
                    await trio.sleep_forever()

            for number in range(2, MAX_CONNECTIONS + 60):
                nursery.start_soon(be_there, number)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert MAX_CONNECTIONS - 60 < most <= MAX_CONNECTIONS

    simulated(scenario)


def test_who_was_closed_by_a_full_peer_finds_company_among_those_whom_it_met() -> None:
    async def scenario(network: VirtualNetwork) -> None:
        async with (
            network.open(identity(1)) as popular,
            network.open(identity(2)) as second,
            network.open(identity(3)) as third,
        ):
            place = network.atlas.place(nat=Nat.DIAL_ONLY)
            async with network.open(identity(4), place, bootstrap=popular.addrs[:1]) as client:
                await trio.sleep(1)
                for other in (second, third):
                    await client.connect(other.addrs[0])
                await trio.sleep(1)
                for host in (popular, second, third):
                    for link in host.links():
                        link.close()
                dials = network.dials
                await trio.sleep(10)
                assert len(client.peers()) == DIALLER_ENOUGH
                assert popular.peers() == [], "it was full, and is left alone"
                await trio.sleep(600)
                assert network.dials == dials + DIALLER_ENOUGH

    simulated(scenario)
