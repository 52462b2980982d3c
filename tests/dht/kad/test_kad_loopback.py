"""The same nodes on real libp2p hosts: connections, streams and time as they are."""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import trio

from dht.kad import Kademlia
from dht.kad.messages import Message, MessageType, encode_message, parse_message
from transport.host import Libp2pHost
from transport.identity import Identity

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Anything:
    self_certifying = False

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        return now + 3600

    def select(self, key: bytes, values: Any) -> int:
        return list(values).index(max(values))


async def test_nodes_on_loopback_join_store_and_find() -> None:
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            nodes: list[Kademlia] = []
            hosts: list[Libp2pHost] = []
            for number in range(6):
                client = number == 5
                identity = Identity(bytes([100 + number]) * 32)
                bootstrap = hosts[0].addrs if hosts else []
                opened = Libp2pHost.open(identity, [] if client else [LOOPBACK], bootstrap=bootstrap)
                hosts.append(await stack.enter_async_context(opened))
                node = Kademlia(
                    hosts[-1],
                    "loop",
                    validators={"t": Anything()},
                    clock=time.time,
                    rng=random.Random(number),
                    client_only=client,
                )
                nodes.append(await stack.enter_async_context(node))
            servers, client_node = nodes[:5], nodes[5]
            while not all(node.stats().peers == 4 for node in servers):  # nobody calls bootstrap: it happens by itself
                await trio.sleep(0.05)
            assert await client_node.bootstrap() == 5
            assert await client_node.put(b"/t/\xff", b"value") == 5
            assert await servers[3].get(b"/t/\xff") == b"value"
            key = b"\x12\x20" + sha256(b"model").digest()
            assert await servers[1].provide(key) == 4
            found = await client_node.find_providers(key)
            assert [(peer.peer_id, peer.addrs) for peer in found] == [(hosts[1].peer_id, tuple(hosts[1].addrs))]
            peer = await servers[4].find_peer(hosts[2].peer_id)
            assert peer is not None
            assert peer.addrs == tuple(hosts[2].addrs)
            assert not any(p.peer_id == hosts[5].peer_id for node in servers for p in node.peers())
            await several_requests_on_one_stream(hosts[5], servers[0], hosts[0])


async def several_requests_on_one_stream(host: Libp2pHost, node: Kademlia, server: Libp2pHost) -> None:
    stream = await host.open_stream(server.peer_id, node.protocol, addrs=server.addrs)
    ping = Message(MessageType.PING)
    for _ in range(3):
        await stream.send(encode_message(ping))
        assert parse_message(await stream.receive(1024)) == ping
    await stream.aclose()
