"""How a provider finds its price: a damped integral controller on utilisation and queue, one per (task, model, tier).

Once a second, with b = busy/slots + wait/10 s, B what b is in the market as far as it is told, and s from 0 to 1 how
far B has left what is usual (:mod:`overlay.market.heard`; docs/protocols/market.md derives and measures it):

    ln λ += (0.007 + 0.015·s) · clip((b − 1.1 + 2.75·(b − EWMA_8s(b))) / 0.5, −1, 1)       λ in [0.7·cost, cap]
    ask   = clip(λ · exp(0.3·(b − B) + 0.05·(B − 1.1) + 0.55·far(B − 1.1)), cost, cap)     b when the quote is asked for

where far(x) is what of x lies beyond ±0.2.
So the price moves where one's own load says, slowly while the market is quiet and quickly while it fills or empties;
and a quote weighs one's own queue against the others', while the queue that all have weighs little until it is long.

λ multiplies a base price vector, so one number steers all units. Floats steer; what leaves is integer nanoTON, never
below the cost and never above the cap. Dropping the damping gains a provider some 4 % and makes the market swing: the
damped form is what ships.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from compute.usage import Prices
from overlay.market.heard import MarketLoad

QUEUE_SCALE_S = 10.0
"""A queue of this many seconds counts like a whole set of busy slots."""


@dataclass(frozen=True)
class Tuning:
    """How a controller reacts. The defaults are what ships; others serve to measure what they would gain."""

    target: float = 1.1
    """The load that leaves λ where it is: all slots busy and a second of queue."""
    calm_gain: float = 0.007
    """The most that ln λ moves in a second in a quiet market: what moves there is chance."""
    stirred_gain: float = 0.022
    """The same while the market fills or empties."""
    damping_gain: float = 2.75
    error_scale: float = 0.5
    ewma_s: float = 8.0
    own_gain: float = 0.3
    """Of the load that one has beyond the others', at once: it spreads jobs over providers."""
    common_gain: float = 0.05
    far_from: float = 0.2
    far_gain: float = 0.55
    """Of the load that all have: little of what is within ``far_from`` of the target, more of what is beyond."""


SHIPPED = Tuning()

MAX_STEP_S = 5.0
"""A machine that slept for an hour does not take an hour's worth of steps at once."""

_PPM = 1_000_000


@dataclass(frozen=True)
class Load:
    """How busy a provider is: ``busy`` of ``slots`` jobs running, and how long a new one would wait (seconds)."""

    busy: int
    slots: int
    wait_s: float

    @property
    def pressure(self) -> float:
        """The controller's b: 1 when all slots are busy and nobody waits."""
        return pressure(self.busy, self.slots, self.wait_s)


def pressure(busy: int, slots: int, wait_s: float) -> float:
    """:attr:`Load.pressure` of these."""
    return busy / max(1, slots) + wait_s / QUEUE_SCALE_S


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass
class PriceController:
    """The state of one price. ``base`` is the price vector at λ = 1; ``cost`` and ``cap`` bound the ask as multiples of
    it (by default the base is the cost, and the cap a dozen times that)."""

    base: Prices
    cost: float = 1.0
    cap: float = 12.0
    level: float = 0.0
    """λ; it starts at the cost when not given."""
    tuning: Tuning = SHIPPED
    _average: float = field(default=0.0, init=False)
    _market: MarketLoad | None = field(default=None, init=False)
    _last_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.cost <= self.cap or not math.isfinite(self.cap):
            raise ValueError("the cost must be above zero and at most the cap")
        self.level = _clip(self.level or self.cost, 0.7 * self.cost, self.cap)

    @property
    def floor(self) -> Prices:
        """The cost as prices: what is never undercut."""
        return self._scaled(self.cost)

    @property
    def ceiling(self) -> Prices:
        """The cap as prices."""
        return self._scaled(self.cap)

    def update(self, load: Load, now_s: float, told: Sequence[float] = ()) -> None:
        """Take a step for the time since the last one (``now_s`` by any monotonic clock). Call it about once a second,
        at a phase of one's own, so that providers do not move in step. ``told`` are the pressures that some providers
        of the same, picked at random, told last; without any, one's own is taken for the market's."""
        pressure = load.pressure
        if self._last_s is None or self._market is None:
            self._last_s, self._average = now_s, pressure
            self._market = MarketLoad.beginning(told, pressure)
            return
        step_s = _clip(now_s - self._last_s, 0.0, MAX_STEP_S)
        self._last_s = now_s
        tuning = self.tuning
        self._market.hear(told, pressure, step_s)
        self._average += (1 - math.exp(-step_s / tuning.ewma_s)) * (pressure - self._average)
        error = pressure - tuning.target + tuning.damping_gain * (pressure - self._average)
        gain = tuning.calm_gain + (tuning.stirred_gain - tuning.calm_gain) * self._market.stir(tuning.target)
        self.level *= math.exp(step_s * gain * _clip(error / tuning.error_scale, -1.0, 1.0))
        self.level = _clip(self.level, 0.7 * self.cost, self.cap)

    def ask(self, load: Load) -> Prices:
        """The prices to quote under ``load``: integers between cost and cap."""
        tuning, pressure = self.tuning, load.pressure
        common = self._market.now if self._market is not None else pressure
        over = common - tuning.target
        far = over - _clip(over, -tuning.far_from, tuning.far_from)
        surcharge = tuning.own_gain * (pressure - common) + tuning.common_gain * over + tuning.far_gain * far
        return self._scaled(_clip(self.level * math.exp(_clip(surcharge, -20.0, 20.0)), self.cost, self.cap))

    def _scaled(self, multiple: float) -> Prices:
        # Rounding is monotone, so an ask between cost and cap stays between them as integers.
        return self.base.scaled(round(multiple * _PPM), _PPM)
