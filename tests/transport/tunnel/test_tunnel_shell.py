"""Tunnels over real sockets and memory streams: streams, cancellation, faults of the peer, leaks."""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import numpy as np
import pytest
import trio
import trio.testing

from transport.identity import Identity
from transport.tensors import receive_tensor, send_tensor
from transport.tunnel import (
    HandshakeError,
    MessageTooLarge,
    ResetCode,
    StreamEnded,
    StreamLink,
    StreamReset,
    Tuning,
    Tunnel,
    TunnelClosed,
    TunnelDialError,
    TunnelEndpoint,
    TunnelHandler,
    TunnelListener,
    TunnelStream,
    answer,
    connect,
    dial,
    format_addr,
    open_tunnel_listener,
    parse_addr,
)
from transport.tunnel.addresses import budget_key
from transport.tunnel.admission import HalfOpen
from transport.tunnel.limits import (
    DEAD_SECONDS,
    MAX_HALF_OPEN,
    MAX_SMALL,
    MAX_TUNNELS_PER_PEER,
    PING_SECONDS,
    REKEY_SECONDS,
)

PSK = sha256(b"psk").digest()


def endpoint(name: str, *, subnet: str = "main", psk: bytes | None = None) -> TunnelEndpoint:
    return TunnelEndpoint.of(Identity(sha256(name.encode()).digest()), subnet=subnet, psk=psk)


ALICE, BOB = endpoint("alice"), endpoint("bob")


async def echo_stream(stream: TunnelStream) -> None:
    try:
        async with stream:
            while messages := await stream.receive_messages(1 << 24):
                for message in messages:
                    await stream.send_message(message)
    except (StreamReset, TunnelClosed):
        pass


async def echo(tunnel: Tunnel) -> None:
    async with trio.open_nursery() as nursery:
        async for stream in tunnel.incoming():
            nursery.start_soon(echo_stream, stream)


@asynccontextmanager
async def connected(
    handler: TunnelHandler = echo, tuning: Tuning | None = None
) -> AsyncIterator[tuple[Tunnel, TunnelListener]]:
    tuning = tuning or Tuning()
    async with (
        open_tunnel_listener(BOB, "127.0.0.1", 0, handler, tuning=tuning) as listener,
        await dial(ALICE, listener.addrs[0], BOB.peer_id, static_key=BOB.static_key.public, tuning=tuning) as tunnel,
    ):
        yield tunnel, listener


@asynccontextmanager
async def in_memory(handler: TunnelHandler = echo) -> AsyncIterator[tuple[Tunnel, Tunnel]]:
    """Both ends of a tunnel over a memory stream: for tests in which time passes."""
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ends: list[Tunnel] = []

        async def serve() -> None:
            ends.append(await answer(StreamLink(right), BOB))

        nursery.start_soon(serve)
        mine = await connect(StreamLink(left, relayed=True), ALICE, BOB.peer_id)
        while not ends:
            await trio.lowlevel.checkpoint()
        async with ends[0] as theirs, mine:
            nursery.start_soon(handler, theirs)
            yield mine, theirs
            nursery.cancel_scope.cancel()


async def test_messages_of_all_sizes_come_back_in_order() -> None:
    sizes = [0, 1, 100, MAX_SMALL, MAX_SMALL + 1, 65_518, 70_000, 3_000_000]
    bodies = [random.Random(size).randbytes(size) for size in sizes]
    async with connected() as (tunnel, _), tunnel.open_stream() as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            for body in bodies:
                await stream.send_message([body[:10], memoryview(body)[10:]])
            await stream.send_end()

        nursery.start_soon(send)
        for body in bodies:
            assert await stream.receive_message(1 << 24) == body
        with pytest.raises(StreamEnded):
            await stream.receive_message(1)
        assert await stream.receive_messages() == []


@pytest.mark.parametrize("paced", [False, True], ids=["whole", "in two parts"])
@pytest.mark.parametrize("buffer_bytes", [None, 32_768], ids=["the system's buffers", "small buffers"])
async def test_batches_arrive_whole_however_the_socket_takes_them(paced: bool, buffer_bytes: int | None) -> None:
    bodies = [random.Random(size).randbytes(size) for size in (1 << 20, 1_200_000, 3_000_000, 5, 1 << 20)]
    taken: list[int] = []

    async with connected(tuning=Tuning(buffer_bytes=buffer_bytes)) as (tunnel, _), tunnel.open_stream() as stream:
        tunnel._link.paced = paced
        early = tunnel._send_early

        def watched(data: memoryview) -> None:
            early(data)
            taken.append(tunnel._early)

        tunnel._send_early = watched  # type: ignore[method-assign]  # looked at, not replaced
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for body in bodies * 3:
                    await stream.send_message(body)

            nursery.start_soon(send)
            buffer = bytearray(3_000_000)
            for body in bodies * 3:
                assert await stream.receive_message_into(buffer) == len(body)
                assert buffer[: len(body)] == body
    assert bool(taken) is paced


