"""What a peer could make a host keep, wait for or poll: streams, identify claims, closing connections (P7, P17–P19)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr
from trio.testing import MockClock

from tests.transport.host.sharing import until
from transport.host import HostStream, StreamError, hardening
from transport.host.limits import (
    CLOSE_S,
    MAX_DIAL_ADDRS,
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    STREAM_WINDOW_BYTES,
    WRITE_STALL_S,
)
from transport.host.negotiation import encode_varint

ECHO = "/test/echo/1"
MULTISTREAM = b"\x13/multistream/1.0.0\n"


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


def books(host: Any, peer: Any) -> tuple[int, int]:
    """How many streams the muxer keeps for ``peer``, and how many bytes it holds for them."""
    muxed = host._connection(peer.peer_id).muxed_conn
    return len(muxed.streams), sum(map(len, muxed.stream_buffers.values()))


# --- P7: writers that wait ----------------------------------------------------------------------------------------


class _Frames:
    """The connection under one yamux stream: it takes every frame."""

    def __init__(self) -> None:
        self.sent = 0

    async def _write_frame(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += len(frame) - yamux.HEADER_SIZE


def stream_on(frames: _Frames) -> Any:
    hardening.mend_flow_control()
    return yamux.YamuxStream(1, frames, True)  # type: ignore[no-untyped-call, unused-ignore]


async def test_p7_a_slow_reader_gets_its_message_whole(autojump_clock: MockClock) -> None:
    frames = _Frames()
    stream = stream_on(frames)

    async def open_window_slowly() -> None:
        for _ in range(4):
            await trio.sleep(WRITE_STALL_S - 1)  # upstream gave up after 5 s
            stream.send_window += STREAM_WINDOW_BYTES // 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_window_slowly)
        await stream.write(bytes(3 * STREAM_WINDOW_BYTES))
    assert frames.sent == 3 * STREAM_WINDOW_BYTES


async def test_p7_a_peer_that_reads_nothing_fails_the_write_in_the_end(autojump_clock: MockClock) -> None:
    stream = stream_on(_Frames())
    before = trio.current_time()
    with pytest.raises(Exception, match="read nothing for 20 s"):
        await stream.write(bytes(STREAM_WINDOW_BYTES + 1))
    assert trio.current_time() - before == pytest.approx(WRITE_STALL_S)


async def test_p7_a_waiting_writer_does_not_poll(autojump_clock: MockClock) -> None:
    stream = stream_on(_Frames())
    ticks = 0

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal ticks
            ticks += 1

    counting = Count()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, bytes(STREAM_WINDOW_BYTES + 1))
        await trio.sleep(1)
        trio.lowlevel.add_instrument(counting)
        await trio.sleep(15)
        trio.lowlevel.remove_instrument(counting)
        stream.send_window += 1
    assert ticks < 10  # upstream: 1,500


@pytest.mark.parametrize("how", ["closed", "send_closed"])
async def test_p7_closing_a_stream_wakes_its_writer(how: str, autojump_clock: MockClock) -> None:
    stream = stream_on(_Frames())
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(Exception, match="closed for sending"):
                await stream.write(bytes(STREAM_WINDOW_BYTES + 1))

        nursery.start_soon(write)
        await trio.sleep(1)
        before = trio.current_time()
        setattr(stream, how, True)
    assert trio.current_time() == before


# --- P17: identify ------------------------------------------------------------------------------------------------


async def push(attacker: Any, server: Any, message: bytes) -> None:
    await attacker.connect(server.addrs[0])
    stream = await attacker._connection(server.peer_id).new_stream()
    await stream.write(MULTISTREAM + b"\x14/ipfs/id/push/1.0.0\n" + encode_varint(len(message)) + message)


async def test_p17_a_few_addresses_and_protocols_of_an_identify_are_kept(new_host: Any) -> None:
    claims = Identify()
    claims.listen_addrs.extend(Multiaddr(f"/ip4/192.0.2.1/tcp/{port}").to_bytes() for port in range(1, 400))
    claims.protocols.extend(f"/p/{number}" for number in range(2000))
    async with new_host() as server, new_host(listen=[]) as attacker:
        await push(attacker, server, claims.SerializeToString())
        peer = ID.from_string(attacker.peer_id)
        store = server._swarm.peerstore
        await until(lambda: store.has_peer(peer) and store.addrs(peer))
        assert len(store.addrs(peer)) == MAX_DIAL_ADDRS
        assert len(store.get_protocols(peer)) == MAX_IDENTIFY_PROTOCOLS


async def test_p17_addresses_and_messages_without_measure_are_ignored(new_host: Any) -> None:
    long_name = b"\x36" + encode_varint(3000) + b"a" * 3000 + b"\x06\x00\x01"  # /dns4/aaa…/tcp/1
    claims = Identify(listen_addrs=[long_name, b"\xff\xff", Multiaddr("/ip4/192.0.2.9/tcp/9").to_bytes()])
    async with new_host() as server, new_host(listen=[]) as attacker:
        await push(attacker, server, bytes(MAX_IDENTIFY_BYTES + 1))
        await push(attacker, server, claims.SerializeToString())
        store = server._swarm.peerstore
        peer = ID.from_string(attacker.peer_id)
        await until(lambda: store.has_peer(peer) and store.addrs(peer))
        assert [str(addr) for addr in store.addrs(peer)] == ["/ip4/192.0.2.9/tcp/9"]


async def test_p17_nothing_is_kept_of_who_came_and_went(new_host: Any) -> None:
    async with new_host() as server:
        for _ in range(3):
            async with new_host(listen=[]) as visitor:
                await visitor.connect(server.addrs[0])
                await until(server.peers)
            await until(lambda: not server.peers())
        await until(lambda: set(server._swarm.peerstore.peer_data_map) == {ID.from_string(server.peer_id)})


# --- P18: streams that are not closed -----------------------------------------------------------------------------


async def test_p18_streams_that_the_opener_never_closes_are_forgotten(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as attacker:
        await attacker.connect(server.addrs[0])
        connection = attacker._connection(server.peer_id)
        await until(lambda: server.peers())
        for _ in range(100):
            stream = await connection.new_stream()
            await stream.write(MULTISTREAM + b"\x0f/ipfs/id/1.0.0\n")
            await stream.read(10)
        await until(lambda: books(server, attacker)[0] <= 6)


async def test_p18_what_nobody_reads_of_a_failed_stream_is_forgotten(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as attacker:
        server.set_handler(ECHO, echo)
        await attacker.connect(server.addrs[0])
        connection = attacker._connection(server.peer_id)
        await until(lambda: server.peers())
        for _ in range(8):
            stream = await connection.new_stream()
            try:
                await stream.write(b"\xff" * (STREAM_WINDOW_BYTES // 2))
            except Exception:
                continue  # reset by the server before all of it had left
        await until(lambda: books(server, attacker)[1] < 1000)


async def test_p18_a_stream_that_we_close_is_forgotten_though_the_peer_keeps_its_half(new_host: Any) -> None:
    release = trio.Event()

    async def hold(stream: HostStream) -> None:
        await release.wait()

    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler("/test/hold/1", hold)
        await client.connect(server.addrs[0])
        for _ in range(20):
            stream = await client.open_stream(server.peer_id, "/test/hold/1")
            await stream.aclose()
        assert books(client, server)[0] <= 6
        release.set()


# --- P19: connections that do not close ---------------------------------------------------------------------------


async def test_p19_a_peer_that_reads_nothing_is_closed_in_time_and_leaves_every_table(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as deaf:
        await deaf.connect(server.addrs[0])
        await until(lambda: server.peers())
        (connection,) = server._connections()
        hardening.socket_of(deaf._connection(server.peer_id))._fill = trio.sleep_forever
        frame = struct.pack("!BBHII", 0, yamux.TYPE_DATA, 0, 999, 60_000) + bytes(60_000)
        with trio.move_on_after(0.5) as scope:
            while True:
                await connection.muxed_conn._write_frame(frame)  # until the sockets are full and every write waits
        assert scope.cancelled_caught
        with trio.fail_after(2 * CLOSE_S):
            await server.drop(deaf.peer_id, "reads nothing")
            await until(lambda: not server._swarm.get_connections())
        await until(lambda: not server._manager._records)


async def test_p19_a_cancelled_close_by_libp2p_itself_is_finished(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
        await until(lambda: server.peers())
        (connection,) = server._connections()
        with trio.move_on_after(0) as scope:
            await connection.close()
        assert scope.cancelled_caught
        assert server._swarm.get_connections()  # upstream's own close would leave it here for good
        await hardening.close_connection(connection)
        assert not server._swarm.get_connections()


async def test_a_closed_stream_says_so(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        await stream.aclose()
        with pytest.raises(StreamError, match="closed"):
            await stream.receive(1)
