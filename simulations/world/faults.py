"""What goes wrong in a simulated world, by name: each fault is a function of the world and of the scenario's words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulations.scenarios.model import Fault
    from simulations.world.world import World

FAULTS: Mapping[str, Callable[[World, Fault], Awaitable[None]]] = {}
"""Called at the fault's second, in a task of its own; it returns when the fault is over."""
