"""The network that virtual hosts share: who is where, what is broken, and one task that moves everything."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from simulations.determinism import EventLog
from simulations.network.dialling import split_peer
from simulations.network.gossip import VirtualGossip
from simulations.network.host import VirtualHost
from simulations.network.limits import KEEPALIVE_S, OPENING_S
from simulations.network.meanfield import Ether, MeanFieldGossip
from simulations.network.streams import VirtualStream
from simulations.network.timeline import Timeline
from simulations.network.world import Atlas, Place
from transport.host import background
from transport.host.bootstrap import keep_connected
from transport.identity import Identity, PeerId

EPOCH_S = 1_790_000_000.0
"""Unix seconds when virtual time begins (September 2026)."""


@dataclass(slots=True)
class Carried:
    """What one protocol or topic has sent so far, without what is below its messages."""

    messages: int = 0
    bytes: int = 0


class VirtualNetwork:
    """An internet in one process, in virtual time. Make one with :meth:`running`.

    Everything random is drawn from ``rng``: with `simulations.determinism.run_seeded` one seed gives one run, and
    :attr:`log` its hash.
    """

    def __init__(
        self, rng: random.Random, log: EventLog, jitter_s: float, loss: float, *, mean_field: bool = False
    ) -> None:
        self.rng = rng
        self.log = log
        self.atlas = Atlas(random.Random(rng.getrandbits(64)))  # noqa: S311  # a model, no secret
        """Gives places to hosts."""
        self.timeline = Timeline()
        self.jitter_s = jitter_s
        self.loss = loss
        self.faulty = False
        """Whether a path may be cut: from the first partition or crash on."""
        self.messages = self.bytes = self.dials = self.failed_dials = 0
        """Frames delivered, bytes delivered with their headers, dials, and dials that failed, so far."""
        self.carried: defaultdict[str, Carried] = defaultdict(Carried)
        """By protocol and topic."""
        self.handler_failures: Counter[str] = Counter()
        """Errors that stream handlers let out, by type, other than broken streams."""
        self._numbers: dict[PeerId, int] = {}
        self._places: dict[PeerId, Place] = {}
        self._listeners: dict[tuple[str, int], VirtualHost] = {}
        self._machines: dict[str, VirtualHost] = {}
        self.sides: dict[int, int] = {}
        """By number of a host, on which side of a partition it is; 0 is not written. Replaced when it changes."""
        self._unsaid: list[VirtualStream] = []
        self._ether = Ether() if mean_field else None

    @classmethod
    @asynccontextmanager
    async def running(
        cls, rng: random.Random, *, log: EventLog | None = None, jitter_s: float = 0.004, loss: float = 0.0,
        mean_field: bool = False,
    ) -> AsyncIterator[VirtualNetwork]:  # fmt: skip
        """A network for the length of the block. Each way takes up to ``jitter_s`` longer, at random; a message is lost
        with probability ``loss`` and retransmitted, later and later, until the connection breaks. With ``mean_field``
        gossip is that of :mod:`simulations.network.meanfield`."""
        network = cls(rng, log or EventLog(), jitter_s, loss, mean_field=mean_field)
        async with background() as nursery:
            nursery.start_soon(network.timeline.run)
            yield network

    @asynccontextmanager
    async def open(
        self,
        identity: Identity,
        place: Place | None = None,
        *,
        bootstrap: Sequence[str] = (),
        rng: random.Random | None = None,
    ) -> AsyncIterator[VirtualHost]:
        """Run a host for the length of the block, at ``place``: by default where this identity was before, or anywhere.

        ``bootstrap`` are multiaddrs that end in ``/p2p/ID``, kept connected as the real host does. Raises
        ``ValueError`` when a host with this identity runs already.
        """
        targets = [(peer, addr) for addr in bootstrap for peer in (split_peer(addr),) if peer != identity.peer_id]
        place = place or self._places.get(identity.peer_id) or self.atlas.place()
        jitter = rng or random.Random(self.rng.getrandbits(64))  # noqa: S311  # of retries
        async with background() as nursery:
            host = self._add(identity, place, nursery)
            for peer, addr in targets:
                tell = partial(host.tell_unreachable, peer, addr)
                nursery.start_soon(
                    keep_connected, partial(host.rejoin, addr), partial(host.served, peer), tell, jitter,
                    partial(host.lost, peer),
                )  # fmt: skip
            try:
                yield host
            finally:
                host.halt()

    def _add(self, identity: Identity, place: Place, nursery: trio.Nursery) -> VirtualHost:
        number = self._number(identity.peer_id)
        host = VirtualHost(self, identity, place, number, nursery)
        for address in (place.ip4, place.ip6):
            if address is None:
                continue
            before = self._listeners.get((address, place.port))
            if before is not None and before.alive:
                raise ValueError(f"a host runs at {address} port {place.port} already")
        self._places[identity.peer_id] = place
        for address in (place.ip4, place.ip6):
            if address is not None:
                self._listeners[address, place.port] = self._machines[address] = host
        return host

    def router(self, host: VirtualHost) -> VirtualGossip:
        """The gossip of a new host."""
        return VirtualGossip(host) if self._ether is None else MeanFieldGossip(host, self._ether)

    def _number(self, peer: PeerId) -> int:
        """What the event log calls a host, also one that comes later."""
        return self._numbers.setdefault(peer, len(self._numbers) + 1)

    # --- who is where -------------------------------------------------------------------------------------------------

    def unix_time(self) -> float:
        """Virtual time as Unix seconds, for what hosts must agree on."""
        return EPOCH_S + trio.current_time()

    def addrs_of(self, peer: PeerId) -> list[str]:
        """Where a peer listens, or did when it last ran, for who needs an address to begin with."""
        place = self._places.get(peer)
        return [f"{addr}/p2p/{peer}" for addr in place.addrs()] if place is not None else []

    def listener(self, address: str, port: int) -> VirtualHost | None:
        """The host that is, or was last, at an address and port."""
        return self._listeners.get((address, port))

    def machine(self, address: str) -> VirtualHost | None:
        """Any host at an address that is or was there last, unless it crashed."""
        host = self._machines.get(address)
        return None if host is None or host.crashed else host

    def is_up(self, host: VirtualHost) -> bool:
        """Whether a host runs where ``host`` is, or was."""
        address = host.place.ip4 or host.place.ip6
        assert address is not None
        return self._listeners[address, host.place.port].alive

    def count_failure(self, error: Exception) -> None:
        """A stream handler let an error out."""
        self.handler_failures[type(error).__name__] += 1

    def opened(self, stream: VirtualStream) -> None:
        """A stream was opened; unless something is sent or awaited on it, its opening leaves a moment later."""
        if not self._unsaid:
            self.timeline.at(math.ceil(self.timeline.now() / OPENING_S) * OPENING_S, self._say, None)
        self._unsaid.append(stream)

    def _say(self, _: object) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for stream in unsaid:
            stream.begin()

    # --- faults -------------------------------------------------------------------------------------------------------

    def is_cut(self, one: VirtualHost, other: VirtualHost) -> bool:
        """Whether nothing gets from one host to the other."""
        return not one.alive or not other.alive or self.parted(one, other)

    def parted(self, one: VirtualHost, other: VirtualHost) -> bool:
        """Whether two hosts are on different sides of a partition."""
        return bool(self.sides) and self.sides.get(one.number, 0) != self.sides.get(other.number, 0)

    def split(self, *groups: Collection[PeerId]) -> None:
        """Partition: hosts reach those of their own group only; those in no group are one group more.

        Connections across stall, and break when what they send is not acknowledged, or the keep-alive is not. Another
        partition takes the place of an earlier one; who is together again goes on.
        """
        self.faulty = True
        self.sides = {self._number(peer): side for side, group in enumerate(groups, 1) for peer in sorted(group)}
        for host in self._hosts():
            for link in host.links():
                if link.stalled_at is not None and not self.is_cut(host, link.remote.host):
                    link.heal()
        self.timeline.at(trio.current_time() + KEEPALIVE_S, self._probe_all, self.sides)

    def heal(self) -> None:
        """End the partition; connections that still stand go on."""
        self.sides = {}
        for host in self._hosts():
            for link in host.links():
                link.heal()

    def _probe_all(self, sides: dict[int, int]) -> None:
        for host in self._hosts() if self.sides is sides else ():
            for link in host.links():
                link.probe()

    def _hosts(self) -> list[VirtualHost]:
        """Those that run, each once."""
        return list(dict.fromkeys(host for host in self._listeners.values() if host.alive))
