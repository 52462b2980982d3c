"""What a benchmark runs: a devnet, a provider with synthetic engines, a gateway, a bare peer, each its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from simulations.processes import CocoonProcess, run_command, run_process

START_TIMEOUT_S = 60.0
TOOL_TIMEOUT_S = 300.0

DEPOSIT_NANOTON = 5_000_000_000
"""Enough for every round, so that no round waits for a top-up on chain."""


class BenchFailed(Exception):
    """A part of a benchmark did not do its work: there is no number to report."""


@dataclass
class Stage:
    """The running processes; ``home`` is theirs, and vanishes with them."""

    home: Path
    ton: str
    provider: CocoonProcess
    bare_port: int

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[tuple[CocoonProcess, str, int]]:
        """A gateway with the same data directory each time: (process, host, port)."""
        arguments = [
            "gateway", "run", "--port", "0", "--data-dir", str(self.home / "client"), "--ton", self.ton,
            "--set", f"ton.deposit_nanoton={DEPOSIT_NANOTON}",
        ]  # fmt: skip
        async with run_process("gateway", arguments, home=self.home) as process:
            url = urlsplit((await process.wait_for("ready", START_TIMEOUT_S))["url"])
            yield process, str(url.hostname), int(url.port or 0)


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Start everything but the gateway, which the measures start themselves."""
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as directory:
        home = Path(directory)
        async with AsyncExitStack() as stack:
            devnet = await stack.enter_async_context(
                run_process("devnet", ["devnet", "run", "--dir", str(home / "devnet")], home=home)
            )
            ton = (await devnet.wait_for("ready", START_TIMEOUT_S))["config"]
            command = module("simulations.bench.provider", "--data-dir", str(home / "node"), "--ton", ton)
            provider = await stack.enter_async_context(run_command("provider", command, home=home))
            bare = await stack.enter_async_context(run_command("bare", module("simulations.bench.bare"), home=home))
            port = (await bare.wait_for("ready", START_TIMEOUT_S))["port"]
            await provider.wait_for("ready", START_TIMEOUT_S)
            yield Stage(home, ton, provider, port)


def module(name: str, *arguments: str) -> list[str]:
    """The command line of one of our modules."""
    return [sys.executable, "-m", name, *arguments]


async def ask_tool(command: list[str], body: bytes = b"") -> dict[str, Any]:
    """Run a measuring process, which prints one JSON document. Raises :class:`BenchFailed`."""
    with trio.move_on_after(TOOL_TIMEOUT_S):
        done = await trio.run_process(command, stdin=body, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode == 0:
            document: dict[str, Any] = json.loads(done.stdout)
            return document
        raise BenchFailed(f"{command[2]} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    raise BenchFailed(f"{command[2]} took more than {TOOL_TIMEOUT_S:.0f} s")


async def timed_command(command: list[str], where: Path, timeout_s: float) -> tuple[float, int, str]:
    """Run a command in ``where``: seconds, exit status (-1: out of time) and the end of what it said."""
    started = trio.current_time()
    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            command, cwd=where, capture_stdout=True, stderr=subprocess.STDOUT, check=False, stdin=b""
        )
        said = done.stdout.decode(errors="replace").strip()[-300:]
        return trio.current_time() - started, done.returncode, said
    return timeout_s, -1, f"not done after {timeout_s:.0f} s"
