"""The world of a run: its network and chain, the machines, and what the scenario does to them.

Everything random is drawn from the seed, each thing from a generator of its own, so that another client does not change
what a provider costs.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import msgspec
import trio

from compute.tasks import Task
from overlay.channels import Payee
from overlay.config import Config, PriceSection, load_config
from overlay.errors import CocoonError
from overlay.events import NodeEvent
from overlay.market.selection import MAIN_UNIT
from overlay.node.client import ClientNode
from overlay.node.provider import ProviderNode
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON
from overlay.subnet import Subnet
from simulations.determinism import EventLog
from simulations.network import Nat, VirtualNetwork
from simulations.results import Happening
from simulations.scenarios.model import ClientGroup, Demand, Gossip, ProviderGroup, Scenario
from simulations.world import attackers, faults, hardware
from simulations.world import demand as demands
from simulations.world.buying import Order, buy, lengths
from simulations.world.chain import SimulatedChain
from simulations.world.engines import Card, ModelEngine
from simulations.world.machine import Surroundings, VirtualMachine
from simulations.world.nodes import ClientPeer, Peer, ProviderPeer
from simulations.world.policies import Policy
from transport.host import background
from transport.identity import PeerId

SUBNET = Subnet("sim")

WELL_KNOWN = 16
"""Providers that newcomers may begin with; each node draws three of them, as from a list on a web page."""

PROVIDER_FUNDS_NANOTON = 5_000_000_000
CLIENT_FUNDS_NANOTON = 50_000_000_000
"""What wallets hold at first: enough for a day of what these scenarios ask for."""

CHANNEL_TRIES, CHANNEL_RETRY_S = 4, 10.0
"""For a channel that a client is to begin with: providers join within seconds."""


class World:
    """See the module's docstring. Make one with :meth:`opened`."""

    def __init__(
        self, scenario: Scenario, seed: int, network: VirtualNetwork, nursery: trio.Nursery, policy: Policy
    ) -> None:
        self.scenario = scenario
        self.policy = policy
        self.seed = seed
        self.network = network
        self.nursery = nursery
        self.chain = SimulatedChain(network.unix_time, block_s=scenario.chain.block_s)
        self.providers: list[ProviderPeer] = []
        self.clients: list[ClientPeer] = []
        self.orders: list[Order] = []
        """Every job that was asked for, in order."""
        self.happenings: list[Happening] = []
        self.numbers: dict[PeerId, int] = {}
        """Of providers, by identity."""
        self.lines: Counter[str] = Counter()
        """What nodes warned of, by kind."""
        self.on_order: Callable[[Order], None] = lambda _: None
        """Called when a job has ended."""
        self._wallets: dict[str, Peer[Any]] = {}
        self._ids: dict[PeerId, Peer[Any]] = {}
        self.over = False
        """Whether the run has ended."""
        self.trouble = faults.Trouble(network)
        """What is broken now."""
        self._around = Surroundings(seed, network, self.chain)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, scenario: Scenario, seed: int, log: EventLog, policy: Policy | None = None
    ) -> AsyncIterator[World]:
        """A world with its machines, all of them off, for the length of the block; without ``policy`` a market as
        production makes it."""
        part = scenario.network
        draw = random.Random(f"network of {seed}")  # noqa: S311  # a model, no secret
        async with (
            VirtualNetwork.running(
                draw, log=log, jitter_s=part.jitter_ms / 1000, loss=part.loss,
                mean_field=part.gossip is Gossip.MEAN_FIELD,
            ) as network,
            background() as nursery,
        ):  # fmt: skip
            world = cls(scenario, seed, network, nursery, policy or Policy())
            world._populate()
            yield world

    def rng(self, what: str) -> random.Random:
        """A generator for one purpose."""
        return random.Random(f"{what} of {self.seed}")  # noqa: S311  # a model, no secret

    def happens(self, what: str) -> None:
        """For the time line of the report."""
        self.happenings.append(Happening(round(trio.current_time(), 3), what))

    # --- who is there -------------------------------------------------------------------------------------------------

    def _populate(self) -> None:
        for group in self.scenario.providers:
            draw = self.rng(f"providers {group.name}")
            for _ in range(group.count):
                self._add_provider(group, draw)
        known = [addr for peer in self.providers[:WELL_KNOWN] for addr in self._addrs(peer)[:1]]
        for peer in self.providers:
            peer.bootstrap = self._draw_known(known, peer)
        for customers in self.scenario.clients:
            draw = self.rng(f"clients {customers.name}")
            for _ in range(customers.count):
                client = self._add_client(customers, draw)
                client.bootstrap = self._draw_known(known, client)

    def _addrs(self, peer: Peer[Any]) -> list[str]:
        return [f"{addr}/p2p/{peer.peer_id}" for addr in peer.machine.place.addrs()]

    def _draw_known(self, known: Sequence[str], peer: Peer[Any]) -> Sequence[str]:
        others = [addr for addr in known if not addr.endswith(peer.peer_id)]
        return peer.machine.rng.sample(others, min(3, len(others)))

    def _machine(self, name: str, group: ProviderGroup | ClientGroup, funds: int) -> VirtualMachine:
        place = self.network.atlas.place(region=group.region, nat=Nat(group.nat))
        delay_s = self.scenario.chain.delay_s
        return VirtualMachine(self._around, name, place, funds_nanoton=funds, chain_delay_s=delay_s)

    def _add_provider(self, group: ProviderGroup, draw: random.Random) -> ProviderPeer:
        number = len(self.providers)
        machine = self._machine(f"provider {number}", group, PROVIDER_FUNDS_NANOTON)
        sold = [hardware.offering(group.hardware, model, group.slots) for model in group.models]
        above = group.floor * math.exp(draw.gauss(0.0, group.floor_sigma))
        behaviour = attackers.PROVIDERS[group.behaviour](group.options)
        config = self.policy.provider(behaviour.config(provider_config(group, sold, above)))
        peer = ProviderPeer(
            number, group.name, group.behaviour, machine, config, SUBNET, (), self._heard,
            hardware=group.hardware, sold=sold, floor=above,
            does=behaviour,
            engines=partial(_engines, sold, behaviour),
        )  # fmt: skip
        self.providers.append(peer)
        self.numbers[peer.peer_id] = number
        return peer

    def _add_client(self, group: ClientGroup, draw: random.Random) -> ClientPeer:
        number = len(self.clients)
        machine = self._machine(f"client {number}", group, CLIENT_FUNDS_NANOTON)
        value = round(demands.draw(group.demand.value, draw))
        hurry = round(demands.draw(group.demand.value_of_time, draw))
        behaviour = attackers.CLIENTS[group.behaviour](group.options)
        config = behaviour.config(client_config(group, value, hurry))
        peer = ClientPeer(
            number, group.name, group.behaviour, machine, config, SUBNET, (), self._heard,
            does=behaviour, value_nanoton=value, value_of_time_nanoton_per_s=hurry, channels=group.channels,
        )  # fmt: skip
        self.clients.append(peer)
        return peer

    def newcomer(self, old: Peer[Any]) -> Peer[Any]:
        """Another machine of the same group, off as yet, with an identity of its own."""
        peer: Peer[Any]
        draw = self.rng(f"newcomer {len(self.providers)} {len(self.clients)}")
        if isinstance(old, ProviderPeer):
            peer = self._add_provider(next(g for g in self.scenario.providers if g.name == old.group), draw)
        else:
            peer = self._add_client(next(g for g in self.scenario.clients if g.name == old.group), draw)
        known = [addr for each in self.providers[:WELL_KNOWN] for addr in self._addrs(each)[:1]]
        peer.bootstrap = self._draw_known(known, peer)
        return peer

    def _heard(self, peer: Peer[Any], event: NodeEvent) -> None:
        if event.level != "info":
            self.lines[event.kind] += 1

    # --- what they do -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Turn everything on, each at its time."""
        self.nursery.start_soon(self.chain.run)
        groups = {group.name: group for group in self.scenario.providers}
        draw = self.rng("joins")
        for provider in self.providers:
            self.nursery.start_soon(self._join, provider, draw.uniform(*groups[provider.group].joins_s), None)
        customers = {group.name: group for group in self.scenario.clients}
        for client in self.clients:
            at_s = draw.uniform(*customers[client.group].joins_s)
            self.nursery.start_soon(self._join, client, at_s, customers[client.group].demand)
        for fault in self.scenario.faults:
            self.nursery.start_soon(self._at, fault.at_s, faults.FAULTS[fault.kind], fault)
        for attack in self.scenario.attackers:
            self.nursery.start_soon(self._at, attack.at_s, attackers.ATTACKS[attack.kind], attack)

    async def _at(self, at_s: float, what: Callable[[World, Any], Awaitable[None]], said: Any) -> None:
        await trio.sleep_until(at_s)
        await what(self, said)

    async def _join(self, peer: Any, at_s: float, demand: Demand | None) -> None:
        await trio.sleep_until(at_s)
        await self.live(peer, demand)

    async def live(self, peer: Any, demand: Demand | None) -> None:
        """Run a machine's node until it is stopped: a provider's with ``demand`` None, else one that buys."""

        async def life(node: Any) -> None:
            if isinstance(node, ClientNode):
                self.policy.join(self, node)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.does.live, self, peer, node)
                if demand is not None:
                    nursery.start_soon(self._shop, peer, node, demand)
                    if peer.channels:
                        nursery.start_soon(self._open_channels, peer, node, demand, peer.channels)

        await peer.run(life)

    async def _open_channels(self, client: ClientPeer, node: ClientNode, demand: Demand, count: int) -> None:
        """Give a client what a regular customer has: channels to some of those that sell its model."""
        sellers = [peer for peer in self.providers if any(each.model == demand.model for each in peer.sold)]
        draw = self.rng(f"channels of client {client.number}")
        async with trio.open_nursery() as nursery:
            for provider in draw.sample(sellers, min(count, len(sellers))):
                nursery.start_soon(self._open_channel, node, provider)

    async def _open_channel(self, node: ClientNode, provider: ProviderPeer) -> None:
        machine = provider.machine
        payee = Payee(provider.peer_id, machine.wallet.address, machine.channel_key, machine.place.addrs())
        for _ in range(CHANNEL_TRIES):
            try:
                await node.desk.ensure(payee, spendable_nanoton=1, min_deposit_nanoton=MIN_DEPOSIT_NANOTON)
                return
            except CocoonError:  # it may not have joined yet
                await trio.sleep(CHANNEL_RETRY_S)

    async def _shop(self, client: ClientPeer, node: ClientNode, demand: Demand) -> None:
        """Ask for what the demand says, for ever."""
        draw = self.rng(f"demand of client {client.number} from its start {len(client.shifts)}")
        async with trio.open_nursery() as nursery:
            begins = demands.session_starts(demand, draw, trio.current_time(), self.scenario.duration_s)
            for at_s in begins:
                await trio.sleep_until(at_s)
                own = random.Random(draw.random())  # noqa: S311  # a model
                nursery.start_soon(self._session, client, node, demand, own)
            await trio.sleep_forever()

    async def _session(self, client: ClientPeer, node: ClientNode, demand: Demand, draw: random.Random) -> None:
        """Ask for one thing after the other. What is asked for depends on the seed alone, not on how often it takes."""
        pauses = random.Random(draw.random())  # noqa: S311  # a model
        for number in range(demands.session_jobs(demand, draw)):
            if number:
                await trio.sleep(demands.pause_s(demand, draw))
            request = demands.request(demand, draw)
            prompt, wanted = lengths(request)
            order = Order(
                client.number, client.group, request.task, trio.current_time(), wanted=wanted,
                value_per_million=client.value_nanoton, value_of_time=client.value_of_time_nanoton_per_s,
                model=request.model, prompt=prompt,
            )  # fmt: skip
            self.orders.append(order)
            try:
                await buy(node, request, order, retries=demand.retries, rng=pauses)
            except trio.Cancelled:
                if not self.over:
                    order.ended_at_s, order.error = trio.current_time(), "its client stopped"
                raise
            self.on_order(order)

    # --- seen from above ----------------------------------------------------------------------------------------------

    def provider_nodes(self) -> list[tuple[ProviderPeer, ProviderNode]]:
        """Those that run."""
        return [(peer, peer.node) for peer in self.providers if peer.node is not None]

    def by_wallet(self, address: str) -> Peer[Any] | None:
        """Whose wallet that is."""
        self._register()
        return self._wallets.get(address)

    def by_id(self, peer_id: PeerId) -> Peer[Any] | None:
        """Whose identity that is."""
        self._register()
        return self._ids.get(peer_id)

    def _register(self) -> None:
        peers: Sequence[Peer[Any]] = [*self.providers, *self.clients]
        if len(self._ids) < len(peers):
            self._wallets = {peer.machine.wallet.address: peer for peer in peers}
            self._ids = {peer.peer_id: peer for peer in peers}

    def end(self) -> None:
        """Cut every cable: what nodes would still say while they stop is not part of the run."""
        self.over = True
        peers: list[Peer[Any]] = [*self.providers, *self.clients]
        for peer in peers:
            if peer.host is not None:
                peer.host.alive = False


