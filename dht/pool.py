"""Who goes when there is no room: a bounded set of providers in which newcomers displace newcomers first. Pure.

Three standings. A *newcomer* has just been heard of; a *settled* provider has renewed its record for a while; one that
was *dealt with* has worked for this node. Newcomers have half of the room at most once others want the rest, settled
ones what is left, and those dealt with are not displaced by anybody else. Among newcomers the one goes whose *teller*
told the most, so that one honest neighbour among many that flood is still heard. Then the oldest record goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from dht.limits import NEWCOMERS_SHARE
from transport.identity import PeerId


class Standing(IntEnum):
    """What is known of a provider, beside its own words."""

    NEWCOMER = 0
    SETTLED = 1
    DEALT_WITH = 2


class _Group(NamedTuple):
    """Members that are displaced in the order of age. Only newcomers are told apart by who told of them."""

    standing: Standing
    teller: str


class _Queue:
    """One group. While the pool has been full, its members' ages, the oldest first: entries of members that have left
    it or were renewed are skipped when met."""

    __slots__ = ("count", "group", "heap")

    def __init__(self, group: _Group) -> None:
        self.group = group
        self.count = 0
        self.heap: list[tuple[int, PeerId]] = []


class Pool:
    """At most ``limit`` providers. Each operation takes O(log n), and :meth:`surplus` O(tellers) more: whoever floods
    must not cost more than that. Who goes first is worked out from the first time on that somebody has to: most pools
    never fill, and a node has one for each thing that is sold."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newcomers = int(limit * NEWCOMERS_SHARE)
        self._members: dict[PeerId, tuple[_Queue, int]] = {}
        self._queues: dict[tuple[Standing, str], _Queue] = {}
        self._counts = [0] * len(Standing)
        self._filled = False
        """Whether it has been full, and so the queues are kept."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._members

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._members)

    def standing(self, peer: PeerId) -> Standing:
        """Of a member."""
        return self._members[peer][0].group.standing

    def count(self, standing: Standing) -> int:
        """How many members have it."""
        return self._counts[standing]

    def put(self, peer: PeerId, standing: Standing, issued_at: int, teller: str = "") -> None:
        """Add a provider, or note its new standing and the age of its record (Unix seconds), and who told of it."""
        teller = teller if standing is Standing.NEWCOMER else ""
        held = self._members.get(peer)
        if held is not None and held[0].group.standing is standing and held[0].group.teller == teller:
            queue = held[0]
            if held[1] == issued_at:
                return
        else:
            self.drop(peer)
            self._counts[standing] += 1
            found = self._queues.get((standing, teller))
            if found is None:
                group = _Group(standing, teller)
                found = self._queues[group] = _Queue(group)
            queue = found
            queue.count += 1
        self._members[peer] = (queue, issued_at)
        if not self._filled:
            return
        heappush(queue.heap, (issued_at, peer))
        if len(queue.heap) > 2 * queue.count + 16:  # mostly of those who are gone or renewed
            queue.heap = [entry for entry in set(queue.heap) if self._members.get(entry[1]) == (queue, entry[0])]
            heapify(queue.heap)

    def drop(self, peer: PeerId) -> None:
        """Remove a provider, if it is there."""
        if (held := self._members.pop(peer, None)) is not None:
            queue = held[0]
            self._counts[queue.group.standing] -= 1
            queue.count -= 1
            if not queue.count:
                del self._queues[queue.group]

    def surplus(self) -> PeerId | None:
        """Who has to go, or None while there is room. It stays until it is dropped."""
        if len(self._members) <= self._limit:
            return None
        if not self._filled:
            self._fill_queues()
        settled = self._counts[Standing.SETTLED] + self._counts[Standing.DEALT_WITH]
        crowded = self._counts[Standing.NEWCOMER] > self._newcomers or settled <= self._limit - self._newcomers
        order = (Standing.NEWCOMER, Standing.SETTLED) if crowded else (Standing.SETTLED, Standing.NEWCOMER)
        standing = next(standing for standing in (*order, Standing.DEALT_WITH) if self._counts[standing])
        queues = [queue for queue in self._queues.values() if queue.group.standing is standing]
        fullest = max(queues, key=lambda queue: (queue.count, queue.group.teller))
        heap = fullest.heap
        while self._members.get(heap[0][1]) != (fullest, heap[0][0]):
            heappop(heap)
        return heap[0][1]

    def _fill_queues(self) -> None:
        self._filled = True
        for peer, (queue, issued_at) in self._members.items():
            queue.heap.append((issued_at, peer))
        for queue in self._queues.values():
            heapify(queue.heap)
