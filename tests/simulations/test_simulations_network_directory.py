"""The directory of capacity, unchanged, on virtual hosts: gossip, exchange on contact, withdrawal, offenders."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from dht import CapacityRecord, Directory, Offer, sign_record
from dht.limits import PAGE_RECORDS
from simulations.determinism import run_seeded
from simulations.network import VirtualHost, VirtualNetwork
from transport.host import EventKind
from transport.identity import Identity

PROTOCOL = "/cocoon/main/capacity/1.0.0"


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def selling(model: str = "demo", price: int = 1000, **changes: Any) -> CapacityRecord:
    offer = Offer("chat", model, "plain", {"prompt": price})
    return CapacityRecord(**{"subnet": "main", "offers": (offer,), "noise_key": b"k" * 32, **changes})


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.05)


class Market:
    def __init__(self, network: VirtualNetwork) -> None:
        self.network = network

    @asynccontextmanager
    async def node(self, number: int, *bootstrap: VirtualHost) -> AsyncIterator[tuple[VirtualHost, Directory]]:
        addrs = [addr for host in bootstrap for addr in host.addrs]
        async with (
            self.network.open(identity(number), bootstrap=addrs) as host,
            Directory(
                host, identity(number), "main", clock=self.network.unix_time, rng=random.Random(number)
            ) as directory,
        ):
            yield host, directory


def simulated(scenario: Callable[[Market], Any]) -> str:
    async def main() -> str:
        async with VirtualNetwork.running(random.Random(2)) as network:
            await scenario(Market(network))
            assert set(network.handler_failures) <= {"TooSlowError"}  # of a peer that asks nothing more
        return network.log.digest

    return run_seeded(2, main)


def test_a_newcomer_learns_the_market_and_hears_what_changes() -> None:
    async def scenario(market: Market) -> None:
        async with market.node(1) as (boot, _), market.node(2, boot) as (_, client):
            async with market.node(3, boot) as (_, first), market.node(4, boot) as (_, second):
                await first.announce(selling("a"))
                await second.announce(selling("b"))
                await until(lambda: client.models() == [("chat", "a"), ("chat", "b")])
                async with market.node(5, boot) as (_, newcomer):
                    await until(lambda: newcomer.models() == [("chat", "a"), ("chat", "b")])
                    await first.announce(selling("a", price=2000))
                    for reader in (client, newcomer):
                        await until(
                            lambda reader=reader: reader.providers("chat", "a")[0][2].prices == {"prompt": 2000}
                        )
            await until(lambda: client.models() == [])

    assert simulated(scenario) == simulated(scenario)


def test_a_provider_that_crashes_is_forgotten_when_its_record_ends() -> None:
    async def scenario(market: Market) -> None:
        async with market.node(1) as (boot, known):
            async with market.node(2, boot) as (host, provider):
                await provider.announce(selling(ttl_s=30))
                await until(known.models)
                host.halt(crash=True)
            await trio.sleep(5)
            assert known.models() == [("chat", "demo")]
            await trio.sleep(30)
            assert known.models() == []

    simulated(scenario)


def test_a_market_of_several_pages_is_learned_whole() -> None:
    async def scenario(market: Market) -> None:
        async with market.node(1) as (boot, known):
            now = market.network.unix_time()
            for number in range(1000, 1000 + 2 * PAGE_RECORDS + 20):
                known.index.add(sign_record(identity(number), selling(seq=1, issued_at=int(now))), now)
            async with market.node(2, boot) as (_, newcomer):
                await until(lambda: len(newcomer.providers("chat")) == 2 * PAGE_RECORDS + 20)

    simulated(scenario)


def test_a_neighbour_that_asks_in_garbage_is_dropped() -> None:
    async def scenario(market: Market) -> None:
        async with (
            market.node(1) as (server, _),
            market.network.open(identity(2)) as attacker,
            server.events() as events,
        ):
            stream = await attacker.open_stream(server.peer_id, PROTOCOL, addrs=server.addrs)
            await stream.send(b"\xff" * 20)
            async for event in events:
                if event.kind is EventKind.DROPPED:
                    assert event.peer_id == attacker.peer_id
                    break
            await until(lambda: not server.peers())

    simulated(scenario)