async def test_stats_tell_who_and_how() -> None:
    async with connected() as (tunnel, listener):
        async with tunnel.open_stream() as stream:
            await stream.send_message(b"x", urgent=True)
            await stream.receive_message(1)
        stats = tunnel.stats()
        (theirs,) = listener.tunnels
        assert (stats.peer_id, stats.pattern, stats.relayed) == (BOB.peer_id, "IK", False)
        assert theirs.peer_id == ALICE.peer_id
        assert stats.handshake_hash == theirs.handshake_hash
        assert stats.rtt_ms is not None
        assert stats.bytes_sent > 0
        assert stats.bytes_received > 0
        assert listener.stats().established == 1


async def test_many_streams_at_once_keep_their_own_order() -> None:
    async def use(tunnel: Tunnel, salt: int) -> None:
        rng = random.Random(salt)
        bodies = [rng.randbytes(rng.choice([10, 200, 5000, 200_000])) for _ in range(20)]
        async with tunnel.open_stream() as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                for body in bodies:
                    await stream.send_message(body)

            nursery.start_soon(send)
            for body in bodies:
                assert await stream.receive_message(1 << 20) == body

    async with connected() as (tunnel, _), trio.open_nursery() as nursery:
        for salt in range(40):
            nursery.start_soon(use, tunnel, salt)


async def test_cancelled_senders_and_readers_never_harm_the_tunnel_or_other_streams() -> None:
    rng = random.Random(7)

    async def abuse(tunnel: Tunnel) -> None:
        for _ in range(15):
            with trio.move_on_after(rng.random() * 0.01):
                async with tunnel.open_stream() as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_message, bytes(rng.choice([100, 10_000, 4_000_000])))
                    nursery.start_soon(stream.send_messages, [bytes(1000)] * 200)
                    await stream.receive_message_into(bytearray(8_000_000))

    async with connected() as (tunnel, _):
        async with tunnel.open_stream() as good, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(abuse, tunnel)
            for index in range(200):
                body = rng.randbytes(index * 20)
                await good.send_message(body)
                assert await good.receive_message(MAX_SMALL) == body
        assert tunnel.closed is None
        with trio.fail_after(5):
            while tunnel.stats().streams:
                await trio.sleep(0.01)


async def test_leaving_by_an_exception_resets_the_stream_and_raises_it_unwrapped() -> None:
    seen: list[StreamReset] = []
    done = trio.Event()

    async def handler(tunnel: Tunnel) -> None:
        async for stream in tunnel.incoming():
            await stream.send_message(b"seen")
            try:
                await stream.receive_message(10)
            except StreamReset as error:
                seen.append(error)
                done.set()

    async with connected(handler) as (tunnel, _):
        with pytest.raises(ZeroDivisionError):
            async with tunnel.open_stream() as stream:
                await stream.receive_message(10)
                raise ZeroDivisionError
        with trio.fail_after(3):
            await done.wait()
    assert seen[0].code == ResetCode.FAILED
    with pytest.raises(KeyError):
        async with connected() as (tunnel, _):
            raise KeyError


async def test_half_close_lets_the_other_direction_go_on() -> None:
    async def handler(tunnel: Tunnel) -> None:
        stream = await tunnel.accept()
        async with stream:
            assert await stream.receive_message(10) == b"question"
            assert await stream.receive_messages() == []
            for part in range(100):
                await stream.send_message(str(part).encode())

    async with connected(handler) as (tunnel, _), tunnel.open_stream() as stream:
        await stream.send_message(b"question")
        await stream.send_end()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_message(b"more")
        answers: list[bytes] = []
        while got := await stream.receive_messages():
            answers += got
        assert answers == [str(part).encode() for part in range(100)]


