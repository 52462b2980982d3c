"""What only the tunnel is measured for: tokens beside a tensor, the receiver's memory, handshakes. A process an end.

`python -m simulations.bench.tunnel_special MEASURE server|client CORE DIRECTORY OPTIONS`, as :mod:`tunnel_peer`:

- ``tokens``: the client streams one tensor of ``mib`` MiB and, on another stream, a 64-byte token each millisecond; the
  server, which has the tensor's memory ready, notes how old each token is by the clock that both share. A token's age
  counts from the moment it was due, so a sender that is kept from sending hides nothing.
- ``memory``: the growth of the server's peak resident memory over what it had before, with the destination tensor in
  place: for one tensor of ``mib`` MiB, and for a client that opens all the streams it can and fills each, long messages
  begun and short ones, while nobody reads.
- ``handshakes``: time of dial, first message and its echo, one at a time; then ``count`` dials, a few at once.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from simulations.bench.report import percentile
from simulations.bench.tunnel_channels import MIB
from simulations.bench.tunnel_peer import HOST, SYSTEM, client_tunnel, endpoint, say
from transport.tensors import receive_tensor, send_tensor
from transport.tunnel import Tunnel, TunnelClosed, TunnelListener, TunnelStream, dial, open_tunnel_listener

TOKEN_S = 0.001
_TOKEN = struct.Struct("<d56x")
FLOOD_STREAMS = 224
"""All that the protocol lets one side open."""

SETTLE_S = 0.7
WARM_BYTES = 100_000
AT_ONCE = 6
"""Handshakes under way at a time in the rate's measure: enough that neither side waits for the other, and fewer than
the tunnels that a listener lets one peer have, for it hears of the end of the last a moment after the next begins."""

WARM_UP = 20


async def serve(handler: Callable[[Tunnel], Awaitable[None]], done: trio.Event) -> TunnelListener:
    """Listen until ``done``."""
    async with open_tunnel_listener(endpoint(True), HOST, 0, handler) as listener:
        say(ready={"addr": listener.addrs[0]})
        await done.wait()
    return listener


# --- tokens ----------------------------------------------------------------------------------------------------------


async def tokens_server(options: dict[str, Any]) -> None:
    """Receive the tensor into memory that is there, and the tokens."""
    done = trio.Event()
    target = np.ones(options["mib"] * MIB, np.uint8)
    ages: list[float] = []

    async def read_tokens(stream: TunnelStream) -> None:
        while messages := await stream.receive_messages():
            now = time.monotonic()
            ages.extend((now - _TOKEN.unpack(message)[0]) * 1e3 for message in messages)

    async def handler(tunnel: Tunnel) -> None:
        try:
            async with await tunnel.accept() as bulk, await tunnel.accept() as tokens, trio.open_nursery() as nursery:
                nursery.start_soon(read_tokens, tokens)
                await bulk.receive_message(1)
                started = time.monotonic()
                await receive_tensor(bulk, target.nbytes, target)
                wall = time.monotonic() - started
            say(mb_s=target.nbytes / wall / 1e6, p50_ms=percentile(ages, 50), p99_ms=percentile(ages, 99), n=len(ages))
        finally:
            done.set()

    await serve(handler, done)


async def tokens_client(options: dict[str, Any]) -> None:
    """Send both."""
    source = np.ones(options["mib"] * MIB, np.uint8)
    async with client_tunnel(options, SYSTEM) as tunnel, tunnel.open_stream() as bulk, tunnel.open_stream() as tokens:
        await tokens.send_message(_TOKEN.pack(time.monotonic()), urgent=True)
        await bulk.send_message(b"g", urgent=True)
        async with trio.open_nursery() as nursery:

            async def pace() -> None:
                due = time.monotonic()
                while True:
                    # All that are due, for a turn of the loop may take longer than the time between two tokens.
                    while due <= time.monotonic():
                        await tokens.send_message(_TOKEN.pack(due), urgent=True)
                        due += TOKEN_S
                    await trio.sleep(max(0.0, due - time.monotonic()))

            nursery.start_soon(pace)
            await send_tensor(bulk, source)
            nursery.cancel_scope.cancel()
    say()


# --- memory ----------------------------------------------------------------------------------------------------------


def reset_peak() -> int:
    """Forget the peak of resident memory; returns what is resident now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel does not tell {name}")


