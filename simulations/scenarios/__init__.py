"""What a simulated run is told: see :mod:`simulations.scenarios.model`."""

from simulations.scenarios.model import Scenario

__all__ = ["Scenario"]
