"""Attacks by nodes that neither sell nor buy: liars in the hash table, crowds around newcomers, floods and replays.

Each is a host of the virtual network with an identity and a place of its own. Those that mix with the others run the
production directory and hash table, and lie in one place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from dht import CapacityIndex, CapacityRecord, Directory, Offer, SignedRecord, sign_record
from dht.kad import KadConfig, Kademlia
from dht.kad.contacts import Contact, contact_of
from dht.limits import MAX_RECORDS, PROVIDER_TTL_S
from dht.shards import Shard, Sold, key_of
from overlay.market import Tier
from simulations.liars import ground, lies
from simulations.network import Place, VirtualHost
from simulations.network.gossip import Parcel
from simulations.network.links import GOSSIP
from transport.host import HostError
from transport.host.interface import GossipMessage
from transport.identity import Identity, PeerId

if TYPE_CHECKING:
    from simulations.scenarios.model import AttackGroup
    from simulations.world.world import World

NETWORKS = 16
"""/24s that the nodes of an attack rent, in four /16s."""

TTL_S = 120
"""Of invented records: as honest ones have."""

LOOK_S = 10.0
"""How often it is counted who believes old records."""


@dataclass
class Crowd:
    """What an attack of a scenario has and did."""

    attack: AttackGroup
    hosts: list[VirtualHost] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)
    """Clients that it is about, by number."""
    sent: int = 0
    held: int = 0
    """The most of its inventions, or of its old records, that honest clients held at one time, all together."""

    @property
    def ids(self) -> set[PeerId]:
        """Of its nodes."""
        return {identity.peer_id for identity in self.identities}


_CROWDS: WeakKeyDictionary[World, list[Crowd]] = WeakKeyDictionary()


def crowds(world: World) -> list[Crowd]:
    """Those that came to ``world``, in order."""
    return _CROWDS.setdefault(world, [])


class _Gathering:
    """Brings a crowd into a world. One a task: an attack's nodes live as long as the world."""

    def __init__(self, world: World, attack: AttackGroup) -> None:
        self.world = world
        self.rng = world.rng(f"attack {len(crowds(world))}: {attack.kind}")
        self.subnet = _subnet()
        self.crowd = Crowd(attack)
        crowds(world).append(self.crowd)
        world.happens(f"{attack.kind}: {attack.count} nodes come")

    def identity(self) -> Identity:
        """A fresh one."""
        return Identity(self.rng.randbytes(32))

    def place(self, number: int) -> Place:
        """In one of few networks, as machines that one party rents are; with the option ``spread`` anywhere."""
        atlas = self.world.network.atlas
        if self.crowd.attack.options.get("spread", False):
            return atlas.place()
        party, network = crowds(self.world).index(self.crowd), number % NETWORKS
        return atlas.place(ip4=f"{45 + party}.{network // 4}.{network}.{1 + number // NETWORKS}", hosted=True)

    async def host(self, stack: AsyncExitStack, identity: Identity) -> VirtualHost:
        """Open one."""
        place = self.place(len(self.crowd.hosts))
        host = await stack.enter_async_context(self.world.network.open(identity, place))
        self.crowd.hosts.append(host)
        self.crowd.identities.append(identity)
        return host

    def contacts(self) -> list[Contact]:
        """The crowd as the hash table names it."""
        return [contact_of(host.peer_id, host.addrs) for host in self.crowd.hosts]

    def sold(self) -> Sold:
        """What the first clients of the scenario look for."""
        demand = self.world.scenario.clients[0].demand
        return Sold(demand.task, demand.model, Tier.PLAIN.value)

    def honest(self) -> list[VirtualHost]:
        """The hosts of providers that run."""
        return [peer.host for peer in self.world.providers if peer.host is not None]


def _subnet() -> str:
    from simulations.world.world import SUBNET  # it imports who imports us

    return SUBNET.id


async def sybil_dht(world: World, attack: AttackGroup) -> None:
    """Liars with ids ground around the key under which a market's providers are listed: they take listings and forget
    them, and name nobody but each other."""
    gathering = _Gathering(world, attack)
    key = key_of(gathering.subnet, gathering.sold(), Shard(0, 0))
    async with AsyncExitStack() as stack:
        for identity in ground(key, attack.count, gathering.identity, each=attack.options.get("ground", 100)):
            host = await gathering.host(stack, identity)
            host.set_handler(f"/cocoon/{gathering.subnet}/kad/1.0.0", lies(gathering.contacts()))
        lie = lies(gathering.contacts())
        for host in gathering.crowd.hosts:
            host.replace_handler(f"/cocoon/{gathering.subnet}/kad/1.0.0", lie)
        await _mingle(gathering)
        await trio.sleep_forever()


