"""Who misbehaves in a simulated world, and what came of it.

Providers and clients of a group have a *behaviour*; other nodes that a scenario adds run an *attack*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from overlay.config import Config
from overlay.node.client import ClientNode
from overlay.node.provider import ProviderNode
from simulations.results import Attacker
from simulations.world.conduct import HONEST, Conduct

if TYPE_CHECKING:
    from simulations.scenarios.model import AttackGroup
    from simulations.world.nodes import ClientPeer, ProviderPeer
    from simulations.world.world import World


class ProviderBehaviour:
    """An honest provider; attackers override what they do otherwise. One object serves a whole group."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def conduct(self) -> Conduct:
        """How its engines work."""
        return HONEST

    def config(self, config: Config) -> Config:
        """What it changes in its configuration."""
        return config

    async def live(self, world: World, peer: ProviderPeer, node: ProviderNode) -> None:
        """What it does while its node runs. It may return early."""


class ClientBehaviour:
    """An honest client; likewise."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def config(self, config: Config) -> Config:
        """What it changes in its configuration."""
        return config

    async def live(self, world: World, peer: ClientPeer, node: ClientNode) -> None:
        """What it does while its node runs, beside asking for what its demand says."""


PROVIDERS: Mapping[str, type[ProviderBehaviour]] = {"honest": ProviderBehaviour}
CLIENTS: Mapping[str, type[ClientBehaviour]] = {"honest": ClientBehaviour}
ATTACKS: Mapping[str, Callable[[World, AttackGroup], Awaitable[None]]] = {}
"""Called at the attack's second, in a task of its own."""


def outcomes(world: World) -> tuple[Attacker, ...]:
    """What each kind of attacker gained and cost."""
    return ()
