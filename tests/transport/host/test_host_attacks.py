"""Floods and garbage against a real host on loopback: an honest peer is served in time, and the offender's budget is
what is spent. The attackers bind addresses of their own out of 127.0.0.0/8."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from transport.host import HostStream, Libp2pHost
from transport.host.limits import MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS
from transport.identity import Identity

ECHO = "/test/echo/1"
MULTISTREAM = b"\x13/multistream/1.0.0\n"


@pytest.fixture(autouse=True)
def many_files() -> None:
    """Both ends of each socket live in this process; 1024 is a common limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


async def served(server: Libp2pHost, client: Libp2pHost, within_s: float) -> None:
    """An honest peer gets an answer within so many seconds."""
    with trio.fail_after(within_s):
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        await stream.send(b"alive?")
        assert await stream.receive(10) == b"alive?"
        await stream.aclose()


@asynccontextmanager
async def victim() -> AsyncIterator[tuple[Libp2pHost, int]]:
    async with Libp2pHost.open(Identity(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"]) as server:
        server.set_handler(ECHO, echo)
        yield server, int(Multiaddr(server.addrs[0]).value_for_protocol("tcp"))


async def socket_from(address: str, port: int, stack: AsyncExitStack) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=address)
    return await stack.enter_async_context(stream)


@pytest.mark.parametrize(("addresses", "sockets"), [(1, 500), (25, 500)])
async def test_an_honest_peer_connects_within_two_seconds_among_500_silent_sockets(
    addresses: int, sockets: int
) -> None:
    async with victim() as (server, port), AsyncExitStack() as stack:
        for number in range(sockets):
            await socket_from(f"127.0.9.{number % addresses + 1}", port, stack)
        with trio.fail_after(5):
            while sum(server._budget.counts().values()) < min(MAX_HALF_OPEN, addresses * MAX_HALF_OPEN_PER_ADDRESS):
                await trio.sleep(0.01)
        assert sum(server._budget.counts().values()) <= MAX_HALF_OPEN
        assert max(server._budget.counts().values()) <= MAX_HALF_OPEN_PER_ADDRESS
        for _ in range(3):
            async with Libp2pHost.open(Identity(os.urandom(32))) as honest:
                await served(server, honest, within_s=2)


async def test_an_honest_peer_connects_within_two_seconds_among_300_slow_sockets() -> None:
    async with victim() as (server, port), AsyncExitStack() as stack, trio.open_nursery() as nursery:
        # Each goes as far with the handshake as it can, a byte at a time, and is opened again when it is closed.
        hello = MULTISTREAM + b"\x07/noise\n" + struct.pack("!H", 200) + bytes(200)

        async def drip(address: str) -> None:
            while True:
                stream = await socket_from(address, port, stack)
                try:
                    for byte in hello:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.3)
                except trio.BrokenResourceError:
                    await stream.aclose()
                    await trio.sleep(0.5)

        for number in range(300):
            nursery.start_soon(drip, f"127.0.8.{number % 30 + 1}")
        await trio.sleep(1)
        for _ in range(3):
            async with Libp2pHost.open(Identity(os.urandom(32))) as honest:
                await served(server, honest, within_s=2)
        nursery.cancel_scope.cancel()


async def test_a_flooder_spends_the_places_of_its_own_address_only() -> None:
    async with victim() as (server, port), AsyncExitStack() as stack:
        patient = [await socket_from(f"127.0.7.{number}", port, stack) for number in range(1, 6)]
        for _ in range(4 * MAX_HALF_OPEN_PER_ADDRESS):
            await socket_from("127.0.7.99", port, stack)
        with trio.fail_after(5):
            while server._budget.counts().get("127.0.7.99", 0) < MAX_HALF_OPEN_PER_ADDRESS:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert server._budget.counts() == {
            "127.0.7.99": MAX_HALF_OPEN_PER_ADDRESS,
            **{f"127.0.7.{number}": 1 for number in range(1, 6)},
        }
        for stream in patient:
            await stream.send_all(MULTISTREAM)
            with trio.fail_after(2):
                assert await stream.receive_some(100)


