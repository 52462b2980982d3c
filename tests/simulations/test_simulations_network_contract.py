"""The same checks on virtual hosts and on real ones over loopback: what callers may rely on, whichever they have."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from simulations.determinism import run_seeded
from simulations.network import Nat, VirtualNetwork
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
from transport.host.limits import MAX_INBOUND_STREAMS, MAX_MESSAGE_BYTES
from transport.identity import Identity, PeerId

ECHO = "/test/echo/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"

Opener = Callable[..., AbstractAsyncContextManager[Any]]
"""``opener(number, listen=True, bootstrap=())`` runs the host of a fixed identity for a block."""
Check = Callable[[Opener], Awaitable[None]]


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


def real(check: Check) -> None:
    def opener(number: int, *, listen: bool = True, bootstrap: Any = ()) -> AbstractAsyncContextManager[Any]:
        return Libp2pHost.open(identity(number), [LOOPBACK] if listen else [], bootstrap=bootstrap)

    trio.run(check, opener)


def virtual(check: Check) -> None:
    async def main() -> None:
        async with VirtualNetwork.running(random.Random(1)) as network:

            def opener(number: int, *, listen: bool = True, bootstrap: Any = ()) -> AbstractAsyncContextManager[Any]:
                place = network.atlas.place(nat=Nat.OPEN if listen else Nat.DIAL_ONLY)
                return network.open(identity(number), place, bootstrap=bootstrap)

            await check(opener)

    run_seeded(1, main)


@pytest.fixture(params=[virtual, real], ids=["virtual", "real"])
def on(request: pytest.FixtureRequest) -> Callable[[Check], None]:
    """Run a check on one kind of host."""
    return request.param  # type: ignore[no-any-return]


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


async def heard(follower: Any, kind: EventKind) -> Any:
    with trio.fail_after(10):
        async for event in follower:
            if event.kind is kind:
                return event
    raise AssertionError("the events ended")


async def gossiped(publisher: Any, data: bytes, has_arrived: Callable[[], object]) -> None:
    """Publish until it arrives: a mesh takes a moment to form."""
    with trio.fail_after(15):
        while not has_arrived():
            await publisher.publish("news", data)
            await trio.sleep(0.3)


def test_a_connection_has_a_peer_at_each_end_and_serves_streams_both_ways(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2, listen=False) as client:
            seen: list[PeerId] = []

            async def serve(stream: HostStream) -> None:
                seen.append(stream.peer_id)
                await echo(stream)

            server.set_handler(ECHO, serve)
            client.set_handler(ECHO, echo)
            assert await client.connect(server.addrs[0]) == server.peer_id
            await until(server.peers)
            assert client.addrs == []
            (there,), (here,) = server.peers(), client.peers()
            assert (there.peer_id, there.inbound, there.relayed) == (client.peer_id, True, False)
            assert (here.peer_id, here.inbound, here.addr) == (server.peer_id, False, server.addrs[0])
            assert there.addr.endswith(f"/p2p/{client.peer_id}")
            out = await client.open_stream(server.peer_id, ECHO)
            for message in (b"", b"x", b"y" * 127, bytes(300_000), bytes(MAX_MESSAGE_BYTES)):
                await out.send(message)
                assert await out.receive(1 << 20) == message
            back = await server.open_stream(client.peer_id, ECHO)
            await back.send(b"back")
            assert await back.receive(10) == b"back"
            assert (seen, out.peer_id, back.peer_id) == ([client.peer_id], server.peer_id, client.peer_id)
            await out.aclose()
            await out.aclose()
            await out.reset()
            with pytest.raises(StreamError, match="closed"):
                await out.send(b"late")
            with pytest.raises(StreamError, match="closed"):
                await out.receive(1)

    on(check)


class Doubler:
    """Doubles what it is sent, and at once what is short; the end of a stream is told."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.streams: list[PeerId] = []
        self.ended = 0

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        if len(request) > 5:
            return None
        self.asked.append(request)
        return request * 2

    async def __call__(self, stream: HostStream) -> None:
        self.streams.append(stream.peer_id)
        try:
            while True:
                await stream.send(await stream.receive(1 << 20) * 2)
        finally:
            self.ended += 1


