"""A bounded queue for news: when its reader is slow, the oldest item goes, and the writer never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

T = TypeVar("T")


class NewsQueue(AsyncIterator[T], Generic[T]):
    """One reader, any number of writers in the same thread."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque(maxlen=capacity)
        self._reader: Task | None = None
        self._closed = False
        self.dropped = 0
        """How many items the reader missed."""

    def put(self, item: T) -> None:
        """Add an item; the oldest one goes when the queue is full."""
        if len(self._items) == self._items.maxlen:
            self.dropped += 1
        self._items.append(item)
        self._wake()

    def close(self) -> None:
        """The reader gets what is queued and then the end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._items:  # else waiting is the checkpoint
            await trio.lowlevel.checkpoint()
        while not self._items:
            if self._closed:
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return self._items.popleft()
