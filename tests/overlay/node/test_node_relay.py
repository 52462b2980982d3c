"""Relays by configuration, on real sockets: a provider that nobody can dial names one, and is found and served."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from dht import CapacityRecord, Offer
from overlay.config import load_config
from overlay.datadir import open_data_dir
from overlay.errors import ConfigError
from overlay.events import EventLog, NodeEvent
from overlay.node import views
from overlay.node.discovery import Discovery, open_discovery
from overlay.node.hosting import open_host, tell_host_events
from overlay.node.machine import LocalMachine
from overlay.node.reachability import Reachability, text
from overlay.node.reaching import carry_tunnels, reach
from overlay.subnet import load_subnet
from transport.host import EventKind, HostEvent, Libp2pHost, PeerInfo, Reach, StreamError
from transport.host import Reachability as HostReachability
from transport.identity import Identity, PeerId
from transport.tunnel import StreamEnded, Tunnel, TunnelEndpoint, open_tunnel_listener

LISTEN = 'node.listen=["/ip4/127.0.0.1/tcp/0"]'
RELAY, HIDDEN, CLIENT = (Identity(bytes([number]) * 32) for number in (1, 2, 3))


def dead_addr() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


@asynccontextmanager
async def node(
    home: Path, identity: Identity, *settings: str, bootstrap: tuple[str, ...] = (), listen: bool = True
) -> AsyncIterator[tuple[Discovery, list[NodeEvent]]]:
    """The host and the discovery of a node that is configured so, without gossip, and what it tells its user."""
    config = load_config(None, overrides=["discovery.gossip=false", *settings], environ={})
    told: list[NodeEvent] = []
    log = EventLog(told.append, lambda: 0.0)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(open_data_dir(home / identity.peer_id))
        subnet = load_subnet(None)
        opening = open_host(config, directory, identity, subnet, bootstrap, log, listen=listen)
        host = await stack.enter_async_context(opening)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(tell_host_events, host, log)
        yield (
            await stack.enter_async_context(open_discovery(config, LocalMachine(directory), identity, subnet, host)),
            told,
        )


async def echo(tunnel: Tunnel) -> None:
    async for stream in tunnel.incoming():
        async with stream:
            try:
                while True:
                    await stream.send_message(await stream.receive_message(1 << 16))
            except StreamEnded:
                pass


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nodes look for others in the home of their user."""
    monkeypatch.setenv("COCOON_HOME", str(tmp_path))
    return tmp_path


async def test_a_provider_whose_port_nobody_reaches_is_found_and_served_through_the_relay_that_it_names(
    home: Path,
) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        relay, _ = await enter(node(home, RELAY, LISTEN, "relay.serve=true"))
        way = tuple(relay.host.addrs)
        announced = f'node.announce=["{dead_addr()}"]'  # as behind a router: it listens where nobody looks
        hidden, _ = await enter(node(home, HIDDEN, LISTEN, announced, f"relay.use={list(way)}", bootstrap=way))
        seen = Reachability(hidden.host, lambda: 1000.0)
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(seen.watch)
        await until(lambda: any("/p2p-circuit" in addr for addr in hidden.host.addrs))
        assert seen.state()["how"] == "relay"
        listener = await enter(open_tunnel_listener(TunnelEndpoint.of(HIDDEN), "127.0.0.1", 0, echo))
        carry_tunnels(hidden.host, "main", listener)
        offer = Offer("chat", "demo", "plain", {"prompt": 1})
        key = listener.endpoint.static_key.public
        await hidden.directory.announce(
            CapacityRecord("main", tuple(hidden.host.addrs), offers=(offer,), noise_key=key)
        )
        await until(lambda: all(entry.place for entry in hidden.directory.listed.values()))

        client, _ = await enter(node(home, CLIENT, bootstrap=way, listen=False))
        assert (await client.market("chat", "demo", "plain", timeout_s=15))["known"] == 1
        record = await client.directory.record_of(HIDDEN.peer_id)
        assert record is not None
        assert record.tunnel_addrs == ()
        tunnel, addr = await reach(client.host, TunnelEndpoint.of(CLIENT), HIDDEN.peer_id, record)
        async with tunnel, tunnel.open_stream() as stream:
            await stream.send_message(b"prompt" * 1000)
            assert await stream.receive_message(1 << 16) == b"prompt" * 1000
            assert tunnel.relayed
            assert RELAY.peer_id in addr
        # Behind a relay it burdens nobody's look-ups.
        assert HIDDEN.peer_id not in {peer.peer_id for peer in relay.table.peers()}  # type: ignore[union-attr]
        await until(lambda: seen.circuit_at == 1000.0)


