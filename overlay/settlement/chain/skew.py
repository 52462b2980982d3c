"""How far this machine's clock is from the chain's, and whether the chain goes on. Pure: clocks are arguments.

Deadlines on chain go by the chain's time; this machine's clock only tells whether a state is fresh. Three clocks tell
apart what can be wrong: the wall clock, a monotonic one, and the time in the newest block. When the block's time
advances as the monotonic clock does and the wall clock does not agree, the wall clock has been set wrong; when it
stands still, the servers are behind.
"""

from __future__ import annotations

from collections import deque

from overlay.settlement.chain.limits import MAX_CLOCK_SKEW_S, WARN_CLOCK_SKEW_S

_LAGS_KEPT = 8
"""Blocks whose age tells the skew: the freshest of them counts, as any one may be old by chance."""


class ChainClock:
    """Takes note of each proved state. ``wall_s`` and ``utime_s`` are Unix seconds, ``elapsed_s`` is monotonic."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=_LAGS_KEPT)
        self._anchor: tuple[float, int] | None = None
        self._warned = False

    @property
    def skew_s(self) -> float:
        """How far the wall clock is ahead of the chain's (negative: behind), the way of a block to us included."""
        return min(self._lags, key=abs, default=0.0)

    def oldest_fresh(self, wall_s: float, elapsed_s: float) -> float:
        """States before this time are stale: by the chain's own progress once it is known, else by the wall clock."""
        if self._anchor is None:
            return wall_s - MAX_CLOCK_SKEW_S
        return self._anchor[1] + (elapsed_s - self._anchor[0]) - MAX_CLOCK_SKEW_S

    def is_plausible(self, wall_s: float, elapsed_s: float, utime_s: int) -> bool:
        """Whether a state of this time may be the newest: fresh by the wall clock, or by the chain's own progress."""
        if abs(wall_s - utime_s) <= MAX_CLOCK_SKEW_S:
            return True
        return self._anchor is not None and utime_s >= self.oldest_fresh(wall_s, elapsed_s)

    def note(self, wall_s: float, elapsed_s: float, utime_s: int) -> None:
        """Take in a state that was accepted."""
        self._lags.append(wall_s - utime_s)
        self._anchor = elapsed_s, utime_s

    def warning(self) -> str | None:
        """A line about a clock that is noticeably off, once; again after it has been right."""
        certain = len(self._lags) == _LAGS_KEPT or abs(self.skew_s) > MAX_CLOCK_SKEW_S
        off = certain and abs(self.skew_s) > WARN_CLOCK_SKEW_S
        if off == self._warned:
            return None
        self._warned = off
        return f"this machine's clock is {skew_text(self.skew_s)} of TON's: set it, for example by NTP" if off else None


def skew_text(skew_s: float) -> str:
    """``600 s ahead``, ``42 s behind``."""
    return f"{abs(round(skew_s))} s {'ahead' if skew_s > 0 else 'behind'}"
