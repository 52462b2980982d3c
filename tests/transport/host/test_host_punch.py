"""From a circuit to a direct connection: the exchange's rules, the shared port, and hosts on loopback that upgrade."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from tests.transport.host.sharing import ECHO, HIDDEN, echo, everything, until
from transport.host import (
    EventKind,
    HostError,
    NatOptions,
    Reach,
    StreamError,
    of_any_network,
    of_the_internet,
)
from transport.host.limits import PUNCH_MAX_ADDRS, PUNCH_MAX_ROUND_TRIP_S
from transport.host.punch.exchange import DCUTR, SYNC, Initiator, Plan, Responder, connect_message, read_message, usable
from transport.host.relay import RelayLimits
from transport.host.shared_port import SharedPorts

# --- the exchange -----------------------------------------------------------------------------------------------------

A = [Multiaddr("/ip4/8.8.8.8/tcp/1000")]
B = [Multiaddr("/ip4/9.9.9.9/tcp/2000"), Multiaddr("/ip6/2600::1/tcp/2000")]


def test_both_sides_learn_where_to_dial_and_b_waits_for_half_a_round_trip() -> None:
    initiator, responder = Initiator(B, of_the_internet, 10.0), Responder(A, of_the_internet)
    reply = responder.received(initiator.first)
    assert isinstance(reply, bytes)
    assert initiator.answered(reply, 10.5) == Plan(tuple(A), 0.25)
    assert responder.received(SYNC) == Plan(tuple(B), 0.0)
    assert isinstance(responder.received(initiator.first), bytes), "and again, for another attempt"


def test_the_messages_are_those_of_the_specification() -> None:
    assert SYNC == b"\x08\xac\x02"
    assert connect_message(A) == b"\x08\x64\x12\x08\x04\x08\x08\x08\x08\x06\x03\xe8"
    assert read_message(connect_message(B)) == (True, B)


@pytest.mark.parametrize(
    "messages", [[SYNC], [connect_message(B), connect_message(B)], [b""], [b"\xff"], [connect_message([])]]
)
def test_messages_out_of_order_or_without_an_address_end_it(messages: list[bytes]) -> None:
    responder = Responder(A, of_the_internet)
    for message in messages[:-1]:
        responder.received(message)
    with pytest.raises(StreamError):
        responder.received(messages[-1])
    with pytest.raises(StreamError):
        Initiator(B, of_the_internet, 0.0).answered(SYNC, 1.0)


def test_a_slow_answer_does_not_make_b_wait_for_long() -> None:
    plan = Initiator(B, of_the_internet, 0.0).answered(connect_message(A), 1000.0)
    assert plan.after_s == PUNCH_MAX_ROUND_TRIP_S / 2


def test_nobody_has_us_dial_into_our_own_network() -> None:
    inside = ["/ip4/192.168.1.1/tcp/80", "/ip4/127.0.0.1/tcp/80", "/ip4/169.254.169.254/tcp/80", "/ip6/fd00::1/tcp/80"]
    others = ["/dns4/router.home/tcp/80", "/ip4/8.8.8.8/udp/80"]
    named = [Multiaddr(text) for text in [*inside, *others]]
    assert usable(named, of_the_internet) == []
    assert usable(named, of_any_network) == [named[0], named[3]]
    assert (
        len(usable([Multiaddr(f"/ip4/8.8.8.8/tcp/{port}") for port in range(1, 50)], of_the_internet))
        == PUNCH_MAX_ADDRS
    )


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([SYNC, connect_message(B)])), max_size=8))
def test_any_messages_lead_to_a_plan_or_a_stream_error(messages: list[bytes]) -> None:
    responder, was_connect = Responder(A, of_the_internet), False
    for message in messages:
        try:
            step = responder.received(message)
        except StreamError:
            continue
        assert isinstance(step, Plan) == was_connect, "a plan follows CONNECT, and nothing else does"
        was_connect = not was_connect
        if isinstance(step, Plan):
            assert step.addrs
            assert set(step.addrs) == set(usable(step.addrs, of_the_internet))


# --- the shared port --------------------------------------------------------------------------------------------------


async def test_a_connection_leaves_from_the_port_that_is_listened_on_and_a_second_listener_is_still_refused() -> None:
    ports = SharedPorts()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (target,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, target:
        ports.listened_on(listener)
        own, there = listener.socket.getsockname()[1], target.socket.getsockname()[1]
        async with await ports.connect("127.0.0.1", there) as stream, await target.accept() as accepted:
            assert stream.socket.getsockname() == accepted.socket.getpeername() == ("127.0.0.1", own)
            with pytest.raises(OSError, match=r"assign|in use"):
                await ports.connect("127.0.0.1", there)  # they are connected so already
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(own, host="127.0.0.1")


async def test_who_listens_nowhere_leaves_from_one_port_as_well() -> None:
    ports = SharedPorts()
    seen = []
    for _ in range(2):
        (target,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with target, await ports.connect("127.0.0.1", target.socket.getsockname()[1]) as stream:
            seen.append(stream.socket.getsockname()[1])
    assert seen[0] == seen[1]


# --- hosts ------------------------------------------------------------------------------------------------------------


def nat(**options: Any) -> NatOptions:
    return NatOptions(**{"outside": everything, "probe": False, **options})


async def test_a_circuit_becomes_a_direct_connection_and_is_let_go(
    new_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.host.punch.puncher.PUNCH_GRACE_S", 0.1)
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(new_host(relay=RelayLimits(), nat=nat()))
        hidden = await stack.enter_async_context(
            new_host(listen=HIDDEN, relays=relay.addrs, nat=nat(assume=Reach.PRIVATE))
        )
        hidden.set_handler(ECHO, echo)
        visitor = await stack.enter_async_context(new_host(listen=[], nat=nat()))
        await until(lambda: hidden._nat._puncher.seen_at() and hidden.addrs)
        circuit = next(addr for addr in hidden.addrs if "/p2p-circuit" in addr)
        async with visitor.events() as events:
            await visitor.connect(circuit)
            with trio.fail_after(15):
                async for event in events:
                    if event.kind is EventKind.UPGRADED:
                        break
        assert event.peer_id == hidden.peer_id
        assert event.addr.startswith("/ip4/127.0.0.")
        stream = await visitor.open_stream(hidden.peer_id, ECHO)
        await stream.send(b"straight")
        assert await stream.receive(10) == b"straight"
        for host in (visitor, hidden):
            (info,) = [i for i in host.peers() if i.peer_id in (visitor.peer_id, hidden.peer_id)]
            assert not info.relayed
        await until(lambda: not relay._relay._open)
        await stream.send(b"still there")
        assert await stream.receive(20) == b"still there"


async def test_who_has_a_public_address_is_dialled_instead(new_host: Any) -> None:
    """Nothing is exchanged: the provider dials whom it was reached by."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(new_host(relay=RelayLimits(), nat=nat()))
        hidden = await stack.enter_async_context(
            new_host(listen=HIDDEN, relays=relay.addrs, nat=nat(assume=Reach.PRIVATE))
        )
        visitor = await stack.enter_async_context(new_host(nat=nat(punch=False)))
        await until(lambda: hidden.addrs)
        await visitor.connect(next(addr for addr in hidden.addrs if "/p2p-circuit" in addr))
        await until(lambda: [i for i in visitor.peers() if i.peer_id == hidden.peer_id and not i.relayed])
        (info,) = [i for i in visitor.peers() if i.peer_id == hidden.peer_id]
        assert info.inbound
        assert info.addr.startswith("/ip4/127.0.0.")


