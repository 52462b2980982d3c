"""Who misbehaves in a simulated world, and what came of it.

Providers and clients of a group have a *behaviour*; other nodes that a scenario adds run an *attack*. What each does is
in :mod:`simulations.world.attacks`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from simulations.world.attacks import buying, crowds, selling
from simulations.world.attacks.base import ClientBehaviour, ProviderBehaviour
from simulations.world.attacks.gains import honest, outcomes
from simulations.world.attacks.hit_and_run import hit_and_run

if TYPE_CHECKING:
    from simulations.scenarios.model import AttackGroup
    from simulations.world.world import World

PROVIDERS: Mapping[str, type[ProviderBehaviour]] = {
    "honest": ProviderBehaviour,
    "fake-capacity": selling.FakeCapacity,
    "cheating": selling.Cheating,
    "stalls": selling.Stalling,
    "vanishes": selling.Vanishing,
    "sybil": selling.Sybils,
    "corner": selling.Cornering,
    "price-war": selling.PriceWar,
    "bait": selling.Baiting,
}
CLIENTS: Mapping[str, type[ClientBehaviour]] = {
    "honest": ClientBehaviour,
    "non-paying": buying.NonPaying,
    "free-rider": buying.FreeRiding,
    "quote-fishing": buying.QuoteFishing,
    "vanishes": buying.Vanishing,
    "double-spending": buying.DoubleSpending,
    "hoarder": buying.Hoarding,
}
ATTACKS: Mapping[str, Callable[[World, AttackGroup], Awaitable[None]]] = {
    "sybil-dht": crowds.sybil_dht,
    "eclipse": crowds.eclipse,
    "index-flood": crowds.index_flood,
    "replay": crowds.replay,
    "hit-and-run": hit_and_run,
}
"""Called at the attack's second, in a task of its own."""

__all__ = ["ATTACKS", "CLIENTS", "PROVIDERS", "ClientBehaviour", "ProviderBehaviour", "honest", "outcomes"]
