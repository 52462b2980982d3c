"""Several callers that want one peer share a race, and none waits for another's dead address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr
from trio.testing import MockClock

from tests.transport.host.sharing import until
from transport.host import DialError
from transport.host.limits import DIAL_STAGGER_S, MAX_RACE_ADDRS
from transport.host.race import Race
from transport.host.relay import RelayLimits
from transport.identity import Identity

DEAD_S = 8.0


def address(number: int) -> Multiaddr:
    return Multiaddr(f"/ip4/192.0.2.{number}/tcp/4001")


CIRCUIT = Multiaddr(f"/ip4/192.0.2.200/tcp/4001/p2p/{Identity(b'r' * 32).peer_id}/p2p-circuit")


class Internet:
    """Where each address leads: to a connection (its own name) or an error, after some seconds."""

    def __init__(self, **ends: tuple[float, bool]) -> None:
        self.ends = ends
        self.begun: list[tuple[float, str]] = []
        self.under_way = 0

    async def attempt(self, addr: Multiaddr) -> str:
        name = "circuit" if addr == CIRCUIT else f"a{str(addr).split('.')[-1].split('/')[0]}"
        seconds, works = self.ends.get(name, (DEAD_S, False))
        self.begun.append((round(trio.current_time(), 3), name))
        self.under_way += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.under_way -= 1
        if not works:
            raise DialError(f"{name} is dead")
        return name


@asynccontextmanager
async def racing(internet: Internet, *addrs: Multiaddr) -> AsyncIterator[tuple[Race, trio.Nursery]]:
    race = Race(internet.attempt)
    assert race.enter(addrs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.run)
        yield race, nursery


async def test_a_race_gives_each_address_a_head_start_unless_the_one_before_has_failed(
    autojump_clock: MockClock,
) -> None:
    internet = Internet(a2=(0.1, False), a4=(0.1, True))
    async with racing(internet, address(1), address(2), address(3), address(4), CIRCUIT) as (race, _):
        assert await race.result() == "a4"
    assert [name for _, name in internet.begun] == ["a1", "a2", "a3", "a4"]
    assert [at - internet.begun[0][0] for at, _ in internet.begun] == pytest.approx(
        [0, DIAL_STAGGER_S, DIAL_STAGGER_S + 0.1, 2 * DIAL_STAGGER_S + 0.1]
    )
    assert internet.under_way == 0


async def test_what_a_later_caller_knows_joins_a_race_that_runs(autojump_clock: MockClock) -> None:
    internet = Internet(circuit=(0.3, True))
    began_s = trio.current_time()
    async with racing(internet, address(1)) as (race, nursery):
        first: list[Any] = []

        async def wait() -> None:
            first.append(await race.result())

        nursery.start_soon(wait)
        await trio.sleep(1)
        assert race.enter([address(1), CIRCUIT])
        assert await race.result() == "circuit"
        assert trio.current_time() - began_s == pytest.approx(1.3)
    assert first == ["circuit"]
    assert [name for _, name in internet.begun] == ["a1", "circuit"]  # nothing twice


async def test_a_race_of_dead_addresses_says_so_of_each_to_everybody(autojump_clock: MockClock) -> None:
    async with racing(Internet(a2=(1.0, False)), address(1), address(2)) as (race, nursery):
        nursery.start_soon(race.result)
        assert await race.result() is None
    assert race.failures == ["a2 is dead", "a1 is dead"]


async def test_a_race_lasts_as_long_as_somebody_waits_for_it(autojump_clock: MockClock) -> None:
    internet = Internet(a1=(3.0, True))
    async with racing(internet, address(1)) as (race, _):
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(race.result)
                nursery.start_soon(race.result)
                await trio.sleep(0.5)
        assert internet.under_way == 0
        assert not race.enter([address(2)])  # given up: it is to be tried in another race
        assert await race.result() is None
    async with racing(internet, address(1)) as (race, nursery):
        with trio.move_on_after(1):
            nursery.start_soon(race.result)
            await race.result()
        assert internet.under_way == 1


async def test_a_race_has_room_for_so_many_addresses(autojump_clock: MockClock) -> None:
    internet = Internet()
    async with racing(internet, address(0)) as (race, _):
        assert race.enter([address(number) for number in range(1, MAX_RACE_ADDRS)])
        assert not race.enter([address(MAX_RACE_ADDRS)])
        assert race.enter([address(3)])
        assert await race.result() is None
    assert len(internet.begun) == MAX_RACE_ADDRS


# --- real sockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def dead(nursery: trio.Nursery) -> AsyncIterator[str]:
    """An address at which the kernel takes connections and nobody answers."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    yield f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}"
    for listener in listeners:
        await listener.aclose()


async def test_a_circuit_is_taken_while_somebody_waits_for_a_dead_direct_address(new_host: Any, dead: str) -> None:
    async with new_host(relay=RelayLimits()) as relay, new_host(listen=[], relays=relay.addrs) as hidden:
        await until(lambda: hidden.addrs)
        async with new_host(listen=[]) as visitor, trio.open_nursery() as nursery:
            nursery.start_soon(visitor.connect, f"{dead}/p2p/{hidden.peer_id}")
            await until(lambda: visitor._dialler._races)
            with trio.fail_after(3):  # what a quote has
                await visitor.open_stream(hidden.peer_id, "/test/none/1", addrs=hidden.addrs)
        # and whoever waited for the dead one has the connection as well: its nursery ended without an error


async def test_callers_of_one_dead_peer_fail_together(
    new_host: Any, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.host.dialler.DIAL_S", 0.5)
    addr = f"{dead}/p2p/{Identity(b'd' * 32).peer_id}"
    async with new_host(listen=[]) as visitor:
        began_s = trio.current_time()
        failed = []

        async def dial() -> None:
            with pytest.raises(DialError, match="no answer in time"):
                await visitor.connect(addr)
            failed.append(trio.current_time() - began_s)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(dial)
        assert max(failed) < 1.0  # one after the other they would take 1.5 s
        assert not visitor._dialler._races


async def test_a_dial_given_up_leaves_nothing_behind(new_host: Any, dead: str) -> None:
    async with new_host(listen=[]) as visitor:
        with trio.move_on_after(0.2):
            await visitor.connect(f"{dead}/p2p/{Identity(b'd' * 32).peer_id}")
        assert not visitor._dialler._races
