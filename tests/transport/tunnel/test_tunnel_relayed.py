"""The same tunnel over a stream of two real libp2p hosts: everything works, and it says that it is relayed."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
import trio

from transport.host import HostStream, Libp2pHost
from transport.identity import Identity
from transport.tunnel import HostStreamLink, StreamEnded, StreamReset, Tunnel, TunnelClosed, TunnelEndpoint, connect
from transport.tunnel.limits import HANDSHAKE_SECONDS
from transport.tunnel.listener import TunnelListener

PROTOCOL = "/test/tunnel/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ALICE, BOB = (Identity(sha256(name).digest()) for name in (b"alice", b"bob"))


async def echo(tunnel: Tunnel) -> None:
    async for stream in tunnel.incoming():
        try:
            async with stream:
                while True:
                    await stream.send_message(await stream.receive_message(1 << 20))
        except (StreamEnded, StreamReset, TunnelClosed):
            pass


async def test_a_tunnel_works_over_a_libp2p_stream_and_shows_it() -> None:
    listener = TunnelListener(TunnelEndpoint.of(BOB), echo, HANDSHAKE_SECONDS)

    async def serve(stream: HostStream) -> None:
        await listener.serve_link(HostStreamLink(stream))

    with trio.fail_after(30):
        async with Libp2pHost.open(BOB, [LOOPBACK]) as far, Libp2pHost.open(ALICE, []) as near:
            far.set_handler(PROTOCOL, serve)
            carrier = await near.open_stream(far.peer_id, PROTOCOL, addrs=far.addrs)
            tunnel = await connect(HostStreamLink(carrier), TunnelEndpoint.of(ALICE), BOB.peer_id)
            async with tunnel:
                async with tunnel.open_stream() as stream:
                    for size in (0, 5, 5000, 700_000):
                        body = random.Random(size).randbytes(size)
                        await stream.send_message(body)
                        assert await stream.receive_message(1 << 20) == body
                stats = tunnel.stats()
                assert stats.relayed
                assert stats.remote == BOB.peer_id
                assert stats.rtt_ms is not None
                assert [end.relayed for end in listener.tunnels] == [True]
            assert tunnel.closed is not None
            assert tunnel.closed.clean
            while listener.tunnels:
                await trio.sleep(0.01)


async def test_a_carrier_that_breaks_is_a_loss_of_the_tunnel() -> None:
    listener = TunnelListener(TunnelEndpoint.of(BOB), echo, HANDSHAKE_SECONDS)
    carriers: list[HostStream] = []

    async def serve(stream: HostStream) -> None:
        carriers.append(stream)
        await listener.serve_link(HostStreamLink(stream))

    with trio.fail_after(30):
        async with Libp2pHost.open(BOB, [LOOPBACK]) as far, Libp2pHost.open(ALICE, []) as near:
            far.set_handler(PROTOCOL, serve)
            carrier = await near.open_stream(far.peer_id, PROTOCOL, addrs=far.addrs)
            tunnel = await connect(HostStreamLink(carrier), TunnelEndpoint.of(ALICE), BOB.peer_id)
            async with tunnel, tunnel.open_stream() as stream:
                await stream.send_message(b"x")
                await stream.receive_message(1)
                await carriers[0].reset()
                with pytest.raises(TunnelClosed):
                    await stream.receive_message(1)
                assert tunnel.closed is not None
                assert not tunnel.closed.clean