def test_a_handler_that_can_answer_at_once_gives_its_caller_what_its_stream_would(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2) as client:
            doubler = Doubler()
            server.set_handler(ECHO, doubler)
            await client.connect(server.addrs[0])
            sizes = [1, 5, 6, 2, 300_000]
            out = await client.open_stream(server.peer_id, ECHO)
            for size in sizes:
                await out.send(bytes(size))
                assert await out.receive(1 << 20) == bytes(2 * size)
            await out.aclose()
            long = await client.open_stream(server.peer_id, ECHO)
            await long.send(bytes(9))
            assert await long.receive(100) == bytes(18)
            await long.reset()
            await until(lambda: doubler.ended == len(doubler.streams))
            for _ in range(MAX_INBOUND_STREAMS + 1):  # those that are over take no place
                short = await client.open_stream(server.peer_id, ECHO)
                await short.send(b"ab")
                assert await short.receive(100) == b"abab"
                await short.aclose()

    on(check)


def test_messages_keep_their_order_and_what_was_sent_before_the_end_arrives(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async def count(stream: HostStream) -> None:
            for number in range(200):
                await stream.send(b"%d" % number)

        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, count)
            stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            await trio.sleep(0.5)
            assert [await stream.receive(10) for _ in range(200)] == [b"%d" % number for number in range(200)]
            with pytest.raises(StreamError, match=server.peer_id):
                await stream.receive(10)

    on(check)


def test_a_message_over_the_readers_limit_resets_that_stream_alone(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, echo)
            stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            await stream.send(bytes(100))
            with pytest.raises(StreamError, match="100 bytes, where at most 99"):
                await stream.receive(99)
            with pytest.raises(StreamError, match="closed"):
                await stream.send(b"more")
            again = await client.open_stream(server.peer_id, ECHO)
            with pytest.raises(ValueError, match="at most"):
                await again.send(bytes(MAX_MESSAGE_BYTES + 1))
            await again.send(b"still here")
            assert await again.receive(99) == b"still here"

    on(check)


def test_a_handler_that_raises_resets_its_stream_alone(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async def fail(stream: HostStream) -> None:
            if await stream.receive(10) == b"bad":
                raise KeyError("a bug")
            await stream.send(b"fine")

        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, fail)
            for message in (b"bad", b"good"):
                stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
                await stream.send(message)
                if message == b"bad":
                    with pytest.raises(StreamError):
                        await stream.receive(10)
                else:
                    assert await stream.receive(10) == b"fine"

    on(check)


def test_a_protocol_that_nobody_serves_and_a_stream_too_many_are_stream_errors(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, echo)
            with pytest.raises(ValueError, match="has a handler"):
                server.set_handler(ECHO, echo)
            refused = await client.open_stream(server.peer_id, "/test/none/1", addrs=server.addrs)
            with pytest.raises(ProtocolRefused, match="does not speak /test/none/1"):
                await refused.wait_opened()
            streams = []
            with pytest.raises(ProtocolRefused):
                while len(streams) <= MAX_INBOUND_STREAMS:
                    stream = await client.open_stream(server.peer_id, ECHO)
                    await stream.wait_opened()
                    streams.append(stream)
            # The protocols of the host's own, gossip among them, have their streams too.
            assert MAX_INBOUND_STREAMS - 4 <= len(streams) <= MAX_INBOUND_STREAMS
            for stream in streams:
                await stream.aclose()
            await trio.sleep(0.5)
            await (await client.open_stream(server.peer_id, ECHO)).aclose()

    on(check)


def test_what_is_sent_before_the_protocol_is_agreed_on_arrives_even_if_the_stream_is_closed_at_once(on: Any) -> None:
    async def check(opener: Opener) -> None:
        got: list[bytes] = []

        async def collect(stream: HostStream) -> None:
            while True:
                got.append(await stream.receive(1 << 20))

        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, collect)
            sent = [b"", b"one", bytes(100_000), b"last"]
            for address in (server.addrs, ()):
                stream = await client.open_stream(server.peer_id, ECHO, addrs=address)
                for message in sent:
                    await stream.send(message)
                await stream.aclose()
            await until(lambda: len(got) >= 2 * len(sent))
            assert sorted(got) == sorted(2 * sent)
            unused = await client.open_stream(server.peer_id, ECHO)
            await unused.aclose()
            with pytest.raises(StreamError, match="closed"):
                await unused.wait_opened()

    on(check)


