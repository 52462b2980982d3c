"""`cocoon bench gateway`: what the path gateway → tunnel → provider costs, beside a bare endpoint in the same run.

Method. The path is real: HTTP in, agreement, Noise tunnel, metering on both sides, vouchers on disk before they leave,
receipts signed by both, events told as JSON lines. Only the engine is synthetic. Devnet, provider, gateway, bare
hypercorn and load generator are processes that share the machine's cores, so a rate is what all of them reach together.
Rounds of gateway and bare peer alternate; values are medians over rounds; a warm-up comes first.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import trio

from overlay.cli.output import Output
from simulations.bench.bare import STREAM_CHUNKS
from simulations.bench.latency import CHAT_PATH, chat_body
from simulations.bench.provider import CHUNKS, WHOLE
from simulations.bench.report import Row, percentile, row
from simulations.bench.stage import BenchFailed, Stage, ask_tool, module, open_stage, timed_command

CHECKOUT = Path(__file__).resolve().parents[2]
CONNECTIONS = 30
DEMO_TIMEOUT_S = 180.0
CLONE_TIMEOUT_S = 900.0
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Effort:
    """How much is measured: ``rounds`` of so many requests, latency samples, seconds of rest, starts."""

    rounds: int
    whole: int
    streamed: int
    first: int
    answers: int
    rest_s: float
    starts: int
    clone: bool


FULL = Effort(rounds=5, whole=2000, streamed=1000, first=200, answers=15, rest_s=30.0, starts=5, clone=True)
QUICK = Effort(rounds=2, whole=600, streamed=300, first=40, answers=3, rest_s=20.0, starts=1, clone=False)


async def gateway_rows(quick: bool, output: Output) -> list[Row]:
    """Measure everything; the rows in their order."""
    effort = QUICK if quick else FULL
    rows = [await _fresh_clone(effort, output), await _demo(output)]
    output.note("starting a devnet, a provider with synthetic engines, a bare peer and a gateway …")
    async with open_stage() as stage:
        async with stage.gateway() as (gateway, host, port):
            await _answer(host, port)  # opens the channel
            rows += await _rates(stage, host, port, effort, output)
            rows += await _latencies(stage, host, port, effort, output)
            rest = await _rest(stage, gateway.process.pid, effort, output)
        rows.append(await _first_answer(stage, effort, output))
    return rows + rest


# ---- the demo ----


async def _fresh_clone(effort: Effort, output: Output) -> Row:
    measure = "git clone and make demo, package caches warm"
    empty = Row("fresh_clone_demo_s", measure, None, "s", "≤ 240")
    if not effort.clone:
        return _noted(empty, "left out with --quick")
    source = CHECKOUT
    git, make = shutil.which("git"), shutil.which("make")
    if git is None or make is None or not (source / ".git").exists():
        return _noted(empty, "needs git, make and a checkout")
    output.note("cloning the checkout and running its demo …")
    with tempfile.TemporaryDirectory(prefix="cocoon-clone-") as directory:
        where = Path(directory)
        seconds = 0.0
        for command in (
            [git, "clone", "--quiet", "--no-hardlinks", str(source), "clone"],
            [make, "-C", "clone", "setup", f"PYTHON={sys.executable}"],
            [make, "-C", "clone", "demo", f"PYTHON={sys.executable}", "ARGS=--json"],
        ):
            took, status, said = await timed_command(command, where, CLONE_TIMEOUT_S)
            seconds += took
            if status:
                return _noted(empty, f"{' '.join(command[:1] + command[3:4])} failed: {said}")
    return row("fresh_clone_demo_s", measure, [seconds], "s", at_most=240)


async def _demo(output: Output) -> Row:
    output.note("running the demo …")
    command = module("overlay.cli", "demo", "--json")
    seconds, status, said = await timed_command(command, Path.cwd(), DEMO_TIMEOUT_S)
    if status:
        raise BenchFailed(f"cocoon demo failed: {said}")
    return row("demo_s", "the demo, once set up", [seconds], "s", at_most=45)


def _noted(empty: Row, note: str) -> Row:
    return Row(empty.id, empty.measure, None, empty.unit, empty.reach, None, [], {"note": note})


# ---- rates ----


async def _rates(stage: Stage, host: str, port: int, effort: Effort, output: Output) -> list[Row]:
    rows = []
    for name, measure, model, requests, mark, bare_path in (
        ("whole_rps", "whole answers of 840 bytes", WHOLE, effort.whole, 400, "/whole"),
        ("streamed_rps", f"streamed answers of {STREAM_CHUNKS} chunks", CHUNKS, effort.streamed, 200, "/stream"),
    ):
        output.note(f"{measure}, {CONNECTIONS} connections …")
        body = chat_body(model, stream=model == CHUNKS, max_tokens=STREAM_CHUNKS)
        await _load(host, port, CHAT_PATH, body, CONNECTIONS * 4)
        await _load("127.0.0.1", stage.bare_port, bare_path, body, CONNECTIONS * 4)
        ours, bare = [], []
        for _ in range(effort.rounds):
            bare.append(await _load("127.0.0.1", stage.bare_port, bare_path, body, requests))
            ours.append(await _load(host, port, CHAT_PATH, body, requests))
        rate, peer = [r["per_second"] for r in ours], [r["per_second"] for r in bare]
        found = row(
            name, f"{measure} a second, {CONNECTIONS} connections", rate, "1/s", at_least=mark,
            p50_ms=_short(statistics.median(t for r in ours for t in r["whole_ms"])),
            bare_rps=_short(statistics.median(peer)), bare_samples=[_short(p) for p in peer],
            share_of_bare=_short(statistics.median(rate) / statistics.median(peer)),
        )  # fmt: skip
        rows.append(found)
    return rows


async def _load(host: str, port: int, path: str, body: bytes, requests: int) -> dict[str, Any]:
    command = module(
        "simulations.bench.load", host, str(port), path, "--connections", str(CONNECTIONS), "--requests", str(requests)
    )
    result = await ask_tool(command, body)
    if result["errors"] or result["answers"] < requests:
        raise BenchFailed(
            f"{result['answers']} of {requests} answers, {result['errors']} errors: {result['first_error']}"
        )
    streamed = b'"stream": true' in body
    if streamed and result["least_events"] < STREAM_CHUNKS:
        raise BenchFailed(f"a streamed answer had {result['least_events']} events, not {STREAM_CHUNKS}")
    return result


# ---- latencies ----


async def _latencies(stage: Stage, host: str, port: int, effort: Effort, output: Output) -> list[Row]:
    output.note("time to first token, and the delay of tokens that come every 20 ms …")
    command = module(
        "simulations.bench.latency", host, str(port), str(stage.bare_port),
        "--first", str(effort.first), "--answers", str(effort.answers),
    )  # fmt: skip
    got = await ask_tool(command)
    http, inside, chunk, bare = got["http_ms"], got["in_process_ms"], got["chunk_ms"], got["bare_chunk_ms"]
    base = statistics.median(inside)
    added = row(
        "first_token_added_ms", "added to the time to first token, p50, one connection", [t - base for t in http],
        "ms", at_most=6, p95_ms=_short(percentile(http, 95) - percentile(inside, 95)),
        http_p50_ms=_short(statistics.median(http)), in_process_p50_ms=_short(base),
        bare_p50_ms=_short(statistics.median(got["bare_ms"])),
    )  # fmt: skip
    p99 = percentile(chunk, 99)
    delay = row(
        "chunk_delay_ms", "from the engine's token to the client, p99, one every 20 ms", [p99], "ms", at_most=5,
        p50_ms=_short(statistics.median(chunk)), max_ms=_short(max(chunk)), tokens=len(chunk),
        bare_p50_ms=_short(statistics.median(bare)), bare_p99_ms=_short(percentile(bare, 99)),
    )  # fmt: skip
    return [added, delay]


async def _answer(host: str, port: int) -> None:
    headers = {"content-type": "application/json"}
    body = chat_body(WHOLE, stream=False, max_tokens=STREAM_CHUNKS)
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=ANSWER_TIMEOUT_S) as http:
        answer = await http.post(CHAT_PATH, content=body, headers=headers)
    if answer.status_code != 200:
        raise BenchFailed(f"the gateway answered {answer.status_code}: {answer.text[:300]}")
    json.loads(answer.text)


async def _first_answer(stage: Stage, effort: Effort, output: Output) -> Row:
    output.note("from starting the gateway to its first answer …")
    samples, ready = [], []
    for _ in range(effort.starts):
        started = trio.current_time()
        async with stage.gateway() as (_process, host, port):
            ready.append(trio.current_time() - started)
            await _answer(host, port)
            samples.append(trio.current_time() - started)
    return row(
        "first_answer_s", "from starting the gateway to its first answer, channel funded before", samples, "s",
        at_most=5, ready_s=_short(statistics.median(ready)),
    )  # fmt: skip


# ---- at rest ----


async def _rest(stage: Stage, gateway_pid: int, effort: Effort, output: Output) -> list[Row]:
    output.note(f"at rest for {effort.rest_s:.0f} s …")
    await trio.sleep(2.0)  # whatever the last job left to do
    node, client = psutil.Process(stage.provider.process.pid), psutil.Process(gateway_pid)
    node_cpu: list[float] = []
    client_cpu: list[float] = []
    slices = 4
    for _ in range(slices):
        async with _cpu_share(node, node_cpu), _cpu_share(client, client_cpu):
            await trio.sleep(effort.rest_s / slices)
    what = "a provider that has served all of the above, one client connected; synthetic engines, no model"
    memory = row(
        "rest_rss_mb", f"resident memory of {what}", [node.memory_info().rss / 1e6], "MB", at_most=200,
        gateway_mb=_short(client.memory_info().rss / 1e6), threads=node.num_threads(),
    )  # fmt: skip
    cpu = row(
        "rest_cpu_percent", f"of one core at rest over {effort.rest_s:.0f} s: the same provider",
        [statistics.fmean(node_cpu)], "%", at_most=2, slices=[_short(c) for c in node_cpu],
        gateway_percent=_short(statistics.fmean(client_cpu)),
    )  # fmt: skip
    return [memory, cpu]


@asynccontextmanager
async def _cpu_share(process: psutil.Process, shares: list[float]) -> AsyncIterator[None]:
    began, before = trio.current_time(), process.cpu_times()
    yield
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    shares.append(100 * used / (trio.current_time() - began))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
