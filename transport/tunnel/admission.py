"""Who may be half-open at a listener: bounded in all and per address, the oldest makes room for the newest.

A real peer completes its handshake in milliseconds, an idle connection never does: evicting the oldest keeps the door
open however many idle ones there are, and an address can only push out its own as long as the table has room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from transport.tunnel.limits import MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS

Evict = Callable[[], None]


class HalfOpen:
    """The connections that have not authenticated yet, by address, oldest first."""

    def __init__(self, limit: int = MAX_HALF_OPEN, per_address: int = MAX_HALF_OPEN_PER_ADDRESS) -> None:
        self._limit = limit
        self._per_address = per_address
        self._next = 0
        self._by_address: dict[str, OrderedDict[int, Evict]] = {}
        self.count = 0
        self.evicted = 0

    def admit(self, address: str, evict: Evict) -> int:
        """Add a connection, evicting another if need be; returns the ticket for :meth:`leave`."""
        own = self._by_address.get(address)
        if own is not None and len(own) >= self._per_address:
            self._evict(address)
        elif self.count >= self._limit:
            self._evict(max(self._by_address, key=lambda key: len(self._by_address[key])))
        self._next += 1
        self._by_address.setdefault(address, OrderedDict())[self._next] = evict
        self.count += 1
        return self._next

    def leave(self, address: str, ticket: int) -> None:
        """The connection has authenticated or gone; nothing happens when it was evicted."""
        own = self._by_address.get(address)
        if own is not None and own.pop(ticket, None) is not None:
            self.count -= 1
            if not own:
                del self._by_address[address]

    def _evict(self, address: str) -> None:
        own = self._by_address[address]
        _, evict = own.popitem(last=False)
        self.count -= 1
        self.evicted += 1
        if not own:
            del self._by_address[address]
        evict()
