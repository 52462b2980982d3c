"""Gossip as a mean field does to a host what a mesh does, in the mean, and costs the idle nothing."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from dht import CapacityRecord, Offer, SignedRecord, Verdict
from dht.index import Source
from simulations.determinism import run_seeded
from simulations.network import VirtualHost, VirtualNetwork
from simulations.network.meanfield import MeanFieldGossip
from simulations.world.index import LateIndex
from transport.host import GossipMessage
from transport.identity import Identity

TOPIC = "news"


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


class Swarm:
    """Hosts that follow one topic, and what each of them heard and when."""

    def __init__(self, network: VirtualNetwork, stack: AsyncExitStack) -> None:
        self.network = network
        self.stack = stack
        self.hosts: list[VirtualHost] = []
        self.heard: dict[tuple[int, bytes], float] = {}
        self.verdict: bool | None = True

    async def add(self, *, dials: int = 0) -> VirtualHost:
        number = len(self.hosts)
        host = await self.stack.enter_async_context(self.network.open(identity(number + 1)))

        def hear(message: GossipMessage) -> bool | None:
            self.heard.setdefault((number, message.data), trio.current_time())
            return self.verdict

        await self.stack.enter_async_context(host.subscribe(TOPIC, hear))
        self.hosts.append(host)
        for other in random.Random(number).sample(self.hosts[:-1], min(dials, number)):
            await host.connect(f"{other.place.addrs()[0]}/p2p/{other.peer_id}")
        return host

    def look(self, host: VirtualHost) -> None:
        gossip = host.gossip
        assert isinstance(gossip, MeanFieldGossip)
        gossip.let_in()


def run(main: Callable[[Swarm], Awaitable[Any]], *, mean_field: bool = True) -> Any:
    async def inside() -> Any:
        async with (
            VirtualNetwork.running(random.Random(1), mean_field=mean_field) as network,
            AsyncExitStack() as stack,
        ):
            return await main(Swarm(network, stack))

    return run_seeded(3, inside)


def test_news_takes_as_long_and_costs_as_much_as_in_a_mesh() -> None:
    async def mesh(swarm: Swarm) -> tuple[list[float], float]:
        for _ in range(100):
            await swarm.add(dials=4)
        await trio.sleep(5)
        took: list[float] = []
        for number, origin in enumerate(swarm.hosts[::12]):
            swarm.heard.clear()
            began = trio.current_time()
            await origin.publish(TOPIC, b"%d" % number)
            if isinstance(origin.gossip, MeanFieldGossip):
                (*_, publication) = origin.gossip.newest(TOPIC)
                others = [host for host in swarm.hosts if host is not origin]
                took += [host.gossip.arrival_s(publication) - began for host in others]
            await trio.sleep(2)
            took += [at - began for (host, _), at in swarm.heard.items() if swarm.hosts[host] is not origin]
        return sorted(took), swarm.network.carried[TOPIC].messages

    (there, sent), (here, estimated) = run(mesh, mean_field=False), run(mesh)
    assert len(there) == len(here)
    for share in (0.25, 0.5, 0.9):
        assert here[int(share * len(here))] == pytest.approx(there[int(share * len(there))], rel=0.25)
    assert estimated == pytest.approx(sent, rel=0.2)


def test_a_host_hears_the_newest_of_each_origin_when_it_looks_and_not_before_a_mesh_would_bring_it() -> None:
    async def main(swarm: Swarm) -> None:
        one, other, idle = [await swarm.add(dials=1) for _ in range(3)]
        for origin, text in ((one, b"old"), (other, b"theirs"), (one, b"new")):
            await origin.publish(TOPIC, text)
        swarm.look(idle)
        assert (2, b"new") not in swarm.heard
        await trio.sleep(1)
        assert [data for host, data in swarm.heard if host == 2] == []
        swarm.look(idle)
        assert {data for host, data in swarm.heard if host == 2} == {b"new", b"theirs"}
        swarm.heard.clear()
        swarm.look(idle)
        assert not swarm.heard

    run(main)


def test_who_waits_for_news_is_told_when_it_comes() -> None:
    async def main(swarm: Swarm) -> None:
        origin, waiting = [await swarm.add(dials=1) for _ in range(2)]
        await trio.sleep(1)
        assert isinstance(waiting.gossip, MeanFieldGossip)
        waiting.gossip.hunger()
        await origin.publish(TOPIC, b"news")
        began = trio.current_time()
        await trio.sleep(1)
        assert 0.0 < swarm.heard[1, b"news"] - began < 0.5

    run(main)


def test_news_stays_on_its_side_of_a_partition_and_reaches_nobody_without_a_connection_or_from_before_he_came() -> None:
    async def main(swarm: Swarm) -> None:
        origin, near, far = [await swarm.add(dials=1) for _ in range(3)]
        lonely = await swarm.add()
        await origin.publish(TOPIC, b"before")
        late = await swarm.add(dials=2)
        swarm.network.split([origin.peer_id, near.peer_id, late.peer_id], [far.peer_id])
        await origin.publish(TOPIC, b"parted")
        await trio.sleep(1)
        for host in (near, far, lonely, late):
            swarm.look(host)
        assert {(host, data) for host, data in swarm.heard if host} == {(1, b"parted"), (2, b"before"), (4, b"parted")}

    run(main)


def test_what_a_validator_refuses_goes_no_further() -> None:
    async def main(swarm: Swarm) -> None:
        origin, first, second = [await swarm.add(dials=2) for _ in range(3)]
        await origin.publish(TOPIC, b"bad")
        swarm.verdict = False
        await trio.sleep(1)
        swarm.look(first)
        swarm.look(second)
        assert {host for host, _ in swarm.heard if host} == {1}

    run(main)


def test_who_tells_or_is_told_of_few_records_looks_at_the_news_of_those_few() -> None:
    async def main(swarm: Swarm) -> None:
        reader = await swarm.stack.enter_async_context(swarm.network.open(identity(1)))
        assert isinstance(reader.gossip, MeanFieldGossip)
        index = LateIndex(reader.gossip)
        said: dict[bytes, SignedRecord] = {}

        def hear(message: GossipMessage) -> bool:
            return index.add(said[message.data], 1000.0) is Verdict.NEWS

        await swarm.stack.enter_async_context(reader.subscribe(TOPIC, hear))
        for number in range(2, 22):
            host = await swarm.stack.enter_async_context(swarm.network.open(identity(number)))
            await host.connect(reader.addrs[0])
            record = CapacityRecord("sim", offers=(Offer("chat", "m", "plain", {"prompt": 1}),), issued_at=990, seq=1)
            said[host.peer_id.encode()] = SignedRecord(host.peer_id, record, host.peer_id.encode())
            await trio.sleep(1)
            await host.publish(TOPIC, host.peer_id.encode())
        await trio.sleep(2)
        everybody = sorted(signed.peer_id for signed in said.values())
        assert len(index) == 0, "nobody has looked"
        last = next(signed for signed in said.values() if signed.peer_id == everybody[-1])
        assert index.add(last, 1000.0, Source.NEIGHBOUR) is Verdict.KNOWN, "gossip had brought it before"
        found, more = index.page("", 6, now=1000.0)
        assert ([signed.peer_id for signed in found], more) == (everybody[:6], True)
        assert len(index) == 8, "of the seventh it knows that there are more"
        found, more = index.page("", 64, now=1000.0)
        assert ([signed.peer_id for signed in found], more) == (everybody, False)

    run(main)
