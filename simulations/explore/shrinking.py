"""Making a failing case small: delta debugging (Zeller and Hildebrandt, TSE 2002) over the parts of a scenario.

Pure: what fails, how long it takes and what time it is are asked of the caller. Each step proposes a scenario that is
smaller by :func:`size`, and takes it when it still fails in the same way, so it ends by itself; bounds end it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from simulations.explore import limits
from simulations.explore.failures import Failure
from simulations.scenarios.checks import check, group_names
from simulations.scenarios.cutting import cut
from simulations.scenarios.model import Demand, Scenario
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError

Fails = Callable[[Scenario, int], Failure | None]
"""Runs a case, and says how it failed."""

LISTS = ("attackers", "faults", "expect", "clients", "providers")
"""What is left out first: trouble, then people."""

POPULATED = ("attackers", "clients", "providers")

SMALL_SEEDS = 4
"""Seeds from 0 that are tried at the end."""


@dataclass(frozen=True)
class Shrunk:
    """The smallest case found."""

    scenario: Scenario
    seed: int
    failure: Failure
    runs: int
    """Cases that were run on the way."""
    finished: bool
    """Whether nothing smaller of what is tried fails; ``False`` when a bound ended it."""


class _Spent(Exception):
    """Runs or time are used up."""


def size(scenario: Scenario, seed: int = 0) -> tuple[float, ...]:
    """What is made smaller, the most important first: parts, nodes, seconds, things that are not as by default."""
    parts = sum(len(getattr(scenario, entries)) for entries in LISTS)
    nodes = sum(group.count for entries in POPULATED for group in getattr(scenario, entries))
    return parts, nodes, scenario.duration_s, _said(scenario), _demand(scenario), seed


def _said(value: Any) -> int:
    """How many fields differ from their defaults, at any depth; keys of free tables count one each."""
    if isinstance(value, (tuple, list)):
        return sum(1 if not isinstance(item, msgspec.Struct) else _said(item) for item in value)
    if isinstance(value, dict):
        return len(value)
    if not isinstance(value, msgspec.Struct):
        return 1
    return sum(
        _said(getattr(value, field.name))
        for field in msgspec.structs.fields(value)
        if not _is_default(field, getattr(value, field.name))
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    return factory() if factory is not msgspec.NODEFAULT else field.default


def _is_default(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    default = _default(field)
    return default is not msgspec.NODEFAULT and bool(value == default)


def _demand(scenario: Scenario) -> float:
    return sum(group.demand.jobs_per_hour for group in scenario.clients)


def shrink(
    scenario: Scenario,
    seed: int,
    failure: Failure,
    fails: Fails,
    *,
    clock: Callable[[], float],
    max_runs: int = limits.SHRINK_RUNS,
    max_s: float = limits.SHRINK_S,
) -> Shrunk:
    """The smallest case found that fails as ``failure`` does (the same signature).

    ``clock`` gives seconds; the last run may go over ``max_s``. ``fails`` is called only with valid scenarios.
    """
    search = _Search(scenario, seed, failure, fails, clock, max_runs, clock() + max_s)
    finished = True
    try:
        while search.pass_over():
            pass
        search.smaller_seeds()
    except _Spent:
        finished = False
    return Shrunk(search.scenario, search.seed, search.failure, search.runs, finished)


class _Search:
    """The best case so far, and the attempts to better it."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        failure: Failure,
        fails: Fails,
        clock: Callable[[], float],
        max_runs: int,
        deadline: float,
    ) -> None:
        self.scenario, self.seed, self.failure = scenario, seed, failure
        self.runs = 0
        self._fails, self._clock, self._max_runs, self._deadline = fails, clock, max_runs, deadline
        self._tried: set[bytes] = set()

    def pass_over(self) -> bool:
        """Every kind of step once; whether any of them made it smaller."""
        before = size(self.scenario, self.seed)
        for entries in LISTS:
            self._fewer(entries)
        for step in (_shorter, _lower_counts, _plainer, _calmer):
            self._repeat(step)
        return size(self.scenario, self.seed) < before

    def smaller_seeds(self) -> None:
        """Whether it fails for any seed: then for a small one too."""
        for seed in range(SMALL_SEEDS):
            if self._accept(self.scenario, seed):
                return

    def _accept(self, candidate: Scenario, seed: int | None = None) -> bool:
        """Take ``candidate`` if it is smaller, valid, not tried before, and fails in the same way."""
        seed = self.seed if seed is None else seed
        if size(candidate, seed) >= size(self.scenario, self.seed):
            return False
        key = msgspec.json.encode((seed, candidate))
        if key in self._tried:
            return False
        self._tried.add(key)
        try:
            check(candidate, "candidate", Registries())
        except ScenarioError:
            return False
        if self.runs >= self._max_runs or self._clock() >= self._deadline:
            raise _Spent
        self.runs += 1
        failure = self._fails(candidate, seed)
        if failure is None or failure.signature != self.failure.signature:
            return False
        self.scenario, self.seed, self.failure = candidate, seed, failure
        return True

    def _fewer(self, entries: str) -> None:
        """Leave out runs of entries, long ones first (ddmin)."""
        length = len(getattr(self.scenario, entries))
        while length >= 1:
            start = 0
            while start < len(items := getattr(self.scenario, entries)):
                rest = items[:start] + items[start + length :]
                if not self._accept(_without_dangling(replace(self.scenario, **{entries: rest}))):
                    start += length
            length //= 2

    def _repeat(self, step: Callable[[Scenario, Failure], Iterator[Scenario]]) -> None:
        """Take the first smaller case that ``step`` proposes, and ask again, until none fails."""
        while any(self._accept(candidate) for candidate in step(self.scenario, self.failure)):
            pass


