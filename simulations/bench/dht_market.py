"""The directory of capacity in a swarm: who holds and serves a popular market, and how fast a price is heard."""

from __future__ import annotations

import random
from typing import Any

import trio

from dht import CapacityRecord, Directory, Offer
from dht.kad.messages import MessageType
from dht.shards import Shard, Sold, key_of
from simulations.bench.dht_swarm import SUBNET, Node, Swarm, for_each
from simulations.bench.report import percentile
from transport.host import HostError
from transport.identity import PeerId

_MODEL = Sold("chat", "popular", "plain")
_RAMP_S = 600.0
"""Providers come in the course of ten minutes."""
_SETTLE_S = 3600.0
"""Then they survey their shards again, less and less often."""
_MAX_DEPTH = 14
_DEADLINE_S = 30.0
"""A change that is not heard by then is not heard."""


def selling(price: int, **changes: Any) -> CapacityRecord:
    """A record that sells the popular model at ``price``."""
    offer = Offer(_MODEL.task, _MODEL.model, _MODEL.tier, {"prompt": price, "completion": 3 * price})
    return CapacityRecord(subnet=SUBNET, offers=(offer,), noise_key=b"k" * 32, **changes)


def _directory(swarm: Swarm, node: Node, *, gossip: bool) -> Directory:
    assert node.host is not None
    return Directory(
        node.host,
        node.identity,
        SUBNET,
        clock=swarm.network.unix_time,
        rng=random.Random(swarm.rng.getrandbits(64)),
        providers=None if gossip else node.kad,
        gossip=gossip,
    )


async def listed_market(swarm: Swarm, readers: int) -> dict[str, Any]:
    """Every node lists itself as a provider of one model, without gossip; then ``readers`` of them look for it."""
    nodes, providers = swarm.up(), len(swarm.up())
    directories: list[Directory] = []
    found: list[int] = []

    async def sell(node: Node) -> None:
        async with _directory(swarm, node, gossip=False) as directory:
            assert node.host is not None
            directories.append(directory)
            await trio.sleep(swarm.rng.random() * _RAMP_S)
            await directory.announce(selling(1000, host_addrs=tuple(node.host.addrs)))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(sell, node)
        await trio.sleep(_RAMP_S + _SETTLE_S)
        held = _held(swarm)
        before = [_served(node) for node in nodes]

        async def look(_: int) -> None:
            reader = swarm.rng.choice(directories)
            known = await reader.look_further(_MODEL.task, _MODEL.model, _MODEL.tier, timeout_s=60)
            found.append(len(known))

        await for_each(readers, 64, look)
        served = [_served(node) - earlier for node, earlier in zip(nodes, before, strict=True)]
        unlisted = sum(directory.listed[_MODEL].place is None for directory in directories)
        nursery.cancel_scope.cancel()
    return {
        "providers": providers, "holds_most": max(map(len, held.values())) / providers,
        "serves_most": max(served) / max(1, sum(served)), "listed": len(set().union(*held.values())) / providers,
        "unlisted": unlisted, "found_median": percentile(found, 50), "found_least": min(found),
    }  # fmt: skip


def _held(swarm: Swarm) -> dict[PeerId, set[PeerId]]:
    """Which providers of the model each node has listed, by reading its store: no caller may."""
    keys = {
        key_of(SUBNET, _MODEL, Shard(depth, prefix)) for depth in range(_MAX_DEPTH + 1) for prefix in range(1 << depth)
    }
    held = {}
    for node in swarm.up():
        assert node.kad is not None
        stored = node.kad._providers._keys
        held[node.identity.peer_id] = {peer for key, peers in stored.items() if key in keys for peer in peers}
    return held


def _served(node: Node) -> int:
    assert node.kad is not None
    return node.kad.stats().served[MessageType.GET_PROVIDERS.name]


async def price_change(swarm: Swarm, count: int, changes: int) -> dict[str, Any]:
    """``count`` nodes that gossip, each dialling eight others; then ``changes`` prices jump, one after another."""
    network, rng = swarm.network, swarm.rng
    directories: dict[PeerId, Directory] = {}
    nodes = [Node(swarm.identity(number), network.atlas.place()) for number in range(count)]

    async def run(node: Node) -> None:
        async with network.open(node.identity, node.place) as node.host, _directory(swarm, node, gossip=True) as own:
            directories[node.identity.peer_id] = own
            await trio.sleep_forever()

    async def dial(number: int) -> None:
        host = nodes[number].host
        assert host is not None
        for other in rng.sample(nodes, 8):
            assert other.host is not None
            if other is not nodes[number]:
                try:
                    await host.connect(other.host.addrs[0])
                except HostError:
                    continue

    times: list[float] = []
    missed = 0.0
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(run, node)
        await trio.sleep(1)
        await for_each(count, 64, dial)
        sellers = rng.sample(nodes, min(changes, count))
        for seller in sellers:
            await directories[seller.identity.peer_id].announce(selling(1000))
        await trio.sleep(15)
        for seller in sellers:
            took, share = await _spread(directories, seller.identity.peer_id)
            times.append(took)
            missed = max(missed, 1 - share)
        nursery.cancel_scope.cancel()
    return {"p95_s": percentile(times, 100), "median_s": percentile(times, 50), "changes": len(times), "missed": missed}


async def _spread(directories: dict[PeerId, Directory], seller: PeerId) -> tuple[float, float]:
    """Seconds until 95 % know a seller's new price, and the share that knows it in the end."""
    begun = trio.current_time()
    await directories[seller].announce(selling(2000))
    took = _DEADLINE_S
    while trio.current_time() < begun + 5:
        await trio.sleep(0.02)
        if took == _DEADLINE_S and _share(directories, seller) >= 0.95:
            took = trio.current_time() - begun
    return took, _share(directories, seller)


def _share(directories: dict[PeerId, Directory], seller: PeerId) -> float:
    knowing = 0
    for directory in directories.values():
        record = directory.index.get(seller, directory._clock())
        knowing += record is not None and record.offers[0].prices["prompt"] == 2000
    return knowing / len(directories)
