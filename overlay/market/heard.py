"""How full the whole market is, as a provider hears it: pure, and no more than a hint.

One provider's load says little about the market: of four slots, three or all may be busy by chance. Sixteen others,
picked at random each second and averaged over a few, say whether it is the market that has filled up or emptied. That
decides how fast a price moves and how much of a queue is one's own; the direction of the price stays with one's own
load (:mod:`overlay.market.controller`), since what is told by others may be invented.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from overlay.market.limits import MAX_TOLD_PRESSURE

FAST_S = 1.5
"""What is heard is averaged over this long: some 40 answers, whose mean is within a tenth of the market's."""

USUAL_S = 40.0
"""… and what is usual over this long: a queue that has stood for a minute is no news."""

STIR_FROM, STIR_OVER = 0.15, 0.15
"""A market stirs when its load has left the usual one by more than the first; wholly, by the second more. Its own
randomness moves a market of 60 by 0.07 (a standard deviation), doubled demand by 0.7 within 20 s."""

SLACK = 0.1
"""A market that stands further under the target than this counts like one that has moved so far: where half of it
idles, prices are to come down, and there is no noise of queues that they would follow."""


@dataclass
class MarketLoad:
    """The load heard of: ``now`` and ``usual``, counted as :attr:`~overlay.market.controller.Load.pressure` does."""

    now: float
    usual: float

    @classmethod
    def beginning(cls, told: Sequence[float], own: float) -> MarketLoad:
        """Where it begins: what was told first is what is usual."""
        mean = _mean(told, own)
        return cls(mean, mean)

    def hear(self, told: Sequence[float], own: float, step_s: float) -> None:
        """Take in what some providers, picked at random, told of their pressure; ``own`` counts when nobody did.
        ``step_s`` is the time since the last call. What is impossible is taken for the nearest possible."""
        self.now += (1 - math.exp(-step_s / FAST_S)) * (_mean(told, own) - self.now)
        self.usual += (1 - math.exp(-step_s / USUAL_S)) * (self.now - self.usual)

    def stir(self, target: float) -> float:
        """From 0, when the market is as it usually is, to 1, when it is filling or emptying, or stands far under
        ``target``."""
        moved = max(abs(self.now - self.usual), target - self.now - SLACK)
        return min(max((moved - STIR_FROM) / STIR_OVER, 0.0), 1.0)


def _mean(told: Sequence[float], own: float) -> float:
    heard = [min(max(pressure, 0.0), MAX_TOLD_PRESSURE) for pressure in told or (own,)]
    return math.fsum(heard) / len(heard)
