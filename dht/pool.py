"""Who goes when there is no room: a bounded set of providers in which newcomers displace newcomers first. Pure.

Three standings. A *newcomer* has just been heard of; a *settled* provider has renewed its record for a while; one that
was *dealt with* has worked for this node. Newcomers have half of the room at most once others want the rest, settled
ones what is left, and those dealt with are not displaced by anybody else. Within a standing the oldest record goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush

from dht.limits import NEWCOMERS_SHARE
from transport.identity import PeerId


class Standing(IntEnum):
    """What is known of a provider, beside its own words."""

    NEWCOMER = 0
    SETTLED = 1
    DEALT_WITH = 2


class Pool:
    """At most ``limit`` providers. Each operation takes O(log n): whoever floods must not cost more than that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newcomers = int(limit * NEWCOMERS_SHARE)
        self._members: dict[PeerId, tuple[Standing, int]] = {}
        self._queues: dict[Standing, list[tuple[int, PeerId]]] = {standing: [] for standing in Standing}
        self._counts = dict.fromkeys(Standing, 0)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._members

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._members)

    def put(self, peer: PeerId, standing: Standing, issued_at: int) -> None:
        """Add a provider, or note its new standing and the age of its record (Unix seconds)."""
        self.drop(peer)
        self._members[peer] = (standing, issued_at)
        self._counts[standing] += 1
        queue = self._queues[standing]
        heappush(queue, (issued_at, peer))
        if len(queue) > 2 * self._counts[standing] + 16:  # mostly of those who are gone or renewed
            queue[:] = [(at, who) for who, (rank, at) in self._members.items() if rank is standing]
            heapify(queue)

    def drop(self, peer: PeerId) -> None:
        """Remove a provider, if it is there."""
        if (held := self._members.pop(peer, None)) is not None:
            self._counts[held[0]] -= 1

    def surplus(self) -> PeerId | None:
        """Who has to go, or None while there is room. It stays until it is dropped."""
        if len(self._members) <= self._limit:
            return None
        settled = self._counts[Standing.SETTLED] + self._counts[Standing.DEALT_WITH]
        crowded = self._counts[Standing.NEWCOMER] > self._newcomers or settled <= self._limit - self._newcomers
        order = (Standing.NEWCOMER, Standing.SETTLED) if crowded else (Standing.SETTLED, Standing.NEWCOMER)
        for standing in (*order, Standing.DEALT_WITH):
            queue = self._queues[standing]
            while queue:
                issued_at, peer = queue[0]
                if self._members.get(peer) == (standing, issued_at):
                    return peer
                heappop(queue)
        raise AssertionError("a member is in the queue of its standing")
