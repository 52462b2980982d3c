"""Two hosts behind routers, in network namespaces: which pairs of routers let a hole be punched, and which do not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from overlay.errors import ConfigError
from simulations.netns.nat import Nat, NatKind
from simulations.netns.network import Carrier, NetworkOptions, SwarmNetwork, open_network
from simulations.netns.shape import Shape

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("natted_host.py")

CONE, RESTRICTED, SYMMETRIC, WALL = NatKind.FULL_CONE, NatKind.RESTRICTED, NatKind.SYMMETRIC, NatKind.FIREWALL


@asynccontextmanager
async def process(network: SwarmNetwork, name: str, role: str, *rest: str) -> AsyncIterator[trio.Process]:
    address = str(network.plan.machine(name).inside)
    command = network.command(name, [sys.executable, str(SCRIPT), role, name[-1], address, *rest])
    running = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    try:
        yield running
    finally:
        running.kill()
        with trio.CancelScope(shield=True):
            await running.wait()
            assert running.stdout is not None
            await trio.aclose_forcefully(running.stdout)


async def told(running: trio.Process) -> Any:
    assert running.stdout is not None
    line = b""
    with trio.fail_after(90):
        while not line.endswith(b"\n"):
            byte = await running.stdout.receive_some(1)
            assert byte, "the host ended"
            line += byte
    return json.loads(line)


async def visit(provider: NatKind, visitor: NatKind, home: Path) -> tuple[Any, Any]:
    """What a provider behind one router and a visitor behind another have to tell."""
    options = NetworkOptions(Shape(delay_s=0.02), behind_nat=2, nat_kind=RESTRICTED, carrier=Carrier.RELAY)
    async with AsyncExitStack() as stack:
        try:
            network = await stack.enter_async_context(open_network(3, options, home))
        except ConfigError as error:
            pytest.skip(f"needs root, network namespaces and TUN: {error}")
        assert network.relay is not None
        for name, kind in (("node-2", provider), ("node-3", visitor)):
            network.relay.switch._nats[name] = Nat(kind, int(network.plan.machine(name).address))
        relay = await stack.enter_async_context(process(network, "node-1", "relay"))
        addr = (await told(relay))["addr"]
        hidden = await stack.enter_async_context(process(network, "node-2", "provider", addr))
        found = await told(hidden)
        guest = await stack.enter_async_context(process(network, "node-3", "visitor", found["addr"]))
        return found, await told(guest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "visitor"), [(RESTRICTED, RESTRICTED), (WALL, RESTRICTED), (CONE, SYMMETRIC), (RESTRICTED, CONE)]
)
async def test_a_provider_behind_a_home_router_finds_a_relay_and_is_reached_directly_in_the_end(
    provider: NatKind, visitor: NatKind, tmp_path: Path
) -> None:
    found, came = await visit(provider, visitor, tmp_path)
    assert found["verdict"] == "private"
    assert "/p2p-circuit" in found["addr"]
    assert came["upgraded"]
    assert not came["relayed"]


@pytest.mark.slow
@pytest.mark.parametrize(("provider", "visitor"), [(SYMMETRIC, RESTRICTED), (RESTRICTED, SYMMETRIC)])
async def test_behind_a_router_with_a_port_for_each_remote_end_the_relay_stays(
    provider: NatKind, visitor: NatKind, tmp_path: Path
) -> None:
    found, came = await visit(provider, visitor, tmp_path)
    assert found["verdict"] == "private"
    assert came["relayed"]
    assert not came["upgraded"]
