"""Who has which address: the host, the devnet, the nodes, and those of them that are behind a NAT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.errors import ConfigError
from simulations.netns.limits import FIRST_NODE, MAX_NODES, POOL, SWARM_PREFIX

HOST, DEVNET = "host", "devnet"
"""Names of the two machines that are no nodes: this computer, where clients run, and the chain."""


@dataclass(frozen=True)
class Machine:
    """A machine of the swarm: ``address`` is where others see it, ``inside`` what it thinks it has."""

    name: str
    address: IPv4Address
    inside: IPv4Address

    @property
    def natted(self) -> bool:
        """Whether it is behind a NAT that translates addresses."""
        return self.address != self.inside


@dataclass(frozen=True)
class AddressPlan:
    """The addresses of one swarm. Make one with :func:`plan_addresses`."""

    network: IPv4Network
    host: Machine
    devnet: Machine
    nodes: tuple[Machine, ...]

    @property
    def machines(self) -> tuple[Machine, ...]:
        """All of them, the host first."""
        return (self.host, self.devnet, *self.nodes)

    def machine(self, name: str) -> Machine:
        """The one of that name. Raises ``KeyError``."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)


def node_names(number: int) -> tuple[str, ...]:
    """``node-1`` to ``node-N``."""
    return tuple(f"node-{index + 1}" for index in range(number))


def free_network(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first network of the pool that overlaps none of ``taken``.

    Raises :class:`~overlay.errors.ConfigError` when this machine routes all of them elsewhere.
    """
    routes = [route for route in taken if route.overlaps(POOL)]
    for network in POOL.subnets(new_prefix=SWARM_PREFIX):
        if not any(route.overlaps(network) for route in routes):
            return network
    raise ConfigError(f"this machine has routes into all of {POOL}, where a swarm takes its addresses; remove one")


def plan_addresses(network: IPv4Network, number: int, translated: Sequence[str] = ()) -> AddressPlan:
    """Addresses for ``number`` nodes in a /23; nodes named in ``translated`` get another one inside."""
    if not 1 <= number <= MAX_NODES:
        raise ConfigError(f"a swarm has between 1 and {MAX_NODES} nodes")
    outside, inside = network.subnets(new_prefix=24)

    def machine(name: str, last: int) -> Machine:
        return Machine(name, outside[last], (inside if name in translated else outside)[last])

    nodes = tuple(machine(name, FIRST_NODE + index) for index, name in enumerate(node_names(number)))
    return AddressPlan(network, machine(HOST, 1), machine(DEVNET, 2), nodes)
