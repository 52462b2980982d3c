"""What a client keeps in memory of providers that it has dealt with: no more than is of use or of value."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from overlay.locks import KeyedLocks
from overlay.node import links as module
from overlay.node.links import Links


class Shelf(Links):
    """Links whose machines the test makes."""

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(*[nothing] * 12)

    async def _machine(self, record: Any) -> Any:
        return self._machines.setdefault(record.channel, record)


def machine(number: int, *, quiet: bool = True, unwritten: bool = False) -> Any:
    return SimpleNamespace(channel=f"0:{number:02}", quiet=quiet, unwritten=[object()] if unwritten else [])


async def use(shelf: Shelf, one: Any) -> None:
    async with shelf._machine_of(one) as same:
        assert same is one
        assert shelf._machines[one.channel] is one


async def test_a_channel_that_is_settled_is_forgotten_with_its_link() -> None:
    shelf = Shelf()
    await use(shelf, machine(1))
    assert not shelf._machines
    assert not shelf._paying


@pytest.mark.parametrize("why", [{"quiet": False}, {"unwritten": True}], ids=["a lost job", "an unwritten voucher"])
async def test_what_the_ledger_does_not_know_is_there_for_the_next_link(why: dict[str, bool]) -> None:
    shelf = Shelf()
    one = machine(1, **why)
    await use(shelf, one)
    assert shelf._machines == {one.channel: one}
    await use(shelf, one)


async def test_a_channel_stays_while_a_second_link_pays_through_it() -> None:
    shelf = Shelf()
    one = machine(1)
    async with shelf._machine_of(one):
        await use(shelf, one)
        assert shelf._machines == {one.channel: one}
    assert not shelf._machines


async def test_of_many_unsettled_channels_the_oldest_goes_unless_it_is_in_use_or_not_on_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNSETTLED", 2)
    shelf = Shelf()
    in_use, unwritten = machine(0, quiet=False), machine(1, unwritten=True)
    async with shelf._machine_of(in_use):
        await use(shelf, unwritten)
        for number in range(2, 7):
            await use(shelf, machine(number, quiet=False))
        assert list(shelf._machines) == ["0:00", "0:01", "0:05", "0:06"]


async def test_locks_are_exclusive_by_key_and_leave_nothing_behind(autojump_clock: MockClock) -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    done: list[tuple[str, float]] = []

    async def work(key: str) -> None:
        async with locks.hold(key):
            await trio.sleep(1)
            done.append((key, trio.current_time()))

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for key in ("one", "other", "one"):
            nursery.start_soon(work, key)
        await trio.sleep(0.1)
        with trio.move_on_after(0.5):
            await work("one")  # gives up waiting
        assert len(locks) == 2
    assert sorted((key, at - began_s) for key, at in done) == [("one", 1), ("one", 2), ("other", 1)]
    assert len(locks) == 0
