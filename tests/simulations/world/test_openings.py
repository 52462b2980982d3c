"""A client that is killed while it opens a channel has one channel with its provider afterwards, not two."""

from __future__ import annotations

from collections import Counter

import trio

from compute.tasks import ChatRequest, Message, Sampling
from overlay.errors import CocoonError
from overlay.settlement.ledger import Role
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
from simulations.world.nodes import ClientPeer
from simulations.world.wording import prompt_text
from simulations.world.world import World

CLIENTS = 8
SCENARIO = Scenario(
    "killed while opening", "for tests", 1000.0, network=NetworkPart(gossip=Gossip.MEAN_FIELD),
    chain=ChainPart(block_s=1.0, delay_s=0.2),
    providers=(ProviderGroup("sellers", 1, "rtx-3060", joins_s=(0.0, 0.1)),),
    clients=(ClientGroup("buyers", CLIENTS, Demand(0.0), joins_s=(20.0, 20.0)),),
)  # fmt: skip


async def chat(client: ClientPeer) -> None:
    node = client.node
    assert node is not None
    request = ChatRequest("llama-3-8b", (Message("user", prompt_text(50, 5)),), Sampling(max_tokens=64))
    async with node.run(request) as run:
        async for _ in run:
            pass


async def chat_in_vain(client: ClientPeer) -> None:
    try:
        await chat(client)
    except (CocoonError, ExceptionGroup):
        return


def test_a_client_that_is_killed_at_any_moment_of_an_opening_has_one_channel_afterwards() -> None:
    async def main() -> None:
        async with World.opened(SCENARIO, 1, EventLog()) as world:
            world.start()
            await trio.sleep(30)
            statuses: Counter[str] = Counter()

            async def killed_after(client: ClientPeer, seconds: float) -> None:
                with trio.move_on_after(seconds):
                    await chat_in_vain(client)
                books = client.machine.books
                assert books is not None
                await client.stop(crash=True)
                statuses.update(str(record.status) for record in books.live_channels(Role.PAYER))
                await trio.sleep(0.1)
                world.nursery.start_soon(client.run)
                while not client.up:
                    await trio.sleep(0.1)
                await trio.sleep(2)
                await chat(client)

            async with trio.open_nursery() as nursery:
                for number, client in enumerate(world.clients):
                    nursery.start_soon(killed_after, client, 0.5 + 0.4 * number)
            assert statuses["opening"] >= 3, "some were killed between the intent and the channel"
            payers = Counter(account.terms.payer for account in world.chain.model.channels.values())
            assert payers == {client.machine.wallet.address: 1 for client in world.clients}
            deposits = {each.state.deposit_nanoton for each in world.chain.model.channels.values() if each.state}
            assert len(deposits) == 1, "and none was paid for twice"
            world.end()

    run_seeded(1, main)
