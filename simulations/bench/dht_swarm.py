"""A swarm of nodes in a virtual network, each a host with its Kademlia: grown, churned, measured by its look-ups."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from dht.kad import InvalidRecord, KadConfig, Kademlia, LookupReport, Validator
from simulations.network import Place, VirtualHost, VirtualNetwork, round_trip_s
from transport.host import HostError, background
from transport.identity import SIGNATURE_BYTES, Identity, verify

SUBNET = "bench"


class BlobValidator:
    """Values under the hash of their content, ``/blob/<SHA-256>``: nothing to forge, nothing to replace."""

    self_certifying = True

    @staticmethod
    def key(value: bytes) -> bytes:
        """Where ``value`` belongs."""
        return b"/blob/" + hashlib.sha256(value).digest()

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        """Never ends."""
        if self.key(value) != key:
            raise InvalidRecord("not what hashes to its key")
        return float("inf")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """There is one at most."""
        return 0


class SignedValidator:
    """Values that replace each other: ``/signed/<public key>``, a signature and the signed sequence number and payload;
    the highest number wins."""

    self_certifying = False

    @staticmethod
    def key(owner: Identity) -> bytes:
        """Where the record of ``owner`` belongs."""
        return b"/signed/" + owner.public_key

    @staticmethod
    def value(owner: Identity, seq: int, payload: bytes) -> bytes:
        """A record that ``owner`` signs."""
        body = seq.to_bytes(8, "big") + payload
        return owner.sign("bench/1", body) + body

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        """Never ends."""
        signature, body = value[:SIGNATURE_BYTES], value[SIGNATURE_BYTES:]
        if not verify(key.removeprefix(b"/signed/"), "bench/1", body, signature):
            raise InvalidRecord("signed by somebody else")
        return float("inf")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The newest."""
        return max(range(len(values)), key=lambda index: values[index][SIGNATURE_BYTES : SIGNATURE_BYTES + 8])


@dataclass(eq=False)
class Node:
    """One node of the swarm; ``kad`` is None while it is down."""

    identity: Identity
    place: Place
    host: VirtualHost | None = None
    kad: Kademlia | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)
    visited: int = 0
    """How many who joined were sent to it first."""

    @property
    def up(self) -> bool:
        """Whether it runs and has joined."""
        return self.kad is not None


class Swarm:
    """Nodes in one network; run it with :meth:`running`. Everything is drawn from ``seed``."""

    def __init__(self, network: VirtualNetwork, nursery: trio.Nursery, seed: int, config: KadConfig) -> None:
        self.network = network
        self.rng = random.Random(f"swarm {seed}")
        self.nodes: list[Node] = []
        self.reports: list[LookupReport] = []
        """Look-ups since the list was last cleared."""
        self._joined: list[Node] = []
        self._nursery = nursery
        self._seed = seed
        self._config = config
        self._validators: dict[str, Validator] = {"blob": BlobValidator(), "signed": SignedValidator()}

    @classmethod
    @asynccontextmanager
    async def running(
        cls, network: VirtualNetwork, seed: int, *, config: KadConfig | None = None
    ) -> AsyncIterator[Swarm]:
        """A swarm, empty at first, for the length of the block; its nodes end with it, at once and without farewell."""
        async with background() as nursery:
            swarm = cls(network, nursery, seed, config or KadConfig())
            yield swarm
            for node in swarm.nodes:
                if node.host is not None:
                    node.host.alive = False

    def identity(self, number: int) -> Identity:
        """The identity of node ``number`` in this seed's world."""
        return Identity(hashlib.sha256(f"node {number} of {self._seed}".encode()).digest())

    def up(self) -> list[Node]:
        """The nodes that run and have joined, in the order in which they did."""
        return list(self._joined)

    # --- coming and going ---------------------------------------------------------------------------------------------

    async def grow(self, count: int, *, at_once: int = 256) -> None:
        """Add ``count`` nodes, ``at_once`` of them joining at a time when there are enough; returns when all have."""
        room = trio.CapacityLimiter(1)

        async def add(node: Node) -> None:
            async with room:
                await self.start(node)
                room.total_tokens = min(at_once, 1 + len(self._joined) // 3)

        fresh = []
        for _ in range(count):
            node = Node(self.identity(len(self.nodes)), self.network.atlas.place())
            self.nodes.append(node)
            fresh.append(node)
        async with trio.open_nursery() as nursery:
            for node in fresh:
                nursery.start_soon(add, node)

    async def start(self, node: Node) -> None:
        """Start a node, or start it again: it dials two that run and looks up its own id."""
        assert not node.up
        node.scope, node.stopped = trio.CancelScope(), trio.Event()
        contacts = self._contacts()
        seed = self.rng.getrandbits(64)
        await self._nursery.start(self._live, node, contacts, seed)

    def _contacts(self) -> list[str]:
        candidates = self.rng.sample(self._joined, min(4, len(self._joined)))
        candidates.sort(key=lambda node: node.visited)
        addrs: list[str] = []
        for node in candidates[:2]:
            node.visited += 1
            assert node.host is not None
            addrs += node.host.addrs[:1]
        return addrs

    async def _live(
        self,
        node: Node,
        contacts: Sequence[str],
        seed: int,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with node.scope:
                async with (
                    self.network.open(node.identity, node.place) as host,
                    Kademlia(
                        host,
                        SUBNET,
                        validators=self._validators,
                        clock=self.network.unix_time,
                        rng=random.Random(seed),
                        config=self._config,
                        on_lookup=self.reports.append,
                    ) as kad,
                ):
                    node.host = host
                    async with trio.open_nursery() as nursery:
                        for addr in contacts:
                            nursery.start_soon(_connect, host, addr)
                    if contacts:
                        await kad.bootstrap()
                    node.kad = kad
                    self._joined.append(node)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            if node.kad is not None:
                self._joined.remove(node)
            node.host = node.kad = None
            node.stopped.set()

    async def stop(self, node: Node, *, crash: bool) -> None:
        """Stop a node; with ``crash`` its peers find out for themselves."""
        if node.host is not None:
            node.host.halt(crash=crash)
        node.scope.cancel()
        await node.stopped.wait()

    # --- measuring ----------------------------------------------------------------------------------------------------

    def median_round_trip_s(self, pairs: int = 4000) -> float:
        """Between two nodes drawn at random."""
        draw = random.Random(f"pairs {self._seed}")
        trips = sorted(round_trip_s(*(node.place for node in draw.sample(self.nodes, 2))) for _ in range(pairs))
        return trips[len(trips) // 2]


async def _connect(host: VirtualHost, addr: str) -> None:
    with suppress(HostError):  # it left meanwhile
        await host.connect(addr)


def holds(node: Node, key: bytes, now: float) -> bool:
    """Whether a node keeps the record itself: no caller may know, so the interface has no such question."""
    return node.kad is not None and node.kad._records.get(key, now) is not None


async def for_each(count: int, width: int, job: Callable[[int], Awaitable[None]]) -> None:
    """``job(number)`` for every number below ``count``, ``width`` of them at a time, begun in order."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await job(number)

    async with trio.open_nursery() as nursery:
        for _ in range(min(width, count)):
            nursery.start_soon(work)
