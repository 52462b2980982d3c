"""What `cocoon bench dht` simulates, each scenario in a process of its own.

    python -m simulations.bench.dht_scenarios NAME JSON

prints one JSON object: what was measured, and the hash of the run's event log. Virtual time, one seed, no network. Hops
are the peers asked one after another that led to the answer: 1 when it came from a peer that the asker knew. Reads
come from nodes that do not hold the record.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from dht.kad import KadConfig, LookupReport
from dht.kad.messages import MessageType
from simulations.bench.dht_attack import Attack
from simulations.bench.dht_market import listed_market, price_change
from simulations.bench.dht_placement import placed_market
from simulations.bench.dht_swarm import BlobValidator, Swarm, for_each, holds
from simulations.bench.report import percentile
from simulations.determinism import EventLog, frozen_heap, run_seeded
from simulations.network import VirtualNetwork

Options = dict[str, Any]
Result = dict[str, Any]

_IN_FLIGHT = 512
"""Operations of the swarm under way at once."""


def blob(number: int) -> bytes:
    """A value of the size of a capacity record."""
    return f"value {number} ".encode() * 25


async def grown(swarm: Swarm, count: int) -> None:
    """A swarm of ``count``, which has had a little while since."""
    with frozen_heap():
        await swarm.grow(count)
        await trio.sleep(5)


async def put_all(swarm: Swarm, keys: int) -> list[int]:
    """Store ``keys`` values, each from a node drawn at random; how many peers took each."""
    taken = [0] * keys
    nodes = [swarm.rng.choice(swarm.up()) for _ in range(keys)]

    async def put(number: int) -> None:
        kad = nodes[number].kad
        assert kad is not None
        value = blob(number)
        taken[number] = await kad.put(BlobValidator.key(value), value, republish=False)

    await for_each(keys, _IN_FLIGHT, put)
    return taken


async def get(swarm: Swarm, number: int) -> bool:
    """Whether value ``number`` is found by a node that does not hold it. Raises ``ValueError`` when all hold it."""
    key = BlobValidator.key(blob(number))
    for reader in swarm.rng.sample(swarm.up(), len(swarm.up())):
        if reader.kad is not None and not holds(reader, key, swarm.network.unix_time()):
            return await reader.kad.get(key) == blob(number)
    raise ValueError("every node holds the value: a swarm for this has more than twenty nodes")


async def get_all(swarm: Swarm, numbers: Sequence[int], width: int = _IN_FLIGHT) -> int:
    """How many of the values are found, each read once."""
    found: list[int] = []

    async def read(index: int) -> None:
        if await get(swarm, numbers[index]):
            found.append(index)

    await for_each(len(numbers), width, read)
    return len(found)


def lookups(swarm: Swarm, kind: MessageType = MessageType.GET_VALUE) -> Result:
    """What the look-ups of one kind took, of those since the reports were last cleared."""
    reports: list[LookupReport] = [report for report in swarm.reports if report.kind is kind]
    took = [report.took_s for report in reports]
    hops = statistics.median(report.hops for report in reports)
    trip = swarm.median_round_trip_s()
    return {
        "lookups": len(reports),
        "hops": hops,
        "hops_p95": percentile([report.hops for report in reports], 95),
        "requests": statistics.fmean(report.requests for report in reports),
        "failures": sum(report.failures for report in reports) / max(1, sum(report.requests for report in reports)),
        "p50_s": percentile(took, 50),
        "p95_s": percentile(took, 95),
        "round_trip_s": trip,
        "p95_ratio": percentile(took, 95) / (trip * max(1, hops)),
    }


# --- the scenarios ----------------------------------------------------------------------------------------------------


async def store(swarm: Swarm, options: Options) -> Result:
    """``nodes`` join, ``keys`` are stored and then read."""
    keys = options["keys"]
    await grown(swarm, options["nodes"])
    joined = _used()
    with frozen_heap():
        taken = await put_all(swarm, keys)
        swarm.reports.clear()
        found = await get_all(swarm, range(keys))
    return {
        **lookups(swarm), "found": found / keys, "holders_median": statistics.median(taken),
        "holders_min": min(taken), "join_cpu_s": joined["cpu_s"],
    }  # fmt: skip


async def churn(swarm: Swarm, options: Options) -> Result:
    """The same, and then, in ten minutes, ``share`` of the nodes leave (half of them crash) and as many come: two in
    three those that left before. All keys are read in that time, each from a node that is up."""
    keys, duration, share = options["keys"], options.get("duration_s", 600.0), options.get("share", 0.3)
    await grown(swarm, options["nodes"])
    with frozen_heap():
        await put_all(swarm, keys)
        swarm.reports.clear()
        changes = round(share * options["nodes"])
        found: list[int] = []

        async def replace(number: int) -> None:
            await trio.sleep(duration * (number + swarm.rng.random()) / changes)
            leaver = swarm.rng.choice(swarm.up()[1:])
            await swarm.stop(leaver, crash=number % 2 == 0)
            away = [node for node in swarm.nodes if not node.up and node is not leaver and node.stopped.is_set()]
            if number % 3 and away:
                await swarm.start(away[0])
            else:
                await swarm.grow(1)

        async def read(number: int) -> None:
            await trio.sleep(duration * (number + swarm.rng.random()) / keys)
            if await get(swarm, number):
                found.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(changes):
                nursery.start_soon(replace, number)
            for number in range(keys):
                nursery.start_soon(read, number)
    return {**lookups(swarm), "found": len(found) / keys, "left": changes, "up": len(swarm.up())}


async def sybil(swarm: Swarm, options: Options) -> Result:
    """A fifth of the nodes are liars with ids chosen around one key, which honest nodes write and read."""
    await grown(swarm, options["nodes"])
    with frozen_heap():
        attack = Attack(swarm, options["nodes"] // 4, spread=options.get("spread", False))
        return await attack.run(options["lookups"])


async def market(swarm: Swarm, options: Options) -> Result:
    """Every node sells one popular model and lists itself; some then look for it."""
    await grown(swarm, options["nodes"])
    with frozen_heap():
        return await listed_market(swarm, options["readers"])


async def gossip(swarm: Swarm, options: Options) -> Result:
    """Every node follows the market; a provider's price jumps."""
    return await price_change(swarm, options["nodes"], options["changes"])


