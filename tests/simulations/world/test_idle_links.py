"""A client's tunnel that nobody uses is closed, and made anew when it is needed."""

from __future__ import annotations

import trio

from compute.tasks import ChatRequest, Message, Sampling
from overlay.node.client import ClientNode
from overlay.node.links import LINK_IDLE_S
from simulations.determinism import EventLog, run_seeded
from simulations.scenarios.model import (
    ChainPart,
    ClientGroup,
    Demand,
    Gossip,
    NetworkPart,
    ProviderGroup,
    Scenario,
)
from simulations.world.wording import prompt_text
from simulations.world.world import World

SCENARIO = Scenario(
    "one and one", "for tests", 1000.0, network=NetworkPart(gossip=Gossip.MEAN_FIELD),
    chain=ChainPart(block_s=1.0, delay_s=0.2),
    providers=(ProviderGroup("sellers", 1, "rtx-3060", joins_s=(0.0, 0.1)),),
    clients=(ClientGroup("buyers", 1, Demand(0.0), joins_s=(30.0, 30.0)),),
)  # fmt: skip


async def chat(node: ClientNode, tokens: int) -> int:
    """What the answer cost."""
    request = ChatRequest("llama-3-8b", (Message("user", prompt_text(50, tokens)),), Sampling(max_tokens=4096))
    async with node.run(request) as run:
        async for _ in run:
            pass
    return run.paid_nanoton


def test_a_tunnel_outlives_pauses_and_long_answers_and_is_closed_after_two_idle_minutes_with_everything_paid() -> None:
    async def main() -> None:
        async with World.opened(SCENARIO, 1, EventLog()) as world:
            world.start()
            await trio.sleep(40)
            (client,) = world.clients
            node = client.node
            assert node is not None
            assert await chat(node, 20) > 0
            (first,) = node.links.tunnels()
            await trio.sleep(LINK_IDLE_S - 20)
            long = trio.current_time()
            assert await chat(node, 4000) > 0
            assert trio.current_time() - long > 20
            assert [stats.handshake_hash for stats in node.links.tunnels()] == [first.handshake_hash]
            await trio.sleep(LINK_IDLE_S + 15)
            assert node.links.tunnels() == []
            assert all(account.unpaid_nanoton == 0 for account in node.links.accounts().values())
            (provider,) = world.provider_nodes()
            assert not provider[1].listener.tunnels
            links = node.links
            assert not links._links  # nothing of it stays in memory, and the ledger has all of it
            assert not links._machines
            assert not links._paying
            assert await chat(node, 20) > 0
            (second,) = node.links.tunnels()
            assert second.handshake_hash != first.handshake_hash
            assert world.lines["tunnel_lost"] == 0
            world.end()

    run_seeded(1, main)
