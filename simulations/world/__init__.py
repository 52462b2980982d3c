"""A swarm of production nodes in one process and virtual time: see :mod:`simulations.world.running`."""
