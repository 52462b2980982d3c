"""Units, usage and what they cost: integers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

UNITS_PER_PRICE = 1_000_000
"""Prices are integer nanoTON per this many units."""

MAX_COUNT = 1 << 40
"""No single count is larger: a trillion tokens is a mistake or an attack."""


class Unit(StrEnum):
    """What is counted (DESIGN: D5). The value is the name on the wire and in records."""

    PROMPT = "prompt"
    CACHED = "cached"
    COMPLETION = "completion"
    REASONING = "reasoning"
    AUDIO_MS = "audio_ms"
    EMBEDDING = "embedding"

    # Enum's own hash is a Python function; every price and count is looked up by unit.
    __hash__ = str.__hash__


@dataclass(frozen=True)
class Usage:
    """How much of each unit: non-negative integers, absent means zero."""

    counts: Mapping[Unit, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for unit, count in self.counts.items():
            if type(count) is not int or not 0 <= count <= MAX_COUNT:
                raise ValueError(f"{unit}: a count is an integer from 0 to {MAX_COUNT}, not {count!r}")

    def __add__(self, other: Usage) -> Usage:
        if not other.counts:
            return self
        if not self.counts:
            return other
        merged = dict(self.counts)
        for unit, count in other.counts.items():
            merged[unit] = merged.get(unit, 0) + count
        return Usage(merged)

    @classmethod
    def of(cls, unit: Unit, count: int) -> Usage:
        """``count`` of one unit. Small counts are shared objects, since every token's event carries one."""
        if 0 <= count < _SHARED_COUNTS:
            return _shared(unit, count)
        return cls({unit: count})

    def get(self, unit: Unit) -> int:
        """The count of ``unit``, 0 when absent."""
        return self.counts.get(unit, 0)

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def to_wire(self) -> dict[str, int]:
        """A map from unit name to count, zeros left out."""
        return {unit.value: count for unit, count in self.counts.items() if count}

    @classmethod
    def from_wire(cls, value: object) -> Usage:
        """Parse :meth:`to_wire`. Raises ``ValueError`` on unknown units and wrong counts."""
        if type(value) is not dict:
            raise ValueError("usage is a map from unit to count")
        return cls({Unit(unit): count for unit, count in value.items()})


NO_USAGE = Usage()

_SHARED_COUNTS = 64


@cache
def _shared(unit: Unit, count: int) -> Usage:
    return Usage({unit: count}) if count else NO_USAGE


class Meter:
    """Adds usages up in place: what both sides keep for a running job (a frozen :class:`Usage` a token is slower)."""

    def __init__(self) -> None:
        self._counts: dict[Unit, int] = {}

    def add(self, usage: Usage) -> None:
        """Count ``usage`` in. Raises ``ValueError`` when a sum leaves the range of a count."""
        counts = self._counts
        for unit, count in usage.counts.items():
            summed = counts.get(unit, 0) + count
            if summed > MAX_COUNT:
                raise ValueError(f"{unit}: the sum exceeds {MAX_COUNT}")
            counts[unit] = summed

    def usage(self) -> Usage:
        """The sum so far."""
        return Usage(dict(self._counts))


def total(usages: Iterable[Usage]) -> Usage:
    """The sum."""
    result = NO_USAGE
    for usage in usages:
        result += usage
    return result


@dataclass(frozen=True)
class Prices:
    """A price vector: integer nanoTON per million of each unit. A unit that is not listed is free."""

    per_million: Mapping[Unit, int]

    def __post_init__(self) -> None:
        for unit, price in self.per_million.items():
            if type(price) is not int or not 0 <= price < 1 << 62:
                raise ValueError(f"{unit}: a price is a non-negative integer of nanoTON per million, not {price!r}")

    def cost_nanoton(self, usage: Usage) -> int:
        """What ``usage`` costs in nanoTON: exact sum, rounded up once, so that splitting a job never makes it cheaper
        for the client by more than one nanoTON and both sides compute the same integer."""
        micro = 0
        for unit, count in usage.counts.items():
            micro += self.per_million.get(unit, 0) * count
        return -(-micro // UNITS_PER_PRICE)

    def scaled(self, numerator: int, denominator: int) -> Prices:
        """Every price times ``numerator/denominator``, rounded to the nearest integer, half up."""
        return Prices({u: (2 * p * numerator + denominator) // (2 * denominator) for u, p in self.per_million.items()})

    def to_wire(self) -> dict[str, int]:
        """A map from unit name to nanoTON per million."""
        return {unit.value: price for unit, price in self.per_million.items()}

    @classmethod
    def from_wire(cls, value: object) -> Prices:
        """Parse :meth:`to_wire`. Raises ``ValueError`` on unknown units and wrong prices."""
        if type(value) is not dict:
            raise ValueError("prices are a map from unit to nanoTON per million")
        return cls({Unit(unit): price for unit, price in value.items()})
