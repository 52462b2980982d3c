"""What must hold at every moment of a simulated run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from simulations.results import Violation

if TYPE_CHECKING:
    from simulations.world.buying import Order
    from simulations.world.world import World


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant, self.what = invariant, what


class Invariants:
    """Checks of ``world``. Each raises :class:`Broken`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def after_block(self) -> None:
        """Whenever the chain has executed something."""
        if not self._world.chain.model.conserved():
            raise Broken("money conserved", "the chain's accounts, fees and messages do not add up to what was minted")

    def after_order(self, order: Order) -> None:
        """Whenever a job has ended."""

    def now(self) -> None:
        """With every sample, and at the end."""

    def violation(self, broken: Broken) -> Violation:
        """For the result."""
        return Violation(broken.invariant, round(trio.current_time(), 3), self._world.network.log.count, broken.what)
