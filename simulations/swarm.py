"""`cocoon swarm up`: N real nodes on this machine, kept up until stopped."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from overlay.cli.output import Output
from overlay.events import EventLog
from simulations.processes import CocoonProcess, ProcessFailed, run_process

START_TIMEOUT_S = 60.0
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""A node that dies is restarted after these; one that has run for a minute begins again at the first."""

STABLE_S = 60.0


async def run_swarm(number: int, directory: Path | None, output: Output) -> None:
    """Start a devnet and ``number`` providers, restart those that die, and stop all on SIGINT or SIGTERM."""
    log = EventLog(output.event, time.time)
    with _place(directory) as home, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    log.info("stopping", "stopping all nodes")
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(stop_on_signal)
            async with run_process("devnet", ["devnet", "run", "--dir", str(home / "devnet")], home=home) as devnet:
                config = (await devnet.wait_for("ready", START_TIMEOUT_S))["config"]
                log.info("devnet", f"TON devnet up; its configuration is {config}", config=config)
                async with trio.open_nursery() as nodes:
                    for index in range(number):
                        nodes.start_soon(_keep_up, f"node-{index + 1}", home, config, log)
                        # One after the other: each newcomer finds those before it through the home they share.
                        await trio.sleep(0.3)
                    log.info("swarm", f'talk to them with: COCOON_HOME={home} cocoon chat "Hello"', home=str(home))
                    await devnet.ended()
                    raise ProcessFailed("the devnet ended, and with it the swarm's money")
    log.info("stopped", "all nodes are stopped")


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="cocoon-swarm-") as temporary:
            yield Path(temporary)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.resolve()


async def _keep_up(name: str, home: Path, config: str, log: EventLog) -> None:
    attempt = 0
    while True:
        started = trio.current_time()
        arguments = ["node", "run", "--preset", "local", "--data-dir", str(home / name), "--ton", config]
        async with run_process(name, arguments, home=home) as process:
            await _watch(name, process, log)
        attempt = 0 if trio.current_time() - started > STABLE_S else attempt + 1
        delay = RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)]
        log.warning(
            "restarting",
            f"{name} ended (exit {process.process.returncode}); starting it again in {delay:g} s",
            node=name,
        )
        await trio.sleep(delay)


async def _watch(name: str, process: CocoonProcess, log: EventLog) -> None:
    try:
        ready: dict[str, Any] = await process.wait_for("ready", START_TIMEOUT_S)
    except ProcessFailed as error:
        log.warning("failed", str(error), node=name)
        return
    log.info("node", f"{name} up: {ready['peer_id']}", node=name, pid=process.process.pid, **_plain(ready))
    await process.ended()


def _plain(ready: dict[str, Any]) -> dict[str, Any]:
    return {key: ready[key] for key in ("peer_id", "addrs", "wallet") if key in ready}