async def test_a_message_beyond_the_limit_resets_its_stream_only() -> None:
    async with connected() as (tunnel, _):
        async with tunnel.open_stream() as small, tunnel.open_stream() as large:
            await small.send_message(bytes(100))
            with pytest.raises(MessageTooLarge):
                await small.receive_message(99)
            with pytest.raises(StreamReset):
                await small.send_message(b"x")
            await large.send_message(bytes(100_000))
            with pytest.raises(MessageTooLarge):
                await large.receive_message(1000)
        async with tunnel.open_stream() as stream:
            await stream.send_message(b"still here")
            assert await stream.receive_message(100) == b"still here"


async def test_two_readers_of_one_stream_are_told_so() -> None:
    async with connected() as (tunnel, _), tunnel.open_stream() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_message, 10)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_message(10)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_reads_bounds_memory_and_blocks_only_its_stream() -> None:
    async def handler(tunnel: Tunnel) -> None:
        async with trio.open_nursery() as nursery:
            await tunnel.accept()  # and never reads it
            async for stream in tunnel.incoming():
                nursery.start_soon(echo_stream, stream)

    async with connected(handler) as (tunnel, listener):
        stuck = await tunnel.open_stream()
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await stuck.send_message(bytes(4000))
                sent += 4000
        assert sent < 200_000
        async with tunnel.open_stream() as stream:
            await stream.send_message(b"not stuck")
            assert await stream.receive_message(100) == b"not stuck"
        (theirs,) = listener.tunnels
        held = [core.held for core in theirs._mux.streams.values()]
        assert max(held) <= 8192
        stuck.reset()


async def test_tensors_travel_into_the_memory_given() -> None:
    source = np.random.default_rng(1).standard_normal((300, 1000)).astype(np.float32)
    target = np.zeros_like(source)
    done = trio.Event()

    async def handler(tunnel: Tunnel) -> None:
        async with await tunnel.accept() as stream:
            await receive_tensor(stream, source.nbytes, target)
            assert np.allclose((await receive_tensor(stream, source.nbytes)).numpy(), source, atol=0.05)
            done.set()

    async with connected(handler) as (tunnel, _), tunnel.open_stream() as stream:
        await send_tensor(stream, source)
        await send_tensor(stream, source, encoding="int8-block-64")
        await done.wait()
    assert np.array_equal(source, target)


async def test_closing_and_losing_a_tunnel_are_told_apart() -> None:
    reasons: list[TunnelClosed | None] = []
    seen = trio.Event()

    async def handler(tunnel: Tunnel) -> None:
        async for _ in tunnel.incoming():
            pass
        reasons.append(tunnel.closed)
        seen.set()

    async with connected(handler) as (tunnel, _):
        await tunnel.aclose("done for today")
        await seen.wait()
        with pytest.raises(TunnelClosed):
            await tunnel.open_stream()
    assert reasons[0] is not None
    assert reasons[0].clean
    assert "done for today" in str(reasons[0])

    reasons.clear()
    seen = trio.Event()
    async with connected(handler) as (tunnel, _):
        await tunnel._link.aclose()
        await seen.wait()
    assert reasons[0] is not None
    assert not reasons[0].clean


class Tamper(trio.abc.HalfCloseableStream):
    """A stream that passes bytes on until told to change, repeat, swap or stop them."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.change = lambda data: [data]

    async def send_all(self, data: bytes) -> None:
        for piece in self.change(bytes(data)):
            await self.stream.send_all(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def tampered(change: object) -> tuple[list[bytes], TunnelClosed | None]:
    """Send "one" and "two" in a record each through ``change``; what came out, and how the receiver's tunnel ended."""
    left, right = trio.testing.memory_stream_pair()
    wire = Tamper(left)
    got: list[bytes] = []
    async with trio.open_nursery() as nursery:
        mine: list[Tunnel] = []

        async def dialler() -> None:
            mine.append(await connect(StreamLink(wire), ALICE, BOB.peer_id, static_key=BOB.static_key.public))

        nursery.start_soon(dialler)
        theirs = await answer(StreamLink(right), BOB)
        async with theirs, mine[0]:
            async with mine[0].open_stream() as stream:
                await stream.send_message(b"zero")
                incoming = await theirs.accept()
                assert await incoming.receive_message(10) == b"zero"
                await trio.testing.wait_all_tasks_blocked()
                wire.change = change  # type: ignore[assignment]  # any callable will do
                try:
                    for body in (b"one", b"two"):
                        await stream.send_message(body)
                        await trio.testing.wait_all_tasks_blocked()
                except TunnelClosed:
                    pass  # refused already
                try:
                    with trio.move_on_after(1):
                        while messages := await incoming.receive_messages():
                            got += messages
                except TunnelClosed:
                    pass
            return got, theirs.closed