def test_a_refusal_shows_in_the_first_receive_and_costs_that_stream_alone(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, echo)
            working = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            refused = await client.open_stream(server.peer_id, "/test/none/1")
            await refused.send(b"a question")
            with pytest.raises(ProtocolRefused, match="/test/none/1"):
                await refused.receive(10)
            with pytest.raises(StreamError):
                await refused.receive(10)
            with pytest.raises(StreamError):
                await refused.send(b"another")
            await refused.aclose()
            await working.send(b"alive")
            await working.wait_opened()
            assert await working.receive(10) == b"alive"

    on(check)


def test_a_dial_error_names_each_address_and_its_reason(on: Any) -> None:
    async def check(opener: Opener) -> None:
        stranger = identity(0xEE).peer_id
        async with opener(1) as server, opener(2, listen=False) as client:
            where = server.addrs[0].partition("/tcp/")[0]
            with pytest.raises(DialError, match="/tcp/1: connection refused"):
                await client.connect(f"{where}/tcp/1/p2p/{stranger}")
            with pytest.raises(DialError, match="another peer answers there"):
                await client.connect(server.addrs[0].replace(server.peer_id, stranger))
            with pytest.raises(DialError, match="no address"):
                await client.open_stream(stranger, ECHO)
            with pytest.raises(DialError, match="no address"):
                await client.open_stream(stranger, ECHO, addrs=["nonsense"])
            with pytest.raises(DialError, match="own peer id"):
                await client.connect(f"{where}/tcp/1/p2p/{client.peer_id}")
            for addr in ("", "nonsense", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/abc", "/p2p/x"):
                with pytest.raises(DialError):
                    await client.connect(addr)

    on(check)


def test_a_cancelled_receive_loses_nothing_and_a_cancelled_send_breaks_that_stream_alone(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async def idle(stream: HostStream) -> None:
            await trio.sleep_forever()

        async with opener(1) as server, opener(2) as client:
            server.set_handler(ECHO, echo)
            server.set_handler("/test/idle/1", idle)
            stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            with trio.move_on_after(0.2) as waiting:
                await stream.receive(10)
            assert waiting.cancelled_caught
            await stream.send(b"after")
            assert await stream.receive(10) == b"after"
            stuck = await client.open_stream(server.peer_id, "/test/idle/1")
            with trio.move_on_after(2) as sending:
                for _ in range(3):
                    await stuck.send(bytes(MAX_MESSAGE_BYTES))
            assert sending.cancelled_caught, "a reader that does not read holds the writer back"
            with pytest.raises(StreamError):
                await stuck.send(b"x")
            await stream.send(b"alive")
            assert await stream.receive(10) == b"alive"

    on(check)


def test_streams_opened_at_once_share_one_connection(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, opener(2) as client, client.events() as events:
            server.set_handler(ECHO, echo)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(lambda: client.open_stream(server.peer_id, ECHO, addrs=server.addrs))
            assert len(client.peers()) == 1
            assert (await heard(events, EventKind.CONNECTED)).peer_id == server.peer_id
            with trio.move_on_after(0.3):
                async for event in events:
                    assert event.kind is not EventKind.CONNECTED

    on(check)


def test_what_is_good_is_relayed_and_what_is_refused_or_ignored_is_not(on: Any) -> None:
    async def check(opener: Opener) -> None:
        verdicts = {b"good": True, b"bad": False, b"dull": None}
        near: list[bytes] = []
        far: list[GossipMessage] = []

        async def collect(messages: Any, into: list[Any], data: bool) -> None:
            async for message in messages:
                into.append(message.data if data else message)

        async with opener(1) as middle:
            async with (
                opener(2, bootstrap=middle.addrs) as left,
                opener(3, bootstrap=middle.addrs) as right,
                left.subscribe("news", lambda _: True) as own,
                middle.subscribe("news", lambda message: verdicts[message.data]) as inbox,
                right.subscribe("news", lambda _: True) as outbox,
                trio.open_nursery() as nursery,
            ):
                with pytest.raises(HostError, match="subscribed to already"):
                    async with left.subscribe("news", lambda _: True):
                        pass
                nursery.start_soon(collect, inbox, near, True)
                nursery.start_soon(collect, outbox, far, False)
                await gossiped(left, b"good", lambda: far)
                for _ in range(3):
                    await left.publish("news", b"bad")
                    await left.publish("news", b"dull")
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert set(near) == {b"good"}
            assert set(far) == {GossipMessage("news", left.peer_id, b"good")}
            assert (await anext(own)).data == b"good", "a publisher hears itself"

    on(check)


def test_a_neighbour_that_keeps_relaying_bad_messages_is_dropped_and_refused(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with (
            opener(1) as victim,
            opener(2, listen=False, bootstrap=victim.addrs) as spammer,
            victim.events() as events,
            victim.subscribe("news", lambda _: False),
            spammer.subscribe("news", lambda _: True),
        ):
            await heard(events, EventKind.CONNECTED)
            dropped: list[Any] = []

            async def spam() -> None:
                with trio.fail_after(15):
                    for number in range(10_000):
                        if dropped:
                            return
                        await spammer.publish("news", b"%d" % number)
                        await trio.sleep(0.05)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(spam)
                dropped.append(await heard(events, EventKind.DROPPED))
            assert dropped[0].peer_id == spammer.peer_id
            assert "relayed 20 bad messages on news" in dropped[0].detail
            await heard(events, EventKind.DISCONNECTED)
            with pytest.raises(DialError, match="refused"):
                await victim.open_stream(spammer.peer_id, ECHO)

    on(check)


def test_ignored_messages_are_not_held_against_the_neighbour(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as reader, opener(2, bootstrap=reader.addrs) as writer:
            validate = {b"end": True}
            heard: list[int] = []

            def judge(message: GossipMessage) -> bool | None:
                heard.append(1)
                return validate.get(message.data)

            async with reader.subscribe("news", judge) as inbox, writer.subscribe("news", lambda _: True):
                await gossiped(writer, b"dull", lambda: heard)
                for _ in range(25):
                    await writer.publish("news", b"dull")
                await writer.publish("news", b"end")
                with trio.fail_after(10):
                    assert (await anext(inbox)).data == b"end"
            assert [info.peer_id for info in reader.peers()] == [writer.peer_id]

    on(check)


def test_events_begin_with_what_is_and_tell_of_a_drop_and_of_the_end(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as server, server.events() as events:
            assert (await heard(events, EventKind.LISTENING)).addr == server.addrs[0]
            async with opener(2, listen=False, bootstrap=server.addrs) as client:
                assert (await heard(events, EventKind.CONNECTED)).peer_id == client.peer_id
                async with server.events() as late:
                    assert (await heard(late, EventKind.LISTENING)).addr == server.addrs[0]
                    assert (await heard(late, EventKind.CONNECTED)).peer_id == client.peer_id
            assert (await heard(events, EventKind.DISCONNECTED)).peer_id == client.peer_id
            async with opener(3, listen=False) as third:
                await third.connect(server.addrs[0])
                await heard(events, EventKind.CONNECTED)
                await server.drop(third.peer_id, "sent garbage")
                event = await heard(events, EventKind.DROPPED)
                assert (event.peer_id, event.detail) == (third.peer_id, "sent garbage")
                await heard(events, EventKind.DISCONNECTED)
                with pytest.raises(DialError, match="refused"):
                    await server.open_stream(third.peer_id, ECHO)

    on(check)


def test_an_unreachable_bootstrap_peer_is_reported_and_the_host_lives_on(on: Any) -> None:
    async def check(opener: Opener) -> None:
        async with opener(1) as other:
            nobody = other.addrs[0].partition("/tcp/")[0] + f"/tcp/1/p2p/{identity(0xEE).peer_id}"
            async with opener(2, bootstrap=[nobody]) as host, host.events() as events:
                event = await heard(events, EventKind.UNREACHABLE)
                assert (event.peer_id, event.addr) == (identity(0xEE).peer_id, nobody)
                assert "connection refused" in event.detail
                assert "next attempt in" in event.detail
                await other.connect(host.addrs[0])

    on(check)


def test_an_error_in_the_block_comes_out_bare(on: Any) -> None:
    async def check(opener: Opener) -> None:
        with pytest.raises(KeyError, match="mine"):
            async with opener(1):
                raise KeyError("mine")

    on(check)
