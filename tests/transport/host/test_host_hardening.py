"""Each fault of py-libp2p that a peer could use, tried on a real host: the host lives on and serves an honest peer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from tests.transport.host.sharing import until
from transport.host import DialError, HostStream, Libp2pHost, StreamError, hardening
from transport.host.limits import (
    GOSSIP_HEARTBEAT_S,
    GOSSIP_MESSAGES_PER_S,
    GOSSIP_QUEUE,
    MAX_HALF_OPEN_PER_ADDRESS,
    MAX_INBOUND_STREAMS,
    STREAM_WINDOW_BYTES,
)
from transport.host.negotiation import encode_varint
from transport.host.tcp import TcpStream
from transport.identity import Identity

ECHO = "/test/echo/1"


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


async def assert_serves(server: Libp2pHost, client: Libp2pHost) -> None:
    """An honest peer gets an answer, over the connection it has or a new one."""
    with trio.fail_after(10):
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        await stream.send(b"alive?")
        assert await stream.receive(10) == b"alive?"
        await stream.aclose()


def port_of(host: Libp2pHost) -> int:
    return int(Multiaddr(host.addrs[0]).value_for_protocol("tcp"))


async def raw_stream(client: Libp2pHost, server: Libp2pHost) -> Any:
    """A muxed stream before any negotiation: what a hostile peer has."""
    await client.connect(server.addrs[0])
    return await client._connection(server.peer_id).new_stream()


MULTISTREAM = b"\x13/multistream/1.0.0\n"


@pytest.mark.parametrize(
    "payload",
    [
        MULTISTREAM + b"\x05\xff\xfe\xfd\xfc\n",  # a protocol name that is not UTF-8: ends an unguarded process
        b"\xff" * 64,
        MULTISTREAM + b"\x00" * 40,
        MULTISTREAM + b"\xff\xff\xff\xff\x7f",
        b"",
        MULTISTREAM + b"\x12/meshsub/1.1.0\n\n" + b"\x08\xff\xff\xff\xff\xff\xff\xff\xff",
        MULTISTREAM + b"\x10/meshsub/1.1.0\n" + b"\x05\x0a\x7f\x00\x00\x00",  # a malformed gossip frame
        MULTISTREAM + b"\x13/ipfs/id/push/1.0.0\n" + b"\x03\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_p1_garbage_on_a_stream_costs_the_sender_that_stream(new_host: Any, payload: bytes, ending: str) -> None:
    async with new_host() as server, new_host(listen=[]) as attacker, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        stream = await raw_stream(attacker, server)
        await stream.write(payload)
        await getattr(stream, ending)()
        await assert_serves(server, honest)
        await assert_serves(server, attacker)


@pytest.mark.parametrize("error", [RuntimeError("bug"), StreamError("gone"), ExceptionGroup("two", [OSError("a")])])
async def test_p1_a_handler_that_fails_resets_its_stream_alone(new_host: Any, error: Exception) -> None:
    async def fail(stream: HostStream) -> None:
        await stream.receive(10)
        raise error

    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        server.set_handler("/test/fail/1", fail)
        stream = await client.open_stream(server.peer_id, "/test/fail/1", addrs=server.addrs)
        await stream.send(b"x")
        with trio.fail_after(5), pytest.raises(StreamError):
            await stream.receive(10)
        await assert_serves(server, client)


async def test_p1_a_gossip_message_whose_key_does_not_parse_ends_nothing(new_host: Any) -> None:
    from libp2p.pubsub.pb import rpc_pb2

    async with new_host() as server, new_host(listen=[]) as attacker, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        async with server.subscribe("news", lambda _: True) as inbox, honest.subscribe("news", lambda _: True):
            stream = await raw_stream(attacker, server)
            forged = rpc_pb2.Message(data=b"x", topicIDs=["news"], from_id=b"\x12\x20" + bytes(32), seqno=b"1")
            forged.signature, forged.key = b"s", b"\xff\xff"
            frame = rpc_pb2.RPC(publish=[forged]).SerializeToString()
            await stream.write(MULTISTREAM + b"\x0f/meshsub/1.1.0\n" + encode_varint(len(frame)) + frame)
            await assert_serves(server, honest)
            with trio.fail_after(10):
                await until(lambda: honest._gossip._pubsub.peer_topics.get("news"))
                await honest.publish("news", b"still gossiping")
                assert (await anext(inbox)).data == b"still gossiping"


async def test_p1_a_failing_task_of_a_libp2p_service_leaves_the_service_running() -> None:
    class Service:
        async def run(self) -> None:
            await trio.sleep_forever()

    async def fail() -> None:
        raise ValueError("one bad message")

    runs: list[int] = []

    async def daemon() -> None:
        runs.append(1)
        raise ValueError("one bad heartbeat")

    async with trio.open_nursery() as nursery:
        manager = hardening.ContainedManager(Service())
        nursery.start_soon(manager.run)
        await manager.wait_started()
        manager.run_task(fail)
        manager.run_daemon_task(daemon)
        await until(lambda: len(runs) >= 2)
        assert manager.is_running
        manager.cancel()


async def test_p2_three_hundred_connections_come_and_go_and_the_next_is_served(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        target = ID.from_string(server.peer_id)
        for _ in range(300):
            connection = await hardening.dial(client._swarm, Multiaddr(server.addrs[0]), target)
            await connection.muxed_conn.secured_conn.close()
        await assert_serves(server, client)
        await until(lambda: len(server._connections()) <= 2)


async def test_p3_a_cancelled_writer_leaves_the_connection_usable(new_host: Any) -> None:
    release = trio.Event()

    async def never_reads(_stream: HostStream) -> None:
        await release.wait()

    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        server.set_handler("/test/deaf/1", never_reads)
        await client.connect(server.addrs[0])
        connection = client._connection(server.peer_id)
        for _ in range(10):
            stream = await client.open_stream(server.peer_id, "/test/deaf/1")
            with trio.move_on_after(0.03) as scope:
                await stream.send(bytes(1 << 20))
            assert scope.cancelled_caught
            with pytest.raises(StreamError):
                await stream.send(b"the stream itself is over")
            await assert_serves(server, client)
        assert client._connection(server.peer_id) is connection
        release.set()


async def test_p3_bytes_of_a_cancelled_write_leave_whole() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        received = bytearray()
        done = trio.Event()

        async def collect(peer: trio.SocketStream) -> None:
            await trio.sleep(0.2)
            async for chunk in peer:
                received.extend(chunk)
            done.set()

        nursery.start_soon(trio.serve_listeners, collect, [listener])
        stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]), None)
        nursery.start_soon(stream.run)
        pieces = [bytes([number]) * 4_000_000 for number in range(4)]
        for piece in pieces:
            with trio.move_on_after(0.01):
                await stream.write(piece)
        await stream.write(b"end")
        stream._closing = True
        stream._wake.set()
        with trio.fail_after(10):
            await done.wait()
        assert received == b"".join(pieces) + b"end"
        nursery.cancel_scope.cancel()


async def test_p3_a_cancelled_opening_gives_its_place_in_the_muxer_back(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client, trio.open_nursery() as nursery:
        server.set_handler(ECHO, echo)
        await assert_serves(server, client)
        muxed = client._connection(server.peer_id).muxed_conn
        await muxed._write_lock.acquire()  # the socket is busy: no SYN leaves
        for _ in range(5):
            nursery.start_soon(client.open_stream, server.peer_id, ECHO)
        await until(lambda: muxed._write_lock.statistics().tasks_waiting >= 5)
        left = muxed.stream_backlog_semaphore.value
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
            muxed._write_lock.release()
            await until(lambda: muxed.stream_backlog_semaphore.value >= left + 5)


async def test_p4_a_dial_ends_when_it_succeeds(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libp2p.network.swarm._HAPPY_EYEBALLS_DELAY", 60.0)
    monkeypatch.setattr("transport.host.race.DIAL_STAGGER_S", 60.0)
    async with new_host() as server, new_host(listen=[]) as client:
        with trio.fail_after(5):
            await client.connect(server.addrs[0])


async def test_p5_a_peer_that_was_down_is_dialled_again_at_once(new_host: Any) -> None:
    identity = Identity(b"late" * 8)
    async with new_host(listen=[]) as client:
        async with new_host(identity=identity) as server:
            addr = server.addrs[0]
        with pytest.raises(DialError):
            await client.connect(addr)
        async with new_host(identity=identity, listen=[addr.partition("/p2p/")[0]]):
            assert await client.connect(addr) == identity.peer_id


async def test_p5_nothing_but_our_own_dialler_dials(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        client._swarm.peerstore.add_addrs(ID.from_string(server.peer_id), [Multiaddr(server.addrs[0])], 60)
        with pytest.raises(Exception, match="not connected"):
            await client._swarm.dial_peer(ID.from_string(server.peer_id))
        client._swarm._schedule_auto_connect()
        await trio.sleep(0.1)
        assert not client.peers()


async def test_p6_a_peer_that_overruns_its_window_loses_the_connection(new_host: Any) -> None:
    arrived: list[Any] = []
    release = trio.Event()

    async def never_reads(stream: Any) -> None:
        arrived.append(stream._stream.muxed_stream)
        await release.wait()

    async with new_host() as server, new_host(listen=[]) as attacker, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        server.set_handler("/test/deaf/1", never_reads)
        stream: Any = await attacker.open_stream(server.peer_id, "/test/deaf/1", addrs=server.addrs)
        stream._stream.muxed_stream.send_window = 1 << 40
        most = 0
        with trio.fail_after(10), pytest.raises(StreamError):  # which send fails is the server's choice
            for _ in range(100):
                await stream.send(bytes(1 << 18))
                conn = arrived[0].conn if arrived else None
                most = max(most, *map(len, conn.stream_buffers.values())) if conn and conn.stream_buffers else most
        assert most <= STREAM_WINDOW_BYTES
        await until(lambda: attacker.peer_id not in {info.peer_id for info in server.peers()})
        await assert_serves(server, honest)
        release.set()


async def test_p6_credit_is_returned_in_halves_of_the_window(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    send = yamux.YamuxStream.send_window_update

    async def count(self: Any, increment: int, skip_lock: bool = False) -> None:
        updates.append(increment)
        await send(self, increment, skip_lock)

    async with new_host() as server, new_host(listen=[]) as client:
        server.set_handler(ECHO, echo)
        stream = await client.open_stream(server.peer_id, ECHO, addrs=server.addrs)
        monkeypatch.setattr(yamux.YamuxStream, "send_window_update", count)
        for _ in range(20):
            await stream.send(b"small")
            await stream.receive(10)
        assert updates == []
        await stream.send(bytes(1 << 20))
        assert len(await stream.receive(1 << 20)) == 1 << 20
        assert updates
        assert min(updates) >= STREAM_WINDOW_BYTES // 2


async def test_p8_a_connection_gets_so_many_streams_and_the_next_is_reset(new_host: Any) -> None:
    release = trio.Event()

    async def hold(stream: HostStream) -> None:
        await stream.send(b"in")
        await release.wait()

    async with new_host() as server, new_host(listen=[]) as greedy, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        server.set_handler("/test/hold/1", hold)
        held = 0
        with pytest.raises(StreamError), trio.fail_after(20):  # the opening that is one too many
            for _ in range(MAX_INBOUND_STREAMS + 1):
                stream = await greedy.open_stream(server.peer_id, "/test/hold/1", addrs=server.addrs)
                assert await stream.receive(10) == b"in"
                held += 1
        assert MAX_INBOUND_STREAMS - 8 <= held <= MAX_INBOUND_STREAMS  # gossip and identify hold a few
        await assert_serves(server, honest)
        release.set()
        with trio.fail_after(10):
            while held:
                try:
                    await assert_serves(server, greedy)
                    break
                except StreamError:
                    await trio.sleep(0.05)


async def test_p9_plaintext_is_not_spoken(new_host: Any) -> None:
    async with new_host() as server:
        for protocol in (str(PLAINTEXT_PROTOCOL_ID).encode(), b"/secio/1.0.0", b"/tls/1.0.0"):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
            async with stream:
                await stream.send_all(MULTISTREAM + encode_varint(len(protocol) + 1) + protocol + b"\n")
                answer = b""
                with trio.fail_after(5):
                    while not answer.endswith(b"\x03na\n"):
                        chunk = await stream.receive_some(100)
                        assert chunk, f"closed after {answer!r}"
                        answer += chunk


async def test_p10_a_private_network_is_closed_to_strangers_and_open_to_members(
    new_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.host.dialler.DIAL_S", 1.0)
    key, other = b"k" * 32, b"o" * 32
    async with new_host(psk=key) as server:
        server.set_handler(ECHO, echo)
        async with new_host(psk=key, listen=[]) as member:
            await assert_serves(server, member)
            for psk in (other, None):
                async with new_host(psk=psk, listen=[]) as stranger:
                    with trio.fail_after(12), pytest.raises(DialError, match=r"private network|no answer|closed"):
                        await stranger.connect(server.addrs[0])
            await assert_serves(server, member)
            assert [info.peer_id for info in server.peers()] == [member.peer_id]


async def test_p11_silent_connections_from_one_address_are_bounded(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        await honest.connect(server.addrs[0])
        async with AsyncExitStack() as stack:
            silent = []
            for _ in range(MAX_HALF_OPEN_PER_ADDRESS * 4):
                stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
                silent.append(await stack.enter_async_context(stream))
            await until(lambda: server._budget.counts().get("127.0.0.1", 0) >= MAX_HALF_OPEN_PER_ADDRESS)
            assert server._budget.counts() == {"127.0.0.1": MAX_HALF_OPEN_PER_ADDRESS}
            await assert_serves(server, honest)
            async with new_host(listen=[]) as newcomer:  # from the flooder's own address
                await assert_serves(server, newcomer)
        await until(lambda: not server._budget.counts())


def test_p11_a_newcomer_displaces_the_oldest_of_its_own_address_then_of_the_most_crowded() -> None:
    budget = hardening.HalfOpenBudget(total=5, per_address=2)
    assert [budget.enter("a") for _ in range(3)] == [(1, None), (2, None), (3, 1)]
    assert [budget.enter(address) for address in "bcd"] == [(4, None), (5, None), (6, None)]
    assert budget.enter("e") == (7, 2)
    budget.leave(3)
    budget.leave(3)
    assert budget.enter("f") == (8, None)
    assert budget.enter("g") == (9, 4)  # nobody is crowded: the oldest


@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans()), max_size=80), st.integers(1, 6), st.integers(1, 4)
)
def test_p11_the_budget_holds_whatever_comes_and_the_newest_is_in(
    arrivals: list[tuple[str, bool]], total: int, per_address: int
) -> None:
    budget = hardening.HalfOpenBudget(total, per_address)
    for address, stays in arrivals:
        ticket, victim = budget.enter(address)
        assert ticket != victim
        assert budget.counts()[address] >= 1
        assert sum(budget.counts().values()) <= total
        assert max(budget.counts().values()) <= per_address
        if not stays:
            budget.leave(ticket)


@pytest.mark.parametrize("payload", [b"", b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", MULTISTREAM, b"\xff" * 4096])
async def test_raw_garbage_at_the_port_ends_nothing_but_its_connection(new_host: Any, payload: bytes) -> None:
    async with new_host() as server, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server)) as stream:
            await stream.send_all(payload)
        await assert_serves(server, honest)


async def test_garbage_after_the_noise_handshake_ends_that_connection_alone(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as attacker, new_host(listen=[]) as honest:
        server.set_handler(ECHO, echo)
        await attacker.connect(server.addrs[0])
        conn = attacker._connection(server.peer_id).muxed_conn
        for header in (b"\x00\x09\x00\x00" + bytes(8), b"\x00\x00\x00\x01" + b"\x00\x00\x00\x05" + b"\xff\xff\xff\xff"):
            try:
                await conn.secured_conn.write(header)
            except Exception:
                break
        await assert_serves(server, honest)


async def test_p13_gossip_beats_every_second_within_explicit_bounds(new_host: Any) -> None:
    async with new_host(listen=[]) as host:
        router = host._gossip._router
        assert router.heartbeat_interval == GOSSIP_HEARTBEAT_S
        assert router.max_messages_per_topic_per_second == GOSSIP_MESSAGES_PER_S
        assert host._gossip._pubsub.strict_signing


async def test_p13a_a_burst_of_gossip_arrives_whole(new_host: Any) -> None:
    async with new_host() as reader, new_host(listen=[], bootstrap=reader.addrs) as writer:
        async with reader.subscribe("news", lambda _: True) as inbox, writer.subscribe("news", lambda _: True):
            with trio.fail_after(10):
                await until(lambda: writer._gossip._pubsub.peer_topics.get("news"))
                for number in range(GOSSIP_QUEUE // 2):
                    await writer.publish("news", b"%d" % number)
                got = {(await anext(inbox)).data for _ in range(GOSSIP_QUEUE // 2)}
        assert len(got) == GOSSIP_QUEUE // 2


async def test_p13b_a_frames_own_record_of_its_sender_is_not_looked_at(new_host: Any) -> None:
    from libp2p.pubsub.pb import rpc_pb2

    async with new_host() as server, new_host(listen=[]) as peer:
        stream = await raw_stream(peer, server)
        subscription = rpc_pb2.RPC.SubOpts(subscribe=True, topicid="weather")
        frame = rpc_pb2.RPC(subscriptions=[subscription], senderRecord=b"no envelope").SerializeToString()
        await stream.write(MULTISTREAM + b"\x0f/meshsub/1.1.0\n" + encode_varint(len(frame)) + frame)
        await until(lambda: server._gossip._pubsub.peer_topics.get("weather"))


async def test_p13c_gossip_survives_the_loss_of_one_of_two_connections(new_host: Any) -> None:
    async with new_host() as one, new_host(listen=[]) as two:
        async with one.subscribe("news", lambda _: True) as at_one, two.subscribe("news", lambda _: True) as at_two:
            target = ID.from_string(one.peer_id)
            first = await hardening.dial(two._swarm, Multiaddr(one.addrs[0]), target)
            await until(lambda: one._gossip._pubsub.peer_topics.get("news"))
            await until(lambda: two._gossip._pubsub.peer_topics.get("news"))
            await hardening.dial(two._swarm, Multiaddr(one.addrs[0]), target)
            hardening.socket_of(first).abort()
            await until(lambda: len(one._swarm.get_connections()) == len(two._swarm.get_connections()) == 1)
            for host in (one, two):  # each opens its gossip stream on the connection that is left
                (standing,) = host._connections()
                peers = host._gossip._pubsub.peers
                await until(lambda peers=peers, c=standing: any(s.muxed_conn is c.muxed_conn for s in peers.values()))
            await one.publish("news", b"to two")
            await two.publish("news", b"to one")
            with trio.fail_after(5):
                assert (await anext(at_one)).data in (b"to two", b"to one")
                assert (await anext(at_two)).data in (b"to two", b"to one")


async def test_p13c_a_peer_that_comes_back_at_once_hears_gossip(new_host: Any) -> None:
    me = Identity(b"comeback" * 4)
    async with new_host() as server, server.subscribe("news", lambda _: True):
        for number in range(4):
            async with new_host(identity=me, listen=[], bootstrap=server.addrs) as client:
                async with client.subscribe("news", lambda _: True) as inbox:
                    await until(lambda client=client: client._gossip._pubsub.peer_topics.get("news"))
                    await until(lambda: server._gossip._pubsub.peer_topics.get("news"))
                    with trio.fail_after(5):
                        while True:
                            await server.publish("news", b"%d" % number)
                            with trio.move_on_after(0.3):
                                assert (await anext(inbox)).data
                                break


async def test_p13d_a_restarted_node_does_not_seem_to_repeat_itself(new_host: Any) -> None:
    me = Identity(b"restarts" * 4)
    async with new_host() as server, server.subscribe("news", lambda _: True) as inbox:
        for _ in range(3):  # well within a second each
            async with new_host(identity=me, listen=[], bootstrap=server.addrs) as client:
                async with client.subscribe("news", lambda _: True):
                    await until(lambda client=client: client._gossip._pubsub.peer_topics.get("news"))
                    for number in range(5):
                        await client.publish("news", b"%d" % number)
                    with trio.fail_after(5):
                        assert [(await anext(inbox)).data for _ in range(5)] == [b"%d" % n for n in range(5)]


async def test_p14_an_ipv6_peer_has_an_address(new_host: Any) -> None:
    async with new_host(listen=["/ip6/::1/tcp/0"]) as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
        await until(lambda: server.peers())
        assert server.peers()[0].addr.startswith("/ip6/::1/tcp/")


async def test_a_peer_that_vanished_is_noticed_by_the_kernel(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
        await until(lambda: server.peers())
        for host in (server, client):
            raw = host._connections()[0].muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream._stream
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert 0 < raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000


async def test_p15_a_message_in_many_pieces_is_read_whole() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def drip(peer: trio.SocketStream) -> None:
            for _ in range(150):
                await peer.send_all(b"x")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(trio.serve_listeners, drip, [listener])
        stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]), None)
        with trio.fail_after(10):
            assert await RawConnection(stream, True).read(150) == b"x" * 150
        stream.abort()
        nursery.cancel_scope.cancel()


async def test_p16_a_closed_host_leaves_no_task_or_thread_behind(new_host: Any) -> None:
    threads = set(threading.enumerate())
    before = trio.lowlevel.current_statistics().tasks_living
    async with new_host() as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)
    await until(lambda: set(threading.enumerate()) <= threads)


async def test_p16_nothing_runs_as_a_system_task(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[Any] = []
    monkeypatch.setattr(trio.lowlevel, "spawn_system_task", lambda task, *_, **__: spawned.append(task))
    async with new_host() as server, new_host(listen=[]) as client:
        await client.connect(server.addrs[0])
        await until(lambda: ID.from_string(server.peer_id) in client._host._identified_peers)
    assert spawned == []


NOISY = """
import os, trio
from transport.host import DialError, Libp2pHost
from transport.identity import Identity

async def main():
    async with Libp2pHost.open(Identity(bytes(32)), ["/ip4/127.0.0.1/tcp/0"]) as server:
        async with Libp2pHost.open(Identity(b"1" * 32)) as client:
            await client.connect(server.addrs[0])
            stream = await client._connection(server.peer_id).new_stream()
            await stream.write(os.urandom(200))
            await client._connection(server.peer_id).muxed_conn.secured_conn.write(os.urandom(40))
            try:
                await client.connect("/ip4/127.0.0.1/tcp/1/p2p/" + Identity(b"2" * 32).peer_id)
            except DialError:
                pass
            raw = await trio.open_tcp_stream("127.0.0.1", int(server.addrs[0].split("/")[4]))
            await raw.send_all(os.urandom(300))
            await raw.aclose()
            await trio.sleep(0.5)

trio.run(main)
"""


def test_nothing_of_libp2p_reaches_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
