"""A scenario made shorter or longer (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from simulations.scenarios import options
from simulations.scenarios.model import ClientGroup, Expectation, ProviderGroup, Scenario
from simulations.scenarios.options import Means


def cut(scenario: Scenario, duration_s: float) -> Scenario:
    """The scenario with another duration. What lies after the end goes: faults, attackers, corners of demand curves,
    expectations. Who would join or do something later does it at the end; a warm-up takes half of the run at most."""
    return replace(
        scenario,
        duration_s=duration_s,
        warmup_s=min(scenario.warmup_s, duration_s / 2),
        sample_s=min(scenario.sample_s, duration_s),
        providers=tuple(_joined(group, duration_s) for group in scenario.providers),
        clients=tuple(_asking(group, duration_s) for group in scenario.clients),
        faults=tuple(fault for fault in scenario.faults if fault.at_s <= duration_s),
        attackers=tuple(attack for attack in scenario.attackers if attack.at_s <= duration_s),
        expect=tuple(one for one in scenario.expect if _measurable(one, duration_s)),
    )


def _joined(group: ProviderGroup, duration_s: float) -> ProviderGroup:
    first, last = group.joins_s
    moved = _options_within(options.PROVIDERS, group.behaviour, group.options, duration_s)
    return replace(group, joins_s=(min(first, duration_s), min(last, duration_s)), options=moved)


def _asking(group: ClientGroup, duration_s: float) -> ClientGroup:
    first, last = group.joins_s
    curve = tuple(corner for corner in group.demand.curve if corner[0] <= duration_s)
    demand = replace(group.demand, curve=curve)
    moved = _options_within(options.CLIENTS, group.behaviour, group.options, duration_s)
    joins_s = min(first, duration_s), min(last, duration_s)
    return replace(group, joins_s=joins_s, demand=demand, options=moved)


def _options_within(
    table: Mapping[str, options.Options], kind: str, said: dict[str, Any], duration_s: float
) -> dict[str, Any]:
    later = {name: min(value, duration_s) for name, value in options.meaning(table, kind, said, Means.SECOND)}
    return {**said, **later}


def _measurable(expectation: Expectation, duration_s: float) -> bool:
    starts = 0.0 if expectation.from_s is None else expectation.from_s
    return starts < duration_s and (expectation.to_s is None or expectation.to_s <= duration_s)