async def _mingle(gathering: _Gathering, share: int = 4) -> None:
    """Each connects to a few providers, once half of them are up, and so enters their tables."""
    while 2 * len(honest := gathering.honest()) < len(gathering.world.providers):  # noqa: ASYNC110  # nothing tells
        await trio.sleep(1.0)  # nothing tells of it
    for host in gathering.crowd.hosts:
        for other in gathering.rng.sample(honest, min(share, len(honest))):
            with suppress(HostError):
                await host.connect(other.addrs[0])


class _Partial(CapacityIndex):
    """An index that tells others of ``shown`` alone."""

    def __init__(self, shown: frozenset[PeerId]) -> None:
        super().__init__()
        self.shown = shown

    def page(self, after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        """As an honest one that knows nobody else."""
        return _shown(super().page(after, MAX_RECORDS, now=now)[0], self.shown, limit)


def _shown(found: Sequence[SignedRecord], shown: frozenset[PeerId], limit: int) -> tuple[list[SignedRecord], bool]:
    left = [signed for signed in found if signed.peer_id in shown]
    return left[:limit], len(left) > limit


class _Stale(CapacityIndex):
    """An index that tells others the first record that it had of each provider, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[PeerId, SignedRecord] = {}

    def page(self, after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        """As an honest one, with old records in place of those that stand."""
        found, more = super().page(after, limit, now=now)
        return [self.first.setdefault(signed.peer_id, signed) for signed in found], more


async def _mix(gathering: _Gathering, stack: AsyncExitStack, host: VirtualHost, index: CapacityIndex) -> Directory:
    """Run a production directory and hash table on a host of the crowd, with an index of its own."""
    clock, subnet = gathering.world.network.unix_time, gathering.subnet
    shape = KadConfig(provider_ttl_s=PROVIDER_TTL_S, provider_republish_s=float("inf"))
    rng = random.Random(gathering.rng.random())  # noqa: S311  # a model
    table = Kademlia(host, subnet, validators={}, config=shape, clock=clock, rng=rng)
    await stack.enter_async_context(table)
    directory = Directory(
        host, gathering.crowd.identities[-1], subnet, clock=clock, index=index, rng=rng, providers=table
    )
    return await stack.enter_async_context(directory)


async def eclipse(world: World, attack: AttackGroup) -> None:
    """Surrounds newcomers: the clients of the group ``victims`` begin with peers of the crowd, and ``honest`` (0)
    others. The crowd shows the providers of the group ``shows`` alone (nobody, when empty), in gossip, to neighbours
    and in the hash table; those providers lie likewise."""
    gathering = _Gathering(world, attack)
    options = attack.options
    shown = frozenset(p.peer_id for p in world.providers if p.group == options.get("shows", ""))
    async with AsyncExitStack() as stack:
        for _ in range(attack.count):
            host = await gathering.host(stack, gathering.identity())
            await _mix(gathering, stack, host, _Partial(shown))
            _hide(host, shown)
        lie = lies(gathering.contacts())
        for host in gathering.crowd.hosts:
            host.replace_handler(f"/cocoon/{gathering.subnet}/kad/1.0.0", lie)
        known = [host.addrs[0] for host in gathering.crowd.hosts]
        for client in world.clients:
            if client.group == options.get("victims", client.group):
                others = [addr for addr in client.bootstrap if PeerId(addr.rsplit("/", 1)[1]) not in shown]
                honest = others[: options.get("honest", 0)]
                client.bootstrap = [*gathering.rng.sample(known, min(3, len(known))), *honest]
                gathering.crowd.victims.add(client.number)
        await _mingle(gathering)
        lying = {p.peer_id for p in world.providers if p.peer_id in shown}
        while True:
            for provider in world.providers:
                if provider.peer_id in lying and provider.node is not None and provider.host is not None:
                    lying.discard(provider.peer_id)
                    _hide(provider.host, shown)
                    _turn(provider.node.directory.index, shown)
                    provider.host.replace_handler(f"/cocoon/{gathering.subnet}/kad/1.0.0", lie)
            await trio.sleep(1.0)


def _hide(host: VirtualHost, shown: frozenset[PeerId]) -> None:
    """Pass on no gossip but of those shown."""
    for followed in host.gossip._topics.values():
        validate = followed.validator

        def verdict(message: GossipMessage, validate: Callable[[GossipMessage], bool | None] = validate) -> bool | None:
            found = validate(message)
            return found if message.origin in shown else None

        followed.validator = verdict


def _turn(index: CapacityIndex, shown: frozenset[PeerId]) -> None:
    """Make an honest node's index one that shows some alone."""

    def page(after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        return _shown(CapacityIndex.page(index, after, MAX_RECORDS, now=now)[0], shown, limit)

    index.page = page  # type: ignore[method-assign]  # its own instance only


async def replay(world: World, attack: AttackGroup) -> None:
    """Neighbours that answer with the first record they ever had of each provider, whatever it says since."""
    gathering = _Gathering(world, attack)
    async with AsyncExitStack() as stack:
        indices = []
        for _ in range(attack.count):
            host = await gathering.host(stack, gathering.identity())
            indices.append(_Stale())
            await _mix(gathering, stack, host, indices[-1])
        await _mingle(gathering, len(world.providers))
        while True:
            await trio.sleep(LOOK_S)
            old = {signed.envelope for index in indices for signed in index.first.values()}
            gathering.crowd.held = max(gathering.crowd.held, _holding(world, old))


def _holding(world: World, envelopes: set[bytes]) -> int:
    """How many records that were replaced long ago honest clients hold as if they stood."""
    now = world.network.unix_time()
    count = 0
    for client in world.clients:
        if client.node is not None:
            records = client.node.directory.index.page("", MAX_RECORDS, now=now)[0]
            count += sum(r.envelope in envelopes and r.record.issued_at < now - TTL_S / 2 for r in records)
    return count


async def index_flood(world: World, attack: AttackGroup) -> None:
    """One machine invents ``records`` (1000) providers that ask next to nothing, and gossips them, ``per_s`` (5), to
    ``count`` neighbours. Nobody answers at their addresses."""
    gathering = _Gathering(world, attack)
    options = attack.options
    sold, clock = gathering.sold(), world.network.unix_time
    crowd = gathering.crowd
    async with AsyncExitStack() as stack:
        host = await gathering.host(stack, gathering.identity())
        await _mingle(gathering, attack.count)
        topic = f"/cocoon/{gathering.subnet}/capacity/1"
        for number in range(options.get("records", 1000)):
            identity = gathering.identity()
            crowd.identities.append(identity)
            signed = _invented(identity, gathering.subnet, sold, clock(), host.addrs)
            message = GossipMessage(topic, signed.peer_id, signed.envelope)
            for link in host.links():
                parcel = Parcel((10**7 + number, number), message)
                link.send(GOSSIP, b"", 600, link.remote.host.gossip.hear, (link.remote, parcel))
            crowd.sent += 1
            if number % 10 == 0:
                crowd.held = max(crowd.held, _believing(world, crowd.ids))
            await trio.sleep(1 / options.get("per_s", 5.0))
        await trio.sleep_forever()


def _believing(world: World, ids: set[PeerId]) -> int:
    clients = [client.node.directory.index for client in world.clients if client.node is not None]
    return sum(index.heard(peer) is not None for index in clients for peer in ids)


def _invented(identity: Identity, subnet: str, sold: Sold, now: float, addrs: Sequence[str]) -> SignedRecord:
    offer = Offer(sold.task, sold.model, sold.tier, {"prompt": 1, "completion": 1}, slots=64, units_per_s=1000)
    where = tuple(f"{addr.rsplit('/p2p/', 1)[0]}/p2p/{identity.peer_id}" for addr in addrs)
    record = CapacityRecord(
        subnet=subnet, host_addrs=where, tunnel_addrs=("/ip4/45.0.0.1/tcp/1",), noise_key=bytes(range(32)),
        offers=(offer,), seq=int(now * 1000), issued_at=int(now), ttl_s=TTL_S,
    )  # fmt: skip
    return sign_record(identity, replace(record))


__all__ = ["Crowd", "crowds", "eclipse", "index_flood", "replay", "sybil_dht"]
