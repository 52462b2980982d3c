"""The names that a scenario may use, and where they come from: the world registers what it can do."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass

HONEST = "honest"


@dataclass(frozen=True)
class Registries:
    """Known names by kind. ``None`` leaves names of that kind unchecked."""

    hardware: Collection[str] | None = None
    behaviours: Collection[str] | None = None
    """Of providers and clients, besides ``honest``."""
    attacks: Collection[str] | None = None
    """Of ``[[attackers]]``."""
    faults: Collection[str] | None = None
    measures: Collection[str] | None = None

    @classmethod
    def of_the_world(cls) -> Registries:
        """What :mod:`simulations.world` offers. Imports it, which takes some tenths of a second."""
        return cls(
            hardware=_names("hardware", "HARDWARE"),
            behaviours=_names("attackers", "BEHAVIOURS"),
            attacks=_names("attackers", "ATTACKS"),
            faults=_names("faults", "FAULTS"),
            measures=_names("measures", "MEASURES"),
        )


def _names(module: str, attribute: str) -> Collection[str] | None:
    try:
        return tuple(getattr(importlib.import_module(f"simulations.world.{module}"), attribute))
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("simulations.world"):
            raise
        return None
