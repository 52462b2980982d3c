"""An internet in one process: hosts with the production interface, in virtual time; a seed replays byte for byte."""

from simulations.network.host import VirtualHost
from simulations.network.internet import EPOCH_S, VirtualNetwork
from simulations.network.world import REGIONS, Atlas, Nat, Place, round_trip_s

__all__ = ["EPOCH_S", "REGIONS", "Atlas", "Nat", "Place", "VirtualHost", "VirtualNetwork", "round_trip_s"]