async def test_a_provider_behind_a_router_that_names_no_relay_finds_one_and_sells_through_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is the internet here; 127.0.0.2 is behind a router, since it dials from 127.0.0.1."""
    monkeypatch.setattr("overlay.node.hosting.of_the_internet", lambda ip: True)
    monkeypatch.setattr("transport.host.autonat.client.AUTONAT_HASTE_S", 0.1)
    monkeypatch.setattr("transport.host.relay.finder.RELAY_FIND_S", 0.1)
    monkeypatch.setattr("overlay.node.reaching.UPGRADE_S", 4.0)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        relay, _ = await enter(node(home, RELAY, LISTEN, "nat.assume=public"))
        way = tuple(relay.host.addrs)
        behind = 'node.listen=["/ip4/127.0.0.2/tcp/0"]'
        hidden, told = await enter(node(home, HIDDEN, behind, bootstrap=way))
        seen = Reachability(hidden.host, lambda: 1000.0)
        await until(lambda: seen.state()["relays"])
        state = seen.state()
        assert (state["verdict"], state["ip4"], state["how"]) == ("private", "private", "relay")
        assert state["relay_peers"] == [RELAY.peer_id]
        assert text(state) == "private: through 1 relay; nobody has come that way yet"
        assert any("nobody can dial this node" in event.text for event in told)
        relayed = Reachability(relay.host, lambda: 1000.0).state()
        assert text(relayed).endswith("it relays for others")

        listener = await enter(open_tunnel_listener(TunnelEndpoint.of(HIDDEN), "127.0.0.1", 0, echo))
        carry_tunnels(hidden.host, "main", listener)
        client, _ = await enter(node(home, CLIENT, bootstrap=way, listen=False))
        record = CapacityRecord(
            "main", tuple(hidden.host.addrs), tunnel_addrs=("/ip4/127.0.0.1/tcp/9",),
            noise_key=listener.endpoint.static_key.public,
        )  # fmt: skip
        await client.host.connect(next(addr for addr in hidden.host.addrs if "/p2p-circuit" in addr))
        tunnel, _ = await reach(client.host, TunnelEndpoint.of(CLIENT), HIDDEN.peer_id, record)
        async with tunnel, tunnel.open_stream() as stream:
            await stream.send_message(b"prompt")
            assert await stream.receive_message(1 << 16) == b"prompt"
            assert not tunnel.relayed, "a hole was punched before the tunnel was opened"
        # It serves nobody's look-ups any more, which would use up its circuits.
        assert relay.table is not None
        asking = await relay.host.open_stream(HIDDEN.peer_id, relay.table.protocol)
        with pytest.raises(StreamError):
            await asking.send(b"")
            await asking.receive(1 << 16)


@pytest.mark.parametrize(
    ("verdict", "how", "said"),
    [
        (Reach.PUBLIC, "direct", "public: directly from the internet; nobody has come that way yet"),
        (Reach.PRIVATE, "unknown", "private: nobody can dial this node, and it has found no relay yet"),
        (Reach.UNKNOWN, "unknown", "not known: nobody has connected from another machine yet"),
    ],
)
def test_the_verdict_is_said_in_a_line(verdict: Reach, how: str, said: str) -> None:
    host: Any = SimpleNamespace(addrs=[], reachability=HostReachability(verdict))
    state = Reachability(host, lambda: 0.0).state()
    assert (state["verdict"], state["how"], text(state)) == (verdict.value, how, said)


async def test_who_was_not_told_to_relay_does_not_and_the_user_hears_why_there_is_no_place(home: Path) -> None:
    async with node(home, RELAY, LISTEN, "relay.serve=false") as (plain, _):
        assert plain.host._relay is None  # type: ignore[attr-defined]
        way = list(plain.host.addrs)
        async with node(home, HIDDEN, LISTEN, f"relay.use={way}") as (hidden, told):
            await until(lambda: any("no place on the relay" in event.text for event in told))
            assert not any("/p2p-circuit" in addr for addr in hidden.host.addrs)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("relay.circuits=0", "from 1 to 128"),
        ("relay.reservations=129", "from 1 to 128"),
        ("relay.circuit_s=3601", "from 1 to 3600"),
        ("relay.bytes_per_s=0", "from 1 to 1073741824"),
        ("relay.serve=sometimes", "relay.serve"),
        ("nat.assume=maybe", "nat.assume"),
        ("nat.prob=true", "did you mean 'probe'"),
        ("relay.use=" + ",".join(["/ip4/192.0.2.1/tcp/1"] * 5), "4 relays at most"),
    ],
)
def test_a_relay_out_of_bounds_is_refused(setting: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_config(None, overrides=[setting], environ={})


async def test_a_relay_without_a_peer_id_is_an_error_that_names_the_key(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"relay\.use"):
        async with node(home, HIDDEN, LISTEN, "relay.use=/ip4/192.0.2.1/tcp/1"):
            pass


async def test_the_limits_of_the_configuration_are_the_relays(home: Path) -> None:
    settings = ("relay.serve=true", "relay.reservations=3", "relay.circuits=2", "relay.circuit_bytes=1000")
    async with node(home, RELAY, LISTEN, *settings) as (relay, _):
        assert isinstance(relay.host, Libp2pHost)
        assert relay.host._relay is not None
        limits = relay.host._relay._limits
        assert (limits.reservations, limits.circuits, limits.circuit_bytes) == (3, 2, 1000)


def test_tunnels_are_published_where_the_machine_itself_is_reached() -> None:
    relayed = f"/ip4/203.0.113.9/tcp/4001/p2p/{RELAY.peer_id}/p2p-circuit/p2p/{HIDDEN.peer_id}"
    hosts = ["/ip4/192.0.2.1/tcp/4001/p2p/x", "/ip6/2600::1/tcp/4001/p2p/x", "/dns4/a.example/tcp/1/p2p/x", relayed]
    assert views.reachable(["/ip4/0.0.0.0/tcp/7", "/ip6/::/tcp/8"], hosts) == [
        "/ip4/192.0.2.1/tcp/7",
        "/dns4/a.example/tcp/7",
        "/ip6/2600::1/tcp/8",
    ]
    config = load_config(None, environ={})
    assert views.local_addrs(hosts[:2], config) == ["/ip4/127.0.0.1/tcp/4001/p2p/x", "/ip6/::1/tcp/4001/p2p/x"]


@pytest.mark.parametrize(
    ("addr", "relayed", "how"),
    [
        ("/ip4/8.8.8.8/tcp/50000", False, "direct"),
        ("/ip6/2600::5/tcp/50000", False, "direct"),
        ("/ip4/192.168.1.7/tcp/50000", False, "nearby"),
        ("/ip4/127.0.0.1/tcp/50000", False, "unknown"),
        ("/ip4/8.8.8.8/tcp/4001/p2p/R/p2p-circuit", True, "unknown"),
    ],
)
async def test_who_came_from_where_tells_how_a_node_is_reached(addr: str, relayed: bool, how: str) -> None:
    peer = PeerId("p")
    connected = [PeerInfo(peer, addr, inbound=True, relayed=relayed)]

    @asynccontextmanager
    async def events() -> AsyncIterator[Any]:
        async def come() -> AsyncIterator[HostEvent]:
            yield HostEvent(EventKind.CONNECTED, peer, addr)

        yield come()

    host: Any = SimpleNamespace(peers=lambda: connected, addrs=[], events=events, reachability=HostReachability())
    seen = Reachability(host, iter([10.0, 15.0]).__next__)
    await seen.watch()
    state = seen.state()
    assert state["how"] == how
    assert text(state)
    connected[:] = [PeerInfo(peer, addr, inbound=False, relayed=relayed)]  # whom we dialled proves nothing
    other = Reachability(host, lambda: 0.0)
    await other.watch()
    assert other.state()["how"] == "unknown"
