"""`cocoon bench dht`: how far the hash table, the directory and gossip reach.

The rows but the last run in virtual time (`simulations.network`), each scenario and seed in a process of its own, two
at a time; the last one runs real hosts on loopback. What each measures is said in `dht_scenarios`, `dht_attack`,
`dht_market` and `dht_sockets`. Values are the worst of the seeds. Times inside the simulation do not depend on the
machine; wall time and memory do.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from simulations.bench.dht_sockets import socket_nodes
from simulations.bench.report import Row, percentile
from simulations.bench.stage import BenchFailed, module

if TYPE_CHECKING:
    from overlay.cli.output import Output

Results = dict[str, list[dict[str, Any]]]

_AT_ONCE = 2
_TIMEOUT_S = 4 * 3600.0


@dataclass(frozen=True)
class Run:
    """One scenario, under a name of its own, and with which seeds."""

    name: str
    scenario: str
    options: dict[str, Any]
    seeds: Sequence[int]


def plan(quick: bool) -> list[Run]:
    """What is simulated. Quick runs are small and show that all is there; they reach no mark of a large network.

    Ten thousand nodes join without filling their far buckets, which is half of the work of joining: those fill by what
    passes through them. A market of ten thousand is placed by the directory's rules alone: in a swarm its providers
    would make 25 million requests until they are settled, three hours of CPU; there it is one of two hundred."""
    seeds = (1,) if quick else (1, 2, 3)
    store = {"nodes": 48, "keys": 64} if quick else {"nodes": 1024, "keys": 16384}
    sizes = (28, 48) if quick else (100, 1000)
    largest = {"nodes": 40, "keys": 32} if quick else {"nodes": 10_000, "keys": 1000, "bootstrap_refresh": False}
    replayed = {"nodes": 40, "keys": 24, "duration_s": 30.0}
    return [
        *[Run(f"size {size}", "store", {"nodes": size, "keys": 32 if quick else 100}, seeds) for size in sizes],
        Run("replay", "churn", replayed, (7, 7)),
        Run("gossip", "gossip", {"nodes": 60 if quick else 1000, "changes": 2 if quick else 10}, seeds),
        Run("sybil", "sybil", {"nodes": 32 if quick else 1000, "lookups": 8 if quick else 500}, seeds),
        Run("sybil spread", "sybil", {**({"nodes": 32, "lookups": 8} if quick else {"nodes": 1000, "lookups": 500}),
                                      "spread": True}, seeds),
        Run("store", "store", store, seeds),
        Run("churn", "churn", {**store, "duration_s": 30.0 if quick else 600.0}, seeds),
        Run("market", "market", {"nodes": 12, "readers": 6} if quick else {"nodes": 200, "readers": 1000}, seeds),
        Run("placement", "placement", {"nodes": 300 if quick else 10_000, "readers": 100 if quick else 2000}, seeds),
        Run("large", "store", largest, seeds),
    ]  # fmt: skip


async def dht_rows(quick: bool, output: Output) -> list[Row]:
    """All rows. Raises :class:`BenchFailed` when a part fails."""
    results: Results = {}
    room = trio.CapacityLimiter(_AT_ONCE)

    async def run(task: Run, index: int, seed: int) -> None:
        async with room:
            output.note(f"{task.name}, seed {seed}")
            results[task.name][index] = await _simulated(task.scenario, {**task.options, "seed": seed}, index)

    try:
        async with trio.open_nursery() as nursery:
            for task in plan(quick):
                results[task.name] = [{} for _ in task.seeds]
                for index, seed in enumerate(task.seeds):
                    nursery.start_soon(run, task, index, seed)
    except BaseExceptionGroup as group:
        failed: BaseException | None = group.subgroup(BenchFailed)
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        if failed is None:
            raise
        raise failed from None
    output.note("hosts on loopback")
    sockets = await socket_nodes(2, 3, 10, 4) if quick else await socket_nodes(4, 8, 10, 20)
    return [*_rows(results, quick), *_socket_rows(sockets)]


async def _simulated(scenario: str, options: dict[str, Any], index: int) -> dict[str, Any]:
    """One scenario in a process, whose hashes of text are seeded otherwise each time."""
    command = module("simulations.bench.dht_scenarios", scenario, json.dumps(options))
    environ = {**os.environ, "PYTHONHASHSEED": str(1 + index)}
    with trio.move_on_after(_TIMEOUT_S):
        done = await trio.run_process(command, env=environ, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode:
            raise BenchFailed(f"{scenario}: {done.stderr.decode(errors='replace').strip()[-800:]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    raise BenchFailed(f"{scenario} took more than {_TIMEOUT_S:.0f} s")


# --- rows -------------------------------------------------------------------------------------------------------------


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _row(
    id: str, measure: str, runs: Sequence[dict[str, Any]], field: str, unit: str, reach: str,
    good: Callable[[float], bool], worst: Callable[[Sequence[float]], float], beside: Sequence[str] = (),
) -> Row:  # fmt: skip
    """A row of one field, the worst of the seeds held against the mark; ``beside`` names fields shown for each seed."""
    samples = [_short(run[field]) for run in runs]
    extra: dict[str, Any] = {name: [_short(run[name]) for run in runs] for name in beside}
    extra |= {"seeds": [run["seed"] for run in runs], "digests": [run["digest"] for run in runs]}
    return Row(id, measure, worst(samples), unit, reach, good(worst(samples)), samples, extra)


def _rows(results: Results, quick: bool) -> list[Row]:
    low = partial(_row, worst=min)
    high = partial(_row, worst=max)
    store, large = results["store"], results["large"]
    swarm, placed = results["market"], results["placement"]
    label = "48 nodes, 64 keys" if quick else "1,024 nodes, 16,384 keys"
    big = "40 nodes, 32 look-ups" if quick else "10,000 nodes, 1,000 look-ups"
    cost = ("hops", "requests", "p50_s", "p95_s", "round_trip_s", "failures")
    return [
        low("found", f"{label}: found by nodes that do not hold them", store, "found", "of 1", "1",
            lambda v: v == 1, beside=("holders_median", "holders_min")),
        high("hops", f"{label}: median hops", store, "hops", "", "≤ 4", lambda v: v <= 4, beside=("hops_p95",)),
        high("lookup-time", f"{label}: p95 look-up over median round trip × hops", store, "p95_ratio", "×", "≤ 3",
             lambda v: v <= 3, beside=cost),
        low("churn", f"{label}, 30 % of the nodes replaced in {30 if quick else 600} virtual seconds: found",
            results["churn"], "found", "of 1", "≥ 0.99", lambda v: v >= 0.99, beside=(*cost, "left", "up")),
        low("large", f"{big}: found", large, "found", "of 1", "≥ 0.999", lambda v: v >= 0.999,
            beside=(*cost, "wall_s", "rss_mib")),
        _growth_row(results),
        high("market-held", f"a popular model of {_nodes(placed):,} providers: the most of them listed at one node",
             placed, "holds_most", "of 1", "≤ 0.02", lambda v: v <= 0.02, beside=("keys", "found_least")),
        high("market-served", "the same: the most of the requests for it that one node serves",
             placed, "serves_most", "of 1", "≤ 0.02", lambda v: v <= 0.02, beside=("lookups_of_a_reader",)),
        _told("market-listed", f"a market of {_nodes(swarm):,} in a swarm: providers that are listed", swarm, "listed",
              beside=("holds_most", "serves_most", "unlisted", "found_median", "found_least")),
        low("sybil", "20 % liars with ids ground around one key, in 16 /24s: honest look-ups of it that are right",
            results["sybil"], "right", "of 1", "≥ 0.95", lambda v: v >= 0.95,
            beside=("liars_among_the_20_nearest", "other_keys", "requests")),
        _told("sybil-spread", "the same liars with addresses all over the internet", results["sybil spread"], "right"),
        high("capacity-news", "a price change heard by 95 % of " + ("60" if quick else "1,000") + " nodes",
             results["gossip"], "p95_s", "s", "≤ 3", lambda v: v <= 3, beside=("median_s", "missed")),
        high("wall", f"{label}: wall time", store, "wall_s", "s", "≤ 120", lambda v: v <= 120,
             beside=("cpu_s", "join_cpu_s", "virtual_s", "messages", "dials")),
        high("memory", f"{label}: memory", store, "rss_mib", "MiB", "≤ 1536", lambda v: v <= 1536),
        _replay_row(results["replay"]),
    ]  # fmt: skip


def _told(
    id: str, measure: str, runs: Sequence[dict[str, Any]], field: str, *, beside: Sequence[str] = ()
) -> Row:  # fmt: skip
    samples = [_short(run[field]) for run in runs]
    extra: dict[str, Any] = {name: [_short(run[name]) for run in runs] for name in beside}
    extra |= {"seeds": [run["seed"] for run in runs], "digests": [run["digest"] for run in runs]}
    return Row(id, measure, min(samples), "of 1", "", None, samples, extra)


def _growth_row(results: Results) -> Row:
    """Requests of a get at growing sizes: O(log n) when each tenfold adds about the same number."""
    sizes = [name for name in results if name.startswith("size ")]
    counts = {int(name.removeprefix("size ")): _mean(results[name], "requests") for name in sizes}
    counts[_nodes(results["large"])] = _mean(results["large"], "requests")
    ordered = sorted(counts)
    first, last = ordered[0], ordered[-1]
    ratio = (counts[last] / counts[first]) / (last / first)
    return Row(
        "growth", f"requests of a look-up at {', '.join(f'{n:,}' for n in ordered)} nodes",
        _short(counts[last]), "requests", "≤ requests at the least × (1 + log of the growth to base 10)",
        counts[last] <= counts[first] * (1 + math.log10(last / first)),
        [_short(counts[n]) for n in ordered], {"nodes": ordered, "share_of_linear_growth": _short(ratio)},
    )  # fmt: skip


def _mean(runs: Sequence[dict[str, Any]], field: str) -> float:
    return statistics.fmean(run[field] for run in runs)


def _nodes(runs: Sequence[dict[str, Any]]) -> int:
    return int(runs[0]["nodes"])


def _replay_row(runs: Sequence[dict[str, Any]]) -> Row:
    digests = [run["digest"] for run in runs]
    same = len(set(digests)) == 1
    return Row(
        "replay", "one seed in two processes, hashes of text seeded differently: runs that agree byte for byte",
        float(digests.count(digests[0])), "runs", f"{len(digests)}", same, [],
        {"digests": digests, "messages": [run["messages"] for run in runs]},
    )  # fmt: skip


def _socket_rows(sockets: dict[str, Any]) -> list[Row]:
    connects = [1000 * took for took in sockets["connect_s"]]
    in_time = sum(delay <= 2 for delay in sockets["delays_s"]) / max(1, sockets["expected"])
    p50 = percentile(connects, 50)
    return [
        Row("sockets-connect", "real hosts on loopback: connect and identify, p50", _short(p50), "ms", "≤ 40 ms",
            p50 <= 40, [], {"p95_ms": _short(percentile(connects, 95)), "connections": len(connects)}),
        Row("sockets-gossip", "real hosts on loopback, 10 messages a second: delivered within 2 s", _short(in_time),
            "of 1", "1", in_time >= 1, [], {"deliveries": sockets["expected"],
            "p50_ms": _short(1000 * percentile(sockets["delays_s"] or [0.0], 50)),
            "p99_ms": _short(1000 * percentile(sockets["delays_s"] or [0.0], 99))}),
    ]  # fmt: skip
