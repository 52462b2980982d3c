"""How long connecting and identifying take between two hosts on loopback: ``python …/connect_speed.py [N]``, no test.

Both hosts run in this process. For each of N rounds (after 10 that do not count) a fresh client dials the server and
waits for the server's identify; then it leaves. Milliseconds, wall clock.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import trio
from libp2p.peer.id import ID

from transport.host import Libp2pHost
from transport.identity import Identity

WARM_UP = 10


async def one(server: Libp2pHost) -> tuple[float, float]:
    async with Libp2pHost.open(Identity(os.urandom(32))) as client:
        theirs = ID.from_string(server.peer_id)
        started = time.perf_counter()
        await client.connect(server.addrs[0])
        connected = time.perf_counter()
        with trio.fail_after(10):
            while theirs not in client._host._identified_peers:
                await trio.sleep(0.0002)
        return 1e3 * (connected - started), 1e3 * (time.perf_counter() - started)


async def main(rounds: int) -> None:
    async with Libp2pHost.open(Identity(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"]) as server:
        taken = [await one(server) for _ in range(WARM_UP + rounds)][WARM_UP:]
    connect, both = ([pair[index] for pair in taken] for index in (0, 1))
    found = {"rounds": rounds}
    for name, values in (("connect", connect), ("connect_and_identify", both)):
        found |= {f"{name}_p50_ms": round(statistics.median(values), 1)}
        found |= {f"{name}_p95_ms": round(statistics.quantiles(values, n=20)[-1], 1)}
    print(json.dumps(found))


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
