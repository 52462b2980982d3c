"""Clients that cheat. Each changes one rule of its own node's production code; the other side is left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from compute.tasks import Request, Task
from overlay.channels import Payee
from overlay.config import Config
from overlay.errors import CocoonError, ProviderGone
from overlay.jobs import PayerChannel
from overlay.node.client import ClientNode
from overlay.node.deals import Deal
from overlay.settlement import ChannelTerms
from overlay.settlement.ledger import ChannelRecord
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON
from simulations.world.attacks.base import ClientBehaviour
from transport.identity import PeerId

if TYPE_CHECKING:
    from simulations.scenarios.model import Demand
    from simulations.world.nodes import ClientPeer
    from simulations.world.world import World


def stop_paying(node: ClientNode, *, beyond_nanoton: int = 0) -> None:
    """From now on ``node`` signs no voucher on a channel that has promised ``beyond_nanoton``, nor any receipt."""
    machine_of = node.links._machine

    async def machine(record: ChannelRecord) -> PayerChannel:
        channel = await machine_of(record)
        pays = channel.payment

        def payment() -> Any:
            return pays() if channel.account.promised_nanoton < beyond_nanoton else None

        channel.payment = payment  # type: ignore[method-assign]  # of this client's own channel
        return channel

    node.links._machine = machine  # type: ignore[method-assign]  # its own instance only


class NonPaying(ClientBehaviour):
    """Signs no voucher on a channel beyond ``pays_nanoton`` (0), and opens channels with the least deposit.

    With ``moves_on`` it leaves a provider that has stopped serving it for good, and takes the first window of the next
    one: a free rider. Otherwise it comes back to the same ones."""

    moves_on = False

    def config(self, config: Config) -> Config:
        """The least deposit that providers take."""
        deposit = self.options.get("deposit_nanoton", MIN_DEPOSIT_NANOTON)
        return msgspec.structs.replace(config, ton=msgspec.structs.replace(config.ton, deposit_nanoton=deposit))

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """Take the rule of paying out."""
        stop_paying(node, beyond_nanoton=self.options.get("pays_nanoton", 0))
        if self.moves_on:
            ended = node.deals.ended

            def leave(request: Request, deal: Deal) -> None:
                node.deals.reputation.disputed(deal.link.peer, trio.current_time())
                ended(request, deal)

            node.deals.ended = leave  # type: ignore[method-assign]  # its own instance only


class FreeRiding(NonPaying):
    """Takes the unpaid first window from each provider in turn."""

    moves_on = True


class QuoteFishing(ClientBehaviour):
    """Asks for quotes every ``every_s`` (0.5) and awards none."""

    asked = 0

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """For ever; a round that failed is followed by the next."""
        demand = next(group.demand for group in world.scenario.clients if group.name == peer.group)
        every_s = self.options.get("every_s", 0.5)
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._fish, node, Task(demand.task), demand.model)
                await trio.sleep(every_s)

    async def _fish(self, node: ClientNode, task: Task, model: str) -> None:
        self.asked += 1
        with suppress(CocoonError):
            await node.quotes(task, model)


class Vanishing(ClientBehaviour):
    """Cuts its cables in the middle of a job, comes back after ``away_s`` (30), and does it again."""

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """As soon as something runs, a moment later it is gone."""
        while not any(account.unpaid_nanoton for account in node.links.accounts().values()):  # noqa: ASYNC110  # nothing tells
            await trio.sleep(1.0)  # nothing tells of it
        demand = next(group.demand for group in world.scenario.clients if group.name == peer.group)
        world.nursery.start_soon(self._come_back, world, peer, demand)
        await peer.stop(crash=True)

    async def _come_back(self, world: World, peer: ClientPeer, demand: Demand) -> None:
        await trio.sleep(self.options.get("away_s", 30.0))
        await world.live(peer, demand)


class DoubleSpending(NonPaying):
    """Tells every provider that it knows of the one channel that it has, as if it paid them all."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.tried = self.taken = 0

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """Once a channel stands, announce it to the others, again and again."""
        await super().live(world, peer, node)
        while True:
            await trio.sleep(5.0)
            for record, terms in await node.desk.live():
                for other in sorted(world.numbers):
                    if other != record.peer:
                        await self._announce(node, other, terms)

    async def _announce(self, node: ClientNode, provider: PeerId, terms: ChannelTerms) -> None:
        self.tried += 1
        known = node.directory.index.get(provider, node.clock())
        payee = Payee(provider, terms.payee, terms.payee_key, known.host_addrs if known else ())
        try:
            await node.desk._announce(payee, terms)
        except ProviderGone:
            return
        self.taken += 1


class Hoarding(ClientBehaviour):
    """Pays like everybody, but for answers that it throws away: it fills cheap providers so that others find them full.
    ``spares`` names the group that it never asks."""

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """Leave the providers of its own coalition to others."""
        spared = {other.peer_id for other in world.providers if other.group == self.options.get("spares")}
        rows = node.deals._rows

        async def others(task: Task, model: str) -> Any:
            found = await rows(task, model)
            return [row for row in found if row[0] not in spared] or found

        node.deals._rows = others  # type: ignore[method-assign]  # its own instance only
