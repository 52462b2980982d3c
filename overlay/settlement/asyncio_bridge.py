"""One asyncio loop in one thread, called from trio: for libraries that know asyncio only.

trio-asyncio would patch asyncio's loop policy for the whole process; a thread of our own touches nobody. A call costs
two thread hops (about 0.1 ms), which is nothing beside a liteserver's answer; it has no place on the hot path.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

import outcome
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class BridgeClosed(RuntimeError):
    """A call to a bridge that is not open, or was closed while the call ran."""


class AsyncThread:
    """``async with AsyncThread() as bridge: await bridge.call(coroutine_function, *args)``."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="asyncio-bridge", daemon=True)

    def _main(self) -> None:
        async def run() -> None:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stop.wait()

        asyncio.run(run())  # on the way out it cancels every task that still runs

    async def __aenter__(self) -> Self:
        self._thread.start()
        await trio.to_thread.run_sync(self._ready.wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, stop = self._loop, self._stop
        self._loop = None
        assert loop is not None
        assert stop is not None
        loop.call_soon_threadsafe(stop.set)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    async def call(self, function: Callable[[*Ts], Coroutine[Any, Any, T] | Awaitable[T]], *args: *Ts) -> T:
        """Run ``await function(*args)`` in the asyncio thread and return or raise what it does.

        On cancellation the asyncio task is cancelled and waited for, so that nothing of the call is left running.
        Raises :class:`BridgeClosed` when the bridge is closed before the call is done.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        loop = self._loop
        if loop is None:
            raise BridgeClosed("the asyncio thread is not running")
        token, caller = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
        running: asyncio.Task[T] | None = None
        raise_cancel: Callable[[], Any] | None = None

        def finish(task: asyncio.Task[T]) -> None:
            result: outcome.Outcome[object]
            if not task.cancelled():
                error = task.exception()
                result = outcome.Value(task.result()) if error is None else outcome.Error(error)
            elif raise_cancel is not None:
                result = outcome.capture(raise_cancel)
            else:
                result = outcome.Error(BridgeClosed("the asyncio thread was stopped during the call"))
            trio.lowlevel.reschedule(caller, result)

        def done(task: asyncio.Task[T]) -> None:
            try:
                token.run_sync_soon(finish, task)
            except trio.RunFinishedError:  # nobody is left to tell
                return

        def start() -> None:
            nonlocal running

            async def body() -> T:
                return await function(*args)

            running = asyncio.get_running_loop().create_task(body())
            running.add_done_callback(done)

        def cancel() -> None:
            if running is not None:
                running.cancel()

        def abort(raiser: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raiser
            loop.call_soon_threadsafe(cancel)  # runs after start(): the loop keeps the order
            return trio.lowlevel.Abort.FAILED

        loop.call_soon_threadsafe(start)
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result