class Slow(Tamper):
    """A link of one megabyte a second."""

    async def send_all(self, data: bytes) -> None:
        await trio.sleep(len(data) / 1_000_000)
        await self.stream.send_all(data)


async def test_a_token_passes_a_tensor_soon_even_on_a_slow_link(autojump_clock: trio.testing.MockClock) -> None:
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ends: list[Tunnel] = []

        async def dialler() -> None:
            ends.append(await connect(StreamLink(Slow(left)), ALICE, BOB.peer_id))

        nursery.start_soon(dialler)
        theirs = await answer(StreamLink(right), BOB)
        await trio.testing.wait_all_tasks_blocked()
        async with theirs, ends[0] as mine:
            bulk, token = await mine.open_stream(), await mine.open_stream()
            nursery.start_soon(bulk.send_message, bytes(10_000_000))
            nursery.start_soon((await theirs.accept()).receive_message_into, bytearray(10_000_000))
            incoming = await theirs.accept()
            await trio.sleep(5)  # long enough to learn how slow the link is
            waits = []
            for _ in range(10):
                start = trio.current_time()
                await token.send_message(b"token")
                await incoming.receive_message(10)
                waits.append(trio.current_time() - start)
            assert max(waits) < 0.15
            nursery.cancel_scope.cancel()


async def test_every_flipped_byte_of_a_record_ends_the_tunnel_and_delivers_nothing(autojump_clock: object) -> None:
    size = 2 + 8 + 3 + 16
    for position in range(size):

        def flip(data: bytes, position: int = position) -> list[bytes]:
            if len(data) != size:  # the farewell of the stream, once the messages have been refused
                return [data]
            return [data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]]

        got, closed = await tampered(flip)
        assert got == []
        # A longer length waits for bytes of the next record first; either way it does not authenticate.
        assert closed is None or not closed.clean
        assert position < 2 or "authenticate" in str(closed)


async def test_a_repeated_a_swapped_and_a_missing_record_end_the_tunnel(autojump_clock: object) -> None:
    got, closed = await tampered(lambda data: [data, data])
    assert got == [b"one"]
    assert "authenticate" in str(closed)

    held: list[bytes] = []

    def swap(data: bytes) -> list[bytes]:
        held.append(data)
        return [held[1], held[0]] if len(held) == 2 else []

    got, closed = await tampered(swap)
    assert got == []
    assert "authenticate" in str(closed)

    first = [True]

    def drop(data: bytes) -> list[bytes]:
        return [] if first and first.pop() else [data]

    got, closed = await tampered(drop)
    assert got == []
    assert "authenticate" in str(closed)


async def test_a_silent_peer_is_declared_dead(autojump_clock: trio.testing.MockClock) -> None:
    left, right = trio.testing.memory_stream_pair()
    ends: list[Tunnel] = []
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            ends.append(await answer(StreamLink(right), BOB))  # authenticates, then never runs

        nursery.start_soon(serve)
        mine = await connect(StreamLink(left), ALICE, BOB.peer_id)
        start = trio.current_time()
        await mine.run()
        assert DEAD_SECONDS <= trio.current_time() - start <= DEAD_SECONDS + 10
        assert mine.closed is not None
        assert "silent" in str(mine.closed)


