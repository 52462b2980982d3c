"""Searching for what breaks the swarm: random mixes, failures made small, and files that make them happen again."""

from simulations.explore.failures import Failure
from simulations.explore.mixes import mix
from simulations.explore.replays import Replay, ReplayError
from simulations.explore.searching import Search, State, explore
from simulations.explore.shrinking import Shrunk, shrink

__all__ = ["Failure", "Replay", "ReplayError", "Search", "Shrunk", "State", "explore", "mix", "shrink"]