def _engines(sold: Sequence[hardware.Offering], does: attackers.ProviderBehaviour) -> Sequence[ModelEngine]:
    """One machine's engines, fresh; they share its card."""
    card = Card()
    return [ModelEngine(offer, trio.current_time, conduct=does.conduct(), card=card) for offer in sold]


def provider_config(group: ProviderGroup, sold: Sequence[hardware.Offering], above: float) -> Config:
    """The configuration of one provider: floors at ``above`` × what the work costs on its hardware."""
    config = _config(group.config, [f"node.serve={','.join(group.tasks)}"])
    prices = {
        unit.value: round(cost * above) for offering in sold for unit, cost in offering.unit_costs.per_million.items()
    }
    price = msgspec.structs.replace(config.price, **prices)
    return msgspec.structs.replace(config, price=price)


def client_config(group: ClientGroup, value: int, hurry: int) -> Config:
    """The configuration of one client that pays up to ``value`` a million of the main unit."""
    config = _config(group.config, [])
    key = {"completion": "max_completion", "audio_ms": "max_audio_ms", "embedding": "max_embedding"}
    task = Task(group.demand.task)
    caps = {key[MAIN_UNIT[task].value]: value}
    if task in (Task.CHAT, Task.COMPLETION):
        caps["max_prompt"] = value // 3
    market = msgspec.structs.replace(config.market, value_of_time_nanoton_per_s=hurry, **caps)
    return msgspec.structs.replace(config, market=market)


def _config(changes: dict[str, Any], overrides: Sequence[str]) -> Config:
    texts = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return _read_config((*overrides, *texts))


@cache
def _read_config(overrides: tuple[str, ...]) -> Config:
    return load_config(None, overrides=overrides, environ={})


__all__ = ["SUBNET", "PriceSection", "World"]
