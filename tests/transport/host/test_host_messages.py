"""Two and three real hosts on loopback: connecting, streams, gossip, events."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.transport.host.sharing import until
from transport.host import (
    DialError,
    EventKind,
    GossipMessage,
    HostError,
    HostStream,
    Libp2pHost,
    ProtocolRefused,
    StreamError,
)
from transport.identity import Identity, PeerId

ECHO = "/test/echo/1"


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


async def heard(follower: Any, kind: EventKind) -> Any:
    with trio.fail_after(10):
        async for event in follower:
            if event.kind is kind:
                return event
    raise AssertionError("the events ended")


async def connected_mesh(*hosts: Libp2pHost) -> None:
    """Wait until neighbours know of each other's subscriptions."""
    for host in hosts:
        await until(lambda host=host: len(host._gossip._pubsub.peer_topics.get("news", ())) >= len(host.peers()))


async def test_messages_travel_both_ways_between_authenticated_peers(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        seen: list[PeerId] = []

        async def serve(stream: HostStream) -> None:
            seen.append(stream.peer_id)
            await echo(stream)

        server.set_handler(ECHO, serve)
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        for message in (b"", b"x", b"y" * 127, b"z" * 128, bytes(300_000)):
            await stream.send(message)
            assert await stream.receive(1 << 20) == message
        assert seen == [client.peer_id]
        assert stream.peer_id == server.peer_id
        await stream.aclose()
        await stream.aclose()


async def test_a_client_without_an_address_is_found_over_its_own_connection(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        client.set_handler(ECHO, echo)
        assert await client.connect(server.addrs[0]) == server.peer_id
        await until(lambda: server.peers())
        assert client.addrs == []
        stream = await server.open_stream(client.peer_id, ECHO)
        await stream.send(b"back")
        assert await stream.receive(10) == b"back"
        (info,) = server.peers()
        assert (info.peer_id, info.inbound, info.relayed) == (client.peer_id, True, False)


async def test_a_message_over_the_readers_limit_resets_that_stream_alone(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        await stream.send(bytes(100))
        with pytest.raises(StreamError, match="100 bytes, where at most 99"):
            await stream.receive(99)
        with pytest.raises(StreamError, match="closed"):
            await stream.send(b"more")
        again = await client.open_stream(server.peer_id, ECHO)
        await again.send(b"still here")
        assert await again.receive(99) == b"still here"


async def test_the_end_of_a_stream_is_an_error_that_names_the_peer(new_host: Any) -> None:
    async def say_one(stream: HostStream) -> None:
        await stream.send(b"one")

    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, say_one)
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        assert await stream.receive(10) == b"one"
        with pytest.raises(StreamError, match=server.peer_id):
            await stream.receive(10)


async def test_an_unknown_protocol_is_a_stream_error_that_says_so(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
        stream = await client.open_stream(server.peer_id, "/test/none/1")
        with pytest.raises(ProtocolRefused, match="does not speak /test/none/1"):
            await stream.receive(10)


async def test_a_protocol_has_one_handler(new_host: Any) -> None:
    async with new_host(listen=[]) as host:
        host.set_handler(ECHO, echo)
        with pytest.raises(ValueError, match="has a handler"):
            host.set_handler(ECHO, echo)


async def test_a_dial_error_names_each_address_and_its_reason(new_host: Any) -> None:
    stranger = Identity(b"\xee" * 32).peer_id
    async with new_host() as server, new_host(listen=[]) as client:
        with pytest.raises(DialError, match=r"127\.0\.0\.1/tcp/1: connection refused"):
            await client.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{stranger}")
        with pytest.raises(DialError, match="another peer answers there"):
            await client.connect(server.addrs[0].replace(server.peer_id, stranger))
        with pytest.raises(DialError, match="no address"):
            await client.open_stream(stranger, ECHO)
        with pytest.raises(DialError, match="own peer id"):
            await client.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{client.peer_id}")


@pytest.mark.parametrize(
    "addr", ["", "nonsense", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/1/p2p/abc", "/p2p/x"]
)
async def test_a_malformed_address_is_a_dial_error(new_host: Any, addr: str) -> None:
    async with new_host(listen=[]) as client:
        with pytest.raises(DialError):
            await client.connect(addr)


async def test_a_busy_port_is_an_error_that_says_what_to_do(new_host: Any) -> None:
    async with new_host() as first:
        taken = first.addrs[0].partition("/p2p/")[0]
        with pytest.raises(HostError, match=r"address already in use.*Choose another"):
            async with new_host(listen=[taken]):
                pass


async def test_two_streams_opened_at_once_share_one_connection(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: client.open_stream(server.peer_id, ECHO, addrs=server.addrs))
        assert len(server._connections()) == 1


async def test_gossip_reaches_a_third_node_through_the_middle_one_signed_by_its_origin(new_host: Any) -> None:
    async with new_host() as middle:  # the others need its addresses
        async with new_host(bootstrap=middle.addrs) as left, new_host(bootstrap=middle.addrs) as right:
            await until(lambda: len(middle.peers()) >= 2)
            async with (
                left.subscribe("news", lambda _: True),
                middle.subscribe("news", lambda _: True),
                right.subscribe("news", lambda _: True) as inbox,
            ):
                await connected_mesh(left, middle, right)
                await left.publish("news", b"hello")
                with trio.fail_after(10):
                    assert await anext(inbox) == GossipMessage("news", left.peer_id, b"hello")


async def test_what_a_validator_refuses_is_neither_delivered_nor_relayed(new_host: Any) -> None:
    async with new_host() as middle:  # the others need its addresses
        async with new_host(bootstrap=middle.addrs) as left, new_host(bootstrap=middle.addrs) as right:
            await until(lambda: len(middle.peers()) >= 2)
            async with (
                left.subscribe("news", lambda _: True),
                middle.subscribe("news", lambda message: message.data != b"bad") as near,
                right.subscribe("news", lambda _: True) as far,
            ):
                await connected_mesh(left, middle, right)
                await left.publish("news", b"bad")
                await left.publish("news", b"good")
                with trio.fail_after(10):
                    assert (await anext(near)).data == b"good"
                    assert (await anext(far)).data == b"good"


async def test_a_neighbour_that_keeps_relaying_bad_messages_is_dropped(new_host: Any) -> None:
    async with (
        new_host() as victim,
        new_host(bootstrap=victim.addrs) as spammer,
        victim.events() as events,
        victim.subscribe("news", lambda _: False),
        spammer.subscribe("news", lambda _: True),
    ):
        await heard(events, EventKind.CONNECTED)
        await connected_mesh(victim, spammer)
        for number in range(25):
            await spammer.publish("news", b"%d" % number)
        event = await heard(events, EventKind.DROPPED)
    assert event.peer_id == spammer.peer_id
    assert "bad messages" in event.detail


async def test_ignored_messages_are_not_held_against_the_neighbour(new_host: Any) -> None:
    async with new_host() as reader, new_host(bootstrap=reader.addrs) as writer, reader.events() as events:
        validate = {b"end": True}
        async with reader.subscribe("news", lambda m: validate.get(m.data)) as inbox, writer.subscribe("news", bool):
            await heard(events, EventKind.CONNECTED)
            await connected_mesh(reader, writer)
            for number in range(25):
                await writer.publish("news", b"%d" % number)
            await writer.publish("news", b"end")
            with trio.fail_after(10):
                assert (await anext(inbox)).data == b"end"
        assert [info.peer_id for info in reader.peers()] == [writer.peer_id]


async def test_the_events_tell_of_peers_that_come_and_go(new_host: Any) -> None:
    async with new_host() as server, server.events() as events:
        assert (await heard(events, EventKind.LISTENING)).addr == server.addrs[0]
        async with new_host(listen=[], bootstrap=server.addrs) as client:
            assert (await heard(events, EventKind.CONNECTED)).peer_id == client.peer_id
            async with server.events() as late:
                assert (await heard(late, EventKind.CONNECTED)).peer_id == client.peer_id
        assert (await heard(events, EventKind.DISCONNECTED)).peer_id == client.peer_id


async def test_an_unreachable_bootstrap_peer_is_reported_and_the_node_lives_on(new_host: Any) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity(b'n' * 32).peer_id}"
    async with new_host(bootstrap=[nobody]) as host, host.events() as events:
        event = await heard(events, EventKind.UNREACHABLE)
        assert event.addr == nobody
        assert "connection refused" in event.detail
        assert "next attempt in" in event.detail
        async with new_host(listen=[]) as other:
            await other.connect(host.addrs[0])


async def test_a_malformed_bootstrap_address_is_refused_at_once(new_host: Any) -> None:
    with pytest.raises(HostError, match="does not end in /p2p/"):
        async with new_host(bootstrap=["/ip4/127.0.0.1/tcp/1"]):
            pass


async def test_a_dropped_peer_is_gone_and_refused(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client, server.events() as events:
        await client.connect(server.addrs[0])
        await heard(events, EventKind.CONNECTED)
        await server.drop(client.peer_id, "sent garbage")
        event = await heard(events, EventKind.DROPPED)
        assert (event.peer_id, event.detail) == (client.peer_id, "sent garbage")
        await heard(events, EventKind.DISCONNECTED)
        with pytest.raises(DialError, match="refused"):
            await server.open_stream(client.peer_id, ECHO)


async def test_an_error_in_the_block_comes_out_bare(new_host: Any) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with new_host():
            raise KeyError("mine")


async def test_announced_addresses_replace_those_listened_on(new_host: Any) -> None:
    async with new_host(announce=["/dns4/node.example/tcp/4001"]) as host:
        assert host.addrs == [f"/dns4/node.example/tcp/4001/p2p/{host.peer_id}"]


async def test_a_wildcard_is_expanded_to_addresses_that_can_be_dialled(new_host: Any) -> None:
    async with new_host(listen=["/ip4/0.0.0.0/tcp/0"]) as host, new_host(listen=[]) as client:
        assert host.addrs
        assert not any("/0.0.0.0/" in addr for addr in host.addrs)
        assert await client.connect(host.addrs[0]) == host.peer_id