@pytest.mark.parametrize("length", [1, 33, 4096, 200_000])
async def test_random_bytes_before_authentication_cost_their_socket(length: int) -> None:
    async with victim() as (server, port), AsyncExitStack() as stack:
        for prefix in (b"", MULTISTREAM, MULTISTREAM + b"\x07/noise\n"):
            stream = await socket_from("127.0.6.1", port, stack)
            try:
                await stream.send_all(prefix + os.urandom(length))
                await stream.send_eof()
                with trio.fail_after(5):
                    while await stream.receive_some(1000):
                        pass  # what it says before it hangs up does not matter
            except trio.BrokenResourceError:
                continue
        with trio.fail_after(5):
            while server._budget.counts():
                await trio.sleep(0.01)
        async with Libp2pHost.open(Identity(os.urandom(32))) as honest:
            await served(server, honest, within_s=2)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + body


@pytest.mark.parametrize(
    "frames",
    [
        [os.urandom(12) for _ in range(50)],
        [frame(yamux.TYPE_DATA, 0, 1, 0xFFFFFFFF)],
        [frame(yamux.TYPE_DATA, yamux.FLAG_SYN, n, 3, b"\xff\xff\xff") for n in range(1, 2001, 2)],
        [frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN | yamux.FLAG_RST, n, 0) for n in range(1, 4001, 2)],
        [frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN | yamux.FLAG_FIN, n, 0xFFFFFFFF) for n in range(1, 2001, 2)],
        [frame(yamux.TYPE_PING, yamux.FLAG_SYN, 0, n) for n in range(5000)],
        [frame(yamux.TYPE_WINDOW_UPDATE, 0, n, 5) for n in range(2000)],
    ],
    ids=["random", "huge", "streams", "stillborn", "windows", "pings", "unknown"],
)
async def test_hostile_frames_after_authentication_cost_their_connection_at_most(frames: list[bytes]) -> None:
    async with victim() as (server, _), Libp2pHost.open(Identity(os.urandom(32))) as attacker:
        async with Libp2pHost.open(Identity(os.urandom(32))) as honest, trio.open_nursery() as nursery:
            await served(server, honest, within_s=2)
            await attacker.connect(server.addrs[0])
            connection = attacker._connection(server.peer_id)

            async def send() -> None:
                for data in frames:
                    try:
                        await connection.muxed_conn.secured_conn.write(data)
                    except Exception:
                        return  # it was cut off

            nursery.start_soon(send)
            for _ in range(3):
                await served(server, honest, within_s=2)
            async with Libp2pHost.open(Identity(os.urandom(32))) as newcomer:
                await served(server, newcomer, within_s=2)
            for muxed in (c.muxed_conn for c in server._connections()):
                assert sum(map(len, muxed.stream_buffers.values())) < 1 << 20
            nursery.cancel_scope.cancel()


async def test_a_message_of_the_wrong_shape_on_every_protocol_costs_a_stream() -> None:
    async with victim() as (server, _), Libp2pHost.open(Identity(os.urandom(32))) as attacker:
        await attacker.connect(server.addrs[0])
        connection = attacker._connection(server.peer_id)
        protocols = [str(name) for name in server._host.get_mux().handlers]
        assert len(protocols) >= 5
        for name in protocols:
            for junk in (
                b"\xff" * 20,
                b"\x05\x0a\xff\xff\xff\xff",
                os.urandom(500),
                b"\xff\xff\xff\xff\x0f" + bytes(100),
            ):
                line = name.encode() + b"\n"
                stream: Any = await connection.new_stream()
                try:
                    await stream.write(MULTISTREAM + bytes([len(line)]) + line + junk)
                    await stream.close()
                except Exception:
                    continue  # reset before all of it had left
        assert not connection.is_closed
        await served(server, attacker, within_s=2)