async def test_an_idle_tunnel_stays_up_and_is_rekeyed(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory() as (mine, theirs):
        keys = mine._sealer._key.aead, theirs._sealer._key.aead
        await trio.sleep(REKEY_SECONDS + 100)
        assert mine._sealer._key.aead is not keys[0]
        assert theirs._sealer._key.aead is not keys[1]
        assert mine.relayed
        async with mine.open_stream() as stream:
            await stream.send_message(b"after rekey")
            assert await stream.receive_message(100) == b"after rekey"
        assert mine.stats().rtt_ms is not None


async def test_an_idle_tunnel_sends_two_pings_a_minute_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory() as (mine, theirs):
        await trio.sleep(1)
        before = mine.stats().bytes_sent + theirs.stats().bytes_sent
        await trio.sleep(10 * PING_SECONDS)
        sent = mine.stats().bytes_sent + theirs.stats().bytes_sent - before
        one = 2 * (8 + 8 + 18)  # a ping and its pong, each a frame of 16 bytes in a record
        assert 9 * one <= sent <= 11 * one
        assert mine.closed is None
        assert theirs.closed is None


async def test_draining_refuses_new_streams_and_finishes_old_ones() -> None:
    async with connected() as (tunnel, listener), tunnel.open_stream() as stream:
        await stream.send_message(b"before")
        await stream.receive_message(10)
        (theirs,) = listener.tunnels
        theirs.drain("restart")
        with trio.fail_after(2):
            while tunnel._mux.peer_goaway is None:
                await trio.sleep(0.001)
        with pytest.raises(TunnelClosed, match="restart"):
            await tunnel.open_stream()
        await stream.send_message(b"after")
        assert await stream.receive_message(10) == b"after"


@pytest.mark.parametrize(
    ("ours", "theirs", "known"),
    [
        (endpoint("a", subnet="lab", psk=PSK), endpoint("b", subnet="lab", psk=sha256(b"x").digest()), True),
        (endpoint("a", subnet="lab", psk=PSK), endpoint("b", subnet="lib", psk=PSK), True),
        (endpoint("a"), endpoint("b", subnet="lab", psk=PSK), True),
        (endpoint("a"), endpoint("b", subnet="lab", psk=PSK), False),
        (endpoint("a", subnet="lab", psk=PSK), endpoint("b"), True),
        (endpoint("a"), endpoint("b", subnet="elsewhere"), True),
        (endpoint("a"), endpoint("b", subnet="elsewhere"), False),
    ],
)
async def test_parties_of_different_subnets_never_connect(
    ours: TunnelEndpoint, theirs: TunnelEndpoint, known: bool
) -> None:
    async def handler(tunnel: Tunnel) -> None:
        raise AssertionError("connected")

    async with open_tunnel_listener(theirs, "127.0.0.1", 0, handler) as listener:
        with pytest.raises(HandshakeError):
            await dial(ours, listener.addrs[0], theirs.peer_id, static_key=theirs.static_key.public if known else None)
        assert listener.stats().established == 0


async def test_garbage_costs_the_listener_nothing_but_the_connection() -> None:
    rng = random.Random(3)
    async with connected() as (tunnel, listener):
        host, port = parse_addr(listener.addrs[0])
        for garbage in [b"", b"GET / HTTP/1.1\r\n\r\n", b"CCNT\1\1" + rng.randbytes(500), rng.randbytes(70_000)]:
            stream = await trio.open_tcp_stream(host, port)
            try:
                await stream.send_all(garbage or b"\0")
                await stream.send_eof()
                with trio.fail_after(3):
                    assert await stream.receive_some(10) == b""
            except (trio.BrokenResourceError, OSError):
                pass  # closed with our bytes unread
            finally:
                await trio.aclose_forcefully(stream)
        async with tunnel.open_stream() as stream2:
            await stream2.send_message(b"fine")
            assert await stream2.receive_message(10) == b"fine"
        assert listener.stats().refused == 4


async def test_500_idle_connections_leave_room_for_a_real_peer() -> None:
    async with open_tunnel_listener(BOB, "127.0.0.1", 0, echo) as listener:
        address = parse_addr(listener.addrs[0])
        idle = []
        for _ in range(500):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            idle.append(sock)
        try:
            with trio.fail_after(5):
                async with await dial(ALICE, listener.addrs[0], BOB.peer_id) as tunnel, tunnel.open_stream() as stream:
                    await stream.send_message(b"hello")
                    assert await stream.receive_message(10) == b"hello"
            assert listener.stats().half_open <= MAX_HALF_OPEN
        finally:
            for sock in idle:
                sock.close()


async def test_a_half_open_connection_has_a_deadline() -> None:
    async with open_tunnel_listener(BOB, "127.0.0.1", 0, echo, handshake_seconds=0.05) as listener:
        stream = await trio.open_tcp_stream(*parse_addr(listener.addrs[0]))
        with trio.fail_after(3):
            assert await stream.receive_some(1) == b""
        await stream.aclose()


async def test_a_dial_that_is_not_answered_ends_at_its_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TunnelDialError, match="within"):
            await dial(ALICE, format_addr(*silent.getsockname()), BOB.peer_id, deadline_s=0.05)
    with pytest.raises(TunnelDialError, match="reached"):
        await dial(ALICE, "/ip4/127.0.0.1/tcp/1", BOB.peer_id)
    with pytest.raises(TunnelDialError, match="not a tunnel address"):
        await dial(ALICE, "127.0.0.1:4002", BOB.peer_id)


