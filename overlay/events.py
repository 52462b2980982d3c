"""What a node tells whoever watches it: one event, one line.

Events are for people (`text`), for programs (`kind` and `data`, printed as JSON lines) and for tests. The data holds
plain JSON values only and never a prompt, an answer or a key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.usage import Unit


@dataclass(frozen=True)
class NodeEvent:
    """Something worth a line. ``at_s`` is unix time; ``level`` is ``info``, ``warning`` or ``error``."""

    at_s: float
    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"

    def to_json(self) -> str:
        """One JSON object without line breaks."""
        return json.dumps(
            {"at": round(self.at_s, 3), "event": self.kind, "level": self.level, "text": self.text, **self.data}
        )


Observer = Callable[[NodeEvent], None]
"""Told of every event, synchronously; must not block or raise."""


class EventLog:
    """Stamps events with the time and hands them to an observer. ``clock`` returns unix seconds."""

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock

    def info(self, kind: str, text: str, **data: Any) -> None:
        """Tell of something that went as it should."""
        self._observer(NodeEvent(self._clock(), kind, text, data))

    def warning(self, kind: str, text: str, **data: Any) -> None:
        """Tell of something that went wrong and that the node lives with."""
        self._observer(NodeEvent(self._clock(), kind, text, data, "warning"))


def ton(nanoton: int) -> str:
    """An amount for people: ``0.0425 TON``, exact to the nanoTON, trailing zeros left out."""
    sign, amount = ("-" if nanoton < 0 else ""), abs(nanoton)
    whole, fraction = divmod(amount, 1_000_000_000)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}{whole}.{digits or '0'} TON"


_UNIT_ORDER = {unit.value: position for position, unit in enumerate(Unit)}


def prices_text(per_million: Mapping[str, int]) -> str:
    """A price vector for people, in TON per million units: ``prompt 0.02 · completion 0.06 TON/M``."""
    order = sorted(per_million.items(), key=lambda item: _UNIT_ORDER.get(item[0], len(_UNIT_ORDER)))
    shown = [f"{name} {_decimal(price)}" for name, price in order if price]
    return " · ".join(shown) + " TON/M" if shown else "free"


def _decimal(nanoton: int) -> str:
    whole, fraction = divmod(nanoton, 1_000_000_000)
    return f"{whole}.{f'{fraction:09d}'.rstrip('0') or '0'}"
