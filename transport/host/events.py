"""The host's news, for any number of followers, each with a queue of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from transport.host.interface import HostEvent
from transport.host.limits import EVENT_QUEUE
from transport.host.queues import NewsQueue


class EventFeed:
    """Tells all followers; none of them can make it wait."""

    def __init__(self) -> None:
        self._followers: set[NewsQueue[HostEvent]] = set()

    def tell(self, event: HostEvent) -> None:
        """Give ``event`` to every follower; a slow one loses its oldest."""
        for queue in self._followers:
            queue.put(event)

    @asynccontextmanager
    async def follow(self, first: Iterable[HostEvent]) -> AsyncIterator[AsyncIterator[HostEvent]]:
        """The events from now on, after those that say how things stand."""
        queue: NewsQueue[HostEvent] = NewsQueue(EVENT_QUEUE)
        for event in first:
            queue.put(event)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)