async def test_only_whom_we_reached_through_a_relay_has_us_dial(new_host: Any) -> None:
    dialled: list[object] = []
    async with new_host(nat=nat()) as host, new_host(nat=nat()) as stranger:
        host._nat._puncher._dial_all = dialled.append
        stream = await stranger.open_stream(host.peer_id, DCUTR, addrs=host.addrs)
        await stream.send(connect_message(A))
        with trio.fail_after(5), pytest.raises(HostError):
            await stream.receive(4096)
    assert dialled == []


async def test_a_circuit_stays_where_no_hole_can_be_punched(new_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.host.punch.puncher.PUNCH_DIAL_S", 0.2)
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(new_host(relay=RelayLimits(), nat=nat()))
        hidden = await stack.enter_async_context(
            new_host(listen=HIDDEN, relays=relay.addrs, nat=nat(assume=Reach.PRIVATE))
        )
        hidden.set_handler(ECHO, echo)
        visitor = await stack.enter_async_context(new_host(listen=[], nat=nat()))
        closed = Multiaddr("/ip4/127.0.0.3/tcp/9")
        for host in (hidden, visitor):
            host._nat._puncher.seen_at = lambda: [closed]  # as behind a router that gives each target another port
        await until(lambda: hidden.addrs)
        stream = await visitor.open_stream(hidden.peer_id, ECHO, addrs=hidden.addrs[-1:])
        await until(lambda: hidden._nat._puncher._busy)
        await until(lambda: not hidden._nat._puncher._busy)
        await stream.send(b"through the relay")
        assert await stream.receive(20) == b"through the relay"
        assert [i.relayed for i in visitor.peers() if i.peer_id == hidden.peer_id] == [True]
