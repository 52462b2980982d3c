"""``cocoon devnet run``: a devnet with a configuration file, a data directory and a timetable of trouble."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from overlay.settlement.devnet.server import Devnet
from overlay.settlement.devnet.trouble import ServerTrouble, TroubleScript, read_script
from overlay.settlement.errors import DevnetError


@dataclass(frozen=True)
class DevnetConfig:
    """How ``cocoon devnet run`` starts. ``config_path`` is where the global config is written, when given.

    ``data_dir`` is where the chain is kept, ``None`` for one in memory. ``trouble`` names a script (JSON) of it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    faucet_port: int = 0
    config_path: Path | None = None
    data_dir: Path | None = None
    liteservers: int = 1
    trouble: Path | None = None


async def run_devnet(
    config: DevnetConfig, *, task_status: trio.TaskStatus[dict[str, Any]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a devnet until cancelled. Starts with the global config, which is also written to ``config.config_path``.

    Raises :class:`DevnetError` and ``OSError`` as :meth:`Devnet.serve` does.
    """
    try:
        ipaddress.IPv4Address(config.host)
    except ValueError:
        raise DevnetError(
            f"{config.host} is no IPv4 address, and TON's global.config.json has room for nothing else: take 127.0.0.1"
        ) from None
    script = None if config.trouble is None else read_script(config.trouble)
    problem: DevnetError | None = None
    async with Devnet.serve(
        config.host, config.port, faucet_port=config.faucet_port, data_dir=config.data_dir,
        liteservers=max(config.liteservers, script.servers if script else 0),
    ) as devnet:  # fmt: skip
        document = devnet.global_config()
        try:
            if config.config_path is not None:
                await _write(config.config_path, document)
        except DevnetError as error:  # raised outside, so that it arrives as it is and in no group
            problem = error
        else:
            task_status.started(document)
            if script is not None:
                await follow(script, devnet)
            await trio.sleep_forever()
    if problem is not None:
        raise problem


async def follow(script: TroubleScript, devnet: Devnet) -> None:
    """Make the script's trouble at its times, counted from now; returns after the last step."""
    start = trio.current_time()
    for step in script.steps:
        await trio.sleep_until(start + step.at_s)
        if step.network is not None:
            devnet.trouble = step.network
        for each in step.servers:
            fields = {name: getattr(each, name) for name in ServerTrouble.__struct_fields__}
            devnet.liteservers[each.server].trouble = msgspec.convert(fields, ServerTrouble)


async def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = trio.Path(path.with_suffix(".tmp"))
    try:
        await temporary.write_text(json.dumps(document, indent=2) + "\n")
        await temporary.replace(path)
    except OSError as error:
        raise DevnetError(f"{path} cannot be written: {error.strerror}; name another directory") from error
