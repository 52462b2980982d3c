"""The names that a scenario may use, and where they come from: the world registers what it can do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


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
        from simulations.world import attackers, demand, faults, hardware, measures  # it imports scenarios

        return cls(
            hardware=hardware.HARDWARE,
            models={name: tuple(map(str, model.tasks)) for name, model in hardware.MODELS.items()},
            fit=_misfit,
            client_tasks=demand.TASKS,
            provider_behaviours=attackers.PROVIDERS,
            client_behaviours=attackers.CLIENTS,
            attacks=attackers.ATTACKS,
            faults=faults.FAULTS,
            measures=measures.MEASURES,
        )


def _misfit(machine: str, model: str, slots: int | None) -> str | None:
    from simulations.world import hardware

    try:
        hardware.offering(machine, model, slots)
    except hardware.Unfit as error:
        return str(error)
    return None