def _without_dangling(scenario: Scenario) -> Scenario:
    """Without faults and expectations on groups that are no longer there."""
    names = group_names(scenario) | {""}
    names_expected = names | {attack.kind for attack in scenario.attackers}
    return replace(
        scenario,
        faults=tuple(fault for fault in scenario.faults if fault.group in names),
        expect=tuple(one for one in scenario.expect if one.group in names_expected),
    )


def _shorter(scenario: Scenario, failure: Failure) -> Iterator[Scenario]:
    """Until just after it failed, else by half, else by a tenth."""
    whole = float(int(failure.at_s) + 1)
    for duration_s in (whole, scenario.duration_s / 2, scenario.duration_s * 0.9):
        if duration_s >= 1:
            yield replace(cut(scenario, round(duration_s, 3)), warmup_s=0.0)


def _lower_counts(scenario: Scenario, _: Failure) -> Iterator[Scenario]:
    """One node, half of them, one less, in each group."""
    for entries in POPULATED:
        groups = getattr(scenario, entries)
        for index, group in enumerate(groups):
            for count in dict.fromkeys((1, group.count // 2, group.count - 1)):
                if 1 <= count < group.count:
                    changed = (*groups[:index], replace(group, count=count), *groups[index + 1 :])
                    yield replace(scenario, **{entries: changed})


def _plainer(scenario: Scenario, _: Failure) -> Iterator[Scenario]:
    """As by default: a whole part, then each of its fields, then each key of its free tables."""
    for name in ("network", "chain"):
        for plain in _plainer_part(getattr(scenario, name)):
            yield replace(scenario, **{name: plain})
    for entries in ("attackers", "faults", "clients", "providers"):
        parts = getattr(scenario, entries)
        for index, part in enumerate(parts):
            for plain in _plainer_part(part):
                yield replace(scenario, **{entries: (*parts[:index], plain, *parts[index + 1 :])})


def _plainer_part(part: Any) -> Iterator[Any]:
    fields = [field for field in msgspec.structs.fields(part) if not _is_default(field, getattr(part, field.name))]
    optional = [field for field in fields if _default(field) is not msgspec.NODEFAULT]
    if len(optional) > 1:
        yield replace(part, **{field.name: _default(field) for field in optional})
    for field in optional:
        yield replace(part, **{field.name: _default(field)})
    for field in fields:
        value = getattr(part, field.name)
        if isinstance(value, dict) and len(value) > 1:
            for key in value:
                yield replace(part, **{field.name: {name: kept for name, kept in value.items() if name != key}})
        elif isinstance(value, Demand):
            for demand in _plainer_part(value):
                yield replace(part, **{field.name: demand})


def _calmer(scenario: Scenario, _: Failure) -> Iterator[Scenario]:
    """Half of the demand of a group."""
    for index, group in enumerate(scenario.clients):
        if group.demand.jobs_per_hour >= 2:
            demand = replace(group.demand, jobs_per_hour=float(group.demand.jobs_per_hour // 2))
            calm = replace(group, demand=demand)
            yield replace(scenario, clients=(*scenario.clients[:index], calm, *scenario.clients[index + 1 :]))
