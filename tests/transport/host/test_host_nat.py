"""A host finds out whether others reach it, and what it then does: AutoNAT and the search for relays, on loopback.

Everything of loopback counts as the internet here. A host behind a router is one that listens on 127.0.0.2 and dials
from 127.0.0.1: where it is seen, nobody answers.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from tests.transport.host.sharing import ECHO, HIDDEN, echo, everything, until
from transport.host import EventKind, HostStream, NatOptions, Reach, StreamError
from transport.host.autonat import AUTONAT
from transport.host.autonat.messages import (
    BAD_REQUEST,
    DIAL_ERROR,
    DIAL_REFUSED,
    OK,
    answer,
    question,
    read_answer,
)
from transport.host.relay import RelayLimits
from transport.host.relay.messages import HOP
from transport.identity import Identity, PeerId


def nat(**options: Any) -> NatOptions:
    return NatOptions(**{"outside": everything, **options})


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "HASTE", "SCARCE"):
        monkeypatch.setattr(f"transport.host.autonat.client.AUTONAT_{name}_S", 0.1)
    monkeypatch.setattr("transport.host.relay.finder.RELAY_FIND_S", 0.1)
    monkeypatch.setattr("transport.host.relay.finder.BOOTSTRAP_RECHECK_S", 0.1)
    monkeypatch.setattr("transport.host.traversal.IDENTIFY_PUSH_AFTER_S", 0.05)


async def test_a_host_that_others_reach_finds_out_and_offers_to_relay(new_host: Any) -> None:
    async with new_host(nat=nat()) as server, new_host(nat=nat(relay=RelayLimits())) as host, host.events() as events:
        assert host.reachability.verdict is Reach.UNKNOWN
        assert HOP not in host._host.get_mux().handlers
        await host.connect(server.addrs[0])
        await until(lambda: host.reachability.verdict is Reach.PUBLIC)
        assert (host.reachability.ip4, host.reachability.ip6) == (Reach.PUBLIC, Reach.UNKNOWN)
        assert host.reachability.relaying
        assert HOP in host._host.get_mux().handlers
        with trio.fail_after(5):
            async for event in events:
                if event.kind is EventKind.REACHABILITY:
                    break
        assert event.detail == "public"
        await until(lambda: server._nat._speaks(host.peer_id, HOP))  # it was told, though identified before
        assert [info.inbound for info in server.peers()] == [True], "the dial back leaves no connection behind"


async def test_a_host_that_nobody_reaches_finds_relays_and_is_reached_through_them(new_host: Any) -> None:
    async with AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(
                new_host(nat=nat(assume=Reach.PUBLIC, relay=RelayLimits(reservations_per_address=9)))
            )
            for _ in range(3)
        ]
        hidden = await stack.enter_async_context(new_host(listen=HIDDEN, nat=nat()))
        hidden.set_handler(ECHO, echo)
        for relay in relays:
            await hidden.connect(relay.addrs[0])
        await until(lambda: hidden.reachability.verdict is Reach.PRIVATE)
        await until(lambda: len(hidden.reachability.relays) == 2)
        circuits = [addr for addr in hidden.addrs if "/p2p-circuit" in addr]
        assert {addr.split("/p2p/")[1].partition("/")[0] for addr in circuits} == set(hidden.reachability.relays)
        assert circuits == list(hidden.addrs), "what nobody can dial is not told"

        visitor = await stack.enter_async_context(new_host(listen=[], nat=nat()))
        stream = await visitor.open_stream(hidden.peer_id, ECHO, addrs=[circuits[0]])
        await stream.send(b"through a relay that nobody named")
        assert await stream.receive(100) == b"through a relay that nobody named"

        lost = next(relay for relay in relays if relay.peer_id in hidden.reachability.relays)
        await hidden._disconnect(lost.peer_id)
        await until(lambda: lost.peer_id not in hidden.reachability.relays)
        await until(lambda: len(hidden.reachability.relays) == 2)
        assert not any(lost.peer_id in addr for addr in hidden.addrs)


async def test_relays_are_let_go_when_others_reach_us_again(new_host: Any) -> None:
    async with new_host(nat=nat(assume=Reach.PUBLIC, relay=RelayLimits())) as relay:
        async with new_host(listen=HIDDEN, nat=nat()) as hidden:
            await hidden.connect(relay.addrs[0])
            await until(lambda: hidden.reachability.relays)
            votes = hidden._nat._autonat._votes["ip4"]
            for number in range(5):
                votes.count(f"198.51.{number}.0/24", True, trio.current_time())
            assert votes.verdict is Reach.PUBLIC
            await until(lambda: not hidden.reachability.relays)
            assert not any("/p2p-circuit" in addr for addr in hidden.addrs)


async def test_a_forwarded_port_is_found_and_told_to_others(new_host: Any) -> None:
    """The router has our port too: here, something at 127.0.0.1 that leads to 127.0.0.2."""
    async with (
        new_host(nat=nat()) as server,
        new_host(listen=HIDDEN, nat=nat()) as host,
        trio.open_nursery() as nursery,
    ):
        inside = int(host.addrs[0].split("/")[4])

        async def forward(stream: trio.SocketStream) -> None:
            async with await trio.open_tcp_stream("127.0.0.2", inside) as there, trio.open_nursery() as both:

                async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                    try:
                        async for chunk in source:
                            await sink.send_all(chunk)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
                    both.cancel_scope.cancel()

                both.start_soon(carry, stream, there)
                both.start_soon(carry, there, stream)

        listeners = await trio.open_tcp_listeners(inside, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, forward, listeners)
        await host.connect(server.addrs[0])
        await until(lambda: host.reachability.verdict is Reach.PUBLIC)
        assert host.addrs[0] == f"/ip4/127.0.0.1/tcp/{inside}/p2p/{host.peer_id}"
        nursery.cancel_scope.cancel()


async def test_a_server_that_lies_convinces_nobody_that_he_is_public(new_host: Any) -> None:
    async def lie(stream: HostStream) -> None:
        await stream.receive(4096)
        await stream.send(answer(OK))

    asked: list[object] = []
    async with new_host(nat=nat(probe=False)) as liar, new_host(listen=HIDDEN, nat=nat()) as host:
        liar.set_handler(AUTONAT, lie)
        exchange = host._nat._autonat._exchange

        async def noted(server: Any) -> Any:
            asked.append(await exchange(server))
            return asked[-1]

        host._nat._autonat._exchange = noted
        await host.connect(liar.addrs[0])
        await until(lambda: len(asked) >= 3)
        assert set(asked) == {None}
        assert host.reachability.verdict is Reach.UNKNOWN


async def ask(client: Any, server: Any, message: bytes) -> int:
    stream = await client.open_stream(server.peer_id, AUTONAT, addrs=server.addrs)
    await stream.send(message)
    with trio.fail_after(10):
        status, _ = read_answer(await stream.receive(4096))
    return status


async def test_a_server_dials_nobody_but_who_asks_and_not_often(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_host(nat=nat()) as server, new_host(nat=nat(probe=False)) as client:
        dialled: list[str] = []
        dial = server._nat._dial_back

        async def noted(addr: Multiaddr, peer: PeerId) -> None:
            dialled.append(str(addr))
            await dial(addr, peer)

        server._host.get_mux().handlers.clear()
        monkeypatch.setattr(server._nat, "_dial_back", noted)
        server._nat.start()
        own = Multiaddr(client.addrs[0].partition("/p2p/")[0])
        elsewhere = [
            Multiaddr("/ip4/127.0.0.2/tcp/9"),
            Multiaddr("/dns4/localhost/tcp/9"),
            Multiaddr("/ip4/127.0.0.1/udp/9"),
        ]
        assert await ask(client, server, question(client.peer_id, elsewhere)) == DIAL_REFUSED
        assert await ask(client, server, question(Identity(b"v" * 32).peer_id, [own])) == BAD_REQUEST
        assert await ask(client, server, b"") == BAD_REQUEST
        assert await ask(client, server, b"\xff") == BAD_REQUEST
        assert dialled == []
        assert await ask(client, server, question(client.peer_id, [*elsewhere, own])) == OK
        assert dialled == [str(own)]
        closed = [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 9)]
        assert await ask(client, server, question(client.peer_id, closed)) == DIAL_ERROR
        assert len(dialled) == 1 + 4
        assert await ask(client, server, question(client.peer_id, [own])) == OK
        assert await ask(client, server, question(client.peer_id, [own])) == DIAL_REFUSED, "three a minute"
        assert len(client.peers()) == 1


async def test_another_peer_at_the_address_is_no_proof(new_host: Any) -> None:
    async with new_host(nat=nat()) as server, new_host(nat=nat(probe=False)) as client, new_host() as other:
        addr = Multiaddr(other.addrs[0].partition("/p2p/")[0])
        assert await ask(client, server, question(client.peer_id, [addr])) == DIAL_ERROR


async def test_through_a_relay_nobody_is_dialled_back(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(nat=nat(), listen=[], relays=relay.addrs) as server:
        await until(lambda: server.addrs)
        async with new_host(nat=nat(probe=False)) as client:
            assert (
                await ask(client, server, question(client.peer_id, [Multiaddr("/ip4/127.0.0.1/tcp/1")])) == DIAL_REFUSED
            )


async def test_on_loopback_the_internet_is_not_asked_about(new_host: Any) -> None:
    async with new_host() as server, new_host() as host:
        await host.connect(server.addrs[0])
        await until(lambda: host._nat._speaks(server.peer_id, AUTONAT))
        assert host._nat._servers() == []
        own = Multiaddr(host.addrs[0].partition("/p2p/")[0])
        assert await ask(host, server, question(host.peer_id, [own])) == DIAL_REFUSED


async def test_a_relay_that_is_slow_to_carry_makes_circuits_wait(new_host: Any) -> None:
    slow = RelayLimits(bytes_per_s=20_000)
    async with new_host(relay=slow) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        hidden.set_handler(ECHO, echo)
        await until(lambda: hidden.addrs)
        async with new_host(listen=[]) as visitor:
            stream = await visitor.open_stream(hidden.peer_id, ECHO, addrs=hidden.addrs)
            started = trio.current_time()
            for _ in range(3):
                await stream.send(bytes(20_000))
                assert len(await stream.receive(1 << 16)) == 20_000
            assert trio.current_time() - started > 1.0  # 120 kB at 20 kB/s, of which four seconds' worth at once


async def test_a_relay_that_does_not_answer_is_no_relay(new_host: Any) -> None:
    async with new_host(nat=nat()) as broken, new_host(listen=HIDDEN, nat=nat(assume=Reach.PRIVATE)) as hidden:

        async def refuse(stream: HostStream) -> None:
            raise StreamError("no")

        broken.set_handler(HOP, refuse)
        await hidden.connect(broken.addrs[0])
        await until(lambda: hidden._nat._finder._avoided.has(broken.peer_id, trio.current_time()))
        assert hidden.reachability.relays == ()
        assert not hidden._manager._tags
