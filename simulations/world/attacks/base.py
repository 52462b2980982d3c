"""An honest node of each role. An attacker overrides what it does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from overlay.config import Config
from overlay.node.client import ClientNode
from overlay.node.provider import ProviderNode
from simulations.world.conduct import HONEST, Conduct

if TYPE_CHECKING:
    from simulations.world.nodes import ClientPeer, ProviderPeer
    from simulations.world.world import World


class ProviderBehaviour:
    """An honest provider; attackers override what they do otherwise. Each provider of a group has one of its own."""

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
