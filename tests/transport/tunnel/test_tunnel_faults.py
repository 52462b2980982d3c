"""Peers that cut off, never read, read a byte a second, flood or lie: a typed end in time, and nobody else notices."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import trio.testing

from transport.identity import Identity
from transport.tunnel import (
    HandshakeError,
    ProtocolViolation,
    StreamLink,
    StreamReset,
    Tunnel,
    TunnelClosed,
    TunnelEndpoint,
    TunnelStream,
    answer,
    connect,
    dial,
    open_tunnel_listener,
)
from transport.tunnel.frames import BEGIN, END, MESSAGE, OPEN, PART, PING, frame
from transport.tunnel.limits import (
    HANDSHAKE_SECONDS,
    INITIAL_WINDOW,
    MAX_CONTROL,
    MAX_STREAMS,
    STALL_SECONDS,
)
from transport.tunnel.listener import TunnelListener


def endpoint(name: str) -> TunnelEndpoint:
    return TunnelEndpoint.of(Identity(sha256(name.encode()).digest()))


ALICE, BOB, MALLORY = endpoint("alice"), endpoint("bob"), endpoint("mallory")
KEY = BOB.static_key.public


class Cut(trio.abc.Stream):
    """Passes on a number of bytes, then ends as a broken connection does."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, left: int) -> None:
        self.stream, self.left = stream, left

    async def send_all(self, data: bytes) -> None:
        part = bytes(data)[: self.left]
        whole = self.left >= len(data)
        self.left -= len(part)
        if part:
            await self.stream.send_all(part)
        if not whole:
            await self.stream.send_eof()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self.stream.aclose()


HANDSHAKE = 6 + 2 + 196
"""Bytes that an initiator sends with IK before its first record."""
FIRST_RECORD = 2 + 8 + 8 + 16
RECORD = 2 + 8 + 3 + 16
"""A message of three bytes; the first of a stream has its OPEN (8 bytes) with it."""


async def deliver(left: int) -> tuple[list[bytes], TunnelClosed | HandshakeError | None]:
    """Send two messages over a connection that breaks after ``left`` bytes: what arrived, and how it ended."""
    near, far = trio.testing.memory_stream_pair()
    got: list[bytes] = []

    async def dialler() -> None:
        try:
            mine = await connect(StreamLink(Cut(near, left)), ALICE, BOB.peer_id, static_key=KEY)
            async with mine, mine.open_stream() as stream:
                for body in (b"one", b"two"):
                    await stream.send_message(body)
                    await trio.testing.wait_all_tasks_blocked()
        except (HandshakeError, TunnelClosed, StreamReset):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialler)
        try:
            theirs = await answer(StreamLink(far), BOB)
        except HandshakeError as error:
            await far.aclose()
            return got, error
        async with theirs:
            with suppress(TunnelClosed, StreamReset):
                stream = await theirs.accept()
                while messages := await stream.receive_messages():
                    got += messages
            await theirs._over.wait()
        return got, theirs.closed


async def test_a_connection_cut_at_any_byte_is_refused_or_told_as_a_loss(autojump_clock: object) -> None:
    authenticated = HANDSHAKE + FIRST_RECORD
    for left in range(authenticated + 8 + 2 * RECORD):
        got, ended = await deliver(left)
        if left < authenticated:
            assert isinstance(ended, HandshakeError), left
            assert got == []
        else:
            assert isinstance(ended, TunnelClosed), left
            assert not ended.clean
            whole = (left - authenticated - 8) // RECORD
            assert got == [b"one", b"two"][: max(whole, 0)], left


