"""Who may be connected: a bound on connections that a flood can fill without shutting anybody out.

A connection that has not shown itself to be a client (no handshake yet) takes a place among few; when they are all
taken, the oldest of them goes. So do clients, the one that has been idle longest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from overlay.settlement.devnet.limits import MAX_CONNECTIONS, MAX_HALF_OPEN


class Gate:
    """``async with gate.place() as place``: the block is cancelled when the place is needed for another."""

    def __init__(self, half_open: int = MAX_HALF_OPEN, connections: int = MAX_CONNECTIONS) -> None:
        self._half_open: OrderedDict[Place, trio.CancelScope] = OrderedDict()
        self._clients: OrderedDict[Place, trio.CancelScope] = OrderedDict()
        self._limits = (half_open, connections)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Take a place, and give it up when the block is left, or is told to go."""
        place = Place(self)
        with trio.CancelScope() as scope:
            _make_room(self._half_open, self._limits[0])
            self._half_open[place] = scope
            try:
                yield place
            finally:
                self._half_open.pop(place, None)
                self._clients.pop(place, None)

    def seen(self, place: Place) -> None:
        """A client has shown life: it is none of the half-open any more, and not idle."""
        scope = self._half_open.pop(place, None)
        if scope is not None:
            _make_room(self._clients, self._limits[1])
            self._clients[place] = scope
        elif place in self._clients:
            self._clients.move_to_end(place)

    @property
    def counts(self) -> tuple[int, int]:
        """How many connections are half open, and how many are clients."""
        return len(self._half_open), len(self._clients)


class Place:
    """One connection's."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def seen(self) -> None:
        """Say that the other side has shown itself to be a client, or is still one."""
        self._gate.seen(self)


def _make_room(places: OrderedDict[Place, trio.CancelScope], limit: int) -> None:
    while len(places) >= limit:
        _, scope = places.popitem(last=False)
        scope.cancel()