SCENARIOS: dict[str, Callable[[Swarm, Options], Awaitable[Result]]] = {
    "store": store, "churn": churn, "sybil": sybil, "market": market, "gossip": gossip,
}  # fmt: skip


def _used() -> Result:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "rss_mib": usage.ru_maxrss / 1024}


def simulate(name: str, options: Options) -> Result:
    """Run one scenario with ``options["seed"]``; what it measured, what it cost, and the hash of its log."""
    seed = options["seed"]
    began = time.perf_counter()
    if name == "placement":
        placed = placed_market(seed, options["nodes"], options["readers"])
        return {**placed, "wall_s": time.perf_counter() - began, **_used()}
    log = EventLog()

    async def main() -> Result:
        rng = random.Random(f"network {seed}")
        config = KadConfig(bootstrap_refresh=options.get("bootstrap_refresh", True))
        async with (
            VirtualNetwork.running(rng, log=log, loss=options.get("loss", 0.0)) as network,
            Swarm.running(network, seed, config=config) as swarm,
        ):
            found = await SCENARIOS[name](swarm, options)
            return {
                **found, "virtual_s": trio.current_time(), "messages": network.messages, "dials": network.dials,
                "failed_dials": network.failed_dials,
            }  # fmt: skip

    result = run_seeded(seed, main)
    return {
        "seed": seed,
        "nodes": options["nodes"],
        **result,
        "digest": log.digest,
        "wall_s": time.perf_counter() - began,
        **_used(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(simulate(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
