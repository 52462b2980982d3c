"""P20: an address spends its own allowance of handshakes; everybody else is served meanwhile."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from transport.host import DialError, HostError, HostStream, Libp2pHost
from transport.host.hardening import HandshakeRates
from transport.host.hardening.handshakes import Rate
from transport.host.origins import origin_of
from transport.host.tcp import host_and_port
from transport.identity import Identity

ECHO = "/test/echo/1"


@given(
    st.lists(
        st.tuples(st.sampled_from(["9.9.9.1", "9.9.9.2", "9.9.8.1", "2600::1", "2600::2", "127.0.0.1", None]),
                  st.floats(0, 3)),
        max_size=200,
    )
)  # fmt: skip
def test_no_address_and_no_network_gets_more_than_its_rate(arrivals: list[tuple[str | None, float]]) -> None:
    rates = HandshakeRates(Rate(3, 1.0), Rate(5, 2.0), Rate(8, 4.0))
    now, done = 0.0, []
    for host, pause in arrivals:
        now += pause
        origin = origin_of(host)
        if rates.allows(origin, now):
            rates.spend(origin, now)
            done.append((origin, now))
    for origin, _ in done:
        plain = not origin.local and origin.address != origin.network
        mine = sum(other.address == origin.address for other, _ in done)
        assert mine <= (3 + now if plain else 8 + 4 * now)
        assert sum(other.network == origin.network for other, _ in done) <= (5 + 2 * now if plain else 8 + 4 * now)


def test_one_address_that_spent_all_leaves_the_others_theirs_and_gets_its_own_back_in_time() -> None:
    rates = HandshakeRates(Rate(3, 1.0), Rate(5, 1.0))
    crowd, neighbour, stranger = (origin_of(host) for host in ("9.9.9.1", "9.9.9.2", "8.8.8.8"))
    for _ in range(3):
        rates.spend(crowd, 0.0)
    assert [rates.allows(origin, 0.0) for origin in (crowd, neighbour, stranger)] == [False, True, True]
    for _ in range(2):
        rates.spend(neighbour, 0.0)
    # A whole network is an attacker's as soon as an address of it is cheap.
    assert [rates.allows(origin, 0.0) for origin in (neighbour, stranger)] == [False, True]
    assert rates.allows(crowd, 1.0)
    assert rates.refused == 2


def test_the_table_of_origins_is_bounded_and_forgets_the_longest_unused() -> None:
    rates = HandshakeRates(Rate(1, 0.001), Rate(1000, 1.0), max_origins=10)
    for number in range(100):
        rates.spend(origin_of(f"{number + 1}.1.1.1"), 0.0)
        assert len(rates) <= 10
    assert not rates.allows(origin_of("100.1.1.1"), 0.0)
    assert rates.allows(origin_of("1.1.1.1"), 0.0)


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 20))


@asynccontextmanager
async def host_at(address: str, **options: Any) -> AsyncIterator[Libp2pHost]:
    """A host with a new identity whose dials come from ``address``."""

    async with Libp2pHost.open(Identity(os.urandom(32)), **options) as host:
        transport = host._transport

        async def dial(addr: Any) -> Any:
            where, port = host_and_port(addr)
            return transport._start(await trio.open_tcp_stream(where, port, local_address=address)).raw(True)

        transport.dial = dial  # type: ignore[method-assign]
        yield host


async def served(server: Libp2pHost, within_s: float) -> None:
    async with host_at("127.0.0.1") as honest:
        with trio.fail_after(within_s):
            stream = await honest.open_stream(server.peer_id, ECHO, addrs=server.addrs)
            await stream.send(b"alive?")
            assert await stream.receive(10) == b"alive?"


async def test_p20_who_makes_identity_after_identity_is_hung_up_on_and_an_honest_peer_is_served() -> None:
    async with Libp2pHost.open(Identity(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"]) as server:
        server.set_handler(ECHO, echo)
        server._handshakes._local = Rate(10, 0.5)  # loopback gets more than others: here it is as anybody
        came: list[str] = []
        refused: list[str] = []

        async def attack() -> None:
            for _ in range(8):
                async with host_at("127.0.5.5") as attacker:
                    try:
                        await attacker.connect(server.addrs[0])
                        came.append(attacker.peer_id)
                    except HostError as error:
                        refused.append(str(error))

        async with trio.open_nursery() as nursery:
            started = trio.current_time()
            for _ in range(5):
                nursery.start_soon(attack)
            for _ in range(3):
                await served(server, within_s=2)
        spent_s = trio.current_time() - started
        assert len(came) + len(refused) == 40
        # Those in flight together when the last of the allowance went are let through: at most the five attackers'.
        assert 10 <= len(came) <= 10 + 5 + 0.5 * spent_s
        assert server._handshakes.refused >= 25 - 0.5 * spent_s
        await served(server, within_s=2)


async def test_p20_garbage_and_broken_handshakes_spend_the_allowance_and_silence_does_not() -> None:
    async with Libp2pHost.open(Identity(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"]) as server:
        server.set_handler(ECHO, echo)
        server._handshakes._local = Rate(4, 0.01)
        _, port = host_and_port(server._listening[0])
        connect = partial(trio.open_tcp_stream, "127.0.0.1", port, local_address="127.0.5.6")
        silent = [await connect() for _ in range(12)]
        for _ in range(6):
            async with await connect() as stream:
                try:
                    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n" * 20)
                    while await stream.receive_some(1000):
                        pass
                except trio.BrokenResourceError:
                    continue
        async with host_at("127.0.5.6") as late:
            with pytest.raises(DialError):
                await late.connect(server.addrs[0])
        assert server._handshakes.refused >= 2
        assert server._budget.counts() == {"127.0.5.6": 12}
        await served(server, within_s=2)
        for stream in silent:
            await stream.aclose()
