"""A run replays to the byte, in any process, and nothing in it looks at the outside."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from simulations.results import RunResult
from simulations.scenarios.model import (
    ChainPart,
    ClientGroup,
    Demand,
    Gossip,
    NetworkPart,
    ProviderGroup,
    Scenario,
    Size,
)
from simulations.world.running import run

ROOT = Path(__file__).parents[3]
DURATION_S = 30.0


def scenario(gossip: Gossip) -> Scenario:
    demand = Demand(900.0, session=3.0, pause_s=2.0, answer_tokens=Size(60.0))
    return Scenario(
        "a small market", "for tests", DURATION_S, warmup_s=0.0, network=NetworkPart(gossip=gossip),
        chain=ChainPart(block_s=1.0, delay_s=0.2),
        providers=(ProviderGroup("sellers", 3, "rtx-3060", joins_s=(0.0, 1.0)),),
        clients=(ClientGroup("buyers", 4, demand, joins_s=(0.5, 2.0)),),
    )  # fmt: skip


def played(gossip: Gossip) -> RunResult:
    return run(scenario(gossip), 5)


_ELSEWHERE = """
import json
from simulations.scenarios.model import Gossip
from tests.simulations.world.test_world_replays import played
results = [played(gossip) for gossip in Gossip]
print(json.dumps([[result.digest, result.events, [job.outcome for job in result.jobs]] for result in results]))
"""


def test_a_run_of_the_world_has_one_digest_in_every_process_whatever_the_seed_of_its_hashes() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ELSEWHERE], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "77")
    ]  # fmt: skip
    one, other = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert one == other
    for _, events, outcomes in one:
        assert events > 1000
        assert Counter(outcomes)["done"] >= 5


OURS = ("overlay", "dht", "transport", "compute")

ALLOWED = {
    "logging": "the time of a log line, which nothing reads",
    "hypothesis": "it times the garbage collector, which runs in whoever happens to be there",
}
"""Modules of others through which ours may reach the outside, and why."""

_CLOCKS = {
    time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter, time.perf_counter_ns,
    time.process_time, time.sleep,
}  # fmt: skip


class Watch:
    """Sees every call, also of names that were imported long ago, and notes which of our modules reaches out."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            if called in _CLOCKS if isinstance(called, type(time.time)) else False:
                self._note(frame, f"time.{called.__name__}")
            elif called is os.urandom:
                self._note(frame, "os.urandom")
            elif getattr(called, "__self__", None) is random._inst:  # type: ignore[attr-defined]
                self._note(frame, f"random.{called.__name__}")
        elif event == "call":
            code = frame.f_code
            if code.co_filename == random.__file__:
                mine = frame.f_locals.get("self")
                if mine is random._inst:  # type: ignore[attr-defined]
                    self._note(frame.f_back, f"random.{code.co_name}")
                elif code.co_name == "__init__" and frame.f_locals.get("x") is None:
                    self._note(frame.f_back, f"{type(mine).__name__}() without a seed")
            elif code.co_name == "start" and code.co_filename == threading.__file__:
                self._note(frame.f_back, "a thread")
            elif code.co_name == "__init__" and code.co_filename.endswith("/socket.py"):
                self._note(frame.f_back, "a socket")

    def _note(self, frame: FrameType | None, what: str) -> None:
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package in ALLOWED or package == "simulations":
                return
            if package in OURS:
                self.seen[frame.f_globals["__name__"], what] += 1
                return
            frame = frame.f_back


def watched(what: Any) -> Counter[tuple[str, str]]:
    watch = Watch()
    sys.setprofile(watch)
    try:
        what()
    finally:
        sys.setprofile(None)
    return watch.seen


def test_no_module_of_a_node_reads_a_real_clock_or_real_randomness_or_opens_a_socket_or_thread_in_a_run() -> None:
    results: list[RunResult] = []
    seen = watched(lambda: results.append(played(Gossip.MESH)))
    assert seen == Counter()
    assert Counter(job.outcome for job in results[0].jobs)["done"] >= 5


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("from time import time\ntime()", "time.time"),
        ("import secrets\nsecrets.token_bytes(4)", "os.urandom"),
        ("import random\nrandom.randrange(9)", "random.randrange"),
        ("import random\nrandom.random()", "random.random"),
        ("from random import Random\nRandom()", "Random() without a seed"),
        ("import socket\nsocket.socket().close()", "a socket"),
        ("import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()", "a thread"),
    ],
)
def test_the_watch_sees_what_a_module_of_ours_would_do(text: str, what: str) -> None:
    code = compile(text, "a module of ours", "exec")
    seen = watched(lambda: exec(code, {"__name__": "overlay.some.module"}))  # our own text
    assert seen["overlay.some.module", what] >= 1
