"""Our Kademlia against js-libp2p's kad-dht, by the protocol id of a subnet. What one put is read by the other over the
wire: the reader is shown to hold nothing of it before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from dht.kad import InvalidRecord, Kademlia
from transport.host import Libp2pHost
from transport.identity import Identity

SUBNET = "interop"
NAMESPACE = "cocoon"
PROTOCOL = f"/cocoon/{SUBNET}/kad/1.0.0"
LISTEN = ["/ip4/127.0.0.1/tcp/0"]


class Marked:
    """Values that begin with ``ok`` are valid; the greatest is the newest."""

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        if not value.startswith(b"ok"):
            raise InvalidRecord("not marked")
        return now + 3600

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return max(range(len(values)), key=lambda index: values[index])


@asynccontextmanager
async def ours(*bootstrap: str) -> AsyncIterator[tuple[Libp2pHost, Kademlia]]:
    async with Libp2pHost.open(Identity(os.urandom(32)), LISTEN, bootstrap=bootstrap) as host:
        async with Kademlia(host, SUBNET, validators={NAMESPACE: Marked()}) as kad:
            yield host, kad


async def known(kad: Kademlia, peers: int) -> None:
    """Wait until the routing table has so many peers."""
    with trio.fail_after(10):
        while len(kad.peers()) < peers:
            await trio.sleep(0.02)


async def knows(peer: Any, count: int) -> None:
    """Wait until js's routing table has so many peers."""
    with trio.fail_after(10):
        while (await peer.ask("peers"))["table"] < count:
            await trio.sleep(0.05)


def fresh_key() -> bytes:
    return f"/{NAMESPACE}/".encode() + os.urandom(16)


def served(kad: Kademlia, kind: str) -> int:
    return int(kad.stats().served.get(kind, 0))


async def test_js_reads_over_the_wire_what_we_put(js_peer: Any) -> None:
    key, value = fresh_key(), b"ok from us"
    async with ours() as (holder, kad):
        await kad.put(key, value)  # alone: nobody else has it
        async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as reader:
            await reader.ask("dial", addr=holder.addrs[0])
            await knows(reader, 1)
            found = (await reader.ask("get", key=key.hex()))["found"]
            assert {(one["value"], one["from"]) for one in found} == {(value.hex(), holder.peer_id)}
        assert served(kad, "GET_VALUE") >= 1


async def test_we_read_over_the_wire_what_js_put_at_another_node_of_ours(js_peer: Any) -> None:
    key, value = fresh_key(), b"ok from js"
    async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as writer, ours() as (holder, kad):
        await writer.ask("dial", addr=holder.addrs[0])
        await knows(writer, 1)
        assert (await writer.ask("put", key=key.hex(), value=value.hex()))["stored"] == 1
        assert served(kad, "PUT_VALUE") == 1
        async with ours(*writer.addrs) as (_, reader):  # knows js alone, and holds nothing
            await known(reader, 1)
            assert reader.stats().records == 0
            assert await reader.get(key) == value


async def test_a_value_that_js_alone_holds_is_read_by_us(js_peer: Any) -> None:
    key, value = fresh_key(), b"ok only there"
    async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as holder:
        async with ours(*holder.addrs) as (_, writer):
            await known(writer, 1)
            assert await writer.put(key, value) == 1
        async with ours(*holder.addrs) as (_, reader):  # the writer is gone
            await known(reader, 1)
            assert await reader.get(key) == value


async def test_what_our_validator_refuses_js_cannot_store_with_us(js_peer: Any) -> None:
    key = fresh_key()
    async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as writer, ours() as (holder, kad):
        await writer.ask("dial", addr=holder.addrs[0])
        await knows(writer, 1)
        assert (await writer.ask("put", key=key.hex(), value=b"unmarked".hex()))["stored"] == 0
        assert kad.stats().records == 0


async def test_js_finds_over_the_wire_whom_we_told_of(js_peer: Any) -> None:
    digest = hashlib.sha256(os.urandom(8)).digest()
    async with ours() as (provider, kad):
        await kad.provide(b"\x12\x20" + digest)
        async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as reader:
            await reader.ask("dial", addr=provider.addrs[0])
            await knows(reader, 1)
            found = (await reader.ask("providers", digest=digest.hex()))["found"]
            assert {(one["peer"], one["from"]) for one in found} == {(provider.peer_id, provider.peer_id)}
            assert provider.addrs[0].partition("/p2p/")[0] in found[0]["addrs"][0]


async def test_we_find_over_the_wire_whom_js_told_of(js_peer: Any) -> None:
    digest = hashlib.sha256(os.urandom(8)).digest()
    async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as provider, ours() as (holder, kad):
        await provider.ask("dial", addr=holder.addrs[0])
        await knows(provider, 1)
        assert (await provider.ask("provide", digest=digest.hex()))["told"] >= 1
        with trio.fail_after(10):
            while kad.stats().provider_records != 1:  # ADD_PROVIDER has no reply: it may still be under way
                await trio.sleep(0.02)
        async with ours(*holder.addrs) as (_, reader):
            await known(reader, 1)
            assert reader.stats().provider_records == 0
            (found,) = await reader.find_providers(b"\x12\x20" + digest)
            assert found.peer_id == provider.peer_id
            assert provider.addrs[0] in found.addrs


async def test_each_finds_a_third_node_through_the_other(js_peer: Any) -> None:
    async with js_peer(kad=PROTOCOL, namespace=NAMESPACE) as middle:
        async with ours(*middle.addrs) as (host, kad), ours(*middle.addrs) as (third, other):
            await known(kad, 1)
            await known(other, 1)
            await knows(middle, 2)
            found = await kad.find_peer(third.peer_id)
            assert found is not None
            assert third.addrs[0] in found.addrs
            assert host.peer_id != third.peer_id


async def test_the_protocol_is_that_of_the_subnet_alone(js_peer: Any) -> None:
    async with ours() as (holder, kad), js_peer(kad="/cocoon/other/kad/1.0.0", namespace=NAMESPACE) as stranger:
        await stranger.ask("dial", addr=holder.addrs[0])
        with pytest.raises(AssertionError, match=r"(?i)protocol"):
            await stranger.ask("say", addr=holder.addrs[0], protocol="/cocoon/other/kad/1.0.0", message=bytes(8).hex())
        assert kad.peers() == []
