"""How an engine behaves towards its clients: honestly, or in one of the ways in which providers cheat.

What its provider says and signs is production code's; these are lies that an engine can tell beneath it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


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
