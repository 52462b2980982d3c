"""`cocoon gateway run`: a client behind its HTTP server and its control socket."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio

from overlay.config import Config
from overlay.events import Observer
from overlay.gateway import serve_gateway
from overlay.node.client import open_client
from overlay.node.machine import Machine
from overlay.subnet import Subnet


async def run_gateway(
    config: Config, machine: Machine, subnet: Subnet, bootstrap: Sequence[str], observer: Observer, token: str | None
) -> None:
    """`cocoon gateway run`: until SIGINT or SIGTERM."""
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        client = await stack.enter_async_context(open_client(config, machine, subnet, bootstrap, observer))
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[int]) -> None:
                await serve_gateway(
                    client, config.gateway.host, config.gateway.port, token=token, shutdown_trigger=stopping.wait,
                    task_status=task_status,
                )  # fmt: skip
                nursery.cancel_scope.cancel()

            port = await nursery.start(serve)
            url = f"http://{config.gateway.host}:{port}"

            async def where(_arguments: Mapping[str, Any]) -> Any:
                return {"url": url, "token": token}

            async def open_one(arguments: Mapping[str, Any]) -> Any:
                return await client.open_channel(arguments["provider"], arguments.get("deposit_nanoton"))

            commands = {
                "wallet": client.wallet, "channels": client.list_channels, "settle": client.settle,
                "exit": client.leave, "open": open_one, "gateway": where, "quote": client.quote,
                "status": client.status, "peers": client.peers, "providers": client.providers,
            }  # fmt: skip
            async with machine.open_control(commands):
                machine.settled()
                client.log.info(
                    "ready", f"ready: {url}/v1 speaks OpenAI's API (OPENAI_BASE_URL={url}/v1)",
                    url=url, peer_id=client.identity.peer_id, wallet=client.chain.account.address, subnet=subnet.id,
                )  # fmt: skip
                async for _ in signals:
                    client.log.info("draining", "stopping: running answers have a few seconds to finish")
                    stopping.set()
    client.log.info("stopped", "stopped; channels stay open for the next time")
