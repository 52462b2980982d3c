"""A watchtower as a running node: host, wallet, file and guard, put together."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from overlay.chain import Chain, open_chain
from overlay.config import Config
from overlay.control import serve_control
from overlay.datadir import DataDir
from overlay.events import EventLog, Observer
from overlay.node import views
from overlay.node.hosting import open_host, tell_host_events
from overlay.node.upkeep import settle_memory
from overlay.subnet import Subnet
from overlay.watchtower import ANYONE, TowerPolicy, Watchtower, open_tower_books, watchtower_protocol
from transport.host.interface import Host
from transport.identity import Identity

BOOKS_NAME = "watchtower.sqlite3"
"""The tower's file in its data directory."""


@dataclass
class WatchtowerNode:
    """A running watchtower. Made by :func:`open_watchtower`."""

    identity: Identity
    subnet: Subnet
    chain: Chain
    host: Host
    tower: Watchtower
    started_at: float

    async def status(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon watchtower status`."""
        return {
            "peer_id": self.identity.peer_id,
            "subnet": self.subnet.id,
            "uptime_s": round(time.time() - self.started_at),
            "addrs": list(self.host.addrs),
            "wallet": await views.wallet(self.chain),
            "serve": list(self.tower.policy.serve),
            "allowance_nanoton": self.tower.policy.allowance_nanoton,
            **await self.tower.state(),
        }

    async def wallet(self, _arguments: Mapping[str, Any]) -> Any:
        """The wallet's address and balance."""
        return await views.wallet(self.chain)


async def run_watchtower(
    config: Config, data_dir: DataDir, subnet: Subnet, bootstrap: Sequence[str], observer: Observer
) -> None:
    """`cocoon watchtower run`: until SIGINT or SIGTERM. Raises :class:`~overlay.errors.CocoonError`."""
    log = EventLog(observer, time.time)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_watchtower(config, data_dir, subnet, bootstrap, log):
            async for _ in signals:
                break
    log.info("stopped", "stopped; what was promised is kept again as soon as the watchtower runs")


@asynccontextmanager
async def open_watchtower(
    config: Config, data_dir: DataDir, subnet: Subnet, bootstrap: Sequence[str], log: EventLog
) -> AsyncIterator[WatchtowerNode]:
    """Run a watchtower for the length of the block."""
    identity = data_dir.identity()
    policy = TowerPolicy(
        list(config.watchtower.serve), config.watchtower.allowance_nanoton, config.watchtower.patience_s
    )
    if not policy.serve:
        log.warning(
            "serves_nobody", f"nobody may hand vouchers over: name the peer ids of your providers with --serve, or "
            f"{ANYONE!r} for anybody (watchtower.serve)",
        )  # fmt: skip
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        chain = await enter(open_chain(config, data_dir, log, may_start_devnet=False))
        books = await enter(open_tower_books(data_dir.path / BOOKS_NAME))
        host = await enter(open_host(config, data_dir, identity, subnet, bootstrap, log))
        tower = Watchtower(identity, chain, books, policy, log, time.time)
        host.set_handler(watchtower_protocol(subnet.id), tower.handle)
        node = WatchtowerNode(identity, subnet, chain, host, tower, time.time())
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        await nursery.start(serve_control, data_dir.path, {"status": node.status, "wallet": node.wallet})
        nursery.start_soon(tell_host_events, host, log)
        nursery.start_soon(tower.guard)
        settle_memory()
        live = len((await tower.state())["watching"])
        log.info(
            "ready", f"ready: watching {live} channels; give providers this address: {' '.join(host.addrs)}",
            peer_id=identity.peer_id, addrs=list(host.addrs), wallet=chain.account.address, subnet=subnet.id,
            watching=live,
        )  # fmt: skip
        yield node
