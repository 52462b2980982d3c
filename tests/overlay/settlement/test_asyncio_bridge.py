"""Calls from trio into the asyncio thread: results, errors, cancellation, closing."""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from overlay.settlement.asyncio_bridge import AsyncThread, BridgeClosed


async def test_a_call_runs_in_another_thread_and_returns_its_result() -> None:
    async def work(a: int, b: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return a + b, threading.get_ident()

    async with AsyncThread() as bridge:
        total, thread = await bridge.call(work, 2, 3)
    assert total == 5
    assert thread != threading.get_ident()


async def test_an_error_comes_back_as_itself() -> None:
    async def fail() -> None:
        raise KeyError("lost")

    async with AsyncThread() as bridge:
        with pytest.raises(KeyError, match="lost"):
            await bridge.call(fail)


async def test_cancelling_the_caller_cancels_the_asyncio_task_and_waits_for_it() -> None:
    events: list[str] = []
    started = threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            events.append("cleaned up")
            raise

    async with AsyncThread() as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(bridge.call, endless)
        await trio.to_thread.run_sync(started.wait)
        nursery.cancel_scope.cancel()
    assert events == ["cleaned up"]


async def test_a_result_that_comes_despite_cancellation_is_not_lost() -> None:
    started = threading.Event()

    async def stubborn() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    results: list[str] = []

    async def caller() -> None:
        results.append(await bridge.call(stubborn))

    async with AsyncThread() as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.to_thread.run_sync(started.wait)
        nursery.cancel_scope.cancel()
    assert results == ["done all the same"]


async def test_calls_run_side_by_side() -> None:
    async with AsyncThread() as bridge:

        async def make() -> asyncio.Barrier:
            return asyncio.Barrier(3)

        barrier = await bridge.call(make)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bridge.call, barrier.wait)
        assert barrier.n_waiting == 0


async def test_a_closed_bridge_refuses_calls() -> None:
    async def nothing() -> None:
        return None

    async with AsyncThread() as bridge:
        await bridge.call(nothing)
    with pytest.raises(BridgeClosed):
        await bridge.call(nothing)


async def test_closing_the_bridge_ends_a_call_that_still_runs() -> None:
    started = threading.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async def caller(bridge: AsyncThread) -> None:
        with pytest.raises(BridgeClosed):
            await bridge.call(endless)

    async with trio.open_nursery() as nursery, AsyncThread() as bridge:
        nursery.start_soon(caller, bridge)
        await trio.to_thread.run_sync(started.wait)