class Hostile:
    """A peer that authenticated and then sends what it likes, and reads only when told to."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel

    async def send(self, *frames: bytes) -> None:
        data = self.tunnel._sealer.seal([b"".join(frames)])
        while data:
            data = data[await self.tunnel._link.send(data) :]

    async def keep_talking(self) -> None:
        """Never be silent, so that it is not for silence that it is cut off."""
        with suppress(OSError):
            while True:
                await self.send(frame(0, PING, bytes(8)))
                await trio.sleep(5)


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Hostile, Tunnel, trio.abc.Stream, Callable[[], Tunnel]]]:
    """A listener with a good peer and a hostile one; both links hold nothing back, so who does not read blocks."""
    listener = TunnelListener(BOB, echo, HANDSHAKE_SECONDS)
    async with trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(listener.serve_link, StreamLink(far))
        good = await connect(StreamLink(near), ALICE, BOB.peer_id, static_key=KEY)
        evil_near, evil_far = trio.testing.lockstep_stream_pair()
        nursery.start_soon(listener.serve_link, StreamLink(evil_far))
        evil = await connect(StreamLink(evil_near), MALLORY, BOB.peer_id, static_key=KEY)

        def victim() -> Tunnel:
            return next(tunnel for tunnel in listener.tunnels if tunnel.peer_id == MALLORY.peer_id)

        async with good:
            await trio.testing.wait_all_tasks_blocked()
            yield Hostile(evil), good, evil_near, victim
            await says_hello(good)
            nursery.cancel_scope.cancel()


async def echo_stream(stream: TunnelStream) -> None:
    try:
        async with stream:
            while messages := await stream.receive_messages(1 << 20):
                await stream.send_messages(messages)
    except (StreamReset, TunnelClosed):
        pass


async def echo(tunnel: Tunnel) -> None:
    async with trio.open_nursery() as nursery:
        async for stream in tunnel.incoming():
            nursery.start_soon(echo_stream, stream)


async def says_hello(tunnel: Tunnel) -> None:
    """The other tunnels of the node work, and at once."""
    with trio.fail_after(1):
        async with tunnel.open_stream() as stream:
            await stream.send_message(b"hello")
            assert await stream.receive_message(100) == b"hello"


async def test_a_peer_that_never_reads_is_cut_off_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with attacked() as (evil, good, _, victim):
        tunnel = victim()
        await evil.send(frame(1, OPEN), *[frame(1, MESSAGE, bytes(1000))] * 7)  # its echo has nowhere to go
        async with trio.open_nursery() as nursery:
            nursery.start_soon(evil.keep_talking)
            start = trio.current_time()
            await says_hello(good)
            await tunnel._over.wait()
            assert trio.current_time() - start <= STALL_SECONDS + 10
            assert "read too little" in str(tunnel.closed)
            assert tunnel._mux.out.small_bytes <= INITIAL_WINDOW
            nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_a_byte_a_second_is_cut_off_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with attacked() as (evil, good, wire, victim):
        tunnel = victim()

        async def dribble() -> None:
            while True:
                await trio.sleep(1)
                if not await wire.receive_some(1):
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            await evil.send(frame(1, OPEN), *[frame(1, MESSAGE, bytes(1000))] * 7)
            nursery.start_soon(evil.keep_talking)
            start = trio.current_time()
            await tunnel._over.wait()
            assert trio.current_time() - start <= 2 * STALL_SECONDS
            assert "read too little" in str(tunnel.closed)
            await says_hello(good)
            nursery.cancel_scope.cancel()


async def test_a_handshake_of_a_byte_a_second_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    listener = TunnelListener(BOB, echo, HANDSHAKE_SECONDS)
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve_link, StreamLink(far))
        start = trio.current_time()
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            for byte in b"CCNT\1\1" + bytes(100):
                await near.send_all(bytes([byte]))
                await trio.sleep(1)
        assert trio.current_time() - start <= HANDSHAKE_SECONDS + 2
    assert listener.stats().refused == 1
    assert listener.stats().half_open == 0


async def test_a_peer_that_opens_streams_for_ever_is_bounded_and_cut_off(autojump_clock: object) -> None:
    async with attacked() as (evil, good, _, victim):
        tunnel = victim()
        most, stream_id = 0, 1
        try:
            while tunnel.closed is None:
                await evil.send(*[frame(stream_id + 2 * i, OPEN) for i in range(500)])
                stream_id += 1000
                most = max(most, len(tunnel._mux.streams))
                assert stream_id < 1_000_000, "never cut off"
        except OSError:
            pass
        await tunnel._over.wait()
        assert most <= MAX_STREAMS
        assert tunnel._mux.out._control_bytes <= MAX_CONTROL + 300
        assert isinstance(tunnel.closed, TunnelClosed)
        assert isinstance(tunnel.closed.__cause__, ProtocolViolation)
        await says_hello(good)


BEGIN_OF_TEN = (10).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([frame(3, MESSAGE, b"x")], "never opened"),
        ([frame(2, MESSAGE, b"x")], "never opened"),
        ([frame(1, END)], "never opened"),
        ([frame(1, OPEN), frame(1, OPEN)], "OPEN"),
        ([frame(1, OPEN), frame(1, BEGIN, BEGIN_OF_TEN + bytes(11))], "exceed"),
        ([frame(1, OPEN), frame(1, PART, b"x")], "outside"),
        ([frame(1, OPEN), frame(1, BEGIN, BEGIN_OF_TEN + b"x"), frame(1, MESSAGE, b"x")], "inside"),
        ([frame(1, OPEN), frame(1, BEGIN, b"\xff" * 8 + b"x")], "a message of"),
        ([frame(1, OPEN), frame(1, MESSAGE, bytes(4097))], "MESSAGE of 4097"),
        ([frame(1, OPEN), *[frame(1, MESSAGE, bytes(4000))] * 4], "credit"),
        ([frame(1, OPEN), *[frame(1, MESSAGE)] * 200], "credit"),
        ([frame(0, PING, bytes(7))], "PING"),
        ([frame(0, 99)], "unknown kind"),
    ],
)
async def test_frames_that_lie_end_their_tunnel_only(autojump_clock: object, frames: list[bytes], why: str) -> None:
    async with attacked() as (evil, good, _, victim):
        tunnel = victim()
        with suppress(OSError):  # when it is cut off before it has sent all
            await evil.send(*frames)
        with trio.fail_after(STALL_SECONDS):
            await tunnel._over.wait()
        assert tunnel.closed is not None
        assert why in str(tunnel.closed)
        assert not tunnel.closed.clean
        await says_hello(good)


@pytest.mark.slow
async def test_10000_connections_leave_no_task_socket_or_buffer() -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        tunnels = sum(1 for thing in gc.get_objects() if type(thing) in (Tunnel, TunnelStream))
        return len(os.listdir("/proc/self/fd")), tunnels

    def resident_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    async with open_tunnel_listener(BOB, "127.0.0.1", 0, echo) as listener:

        async def cycles(count: int) -> None:
            for _ in range(count):
                async with await dial(ALICE, listener.addrs[0], BOB.peer_id, static_key=KEY) as tunnel:
                    await says_hello(tunnel)
            with trio.fail_after(5):
                while listener.tunnels:
                    await trio.sleep(0.01)

        await cycles(200)
        before, tasks, memory = held(), trio.lowlevel.current_statistics().tasks_living, resident_kib()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(cycles, 2500)
        assert held() == before
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert resident_kib() - memory < 20_000  # an allocator's slack, far below a buffer each
