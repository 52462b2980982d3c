"""Real hosts on loopback, several in a process: connecting, identifying, and gossip at ten messages a second.

    dht_sockets FIRST COUNT

opens hosts of the identities FIRST to FIRST + COUNT - 1, prints their addresses as JSON, reads one JSON line with the
addresses of all and what to do, does it, and prints what it measured. `socket_nodes` drives several of these.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import trio

from simulations.bench.stage import BenchFailed, module
from transport.host import GossipMessage, Libp2pHost
from transport.identity import Identity

_TOPIC = "bench"
_NEIGHBOURS = 6
_SETTLE_S = 4.0
_DRAIN_S = 3.0
_TIMEOUT_S = 180.0


def _identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


async def _serve(first: int, count: int) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(Libp2pHost.open(_identity(number), ["/ip4/127.0.0.1/tcp/0"]))
            for number in range(first, first + count)
        ]
        print(json.dumps([host.addrs[0] for host in hosts]), flush=True)
        told = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
        print(json.dumps(await _measure(hosts, first, **told)), flush=True)


async def _measure(
    hosts: list[Libp2pHost], first: int, addrs: list[str], per_s: float, seconds: float, total: int
) -> dict[str, Any]:
    delays: list[float] = []
    connects: list[float] = []
    published = 0

    async def listen(inbox: AsyncIterator[GossipMessage], own: str) -> None:
        async for message in inbox:
            if message.origin != own:
                delays.append(time.time() - json.loads(message.data)[0])

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for host in hosts:
            inbox = await stack.enter_async_context(host.subscribe(_TOPIC, lambda _: True))
            nursery.start_soon(listen, inbox, host.peer_id)
        for number, host in enumerate(hosts, first):
            connects += await _connect(host, addrs, random.Random(number))
        await trio.sleep(_SETTLE_S)
        begun = trio.current_time()
        for step in range(int(per_s * seconds)):
            await trio.sleep_until(begun + step / per_s)
            if first <= 1 + step % total < first + len(hosts):
                await hosts[1 + step % total - first].publish(_TOPIC, json.dumps([time.time(), step]).encode())
                published += 1
        await trio.sleep(_DRAIN_S)
        nursery.cancel_scope.cancel()
    return {"connect_s": connects, "delays_s": delays, "published": published}


async def _connect(host: Libp2pHost, addrs: list[str], rng: random.Random) -> list[float]:
    """Dial a few others; seconds until each is connected and identified."""
    took = []
    for addr in rng.sample([addr for addr in addrs if addr not in host.addrs], min(_NEIGHBOURS, len(addrs) - 1)):
        if any(addr.endswith(f"/p2p/{info.peer_id}") for info in host.peers()):
            continue
        begun = time.perf_counter()
        peer = await host.connect(addr)
        while not any(str(known) == peer for known in host._host._identified_peers):  # noqa: ASYNC110  # nobody is told
            await trio.sleep(0.001)
        took.append(time.perf_counter() - begun)
        await trio.sleep(0.05)
    return took


async def socket_nodes(processes: int, each: int, per_s: float, seconds: float) -> dict[str, Any]:
    """Run ``processes`` of ``each`` hosts that gossip ``per_s`` messages a second together, for ``seconds``. Returns
    all samples. Raises :class:`BenchFailed` when one of them fails."""
    running: list[trio.Process] = []
    try:
        for number in range(processes):
            command = module("simulations.bench.dht_sockets", str(1 + number * each), str(each))
            running.append(
                await trio.lowlevel.open_process(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            )
        with trio.fail_after(_TIMEOUT_S):
            lines = [_Lines(process) for process in running]
            addrs = [addr for line in lines for addr in await line.next()]
            told = json.dumps({"addrs": addrs, "per_s": per_s, "seconds": seconds, "total": processes * each})
            for process in running:
                assert process.stdin is not None
                await process.stdin.send_all(told.encode() + b"\n")
            results = [await line.next() for line in lines]
    except trio.TooSlowError:
        raise BenchFailed(f"the nodes on sockets took more than {_TIMEOUT_S:.0f} s") from None
    finally:
        for process in running:
            process.kill()
    published = sum(result["published"] for result in results)
    return {
        "connect_s": [took for result in results for took in result["connect_s"]],
        "delays_s": [delay for result in results for delay in result["delays_s"]],
        "expected": published * (processes * each - 1),
    }


class _Lines:
    """JSON lines of one process."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def next(self) -> Any:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some()
            if not data:
                raise BenchFailed("a process with nodes on sockets ended early")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), int(sys.argv[2]))
