"""A swarm of production nodes in one process and virtual time.

:func:`run` runs a scenario: machines (:mod:`~simulations.world.machine`) stand in a virtual network and before a model
chain, production nodes run on them (:mod:`~simulations.world.nodes`), clients ask for what their demand says, faults
and attackers do theirs, invariants are checked, samples taken, and a :class:`~simulations.results.RunResult` is left.
"""

from simulations.world.running import run

__all__ = ["run"]
