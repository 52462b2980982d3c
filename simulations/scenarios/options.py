"""What each behaviour, fault and attack of the world wants to know: a slip in ``options`` is told before anything runs.

What an option does is said where it is used, in :mod:`simulations.world`. Options of a kind that is not listed here are
not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any


class Means(StrEnum):
    """What the value of an option is."""

    NUMBER = "a number"
    SECOND = "a second of the run"
    FLAG = "true or false"
    TEXT = "a text"
    TABLE = "a table"
    PROVIDERS = "the name of a group of providers"
    CLIENTS = "the name of a group of clients"


Options = Mapping[str, Means]

_CHEAT: Options = {"conduct": Means.TEXT, "odds": Means.NUMBER, "numbers": Means.TABLE}
_UNPAID: Options = {"deposit_nanoton": Means.NUMBER, "pays_nanoton": Means.NUMBER}
_CROWD: Options = {"spread": Means.FLAG}

PROVIDERS: Mapping[str, Options] = {
    "honest": {},
    "fake-capacity": _CHEAT,
    "cheating": _CHEAT,
    "stalls": _CHEAT,
    "vanishes": {"jobs": Means.NUMBER, "after_s": Means.NUMBER, "away_s": Means.NUMBER},
    "sybil": {},
    "corner": {"below": Means.NUMBER, "at_s": Means.SECOND, "times": Means.NUMBER},
    "price-war": {"below": Means.NUMBER},
    "bait": {"said": Means.NUMBER},
}
CLIENTS: Mapping[str, Options] = {
    "honest": {},
    "non-paying": _UNPAID,
    "free-rider": _UNPAID,
    "quote-fishing": {"every_s": Means.NUMBER},
    "vanishes": {"away_s": Means.NUMBER},
    "double-spending": _UNPAID,
    "hoarder": {"spares": Means.PROVIDERS},
}
ATTACKS: Mapping[str, Options] = {
    "sybil-dht": {**_CROWD, "ground": Means.NUMBER},
    "eclipse": {**_CROWD, "victims": Means.CLIENTS, "shows": Means.PROVIDERS, "honest": Means.NUMBER},
    "index-flood": {**_CROWD, "records": Means.NUMBER, "per_s": Means.NUMBER},
    "replay": _CROWD,
    "hit-and-run": {**_UNPAID, "times": Means.NUMBER, "each_s": Means.NUMBER},
}
FAULTS: Mapping[str, Options] = {
    "crash": {"restart_s": Means.NUMBER, "silent": Means.FLAG},
    "leave": {},
    "supply-shock": {},
    "shop-empty": {},
    "churn": {"crash_share": Means.NUMBER, "replaced_share": Means.NUMBER, "away_s": Means.NUMBER},
    "crash-mid-stream": {"restart_s": Means.NUMBER, "every_s": Means.NUMBER, "silent": Means.FLAG},
    "partition": {},
    "loss": {"probability": Means.NUMBER},
    "slow": {"factor": Means.NUMBER},
    "freeze": {},
    "clock-skew": {"seconds": Means.NUMBER},
    "chain-outage": {},
    "chain-lies": {},
}


def is_right(means: Means, value: Any) -> bool:
    """Whether the value is of the right type; whether a group is there or a second within the run is for others."""
    if means in (Means.NUMBER, Means.SECOND):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if means is Means.FLAG:
        return isinstance(value, bool)
    return isinstance(value, dict if means is Means.TABLE else str)


def meaning(
    table: Mapping[str, Options], kind: str, options: Mapping[str, Any], *means: Means
) -> Iterator[tuple[str, Any]]:
    """Those of the ``options`` of a ``kind`` that mean one of these."""
    known = table.get(kind, {})
    return ((name, value) for name, value in options.items() if known.get(name) in means)
