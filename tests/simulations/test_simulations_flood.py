"""Index flooding on whole nodes: thousands of well-signed records of nobody, by gossip, by neighbours and by listings.

The nodes are real but for the network: Kademlia, directory and gossip. What a flood displaces in an index is in
tests/dht/test_dht_flood.py; here an honest provider stays heard and findable, and the flooder's allowance is spent.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import trio

from dht import CapacityIndex, CapacityRecord, Directory, sign_record
from dht.exchange import PageRequest, page_of, parse_request
from dht.kad import Kademlia
from dht.kad.contacts import contact_of
from dht.kad.messages import Message, MessageType, encode_message
from dht.limits import STRANGERS_BURST, STRANGERS_PER_S
from dht.shards import Shard, Sold, key_of
from simulations.bench.dht_market import selling
from simulations.bench.dht_swarm import SUBNET, Swarm
from simulations.determinism import run_seeded
from simulations.network import VirtualHost, VirtualNetwork
from simulations.network.gossip import Parcel
from simulations.network.links import GOSSIP
from transport.host import GossipMessage, HostStream
from transport.host.limits import GOSSIP_MESSAGES_PER_S
from transport.identity import Identity, PeerId

TOPIC, CAPACITY = f"/cocoon/{SUBNET}/capacity/1", f"/cocoon/{SUBNET}/capacity/1.0.0"
SOLD = Sold("chat", "popular", "plain")
NODES, FAKES, TOLD, LISTED = 10, 2000, 500, 20
ROOM, ROOM_OF_A_MODEL = 400, 200


@dataclass
class Seen:
    """What became of the network under the flood."""

    heard_s: list[float]
    """Seconds until each node heard the honest provider's new price."""
    records: list[int]
    """In each index, at the end."""
    sent: int
    """Fake records that the flooder gossiped to each neighbour."""
    flood_s: float
    believed: list[int]
    """Those that each node looked at, kept and passed on."""
    newcomer_found_s: float
    """Seconds until a node that came in the middle of it knew the honest provider."""
    still_known: list[bool]
    """Whether each node, the newcomer last, knows the honest provider in the end."""


class Flooder:
    """One machine with as many keys as it likes."""

    def __init__(self, host: VirtualHost, swarm: Swarm) -> None:
        self.host = host
        self.swarm = swarm
        now = int(swarm.network.unix_time())
        self.keys = [Identity(number.to_bytes(32, "big")) for number in range(10**6, 10**6 + FAKES)]
        record: CapacityRecord = selling(1, seq=1, issued_at=now + 30, ttl_s=600)
        self.records = [sign_record(key, replace(record, host_addrs=tuple(host.addrs))) for key in self.keys]
        host.set_handler(CAPACITY, self.tell)
        self.sent = 0

    async def tell(self, stream: HostStream) -> None:
        """More than an index has room for, page by page, to whoever asks."""
        ordered = sorted(self.records[:TOLD], key=lambda signed: signed.peer_id)
        while True:
            request = parse_request(await stream.receive(1000))
            if not isinstance(request, PageRequest):
                return
            rest = [signed for signed in ordered if signed.peer_id > request.after]
            page = page_of([signed.envelope for signed in rest[: request.limit]], len(rest) > request.limit)
            await stream.send(page.to_bytes())

    async def gossip(self) -> None:
        """All of it to every neighbour, twice as fast as any may send, each message as if passed on from its origin."""
        for number, signed in enumerate(self.records):
            message = GossipMessage(TOPIC, signed.peer_id, signed.envelope)
            for link in self.host.links():
                parcel = Parcel((10**7 + number, number), message)
                link.send(GOSSIP, b"", 600, link.remote.host.gossip.hear, (link.remote, parcel))
            self.sent += 1
            await trio.sleep(1 / (2 * GOSSIP_MESSAGES_PER_S))

    async def list_itself(self, nodes: list[VirtualHost], stack: AsyncExitStack, count: int) -> None:
        """``count`` of the keys list themselves everywhere as providers of the popular model."""
        keys = [key_of(SUBNET, SOLD, Shard(0, 0))]
        for key in self.keys[:count]:
            host = await stack.enter_async_context(self.swarm.network.open(key))
            own = (contact_of(host.peer_id, host.addrs),)
            for node in nodes:
                stream = await host.open_stream(node.peer_id, f"/cocoon/{SUBNET}/kad/1.0.0", addrs=node.addrs)
                for shard in keys:
                    await stream.send(encode_message(Message(MessageType.ADD_PROVIDER, shard, providers=own)))
                await stream.aclose()


