"""What one peer may ask of us, pure: a token bucket for each, and how long it has to wait when its bucket is empty."""

from __future__ import annotations

from collections import OrderedDict

from dht.kad.limits import MAX_BUDGETS


class PeerBudget:
    """``burst`` requests at once and ``per_s`` a second for each peer. Whoever was idle longest is forgotten."""

    def __init__(self, burst: float, per_s: float, max_peers: int = MAX_BUDGETS) -> None:
        self._burst = burst
        self._per_s = per_s
        self._max_peers = max_peers
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def charge(self, peer: str, now: float, cost: float = 1.0) -> float:
        """Charge ``peer`` at ``now`` (seconds of any one clock); how many seconds it has to wait for it, 0 if none."""
        level, since = self._levels.pop(peer, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_s) - cost
        self._levels[peer] = (level, now)
        if len(self._levels) > self._max_peers:
            self._levels.popitem(last=False)
        return max(0.0, -level / self._per_s)
