"""How many round trips it takes to be connected and answered: real hosts, a path of real sockets with a virtual delay.

The path delays each way by 50 ms of trio's clock, which stands while anything runs: what is counted is waiting alone.
TCP's own handshake cannot be delayed from outside, so the path adds its round trip where it would be.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from trio.testing import MockClock

from transport.host import DialError, EventKind, HostStream, Libp2pHost, StreamError
from transport.host.limits import NEGOTIATE_S

ECHO = "/test/echo/1"
ONE_WAY_S = 0.05
ROUND_TRIP_S = 2 * ONE_WAY_S


async def _carry(source: trio.SocketStream, sink: trio.SocketStream, since: float) -> None:
    """Let what comes from ``source``, but for nothing before ``since``, arrive at ``sink`` one way later."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](1000)

    async def arrive() -> None:
        async for due, data in receive:
            await trio.sleep_until(due)
            await sink.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        async with send:
            while data := bytes(await source.receive_some(65536)):
                await send.send((max(trio.current_time(), since) + ONE_WAY_S, data))
    await sink.send_eof()


@pytest.fixture
async def far(autojump_clock: MockClock) -> AsyncIterator[Any]:
    """``await far(host)``: an address of ``host`` that is a round trip of 100 ms away. A test names the clock, too, so
    that it runs on it."""
    autojump_clock.autojump_threshold = 0.02  # what has been sent over loopback is there long before that
    async with trio.open_nursery() as nursery:

        async def path(port: int, near: trio.SocketStream) -> None:
            begin = trio.current_time()
            try:
                async with await trio.open_tcp_stream("127.0.0.1", port) as other, trio.open_nursery() as both:
                    # Before the dialler speaks there are SYN and SYN-ACK; an ACK more before the listener does.
                    both.start_soon(_carry, near, other, begin + ROUND_TRIP_S)
                    both.start_soon(_carry, other, near, begin + ROUND_TRIP_S + ONE_WAY_S)
            except* OSError:
                pass
            except* trio.BrokenResourceError:
                pass

        async def opener(host: Libp2pHost) -> str:
            port = int(host.addrs[0].split("/")[4])
            serve = partial(trio.serve_tcp, partial(path, port), 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            return f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{host.peer_id}"

        yield opener
        nursery.cancel_scope.cancel()


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


def make_stock(host: Libp2pHost, security: str = NOISE_ID, muxer: str = YAMUX_ID) -> None:
    """Let a host negotiate as upstream does, which waits for each echo; under other names, if given."""
    (noise,) = host._swarm.upgrader.security_multistream.transports.values()
    host._swarm.upgrader = TransportUpgrader({security: noise}, {muxer: Yamux}, 2 * int(NEGOTIATE_S))


async def round_trips(client: Libp2pHost, addr: str) -> list[float]:
    """Until connected, until answered, and what a further stream takes."""
    peer, begin = addr.rpartition("/")[2], trio.current_time()
    await client.connect(addr)
    times = [trio.current_time() - begin]
    for _ in range(2):
        stream = await client.open_stream(peer, ECHO)  # type: ignore[arg-type]
        await stream.send(b"question")
        assert await stream.receive(100) == b"question"
        times.append(trio.current_time() - begin)
    await stream.aclose()
    return [time / ROUND_TRIP_S for time in (times[0], times[1], times[2] - times[1])]


@pytest.mark.parametrize("private", [False, True])
async def test_connecting_asking_and_being_answered_takes_three_round_trips(
    autojump_clock: MockClock, new_host: Any, far: Any, private: bool
) -> None:
    psk = os.urandom(32) if private else None
    async with new_host(psk=psk) as server, new_host(psk=psk, listen=[]) as client:
        server.set_handler(ECHO, echo)
        assert await round_trips(client, await far(server)) == pytest.approx([2, 3, 1], abs=0.01)


async def test_a_listener_that_waits_for_each_line_is_dialled_in_as_few(
    autojump_clock: MockClock, new_host: Any, far: Any
) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        make_stock(server)
        server.set_handler(ECHO, echo)
        assert await round_trips(client, await far(server)) == pytest.approx([2, 3, 1], abs=0.01)


async def test_a_dialler_that_waits_for_each_line_is_served_as_well(
    autojump_clock: MockClock, new_host: Any, far: Any
) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        make_stock(client)
        server.set_handler(ECHO, echo)
        assert await round_trips(client, await far(server)) == pytest.approx([6, 7, 1], abs=0.01)


async def test_a_listener_without_noise_is_a_dial_error(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client:
        make_stock(server, security="/tls/1.0.0")
        with trio.fail_after(5), pytest.raises(DialError, match="the handshake failed"):
            await client.connect(server.addrs[0])


async def disconnected(client: Libp2pHost, events: Any) -> None:
    async for event in events:
        if event.kind is EventKind.DISCONNECTED:
            assert client.peers() == []
            return


async def test_a_listener_without_yamux_is_disconnected(new_host: Any) -> None:
    async with new_host() as server, new_host(listen=[]) as client, client.events() as events:
        make_stock(server, muxer="/mplex/6.7.0")
        await client.connect(server.addrs[0])  # it is who it is; what it speaks shows later
        with trio.fail_after(5):
            await disconnected(client, events)
            with pytest.raises(StreamError):
                stream = await client.open_stream(server.peer_id, ECHO)
                await stream.receive(10)


async def test_a_listener_that_never_agrees_to_a_muxer_is_disconnected_in_time(
    autojump_clock: MockClock, new_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    autojump_clock.autojump_threshold = 0.02

    async def say_nothing(*_: Any) -> None:
        await trio.sleep_forever()

    async with new_host() as server, new_host(listen=[]) as client, client.events() as events:
        monkeypatch.setattr(server._swarm.upgrader, "upgrade_connection", say_nothing)
        monkeypatch.setattr("transport.host.hardening.admission.INBOUND_HANDSHAKE_S", 10 * NEGOTIATE_S)
        await client.connect(server.addrs[0])
        stream = await client.open_stream(server.peer_id, ECHO)
        begin = trio.current_time()
        with pytest.raises(StreamError):
            await stream.receive(10)
        await disconnected(client, events)
        assert trio.current_time() - begin <= NEGOTIATE_S + 2
