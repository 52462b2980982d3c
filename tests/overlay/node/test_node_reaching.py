"""How a client's tunnel finds its way to a provider: TCP first, then the control plane, and what it says of itself."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256

import pytest
import trio

from dht import CapacityRecord
from overlay.errors import ProviderGone
from overlay.node.reaching import carry_tunnels, reach
from transport.host import Libp2pHost
from transport.host.relay import RelayLimits
from transport.identity import Identity
from transport.tunnel import StreamEnded, Tunnel, TunnelEndpoint, TunnelListener, open_tunnel_listener

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
CLIENT, PROVIDER, RELAY = (Identity(sha256(name).digest()) for name in (b"client", b"provider", b"relay"))


async def echo(tunnel: Tunnel) -> None:
    async for stream in tunnel.incoming():
        async with stream:
            while True:
                try:
                    await stream.send_message(await stream.receive_message(1 << 20))
                except StreamEnded:
                    break


def dead_addr() -> str:
    """A TCP address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"


@asynccontextmanager
async def parties(*, relayed: bool = False) -> AsyncIterator[tuple[Libp2pHost, Libp2pHost, TunnelListener]]:
    """A client's host, a provider's, and the provider's tunnel listener."""
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            if relayed:
                relay = await enter(Libp2pHost.open(RELAY, [LOOPBACK], relay=RelayLimits()))
                provider = await enter(Libp2pHost.open(PROVIDER, [], relays=relay.addrs))
                while not provider.addrs:
                    await trio.sleep(0.01)
            else:
                provider = await enter(Libp2pHost.open(PROVIDER, [LOOPBACK]))
            client = await enter(Libp2pHost.open(CLIENT, []))
            listener = await enter(open_tunnel_listener(TunnelEndpoint.of(PROVIDER), "127.0.0.1", 0, echo))
            carry_tunnels(provider, "main", listener)
            yield client, provider, listener


def record(provider: Libp2pHost, *tunnel_addrs: str) -> CapacityRecord:
    key = TunnelEndpoint.of(PROVIDER).static_key.public
    return CapacityRecord("main", tuple(provider.addrs), tunnel_addrs, noise_key=key)


async def test_a_provider_whose_port_is_reached_gets_a_tunnel_over_tcp() -> None:
    async with parties() as (client, provider, listener):
        known = record(provider, dead_addr(), *listener.addrs)
        tunnel, addr = await reach(client, TunnelEndpoint.of(CLIENT), PROVIDER.peer_id, known)
        async with tunnel:
            assert addr == listener.addrs[0]
            assert not tunnel.relayed


@pytest.mark.parametrize("relayed", [False, True], ids=["directly", "through a relay"])
async def test_a_provider_whose_port_is_closed_gets_one_over_the_control_plane(relayed: bool) -> None:
    async with parties(relayed=relayed) as (client, provider, listener):
        known = record(provider, dead_addr())
        tunnel, addr = await reach(client, TunnelEndpoint.of(CLIENT), PROVIDER.peer_id, known)
        async with tunnel, tunnel.open_stream() as stream:
            await stream.send_message(b"hello" * 2000)
            assert await stream.receive_message(1 << 20) == b"hello" * 2000
            assert addr.endswith(PROVIDER.peer_id)
            assert tunnel.relayed is relayed
            assert tunnel.stats().pattern == "IK"
            assert [end.relayed for end in listener.tunnels] == [relayed]


async def test_a_provider_that_nothing_leads_to_is_gone_and_every_attempt_is_named() -> None:
    async with Libp2pHost.open(CLIENT, []) as client:
        closed = dead_addr()
        known = CapacityRecord("main", (f"{dead_addr()}/p2p/{PROVIDER.peer_id}",), (closed,))
        with pytest.raises(ProviderGone) as caught:
            await reach(client, TunnelEndpoint.of(CLIENT), PROVIDER.peer_id, known)
        assert closed in str(caught.value)
        assert "cannot reach" in str(caught.value)