async def test_one_peer_cannot_take_all_tunnels() -> None:
    async with open_tunnel_listener(BOB, "127.0.0.1", 0, echo) as listener, trio.open_nursery() as nursery:
        tunnels = []
        for _ in range(MAX_TUNNELS_PER_PEER + 1):
            tunnel = await dial(ALICE, listener.addrs[0], BOB.peer_id, static_key=BOB.static_key.public)
            await nursery.start(tunnel.run)
            tunnels.append(tunnel)
        with trio.fail_after(3):
            await tunnels[-1]._over.wait()
        assert "too many tunnels" in str(tunnels[-1].closed)
        assert all(tunnel.closed is None for tunnel in tunnels[:-1])
        nursery.cancel_scope.cancel()


async def test_a_failing_handler_closes_its_tunnel_only(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(tunnel: Tunnel) -> None:
        async with await tunnel.accept() as stream:
            if await stream.receive_message(10) == b"boom":
                raise RuntimeError("boom")
            await stream.send_message(b"ok")

    async with open_tunnel_listener(BOB, "127.0.0.1", 0, handler) as listener:
        async with await dial(ALICE, listener.addrs[0], BOB.peer_id) as tunnel, tunnel.open_stream() as stream:
            await stream.send_message(b"boom")
            with pytest.raises((StreamReset, TunnelClosed)):
                await stream.receive_message(10)
        async with await dial(ALICE, listener.addrs[0], BOB.peer_id) as tunnel, tunnel.open_stream() as stream:
            await stream.send_message(b"hi")
            assert await stream.receive_message(10) == b"ok"
    assert "handler" in caplog.text


async def test_200_connections_leave_no_task_socket_or_tunnel() -> None:
    async with open_tunnel_listener(BOB, "127.0.0.1", 0, echo) as listener:
        before = trio.lowlevel.current_statistics().tasks_living
        for index in range(200):
            known = BOB.static_key.public if index % 2 else None
            async with await dial(ALICE, listener.addrs[0], BOB.peer_id, static_key=known) as tunnel:
                if index % 10 == 0:
                    async with tunnel.open_stream() as stream:
                        await stream.send_message(b"x")
                        await stream.receive_message(1)
        with trio.fail_after(3):
            while trio.lowlevel.current_statistics().tasks_living > before:
                await trio.sleep(0.01)
        assert listener.stats().established == 0
        assert not listener._per_peer
        assert listener.stats().half_open == 0
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Tunnel and thing.closed is None]


def test_eviction_takes_the_oldest_of_whoever_holds_most() -> None:
    gone: list[str] = []
    table = HalfOpen(limit=4, per_address=3)
    for name in ("a1", "a2", "a3"):
        table.admit("a", lambda name=name: gone.append(name))
    table.admit("b", lambda: gone.append("b1"))
    ticket = table.admit("c", lambda: gone.append("c1"))
    assert gone == ["a1"]
    table.leave("c", ticket)
    table.leave("c", ticket)
    table.admit("a", lambda: gone.append("a4"))
    table.admit("a", lambda: gone.append("a5"))
    assert gone == ["a1", "a2"]
    assert table.count == 4
    assert budget_key("2001:db8::1") == budget_key("2001:db8::ffff:2") != budget_key("2001:db8:0:1::1")
    assert budget_key("::ffff:192.0.2.1") == "192.0.2.1"


MALFORMED = [
    "",
    "/ip4/1.2.3/tcp/1",
    "/ip4/1.2.3.4/udp/1",
    "/ip4/1.2.3.4/tcp/0",
    "/ip4/1.2.3.4/tcp/65536",
    "/ip4/1.2.3.4/tcp/+1",
    "/ip4/1.2.3.4/tcp/1/p2p/x",
    "/ip6/zz/tcp/1",
    "/dns//tcp/1",
    "/dns/a b/tcp/1",
    "x" * 400,
]


@pytest.mark.parametrize("addr", MALFORMED)
def test_malformed_addresses_are_refused(addr: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each says something else
        parse_addr(addr)
    assert parse_addr("/dns4/node.example/tcp/4002") == ("node.example", 4002)
    assert format_addr(*parse_addr("/ip6/::1/tcp/7")) == "/ip6/::1/tcp/7"
