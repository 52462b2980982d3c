"""What strangers may take of a service on the host: streams at once, and questions in a while. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from transport.identity import PeerId


class StreamSeats:
    """Streams served at once: so many in all, so many of one peer."""

    def __init__(self, total: int, per_peer: int) -> None:
        self._total = total
        self._per_peer = per_peer
        self._taken: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return self._taken.total()

    @contextmanager
    def taken(self, peer: PeerId) -> Iterator[bool]:
        """A seat for the length of the block; False if there is none."""
        if self._taken.total() >= self._total or self._taken[peer] >= self._per_peer:
            yield False
            return
        self._taken[peer] += 1
        try:
            yield True
        finally:
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer]


class AskRate:
    """At most ``limit`` questions of one peer within any ``window_s`` seconds of the caller's clock."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._times: dict[PeerId, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def may(self, peer: PeerId, now: float) -> bool:
        """Count one more question of ``peer``, if it may be asked."""
        times = self._times.setdefault(peer, deque(maxlen=self._limit))
        if len(times) == self._limit and now - times[0] < self._window_s:
            return False
        times.append(now)
        for other in [p for p, asked in self._times.items() if now - asked[-1] > self._window_s]:
            del self._times[other]
        return True
