"""Liars around one key: they grind ids until theirs are the nearest, join, and then say whatever hides its value."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from dht.kad import key_of
from dht.kad.contacts import Contact, contact_of
from dht.kad.keys import peer_bytes
from simulations.bench.dht_swarm import BlobValidator, Node, SignedValidator, Swarm, for_each
from simulations.liars import ground, lies
from simulations.network import Place
from transport.host import HostStream
from transport.identity import Identity

_SETTLE_S = 180.0
"""What the liars have to enter everybody's tables."""

_NETWORKS = 16
"""/24s that the liars rent, in four /16s, unless they are spread like everybody."""


@dataclass
class Liar:
    """One of them."""

    number: int
    node: Node
    contact: Contact


class Attack:
    """``count`` liars against the record of one owner. With ``spread`` each has addresses as honest nodes have."""

    def __init__(self, swarm: Swarm, count: int, *, spread: bool) -> None:
        self._swarm = swarm
        self._owner = Identity(bytes(31) + b"\x07")
        self._key = SignedValidator.key(self._owner)
        self._old = SignedValidator.value(self._owner, 1, b"old")
        self._new = SignedValidator.value(self._owner, 2, b"new")
        self._forged = SignedValidator.value(Identity(bytes(31) + b"\x08"), 3, b"forged")
        self._liars: list[Liar] = []
        self._count = count
        self._spread = spread

    def _ground(self) -> list[Identity]:
        """The nearest of many ids."""
        rng = self._swarm.rng
        return ground(self._key, self._count, lambda: Identity(rng.randbytes(32)))

    def _place(self, number: int) -> Place:
        atlas = self._swarm.network.atlas
        if self._spread:
            return atlas.place()
        network = number % _NETWORKS
        return atlas.place(ip4=f"45.{network // 4}.{network}.{1 + number // _NETWORKS}", hosted=True)

    async def run(self, lookups: int) -> dict[str, Any]:
        """The owner writes before the liars come and again afterwards; honest nodes read that key, and others."""
        swarm = self._swarm
        honest = list(swarm.nodes)
        owner = honest[1].kad
        assert owner is not None
        await owner.put(self._key, self._old)
        for number, identity in enumerate(self._ground()):
            node = Node(identity, self._place(number))
            swarm.nodes.append(node)
            self._liars.append(Liar(number, node, contact_of(identity.peer_id, node.place.addrs())))
        await for_each(self._count, 32, lambda number: swarm.start(self._liars[number].node))
        for liar in self._liars:
            assert liar.node.host is not None
            assert liar.node.kad is not None
            liar.node.host.replace_handler(liar.node.kad.protocol, self._lies_of(liar))
        await trio.sleep(_SETTLE_S)
        holders = await owner.put(self._key, self._new)
        blobs = [f"value {number}".encode() for number in range(lookups)]

        async def write(number: int) -> None:
            kad = honest[number % len(honest)].kad
            assert kad is not None
            await kad.put(BlobValidator.key(blobs[number]), blobs[number], republish=False)

        await for_each(lookups, 256, write)
        swarm.reports.clear()
        right: list[int] = []
        others: list[int] = []

        async def read(number: int) -> None:
            reader = swarm.rng.choice(honest[2:])
            assert reader.kad is not None
            if await reader.kad.get(self._key) == self._new:
                right.append(number)

        async def read_other(number: int) -> None:
            reader = swarm.rng.choice(honest)
            assert reader.kad is not None
            if await reader.kad.get(BlobValidator.key(blobs[number])) == blobs[number]:
                others.append(number)

        await for_each(lookups, 256, read)
        requests = statistics.fmean(report.requests for report in swarm.reports)
        await for_each(lookups, 256, read_other)
        nearest = sorted(swarm.nodes, key=lambda node: key_of(peer_bytes(node.identity.peer_id)) ^ key_of(self._key))
        lying = {liar.node.identity.peer_id for liar in self._liars}
        return {
            "right": len(right) / lookups, "other_keys": len(others) / lookups, "liars": self._count,
            "liars_among_the_20_nearest": sum(node.identity.peer_id in lying for node in nearest[:20]),
            "holders_of_the_new_value_claimed": holders, "requests": requests,
        }  # fmt: skip

    def _lies_of(self, liar: Liar) -> Callable[[HostStream], Awaitable[None]]:
        """Everybody nearer is one of us; a third of us replays the old value, a third forges one, a third has none."""
        value = (self._old, self._forged, None)[liar.number % 3]
        return lies([other.contact for other in self._liars], lambda key: value if key == self._key else None)
