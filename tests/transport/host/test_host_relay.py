"""Circuits through a third host on loopback: reserved, dialled, bounded, refused."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from tests.transport.host.sharing import until
from transport.host import DialError, EventKind, HostError, HostStream, StreamError
from transport.host.addresses import circuit_parts, is_circuit, parse_addr, split_peer
from transport.host.relay import RelayLimits
from transport.host.relay.messages import HOP, STOP, HopMessage, Status, StopMessage, named, read, send
from transport.identity import Identity

ECHO = "/test/echo/1"


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


def circuit_to(hidden: Any) -> str:
    (addr,) = [addr for addr in hidden.addrs if "/p2p-circuit" in addr]
    return str(addr)


async def ask(client: Any, relay: Any, message: Any) -> Any:
    """One hop request, as any peer may make it."""
    stream = await client.open_stream(relay.peer_id, HOP, addrs=relay.addrs)
    await send(stream, message)
    with trio.fail_after(10):
        answer = await read(stream, HopMessage)
    await stream.aclose()
    return answer


async def reserve(client: Any, relay: Any) -> int:
    return int((await ask(client, relay, HopMessage(type=HopMessage.RESERVE))).status)


async def test_a_hidden_host_is_reached_through_a_relay_and_both_sides_say_so(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        hidden.set_handler(ECHO, echo)
        await until(lambda: hidden.addrs)
        relay_addr = relay.addrs[0]
        assert hidden.addrs == [f"{relay_addr}/p2p-circuit/p2p/{hidden.peer_id}"]
        async with new_host(listen=[]) as visitor:
            stream = await visitor.open_stream(hidden.peer_id, ECHO, addrs=hidden.addrs)
            for message in (b"through a third", bytes(500_000)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, message)
                    assert await stream.receive(1 << 20) == message
            (seen,) = [info for info in visitor.peers() if info.peer_id == hidden.peer_id]
            assert seen.relayed
            assert seen.addr == f"{relay_addr}/p2p-circuit/p2p/{hidden.peer_id}"
            (back,) = [info for info in hidden.peers() if info.peer_id == visitor.peer_id]
            assert back.relayed
            assert back.inbound
            assert not any(info.relayed for info in relay.peers())
            assert relay._relay._open == 1
        await until(lambda: not relay._relay._open)
        await until(lambda: visitor.peer_id not in {info.peer_id for info in hidden.peers()})


async def test_a_circuit_inside_a_private_network(new_host: Any) -> None:
    psk = b"k" * 32
    async with new_host(relay=RelayLimits(), psk=psk) as relay, new_host(listen=[], relays=relay.addrs, psk=psk) as hid:
        hid.set_handler(ECHO, echo)
        await until(lambda: hid.addrs)
        async with new_host(listen=[], psk=psk) as visitor:
            stream = await visitor.open_stream(hid.peer_id, ECHO, addrs=hid.addrs)
            await stream.send(b"x")
            assert await stream.receive(10) == b"x"


async def test_gossip_passes_a_circuit(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        await until(lambda: hidden.addrs)
        async with new_host(listen=[]) as visitor, hidden.subscribe("news", lambda _: True) as inbox:
            async with visitor.subscribe("news", lambda _: True):
                await visitor.connect(circuit_to(hidden))
                await until(lambda: visitor._gossip._pubsub.peer_topics.get("news"))
                await visitor.publish("news", b"hello")
                with trio.fail_after(10):
                    assert (await anext(inbox)).data == b"hello"


async def test_the_direct_address_is_tried_before_the_relay(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(relays=relay.addrs) as both, new_host() as visitor:
        await until(lambda: len(both.addrs) == 2)
        with pytest.raises(StreamError, match="does not speak"):
            await (await visitor.open_stream(both.peer_id, "/test/none/1", addrs=[*reversed(both.addrs)])).wait_opened()
        assert [info.relayed for info in visitor.peers()] == [False]


async def test_a_place_lost_with_its_connection_is_taken_again(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.host.relay.client.BOOTSTRAP_RECHECK_S", 0.1)
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        await until(lambda: hidden.addrs)
        (lost,) = relay._connections()
        await hidden._disconnect(relay.peer_id)
        await until(lambda: hidden.addrs and hidden.peer_id in relay._relay._reserved)
        await until(lambda: [c for c in relay._connections() if c is not lost])


async def test_a_relay_that_is_none_is_reported(new_host: Any) -> None:
    async with new_host() as plain, new_host(listen=[], relays=plain.addrs) as hidden, hidden.events() as events:
        with trio.fail_after(10):
            async for event in events:
                if event.kind is EventKind.UNREACHABLE:
                    break
        assert "no place on the relay" in event.detail
        assert "does not speak" in event.detail
        assert hidden.addrs == []


async def test_nobody_reserves_in_anothers_name(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[]) as liar:
        victim = Identity(b"v" * 32).peer_id
        answer = await ask(liar, relay, HopMessage(type=HopMessage.RESERVE, peer=named(victim)))
        assert answer.status == Status.OK
        assert set(relay._relay._reserved) == {liar.peer_id}
        refused = await ask(liar, relay, HopMessage(type=HopMessage.CONNECT, peer=named(victim)))
        assert refused.status == Status.NO_RESERVATION


async def test_reservations_are_bounded_by_address_and_given_back(new_host: Any) -> None:
    few = RelayLimits(reservations_per_address=2)
    async with new_host(relay=few) as relay, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(new_host(listen=[])) for _ in range(3)]
        first, second, third = clients
        assert await reserve(first, relay) == Status.OK
        assert await reserve(first, relay) == Status.OK  # renewed
        assert await reserve(second, relay) == Status.OK
        assert await reserve(third, relay) == Status.RESERVATION_REFUSED
        await relay._disconnect(first.peer_id)
        await until(lambda: first.peer_id not in relay._relay._reserved)
        assert await reserve(third, relay) == Status.OK


@pytest.mark.parametrize(
    ("limits", "after"),
    [(RelayLimits(circuit_bytes=40_000), 100_000), (RelayLimits(circuit_s=1.0), 10)],
    ids=["bytes", "seconds"],
)
async def test_a_circuit_ends_with_its_allowance(new_host: Any, limits: RelayLimits, after: int) -> None:
    async with new_host(relay=limits) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        hidden.set_handler(ECHO, echo)
        await until(lambda: hidden.addrs)
        async with new_host(listen=[]) as visitor:
            stream = await visitor.open_stream(hidden.peer_id, ECHO, addrs=hidden.addrs)
            await stream.send(b"short")
            assert await stream.receive(10) == b"short"
            with trio.fail_after(8), pytest.raises(StreamError):
                while True:
                    await stream.send(bytes(after))
                    await stream.receive(1 << 20)
                    await trio.sleep(0.02)
            await until(lambda: not relay._relay._open)
            assert relay.peer_id in {info.peer_id for info in visitor.peers()}  # only the circuit ended


async def test_circuits_are_bounded_for_each_peer(new_host: Any) -> None:
    few = RelayLimits(circuits_per_peer=1)
    async with new_host(relay=few) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        await until(lambda: hidden.addrs)
        async with new_host(listen=[]) as first, new_host(listen=[]) as second:
            await first.connect(circuit_to(hidden))
            with pytest.raises(DialError, match="refused with status 201"):
                await second.connect(circuit_to(hidden))


async def test_only_a_relay_of_ours_may_bring_circuits(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(relays=relay.addrs) as host:
        await until(lambda: len(host.addrs) == 2)
        async with new_host(listen=[]) as stranger:
            direct = [addr for addr in host.addrs if "circuit" not in addr]
            stream = await stranger.open_stream(host.peer_id, STOP, addrs=direct)
            await send(stream, StopMessage(type=StopMessage.CONNECT, peer=named(stranger.peer_id)))
            with trio.fail_after(5):
                assert (await read(stream, StopMessage)).status == Status.PERMISSION_DENIED


async def test_a_relay_that_joins_us_to_somebody_else_is_found_out(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        await until(lambda: hidden.addrs)
        wanted = Identity(b"w" * 32).peer_id
        service = relay._relay
        service._reserved[wanted] = ("192.0.2.1", float("inf"))
        honest = service._open_stop
        service._open_stop = lambda _peer, protocol: honest(hidden.peer_id, protocol)
        async with new_host(listen=[]) as visitor:
            with pytest.raises(DialError, match="another peer answers there"):
                await visitor.connect(circuit_to(hidden).replace(hidden.peer_id, wanted))
        await until(lambda: not service._open)


async def test_a_dial_through_a_relay_says_why_it_failed(new_host: Any) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[]) as visitor:
        nobody = Identity(b"n" * 32).peer_id
        through = f"{relay.addrs[0]}/p2p-circuit/p2p/"
        with pytest.raises(DialError, match="does not relay to itself"):
            await visitor.connect(through + relay.peer_id)
        with pytest.raises(DialError, match="the peer holds no place there"):
            await visitor.connect(through + nobody)


@pytest.mark.parametrize("junk", [b"", b"\xff" * 40, b"\x08\x07", b"\x08\x01\x12\x02\x0a\x00"])
@pytest.mark.parametrize("protocol", [HOP, STOP])
async def test_malformed_relay_messages_cost_their_stream(new_host: Any, junk: bytes, protocol: str) -> None:
    async with new_host(relay=RelayLimits()) as other, new_host(relay=RelayLimits(), relays=other.addrs) as host:
        host.set_handler(ECHO, echo)
        direct = [addr for addr in host.addrs if "circuit" not in addr]
        async with new_host(listen=[]) as attacker:
            stream = await attacker.open_stream(host.peer_id, protocol, addrs=direct)
            await stream.send(junk)
            with trio.move_on_after(0.1), pytest.raises(StreamError):
                while True:
                    await stream.receive(4096)
            again = await attacker.open_stream(host.peer_id, ECHO)
            await again.send(b"alive?")
            assert await again.receive(10) == b"alive?"


def test_circuit_addresses_are_taken_apart() -> None:
    relay, target = (Identity(bytes([number]) * 32).peer_id for number in (1, 2))
    text = f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}/p2p-circuit/p2p/{target}"
    peer, addr = split_peer(text)
    assert peer == target
    assert str(addr) == f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}/p2p-circuit"
    assert is_circuit(addr)
    assert circuit_parts(addr) == (relay, Multiaddr("/ip4/192.0.2.1/tcp/4001"))
    assert not is_circuit(parse_addr("/ip4/192.0.2.1/tcp/4001"))
    for bad in (
        "/ip4/192.0.2.1/tcp/4001/p2p-circuit",
        f"/p2p/{relay}/p2p-circuit",
        "/ip4/1.2.3.4/tcp/1/p2p/x/p2p-circuit",
    ):
        with pytest.raises(HostError):
            parse_addr(bad)