async def flooded() -> Seen:
    """A provider and a market at peace, then the flood, in which a price changes and a node comes."""
    async with (
        VirtualNetwork.running(random.Random(3)) as network,
        Swarm.running(network, 3) as swarm,
        AsyncExitStack() as stack,
    ):
        await swarm.grow(NODES)
        enter = stack.enter_async_context

        async def directory(host: VirtualHost, who: Identity, table: Any) -> Directory:
            index, rng = CapacityIndex(ROOM, ROOM_OF_A_MODEL), random.Random(who.public_key[0])
            return await enter(
                Directory(host, who, SUBNET, clock=network.unix_time, rng=rng, providers=table, index=index)
            )

        directories, hosts = [], []
        for node in swarm.nodes:
            assert node.host is not None
            hosts.append(node.host)
            directories.append(await directory(node.host, node.identity, node.kad))
        provider, seller = directories[2], hosts[2]
        await provider.announce(selling(1000, host_addrs=tuple(seller.addrs)))
        await trio.sleep(340)
        assert all(len(each.providers("chat")) == 1 for each in directories)
        believed = [0] * NODES
        for number, host in enumerate(hosts):
            _count(host, believed, number, seller.peer_id)
        evil = await enter(network.open(Identity(b"f" * 32)))
        flooder = Flooder(evil, swarm)
        await flooder.list_itself(hosts, stack, LISTED)
        for host in hosts[4:]:
            await evil.connect(host.addrs[0])
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(flooder.gossip)
        await trio.sleep(2)
        await provider.announce(selling(2000, host_addrs=tuple(seller.addrs)))
        begun = trio.current_time()
        took = [60.0] * NODES
        while max(took) == 60 and trio.current_time() < begun + 20:
            for number, each in enumerate(directories):
                record = each.index.get(seller.peer_id, network.unix_time())
                if took[number] == 60 and record is not None and record.offers[0].prices["prompt"] == 2000:
                    took[number] = trio.current_time() - begun
            await trio.sleep(0.05)
        late_host = await enter(network.open(Identity(b"n" * 32), bootstrap=[hosts[0].addrs[0], evil.addrs[0]]))
        kad = await enter(Kademlia(late_host, SUBNET, validators={}, clock=network.unix_time, rng=random.Random(1)))
        late = await directory(late_host, Identity(b"n" * 32), kad)
        came = trio.current_time()
        with trio.move_on_after(60):
            while not _knows(late, seller.peer_id):
                await trio.sleep(0.1)
        found_s = trio.current_time() - came
        await trio.sleep(5)
        everybody = [*directories, late]
        return Seen(
            took, [len(each.index) for each in everybody], flooder.sent, trio.current_time() - begun + 2, believed,
            found_s, [_knows(each, seller.peer_id) for each in everybody],
        )  # fmt: skip


def _knows(directory: Directory, peer: PeerId) -> bool:
    return any(known == peer for known, _, _ in directory.providers("chat"))


def _count(host: VirtualHost, believed: list[int], number: int, honest: PeerId) -> None:
    followed = host.gossip._topics[TOPIC]
    validate = followed.validator

    def counted(message: GossipMessage) -> bool | None:
        verdict = validate(message)
        believed[number] += verdict is True and message.origin != honest
        return verdict

    followed.validator = counted


def test_a_flood_of_signed_fakes_by_gossip_neighbours_and_listings_hides_no_honest_provider_and_fills_no_node() -> None:
    seen = run_seeded(3, flooded)
    assert seen.sent >= 1500
    assert max(seen.heard_s) <= 3
    assert max(seen.records) <= ROOM_OF_A_MODEL
    assert seen.newcomer_found_s <= 15
    assert all(seen.still_known)
    # The flooder spends the allowance of strangers; nobody checks or passes on the rest for it.
    assert max(seen.believed) <= STRANGERS_BURST + STRANGERS_PER_S * seen.flood_s + 1
    assert max(seen.believed) < seen.sent / 2