async def memory_server(options: dict[str, Any]) -> None:
    """Be flooded in two ways, one tunnel after the other."""
    target = np.ones(options["mib"] * MIB, np.uint8)
    grown: dict[str, float] = {}
    done = trio.Event()

    async def tensor(tunnel: Tunnel) -> None:
        stream = await tunnel.accept()
        await receive_tensor(stream, target.nbytes, target if "warm_up" in grown else target[:WARM_BYTES])
        await stream.send_message(b"!", urgent=True)
        await stream.receive_messages()

    async def flood(tunnel: Tunnel) -> None:
        async for _ in tunnel.incoming():
            pass

    async def handler(tunnel: Tunnel) -> None:
        # In this order: a flood leaves freed memory behind in which whatever came after it would hide. The buffers of
        # the tunnel are there but not touched yet, so they count; Python's first-time caches do not.
        name = next(name for name in ("warm_up", "flood_mib", "tensor_mib") if name not in grown)
        gc.collect()
        before = reset_peak()
        with suppress(TunnelClosed):
            await (flood if name == "flood_mib" else tensor)(tunnel)
        grown[name] = (_status("VmHWM") - before) / 1024
        if len(grown) == 3:
            done.set()

    await serve(handler, done)
    del grown["warm_up"]
    say(**grown)


async def memory_client(options: dict[str, Any]) -> None:
    """Warm up with a small tensor, send whatever fits down all streams at once, then a large tensor."""
    source = np.ones(options["mib"] * MIB, np.uint8)
    await _send(source[:WARM_BYTES], options)
    async with client_tunnel(options, SYSTEM) as tunnel:
        with trio.move_on_after(SETTLE_S):
            async with trio.open_nursery() as nursery:
                for index in range(FLOOD_STREAMS):
                    nursery.start_soon(_flood, await tunnel.open_stream(), index % 2 == 0)
    await _send(source, options)
    say()


async def _send(source: NDArray[np.uint8], options: dict[str, Any]) -> None:
    async with client_tunnel(options, SYSTEM) as tunnel, tunnel.open_stream() as stream:
        await send_tensor(stream, source)
        await stream.receive_message(1)


async def _flood(stream: TunnelStream, long: bool) -> None:
    while True:
        await stream.send_message(bytes(4 * MIB if long else 1))


# --- handshakes ------------------------------------------------------------------------------------------------------


async def handshakes_server(options: dict[str, Any]) -> None:
    """Echo one message a tunnel; the client says when it is done by a message of two bytes."""
    done = trio.Event()

    async def handler(tunnel: Tunnel) -> None:
        with suppress(TunnelClosed):
            stream = await tunnel.accept()
            message = await stream.receive_message(2)
            await stream.send_message(message, urgent=True)
            await stream.receive_messages()
            if len(message) == 2:
                done.set()

    await serve(handler, done)
    say()


async def handshakes_client(options: dict[str, Any]) -> None:
    """Dial, speak, hear, close; first one by one, then several at once."""
    mine, theirs = endpoint(False), endpoint(True)
    key = theirs.static_key.public

    async def once(message: bytes = b"x") -> float:
        started = time.perf_counter()
        tunnel = await dial(mine, options["addr"], theirs.peer_id, static_key=key)
        async with tunnel, tunnel.open_stream() as stream:
            await stream.send_message(message, urgent=True)
            await stream.receive_message(2)
            return (time.perf_counter() - started) * 1e3

    async def several(count: int) -> None:
        for _ in range(count):
            await once()

    for _ in range(WARM_UP):
        await once()
    single = [await once() for _ in range(options["single"])]
    each = options["count"] // AT_ONCE
    started, used = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(several, each)
    wall, used = time.perf_counter() - started, time.process_time() - used
    await once(b"xx")
    count = each * AT_ONCE
    say(p50_ms=percentile(single, 50), p99_ms=percentile(single, 99), per_s=count / wall, cpu_ms=used / count * 1e3)


MEASURES = {
    "tokens": (tokens_server, tokens_client),
    "memory": (memory_server, memory_client),
    "handshakes": (handshakes_server, handshakes_client),
}


def main() -> None:
    """Run one end."""
    measure, role, core, _, options = sys.argv[1:6]
    os.sched_setaffinity(0, {int(core)})
    trio.run(MEASURES[measure][role == "client"], json.loads(options))


if __name__ == "__main__":
    main()
