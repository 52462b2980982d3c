"""The names that a scenario may use, and where they come from: the world registers what it can do."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Registries:
    """Known names by kind. ``None`` leaves names of that kind unchecked."""

    hardware: Collection[str] | None = None
    models: Mapping[str, Collection[str]] | None = None
    """The tasks of each."""
    fit: Callable[[str, str, int | None], str | None] | None = None
    """Why this hardware cannot run this model with so many slots (``None``: its own number), if it cannot."""
    client_tasks: Collection[str] | None = None
    """What simulated clients know how to ask for."""
    provider_behaviours: Collection[str] | None = None
    client_behaviours: Collection[str] | None = None
    attacks: Collection[str] | None = None
    """Of ``[[attackers]]``."""
    faults: Collection[str] | None = None
    measures: Collection[str] | None = None

    @classmethod
    def of_the_world(cls) -> Registries:
        """What :mod:`simulations.world` offers. Imports it, which takes a second."""
        hardware, attackers = _module("hardware"), _module("attackers")
        models: Mapping[str, Any] = getattr(hardware, "MODELS", {})
        return cls(
            hardware=getattr(hardware, "HARDWARE", None),
            models={name: tuple(map(str, model.tasks)) for name, model in models.items()} or None,
            fit=None if hardware is None else partial(_misfit, hardware),
            client_tasks=getattr(_module("demand"), "TASKS", None),
            provider_behaviours=getattr(attackers, "PROVIDERS", None),
            client_behaviours=getattr(attackers, "CLIENTS", None),
            attacks=getattr(attackers, "ATTACKS", None),
            faults=getattr(_module("faults"), "FAULTS", None),
            measures=getattr(_module("measures"), "MEASURES", None),
        )


def _module(name: str) -> Any:
    """A module of the world, ``None`` where this program has none of that name."""
    try:
        return importlib.import_module(f"simulations.world.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("simulations.world"):
            raise
        return None


def _misfit(hardware: Any, machine: str, model: str, slots: int | None) -> str | None:
    try:
        hardware.offering(machine, model, slots)
    except hardware.Unfit as error:
        return str(error)
    return None
