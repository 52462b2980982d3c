"""What two strangers can take from each other, shown live: processes that are killed in the middle of an answer.

Method. A devnet, a whole provider with the default credit window whose engine makes tokens as fast as it can, at
3000 nanoTON each (so that a window is 666 tokens), and a gateway with a data directory of its own in every round. A
plain HTTP client reads a stream; once it has read a few hundred tokens, one side gets ``kill -9`` and never comes back.

- a provider loses what it had sent and got no voucher for when the client died; its own account of the channel says so.
  Beside it, the most that stood unpaid at any moment of the round, sampled every 2 ms;
- a client loses what its ledger shows as promised beyond the tokens that its user has read by then, which counts what
was still on its way to him as lost too.

`python -m simulations.bench.settlement_parties --data-dir DIR --ton CONFIG` is that provider.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from overlay.cli.operations import channels_of
from overlay.cli.output import Output
from overlay.config import TonSection, load_config
from overlay.datadir import open_data_dir
from overlay.events import EventLog
from overlay.node.machine import LocalMachine
from overlay.node.provider import ProviderNode, open_provider
from overlay.subnet import load_subnet
from simulations.bench.report import Row
from simulations.bench.stage import START_TIMEOUT_S, BenchFailed, module
from simulations.engines import SyntheticEngine
from simulations.processes import CocoonProcess, run_command, run_process

MODEL = "endless"
TOKENS = 1_000_000
TOKEN_NANOTON = 3000
WINDOW_NANOTON = TonSection().credit_window_nanoton
READ_TOKENS = 400
"""Read before the kill: well into a stream that pays as it goes."""

SAMPLE_S = 0.002
SETTLE_S = 1.0
"""After a kill: for what was on its way to arrive, and the books to stand still."""

STREAM_TIMEOUT_S = 60.0


async def parties_rows(quick: bool) -> dict[str, Row]:
    """The rows of the two parties, by their ids."""
    provider_lost, most_unpaid, client_lost = [], [], []
    for _ in range(2 if quick else 5):
        async with _stage() as stage:
            lost, most = await _client_vanishes(stage)
            provider_lost.append(lost / WINDOW_NANOTON)
            most_unpaid.append(most / WINDOW_NANOTON)
            client_lost.append(await _provider_vanishes(stage) / WINDOW_NANOTON)
    rows = [
        _worst("provider_loss_killed", "a provider's loss to a client that vanished", provider_lost),
        _worst("provider_exposure_killed", "the most that stood unpaid at any moment", most_unpaid),
        _worst("client_loss_killed", "a client's loss to a provider that vanished", client_lost),
    ]
    return {each.id: each for each in rows}


def _worst(id: str, measure: str, samples: list[float]) -> Row:
    """A bound is held by the worst sample, not by the median."""
    worst = max(samples)
    rounded = [float(f"{sample:.5g}") for sample in samples]
    return Row(
        id, measure, float(f"{worst:.5g}"), "credit windows", "≤ 1", worst <= 1, rounded,
        {"window_nanoton": WINDOW_NANOTON},
    )  # fmt: skip


class _Stage:
    def __init__(self, home: Path, ton: str, provider: CocoonProcess) -> None:
        self.home, self.ton, self.provider = home, ton, provider
        self._clients = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[CocoonProcess, str, Path]]:
        """A gateway with money, books and a channel of its own."""
        self._clients += 1
        data_dir = self.home / f"client-{self._clients}"
        arguments = ["gateway", "run", "--port", "0", "--data-dir", str(data_dir), "--ton", self.ton]
        async with run_process("gateway", arguments, home=self.home) as process:
            yield process, (await process.wait_for("ready", START_TIMEOUT_S))["url"], data_dir


@asynccontextmanager
async def _stage() -> AsyncIterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as directory:
        home = Path(directory)
        async with AsyncExitStack() as stack:
            devnet = await stack.enter_async_context(
                run_process("devnet", ["devnet", "run", "--dir", str(home / "devnet")], home=home)
            )
            ton = (await devnet.wait_for("ready", START_TIMEOUT_S))["config"]
            command = module("simulations.bench.settlement_parties", "--data-dir", str(home / "node"), "--ton", ton)
            provider = await stack.enter_async_context(run_command("provider", command, home=home))
            await provider.wait_for("ready", START_TIMEOUT_S)
            yield _Stage(home, ton, provider)


async def _client_vanishes(stage: _Stage) -> tuple[int, int]:
    """What the provider is left with, and the most that stood unpaid."""
    async with stage.client() as (process, url, _data_dir):
        with trio.fail_after(STREAM_TIMEOUT_S):
            await _read_then(url, partial(_kill, process))
        await trio.sleep(SETTLE_S)
    sampled = [event for event in stage.provider.events if event.get("event") == "unpaid"]
    if not sampled:
        raise BenchFailed("the provider sampled nothing")
    return int(sampled[-1]["now_nanoton"]), int(sampled[-1]["most_nanoton"])


async def _provider_vanishes(stage: _Stage) -> int:
    """What the client has promised beyond what its user has read."""
    async with stage.client() as (_process, url, data_dir):
        with trio.fail_after(STREAM_TIMEOUT_S):
            tokens = await _read_then(url, partial(_kill, stage.provider))
        await trio.sleep(SETTLE_S)
        (channel,) = await channels_of(data_dir)
    return max(0, int(channel["voucher_nanoton"]) - tokens * TOKEN_NANOTON)


async def _kill(process: CocoonProcess) -> None:
    process.process.send_signal(signal.SIGKILL)
    await process.ended()


async def _read_then(url: str, kill: Any) -> int:
    """Read a stream, kill somebody in the middle, read on to its end; returns the tokens that came."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "on and on"}]}
    tokens = 0
    try:
        async with httpx.AsyncClient(base_url=url, timeout=STREAM_TIMEOUT_S) as http:
            await _until_sold(http)
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {") or '"content"' not in line:
                        continue
                    for choice in json.loads(line[6:]).get("choices", []):
                        tokens += len((choice["delta"].get("content") or "").split())
                    if tokens >= READ_TOKENS and kill is not None:
                        await kill()
                        kill = None
    except httpx.HTTPError:
        pass  # its server is dead, as it should be
    if kill is not None:
        raise BenchFailed(f"the stream ended after {tokens} tokens, before anybody was killed")
    return tokens


async def _until_sold(http: httpx.AsyncClient) -> None:
    while True:
        if any(model["id"] == MODEL for model in (await http.get("/v1/models")).json()["data"]):
            return
        await trio.sleep(0.1)


# ---- the provider ----


async def _sample(node: ProviderNode, log: EventLog) -> None:
    most, told = 0, -1
    while True:
        now = sum(channel.payee.account.unpaid_nanoton for channel in node.jobs._channels.values())
        most = max(most, now)
        if now != told:
            told = now
            log.info("unpaid", f"{now} nanoTON unpaid", now_nanoton=now, most_nanoton=most)
        await trio.sleep(SAMPLE_S)


async def _provide(data_dir: Path, ton: str) -> None:
    price = TOKEN_NANOTON * 1_000_000
    overrides = [
        f"ton.config={ton}", "node.serve=chat", f"price.completion={price}", "price.prompt=0", "price.cap_ratio=1.0",
    ]  # fmt: skip
    config = load_config(None, overrides=overrides, preset="local")
    log = EventLog(Output(as_json=True).event, lambda: 0.0)
    with open_data_dir(data_dir) as directory:
        engine = SyntheticEngine(model=MODEL, chunks=TOKENS)
        async with open_provider(config, LocalMachine(directory), load_subnet(None), (), log, [engine]) as node:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_sample, node, log)
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
                        break


def main() -> None:
    """Sell endless answers until SIGTERM."""
    parser = argparse.ArgumentParser(description="a provider that tells what stands unpaid")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ton", required=True)
    options = parser.parse_args()
    trio.run(_provide, options.data_dir, options.ton)


if __name__ == "__main__":
    main()
