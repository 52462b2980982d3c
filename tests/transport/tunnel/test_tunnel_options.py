"""What an endpoint may choose: socket settings, a spin before waiting, hidden lengths."""

from __future__ import annotations

import socket
from hashlib import sha256

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from transport.identity import Identity
from transport.tunnel import Tuning, Tunnel, TunnelEndpoint, dial, open_tunnel_listener
from transport.tunnel.frames import HEADER_BYTES
from transport.tunnel.limits import MAX_SPIN_SECONDS, PAD_BUCKETS
from transport.tunnel.mux import Mux
from transport.tunnel.padding import pad


def endpoint(name: str, *, padding: bool = False) -> TunnelEndpoint:
    return TunnelEndpoint.of(Identity(sha256(name.encode()).digest()), padding=padding)


async def echo(tunnel: Tunnel) -> None:
    async for stream in tunnel.incoming():
        async with stream:
            while messages := await stream.receive_messages():
                await stream.send_messages(messages, urgent=True)


async def round_trips(ours: TunnelEndpoint, theirs: TunnelEndpoint, sizes: list[int], tuning: Tuning) -> list[int]:
    """Bytes that each message of the given sizes put on the wire; the socket options are checked on the way."""
    taken = []
    async with (
        open_tunnel_listener(theirs, "127.0.0.1", 0, echo, tuning=tuning) as listener,
        await dial(
            ours, listener.addrs[0], theirs.peer_id, static_key=theirs.static_key.public, tuning=tuning
        ) as tunnel,
        tunnel.open_stream() as stream,
    ):
        await stream.send_message(b"warm up", urgent=True)
        await stream.receive_message(100)
        (far,) = listener.tunnels
        for end in (tunnel, far):
            sock: socket.socket = end._link._sock  # type: ignore[attr-defined]  # a SocketLink, as we dialled TCP
            if tuning.buffer_bytes:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= tuning.buffer_bytes
            if tuning.congestion:
                name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert name.rstrip(b"\0").decode() == tuning.congestion
        for size in sizes:
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = tunnel.stats().bytes_sent
            await stream.send_message(bytes(size), urgent=True)
            taken.append(tunnel.stats().bytes_sent - before)
            assert await stream.receive_message(size) == bytes(size)
        assert tunnel.stats().padded == far.stats().padded
    return taken


async def test_padded_messages_of_like_size_cannot_be_told_apart() -> None:
    sizes = [1, 2, 50, 112, 113, 240, 4096]
    taken = await round_trips(endpoint("a", padding=True), endpoint("b", padding=True), sizes, Tuning())
    record = 2 + 16
    assert [size - record for size in taken] == [128, 128, 128, 128, 256, 256, 4224]


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (False, False)])
async def test_padding_needs_both_sides(ours: bool, theirs: bool) -> None:
    taken = await round_trips(endpoint("a", padding=ours), endpoint("b", padding=theirs), [1, 50], Tuning())
    assert taken == [1 + 8 + 18, 50 + 8 + 18]


@given(st.lists(st.integers(0, 5000), max_size=6))
def test_padding_fills_up_to_a_bucket_and_is_skipped_by_the_receiver(sizes: list[int]) -> None:
    pieces: list[bytes | memoryview] = [bytes(size) for size in sizes]
    size = sum(sizes)
    pad(pieces)
    padded = b"".join(pieces)
    if size + HEADER_BYTES <= PAD_BUCKETS[-1]:
        assert len(padded) in PAD_BUCKETS
    assert len(padded) >= size
    assert Mux(initiator=True).feed(padded[size:]) is False


async def test_tuning_reaches_both_sockets_and_a_spin_loses_nothing() -> None:
    tuning = Tuning(buffer_bytes=100_000, congestion="reno", spin_seconds=MAX_SPIN_SECONDS / 10)
    await round_trips(endpoint("a"), endpoint("b"), [1, 100, 4096], tuning)


def test_a_spin_is_bounded() -> None:
    for seconds in (-1e-6, MAX_SPIN_SECONDS * 2):
        with pytest.raises(ValueError, match="spins"):
            Tuning(spin_seconds=seconds)


async def test_tuning_that_the_kernel_lacks_is_said_so() -> None:
    with pytest.raises(OSError, match=r"No such file|not permitted"):
        async with open_tunnel_listener(endpoint("b"), "127.0.0.1", 0, echo, tuning=Tuning(congestion="none such")):
            raise AssertionError("listening")
