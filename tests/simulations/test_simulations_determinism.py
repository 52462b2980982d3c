"""One seed, one run: in one process and in another, whatever Python hashes by; and nothing left changed behind it."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio._core._run as trio_run

from simulations.determinism import EventLog, frozen_heap, run_seeded
from simulations.network import VirtualNetwork
from transport.host import HostError, HostStream
from transport.identity import Identity


async def world(seed: int, nodes: int = 24) -> str:
    """Hosts that dial, talk, gossip, time out, crash and come back; the hash of all that happened."""
    rng = random.Random(seed)
    log = EventLog()

    async def serve(stream: HostStream) -> None:
        while True:
            await stream.send((await stream.receive(100))[::-1])

    async def live(network: VirtualNetwork, number: int, peers: list[Identity], own: random.Random) -> None:
        async with (
            network.open(peers[number]) as host,
            host.subscribe("news", lambda _: True) as news,
            trio.open_nursery() as nursery,
        ):
            host.set_handler("/echo/1", serve)

            async def listen() -> None:
                async for message in news:
                    log.note("heard", number, message.data.decode())

            nursery.start_soon(listen)
            for step in range(11):
                await trio.sleep(own.random())
                other = own.choice(peers)
                try:
                    with trio.move_on_after(own.random() * 2):
                        addrs = network.addrs_of(other.peer_id)
                        stream = await host.open_stream(other.peer_id, "/echo/1", addrs=addrs)
                        await stream.send(b"%d-%d" % (number, step))
                        log.note(number, (await stream.receive(100)).decode())
                        await host.publish("news", b"%d" % own.getrandbits(32))
                except HostError as error:
                    log.note(number, error)
            if number % 5 == 0:
                host.halt(crash=True)
            nursery.cancel_scope.cancel()

    async with VirtualNetwork.running(rng, log=log, loss=0.05) as network, trio.open_nursery() as nursery:
        peers = [Identity(number.to_bytes(32, "big")) for number in range(1, nodes + 1)]
        for number in range(nodes):
            nursery.start_soon(live, network, number, peers, random.Random(rng.getrandbits(64)))
        await trio.sleep(3)
        network.split([identity.peer_id for identity in peers[::2]])
        await trio.sleep(2)
        network.heal()
    log.note("end", network.messages, network.dials)
    return log.digest


def _elsewhere(seed: int, hash_seed: str) -> str:
    code = f"import {__name__} as here\nprint(here.run_seeded({seed}, here.world, {seed}))"
    where = os.path.dirname(__file__)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {where!r})\n" + code]
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def test_a_seed_gives_one_run_in_every_process_and_under_every_hash_seed() -> None:
    here = run_seeded(7, world, 7)
    assert _elsewhere(7, "0") == here
    assert _elsewhere(7, "4242") == here


def test_another_seed_gives_another_run() -> None:
    assert run_seeded(7, world, 7) == run_seeded(7, world, 7) != run_seeded(8, world, 8)


def test_the_scheduler_is_what_it_was_before_even_after_an_error() -> None:
    module: Any = trio_run
    before = (module._ALLOW_DETERMINISTIC_SCHEDULING, module._r.getstate())

    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        run_seeded(1, fail)
    assert (module._ALLOW_DETERMINISTIC_SCHEDULING, module._r.getstate()) == before


def test_time_begins_at_zero_and_waiting_costs_nothing() -> None:
    async def main() -> tuple[float, float]:
        begin = trio.current_time()
        await trio.sleep(80_000)
        return begin, trio.current_time()

    begin, end = run_seeded(1, main)
    assert begin == 0.0
    assert end == pytest.approx(80_000)


def test_a_run_without_an_end_is_ended_by_ctrl_c() -> None:
    endless = """
import signal
import trio
from simulations.determinism import run_seeded

async def forever():
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(tick)
    print("never")

async def tick():
    while True:
        await trio.sleep(1)
        if trio.current_time() == 1000:
            print("runs", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
run_seeded(1, forever)
"""
    with subprocess.Popen([sys.executable, "-c", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said


def test_a_log_tells_apart_what_happened_and_in_which_order() -> None:
    def digest(*events: tuple[int, int, int, int, bytes]) -> str:
        log = EventLog()
        for event in events:
            log.event(*event)
        return log.digest

    one, other = (1, 5, 2, 3, b"ab"), (1, 5, 3, 2, b"ab")
    digests = [
        digest(one),
        digest(one, other),
        digest(other, one),
        digest((1, 5, 2, 3, b"a"), (1, 5, 2, 3, b"b")),
        digest((1, 5, 2, 3, b"abc")),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(one, other) == digest(one, other)


def test_a_log_tells_each_event_to_whoever_looks_for_the_first_difference() -> None:
    lines: list[str] = []
    log = EventLog(lines.append)
    log.event(1, 5, 2, 3, b"ab")
    assert lines == ["5 1 2 3 6162"]
    assert log.count == 1


def test_a_frozen_heap_is_thawed_and_the_collector_set_back() -> None:
    before = gc.get_threshold()
    with frozen_heap(threshold=5000):
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] == 5000
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before
