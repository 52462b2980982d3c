"""Group commit: many callers, one transaction, one fsync.

Callers hand in operations, functions of the :class:`~overlay.settlement.ledger.store.Store`. One writer takes all that
wait, runs them in order in one transaction on a worker thread, and wakes each caller once the disk has it. Alone, an
operation costs one thread hop and one commit; under load hundreds share them, and the load makes the groups larger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from overlay.settlement.ledger.errors import LedgerBusy, LedgerError, LedgerUnavailable
from overlay.settlement.ledger.limits import LAZY_WRITE_S, MAX_OPERATIONS_PER_COMMIT, MAX_PENDING_OPERATIONS
from overlay.settlement.ledger.store import Store, _nothing

T = TypeVar("T")
Operation = Callable[[Store], T]


class _Entry:
    """One operation and, when somebody waits for it, who: a task parks here itself, which costs a third of an event."""

    __slots__ = ("error", "operation", "task", "urgent", "value")

    def __init__(self, operation: Operation[Any], *, urgent: bool) -> None:
        self.operation = operation
        self.urgent = urgent
        self.task: trio.lowlevel.Task | None = None
        self.value: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """The ledger as trio tasks use it; made by :func:`open_ledger`.

    Operations run in the order in which they were handed in. An operation must be repeatable on the state it started
    from: when a neighbour in its group fails, the group is rolled back and run again without it.
    """

    def __init__(self, store: Store, *, inline: bool = False) -> None:
        self._store = store
        self._inline = inline
        self._queue: deque[_Entry] = deque()
        self._urgent = trio.Event()
        self._some = trio.Event()
        self._closing = False
        self._limiter = trio.CapacityLimiter(1)
        self.commits = 0
        """Transactions so far."""
        self.operations = 0
        """Operations so far."""
        self.lazy_errors: deque[Exception] = deque(maxlen=16)
        """What went wrong with writes that nobody waited for, newest last: a fault of the program or of the disk."""

    async def run(self, operation: Operation[T]) -> T:
        """Run ``operation`` and return its result once the transaction that holds it is on the disk.

        Raises what it raised (its own writes are then undone, those of others are not), :class:`LedgerBusy` when too
        many wait, :class:`LedgerUnavailable` when the disk refuses. On cancellation it may or may not have happened:
        who goes on with the channel must read it again.
        """
        entry = _Entry(operation, urgent=True)
        self._put(entry)
        if self._inline:
            # No thread to wait for: the caller commits what waits, its own operation last, and spares two switches.
            while self._queue:
                self._commit_here(self._pop_group())
            await trio.lowlevel.checkpoint()
            if entry.error is not None:
                raise entry.error
            return entry.value  # type: ignore[no-any-return]  # as below
        self._urgent.set()
        self._some.set()
        entry.task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if entry.error is not None:
            raise entry.error
        return entry.value  # type: ignore[no-any-return]  # the entry holds what the operation of type T returned

    def post(self, operation: Operation[object]) -> None:
        """Have ``operation`` written with the next group, at the latest after :data:`LAZY_WRITE_S`; nobody waits.

        For what the other party's signature or a restart restores. Raises :class:`LedgerBusy` when too many wait.
        """
        self._put(_Entry(operation, urgent=False))
        self._some.set()

    async def flush(self) -> None:
        """Return once everything handed in so far is on the disk."""
        await self.run(lambda _store: None)

    def _close(self) -> None:
        """Take nothing more; the writer ends when what it has is written."""
        self._closing = True
        self._urgent.set()
        self._some.set()

    def _put(self, entry: _Entry) -> None:
        if self._closing:
            raise LedgerUnavailable("the ledger is closed")
        if len(self._queue) >= MAX_PENDING_OPERATIONS:
            raise LedgerBusy(f"{len(self._queue)} writes wait for the disk: it is too slow or full")
        self._queue.append(entry)

    async def _write_forever(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                await self._some.wait()
            if not self._urgent.is_set() and not self._closing:
                with trio.move_on_after(LAZY_WRITE_S):
                    await self._urgent.wait()
            group = self._pop_group()
            if not any(entry.urgent for entry in self._queue):
                self._urgent = trio.Event()
            if not self._queue:
                self._some = trio.Event()
            if group and self._inline:
                self._commit_here(group)
            elif group:
                await self._commit(group)

    def _pop_group(self) -> list[_Entry]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_OPERATIONS_PER_COMMIT))]

    async def _commit(self, group: list[_Entry]) -> None:
        # Not cancellable half-way: a thread that goes on after us would race the next group for the connection.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_run_group, self._store, group, limiter=self._limiter)
        self._committed(group)

    def _commit_here(self, group: list[_Entry]) -> None:
        _run_group(self._store, group)
        self._committed(group)

    def _committed(self, group: list[_Entry]) -> None:
        self.commits += 1
        self.operations += len(group)
        for entry in group:
            if entry.task is not None:
                trio.lowlevel.reschedule(entry.task)
            elif entry.error is not None and not entry.urgent:
                self.lazy_errors.append(entry.error)


def _run_group(store: Store, group: list[_Entry]) -> None:
    """In the worker thread: one transaction for all; with a savepoint each only when that failed."""
    try:
        with store.transaction():
            for entry in group:
                entry.value = entry.operation(store)
        return
    except Exception as error:
        if len(group) == 1:
            group[0].error = error if isinstance(error, LedgerError) else _wrapped(error)
            return
    try:
        with store.transaction():
            for entry in group:
                try:
                    with store.savepoint():
                        entry.value = entry.operation(store)
                except Exception as error:
                    entry.error = error if isinstance(error, LedgerError) else _wrapped(error)
    except Exception as error:
        for entry in group:
            entry.error = entry.error or (error if isinstance(error, LedgerError) else _wrapped(error))


def _wrapped(error: Exception) -> LedgerError:
    wrapped = LedgerUnavailable(f"the ledger failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


@asynccontextmanager
async def open_ledger(
    path: str | Path | Store, *, fault: Callable[[str], None] = _nothing, inline: bool = False
) -> AsyncIterator[GroupCommit]:
    """Open the ledger file ``path``, release the reservations that a crash left, and write until the block is left.

    On leaving, also by cancellation, everything handed in is committed first. Raises :class:`LedgerUnavailable`.
    With ``inline`` commits run in the event loop and not on a worker thread: a seeded run in virtual time is then the
    same each time, and a node would stand still while its disk works. A :class:`Store` in place of a path is used as
    it is, and left open.
    """
    if isinstance(path, Store):
        store = path
    elif inline:
        store = Store(path, fault=fault)
    else:
        store = await trio.to_thread.run_sync(lambda: Store(path, fault=fault))
    ledger = GroupCommit(store, inline=inline)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            finished = trio.Event()

            async def write() -> None:
                # Shielded: the last writes of tasks that are being cancelled still reach the disk.
                with trio.CancelScope(shield=True):
                    try:
                        await ledger._write_forever()
                    finally:
                        finished.set()

            nursery.start_soon(write)
            try:
                await ledger.run(Store.release_all)
                yield ledger
            except BaseException as error:
                failure = error
                raise
            finally:
                ledger._close()
                with trio.CancelScope(shield=True):
                    await finished.wait()
    except BaseExceptionGroup as group:
        # The nursery is ours, not the user's: his exception comes out as it went in.
        if failure is not None and group.exceptions == (failure,):
            raise failure from None
        raise
    finally:
        if store is not path:
            store.close()
