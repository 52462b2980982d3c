"""A lock for each of any number of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

Key = TypeVar("Key", bound=Hashable)


class KeyedLocks(Generic[Key]):
    """Locks that are there only while somebody holds them or waits for them, so that no table of them grows."""

    def __init__(self) -> None:
        self._locks: dict[Key, trio.Lock] = {}
        self._users: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def held(self, key: Key) -> bool:
        """Whether somebody holds the lock of ``key`` now, or waits for it."""
        return key in self._locks

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncIterator[None]:
        """Hold the lock of ``key`` for the length of the block; first come, first served."""
        lock = self._locks.setdefault(key, trio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
