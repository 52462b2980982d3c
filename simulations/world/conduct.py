"""How an engine behaves towards its clients: honestly, or in one of the ways in which providers cheat.

What its provider says and signs is production code's; these are lies that an engine can tell beneath it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any


class Ending(StrEnum):
    """How a job ends."""

    FINISHES = "finishes"
    STOPS_SHORT = "stops-short"
    """It says that it is done before it is."""
    FAILS = "fails"
    """The engine breaks in the middle."""
    STALLS = "stalls"
    """Nothing comes any more, and no end either."""


def _always() -> float:
    return 0.0


@dataclass(frozen=True)
class Conduct:
    """What an engine claims and does. The defaults are honest.

    ``claimed_slots`` and ``claimed_speed`` multiply what the hardware has. ``overcount`` is the tokens claimed for each
    one made, within the request's limit. ``garbage`` says things that are no answer, ``haste`` times as fast as a model
    would. A share ``odds`` of the jobs (drawn from ``draw``, 0 to 1) ends as ``ending`` after ``ends_after`` of its
    units.
    """

    claimed_slots: float = 1.0
    claimed_speed: float = 1.0
    overcount: float = 1.0
    garbage: bool = False
    haste: float = 1.0
    ending: Ending = Ending.FINISHES
    ends_after: float = 0.5
    odds: float = 1.0
    draw: Callable[[], float] = _always

    def next_ending(self) -> Ending:
        """How the next job ends."""
        if self.ending is Ending.FINISHES or (self.odds < 1.0 and self.draw() >= self.odds):
            return Ending.FINISHES
        return self.ending

    def claimed(self, before: int, made: int, most: int) -> int:
        """Tokens to claim for ``made`` more after ``before``, ``most`` in all: a client would notice more than that."""
        if self.overcount == 1.0:
            return made
        return min(most, int((before + made) * self.overcount)) - min(most, int(before * self.overcount))


HONEST = Conduct()

_TOO_MUCH = 1_000_000
"""No lie is larger than a million times the truth."""

CONDUCTS: Mapping[str, Conduct] = {
    "honest": HONEST,
    "fake-capacity": Conduct(claimed_slots=8.0, claimed_speed=4.0),
    "overcount": Conduct(overcount=2.0),
    "garbage": Conduct(garbage=True, haste=20.0),
    "stops-short": Conduct(ending=Ending.STOPS_SHORT, ends_after=0.3),
    "fails": Conduct(ending=Ending.FAILS),
    "stalls": Conduct(ending=Ending.STALLS),
}
"""By name, for scenarios."""

_OPTIONS = {field.name: type(field.default) for field in fields(Conduct) if field.name != "draw"}


def conduct(name: str, options: Mapping[str, Any], draw: Callable[[], float]) -> Conduct:
    """The conduct of that name with ``options`` in place of its own numbers, as in ``{"odds": 0.2}``. ``draw`` decides,
    job by job, whether ``odds`` strike. Raises ``ValueError``."""
    if name not in CONDUCTS:
        raise ValueError(f"there is no conduct {name!r}; there are {', '.join(CONDUCTS)}")
    changes: dict[str, Any] = {"draw": draw}
    for key, value in options.items():
        kind = _OPTIONS.get(key)
        if kind is None:
            raise ValueError(f"a conduct has no option {key!r}; it has {', '.join(_OPTIONS)}")
        if kind is Ending:
            changes[key] = Ending(value)
        elif kind is bool and type(value) is bool:
            changes[key] = value
        elif kind is float and type(value) in (int, float) and 0 <= value < _TOO_MUCH:
            changes[key] = float(value)
        else:
            raise ValueError(f"{key} is {'true or false' if kind is bool else 'a number from 0 on'}, not {value!r}")
    made = replace(CONDUCTS[name], **changes)
    if not made.haste or not made.claimed_slots:
        raise ValueError("haste and claimed_slots are above zero")
    return made
