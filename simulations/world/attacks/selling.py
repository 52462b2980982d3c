"""Providers that cheat. What they say and sign is production code's; each changes one thing beneath or beside it."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import msgspec
import trio

from compute.usage import Prices
from overlay.config import Config
from overlay.node.provider import ProviderNode
from simulations.world.attacks.base import ProviderBehaviour
from simulations.world.conduct import CONDUCTS, Conduct

if TYPE_CHECKING:
    from simulations.world.nodes import ProviderPeer
    from simulations.world.world import World

TURN_S = 1.0
"""How often those that act together look at each other."""


class Cheating(ProviderBehaviour):
    """Engines that lie. ``conduct`` names one of :data:`~simulations.world.conduct.CONDUCTS`, ``odds`` is the share of
    jobs that end as it says, ``numbers`` replaces its numbers."""

    usual = "overcount"

    def conduct(self) -> Conduct:
        """One of those known by name, with the scenario's numbers."""
        options = self.options
        conduct = CONDUCTS[options.get("conduct", self.usual)]
        conduct = dataclasses.replace(conduct, **options.get("numbers", {}))
        odds = options.get("odds", 1.0)
        if odds < 1.0:
            draw = random.Random(f"odds of {options}")  # noqa: S311  # a model
            conduct = dataclasses.replace(conduct, odds=odds, draw=draw.random)
        return conduct


class FakeCapacity(Cheating):
    """Claims slots and a speed that its hardware does not have."""

    usual = "fake-capacity"


class Stalling(Cheating):
    """Takes the job and falls silent in the middle, without an end."""

    usual = "stalls"


class Vanishing(ProviderBehaviour):
    """Takes jobs, and when ``jobs`` of them run (2) cuts its cables; comes back after ``away_s`` (30)."""

    async def live(self, world: World, peer: ProviderPeer, node: ProviderNode) -> None:
        """Wait for enough jobs, give them a moment to be half done, and go."""
        enough = self.options.get("jobs", 2)
        while node.jobs.running_jobs < enough:  # noqa: ASYNC110  # nothing tells
            await trio.sleep(TURN_S)  # nothing tells of it
        await trio.sleep(self.options.get("after_s", 3.0))
        world.nursery.start_soon(self._come_back, world, peer)
        await peer.stop(crash=True)

    async def _come_back(self, world: World, peer: ProviderPeer) -> None:
        await trio.sleep(self.options.get("away_s", 30.0))
        await world.live(peer, None)


class Sybils(ProviderBehaviour):
    """One machine behind all identities of its group: each announces the whole of it, and all share its time."""

    async def live(self, world: World, peer: ProviderPeer, node: ProviderNode) -> None:
        """A step of the one engine gives a unit to the jobs of all of them: each of its faces is slower by that."""
        group = [other for other in world.providers if other.group == peer.group]
        if peer is not group[0]:
            return
        while True:
            await trio.sleep(TURN_S)
            busy = [sum(load.busy for load in p.node.shop.loads().values()) if p.node else 0 for p in group]
            total = sum(busy)
            for other, own in zip(group, busy, strict=True):
                if other.node is not None:
                    engine = other.used[-1]
                    pace = engine.offering.pace
                    engine.slow_down(max(1.0, pace.step_s(max(1, total)) / pace.step_s(max(1, own))))


class Cornering(ProviderBehaviour):
    """One of a coalition: sells below the others (``below`` × its floor, 0.9) until ``at_s``, then none of them sells
    for less than ``times`` its floor (2.0)."""

    def config(self, config: Config) -> Config:
        """The low floor to begin with."""
        return _priced(config, self.options.get("below", 0.9))

    async def live(self, world: World, peer: ProviderPeer, node: ProviderNode) -> None:
        """Raise the floor at the appointed second."""
        at_s = self.options.get("at_s", world.scenario.duration_s / 2)
        await trio.sleep_until(at_s)
        if peer.number == min(other.number for other in world.providers if other.group == peer.group):
            world.happens(f"{peer.group}: the coalition raises its floor")
        for controller in node.shop.controllers.values():
            controller.cost = self.options.get("times", 2.0) / self.options.get("below", 0.9)
            controller.cap = max(controller.cap, controller.cost)
            controller.level = max(controller.level, controller.cost)


class PriceWar(ProviderBehaviour):
    """Sells below what the work costs: at ``below`` × its floor (0.5)."""

    def config(self, config: Config) -> Config:
        """The lower floor."""
        return _priced(config, self.options.get("below", 0.5))


class Baiting(ProviderBehaviour):
    """Announces a low price and quotes a higher one: its records say ``said`` × (0.5) what it asks."""

    async def live(self, world: World, peer: ProviderPeer, node: ProviderNode) -> None:
        """Change what the record says; quotes and agreements are the shop's."""
        honest = node.shop.offers
        said = round(1_000_000 * self.options.get("said", 0.5))

        def offers() -> tuple[object, ...]:
            return tuple(
                dataclasses.replace(
                    offer, prices=Prices.from_wire(dict(offer.prices)).scaled(said, 1_000_000).to_wire()
                )
                for offer in honest()
            )

        node.shop.offers = offers  # type: ignore[method-assign, assignment]  # its own instance only
        await node.directory.announce(node.record())


def _priced(config: Config, factor: float) -> Config:
    price = config.price
    names = [name for name in price.__struct_fields__ if name != "cap_ratio"]
    changed = {name: max(0, round(getattr(price, name) * factor)) for name in names}
    return msgspec.structs.replace(config, price=msgspec.structs.replace(price, **changed))


__all__ = ["Baiting", "Cheating", "Cornering", "FakeCapacity", "PriceWar", "Stalling", "Sybils", "Vanishing"]
