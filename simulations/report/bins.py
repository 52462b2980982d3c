"""Many values made few without hiding any: bins over time with quantiles or extremes, never every n-th value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A quantity over time. ``at_s`` are the middles of the bins; where a bin is one value, the three are equal. NaN
    where nothing was measured."""

    at_s: Floats
    low: Floats
    middle: Floats
    high: Floats
    values: int
    """How many there were before."""

    @property
    def binned(self) -> bool:
        """Whether a point stands for more than one value."""
        return self.values > len(self.at_s)

    def __iter__(self) -> Iterator[tuple[float, float, float, float]]:
        return zip(self.at_s.tolist(), self.low.tolist(), self.middle.tolist(), self.high.tolist(), strict=True)


def runs(length: int, most: int) -> list[slice]:
    """At most ``most`` runs of equal length (the last may be shorter) that cover ``length`` values in order."""
    stride = max(1, math.ceil(length / most))
    return [slice(start, min(start + stride, length)) for start in range(0, length, stride)]


def band(at_s: Sequence[float], low: Floats, middle: Floats, high: Floats, most: int) -> Band:
    """Consecutive values of a quantity that is itself a band, in at most ``most`` bins: the median of its middles, the
    lowest low and the highest high, so that no spike is lost."""
    at = np.asarray(at_s, dtype=np.float64)
    parts = runs(len(at), most)
    return Band(
        np.array([(at[part][0] + at[part][-1]) / 2 for part in parts]),
        _each(low, parts, np.min),
        _each(middle, parts, np.median),
        _each(high, parts, np.max),
        len(at),
    )


def line(at_s: Sequence[float], values: Floats, most: int) -> Band:
    """The same for a plain quantity: its median, and its extremes as the band."""
    return band(at_s, values, values, values, most)


def _each(values: Floats, parts: Sequence[slice], what: object) -> Floats:
    assert callable(what)
    made = []
    for part in parts:
        known = values[part][~np.isnan(values[part])]
        made.append(float(what(known)) if len(known) else math.nan)
    return np.array(made, dtype=np.float64)


@dataclass(frozen=True)
class Quantiles:
    """Of the values that fell into one bin of time."""

    from_s: float
    to_s: float
    number: int
    p10: float = math.nan
    p50: float = math.nan
    p95: float = math.nan


def over_time(at_s: Sequence[float], values: Sequence[float], end_s: float, most: int) -> list[Quantiles]:
    """Values with their moments in equal bins from 0 to ``end_s``; what lies outside is not counted."""
    if not values or not end_s > 0:
        return []
    at, value = np.asarray(at_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    # Of fewer than twenty values, one in twenty is none; but a short run should show how it went all the same.
    bins = max(1, min(most, max(len(value) // 20, min(6, len(value) // 2))))
    place = np.floor(at / end_s * bins).astype(np.int64)
    place[at == end_s] = bins - 1
    made = []
    for index in range(bins):
        inside = value[place == index]
        from_s, to_s = end_s * index / bins, end_s * (index + 1) / bins
        if len(inside):
            p10, p50, p95 = (float(q) for q in np.quantile(inside, (0.1, 0.5, 0.95)))
            made.append(Quantiles(from_s, to_s, len(inside), p10, p50, p95))
        else:
            made.append(Quantiles(from_s, to_s, 0))
    return made


@dataclass(frozen=True)
class Rate:
    """How fast a counter rose, a second, between two moments."""

    from_s: float
    to_s: float
    per_s: float


def rates(at_s: Sequence[float], counter: Sequence[int], most: int) -> list[Rate]:
    """The slope of a counter between samples, over at most ``most`` spans; the counter is 0 at time 0."""
    times, counts = [0.0, *at_s], [0, *counter]
    edges = [part.start for part in runs(len(times), most)]
    if edges[-1] != len(times) - 1:
        edges.append(len(times) - 1)
    return [
        Rate(times[a], times[b], (counts[b] - counts[a]) / (times[b] - times[a]))
        for a, b in pairwise(edges)
        if times[b] > times[a]
    ]


def quantile(values: Sequence[float], share: float) -> float | None:
    """``None`` of nothing."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share)) if values else None
