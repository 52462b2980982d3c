"""Whether a scenario can be run at all: a population that is possible, names that exist, numbers that mean something.

All of it before anything runs (pure). Messages begin with the place, as :mod:`simulations.scenarios.tree` names it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from compute.tasks import Task
from overlay.config import Config, from_keys
from overlay.errors import ConfigError
from simulations.network.world import REGIONS, Nat
from simulations.scenarios import limits, options
from simulations.scenarios.model import ClientGroup, Demand, ProviderGroup, Scenario, Size
from simulations.scenarios.options import Means
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError, nearest, place

_NAME = re.compile(r"[^\W\d_][\w -]{0,59}")


def check(scenario: Scenario, source: str, known: Registries) -> None:
    """Raise :class:`ScenarioError` for the first thing that makes ``scenario`` impossible."""
    for path, what in _problems(scenario, known):
        raise ScenarioError(f"{source}: {path}: {what}" if path else f"{source}: {what}")


def node_config(group: ProviderGroup | ClientGroup, source: str) -> Config:
    """The configuration of a group's nodes. Raises :class:`ScenarioError` for keys or values that no node takes."""
    try:
        return from_keys(group.config, source)
    except ConfigError as error:
        raise ScenarioError(str(error)) from None


Problems = Iterator[tuple[str, str]]


def _problems(scenario: Scenario, known: Registries) -> Problems:
    yield from _numbers(scenario)
    yield from _population(scenario)
    for index, provider in enumerate(scenario.providers):
        at = place("providers", index, provider)
        yield from _group(provider, at, scenario)
        yield from _unknown(provider.behaviour, known.provider_behaviours, f"{at}.behaviour", "behaviour of providers")
        yield from _options(options.PROVIDERS, provider.behaviour, provider.options, at, scenario)
        yield from _sold(provider, at, known)
        if provider.floor <= 0:
            yield f"{at}.floor", f"must be above 0, not {provider.floor:g}"
        yield from _not_negative(f"{at}.floor_sigma", provider.floor_sigma)
    for index, client in enumerate(scenario.clients):
        at = place("clients", index, client)
        yield from _group(client, at, scenario)
        yield from _unknown(client.behaviour, known.client_behaviours, f"{at}.behaviour", "behaviour of clients")
        yield from _options(options.CLIENTS, client.behaviour, client.options, at, scenario)
        yield from _wanted(client.demand, f"{at}.demand", known)
        yield from _demand(client.demand, f"{at}.demand", scenario.duration_s)
        if not 0 <= client.channels <= limits.MAX_CHANNELS:
            yield f"{at}.channels", f"from 0 to {limits.MAX_CHANNELS}, not {client.channels}"
    yield from _trouble(scenario, known)
    yield from _expectations(scenario, known)
    yield from _bulk(scenario)


def _numbers(scenario: Scenario) -> Problems:
    for path, value in _floats(scenario, ""):
        if math.isnan(value) or (math.isinf(value) and not path.endswith(".most")):
            yield path, f"{value} is no number to work with"
    if not 0 < scenario.duration_s <= limits.MAX_DURATION_S:
        yield "duration_s", f"above 0 and at most {limits.MAX_DURATION_S:g} s (a month), not {scenario.duration_s:g}"
    if not 0 <= scenario.warmup_s < scenario.duration_s:
        yield "warmup_s", f"from 0 to below duration_s ({scenario.duration_s:g}), not {scenario.warmup_s:g}"
    if not 0 < scenario.sample_s <= scenario.duration_s:
        yield "sample_s", f"above 0 and at most duration_s ({scenario.duration_s:g}), not {scenario.sample_s:g}"
    if scenario.duration_s / scenario.sample_s > limits.MAX_SAMPLES:
        yield "sample_s", f"gives more than {limits.MAX_SAMPLES} samples; take them less often"
    yield from _not_negative("network.jitter_ms", scenario.network.jitter_ms)
    if not 0 <= scenario.network.loss < 1:
        yield "network.loss", f"a probability from 0 to below 1, not {scenario.network.loss:g}"
    if scenario.chain.block_s <= 0:
        yield "chain.block_s", f"must be above 0, not {scenario.chain.block_s:g}"
    yield from _not_negative("chain.delay_s", scenario.chain.delay_s)
    if not 1 <= scenario.chain.liteservers <= 100:
        yield "chain.liteservers", f"from 1 to 100, not {scenario.chain.liteservers}"


def _floats(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _floats(getattr(value, name), f"{path}.{name}".lstrip("."))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _floats(item, place(path, index, item))


def _population(scenario: Scenario) -> Problems:
    groups: list[tuple[str, ProviderGroup | ClientGroup]] = [
        *((place("providers", index, group), group) for index, group in enumerate(scenario.providers)),
        *((place("clients", index, group), group) for index, group in enumerate(scenario.clients)),
    ]
    seen: set[str] = set()
    for at, group in groups:
        if not _NAME.fullmatch(group.name):
            yield at, f"{group.name!r} is no name; letters, digits, spaces, - and _, 60 at most, a letter first"
        if group.name in seen:
            yield at, f"there are two groups called {group.name!r}; faults and expectations go by name"
        seen.add(group.name)
        if group.count < 0:
            yield f"{at}.count", f"there cannot be {group.count} nodes"
    for at, attack in ((f"attackers.{index}", attack) for index, attack in enumerate(scenario.attackers)):
        if attack.count < 1:
            yield f"{at}.count", f"there cannot be {attack.count} attackers; leave the table out for none"
    total = sum(group.count for _, group in groups)
    if total == 0:
        yield "", "nobody is there: no providers and no clients"
    total += sum(attack.count for attack in scenario.attackers)
    if total > limits.MAX_NODES:
        yield "", f"{total} nodes; {limits.MAX_NODES} at most"


def _group(group: ProviderGroup | ClientGroup, at: str, scenario: Scenario) -> Problems:
    first, last = group.joins_s
    if not 0 <= first <= last <= scenario.duration_s:
        span = f"0 ≤ first ≤ last ≤ duration_s ({scenario.duration_s:g})"
        yield f"{at}.joins_s", f"they would join from {first:g} to {last:g} s; it takes {span}"
    if group.region is not None:
        yield from _unknown(group.region, REGIONS, f"{at}.region", "region")
    yield from _unknown(group.nat, tuple(Nat), f"{at}.nat", "NAT")
    try:
        from_keys(group.config, f"{at}.config")
    except ConfigError as error:
        yield "", str(error)


def _sold(provider: ProviderGroup, at: str, known: Registries) -> Problems:
    yield from _unknown(provider.hardware, known.hardware, f"{at}.hardware", "hardware class")
    for task in provider.tasks:
        yield from _unknown(task, tuple(Task), f"{at}.tasks", "task")
    if not provider.models or not provider.tasks:
        yield at, "a provider sells at least one model and one task"
    for model in provider.models:
        yield from _unknown(model, known.models, f"{at}.models", "model")
        if known.models is not None and not set(known.models[model]) & set(provider.tasks):
            does = " and ".join(known.models[model])
            yield (
                f"{at}.models",
                f"{model} does {does}, and tasks has {', '.join(provider.tasks)}: it could sell nothing",
            )
        if known.fit is not None and (why := known.fit(provider.hardware, model, getattr(provider, "slots", None))):
            yield at, why


def _wanted(demand: Demand, at: str, known: Registries) -> Problems:
    tasks = tuple(Task) if known.client_tasks is None else known.client_tasks
    yield from _unknown(demand.task, tasks, f"{at}.task", "task that clients ask for")
    yield from _unknown(demand.model, known.models, f"{at}.model", "model")
    if known.models is not None and demand.task not in known.models[demand.model]:
        does = " and ".join(known.models[demand.model])
        yield f"{at}.model", f"{demand.model} does {does}, not {demand.task}"


def _demand(demand: Demand, at: str, duration_s: float) -> Problems:
    yield from _not_negative(f"{at}.jobs_per_hour", demand.jobs_per_hour)
    yield from _not_negative(f"{at}.pause_s", demand.pause_s)
    yield from _not_negative(f"{at}.retries", demand.retries)
    if demand.session < 1:
        yield f"{at}.session", f"a session has one job at least, not {demand.session:g}"
    for name in ("prompt_tokens", "answer_tokens", "audio_s", "value", "value_of_time"):
        size: Size = getattr(demand, name)
        if size.median < 0 or size.sigma < 0 or size.most < size.median:
            yield f"{at}.{name}", "median and sigma are not negative, and most is not below the median"
    seconds = [second for second, _ in demand.curve]
    if seconds != sorted(set(seconds)):
        yield f"{at}.curve", "seconds go up from entry to entry"
    for second, factor in demand.curve:
        if factor < 0 or not 0 <= second <= duration_s:
            yield f"{at}.curve", f"[{second:g}, {factor:g}]: seconds of the run, and factors that are not negative"


def _trouble(scenario: Scenario, known: Registries) -> Problems:
    groups = group_names(scenario)
    for index, fault in enumerate(scenario.faults):
        at = f"faults.{index}"
        yield from _unknown(fault.kind, known.faults, f"{at}.kind", "fault")
        if not 0 <= fault.at_s <= scenario.duration_s:
            yield f"{at}.at_s", f"{fault.at_s:g} s is not within the run of {scenario.duration_s:g} s"
        yield from _not_negative(f"{at}.for_s", fault.for_s)
        if not 0 < fault.share <= 1:
            yield f"{at}.share", f"a part above 0 and at most 1, not {fault.share:g}"
        if fault.group:
            yield from _unknown(fault.group, groups, f"{at}.group", "group")
        yield from _options(options.FAULTS, fault.kind, fault.options, at, scenario)
    for index, attack in enumerate(scenario.attackers):
        yield from _unknown(attack.kind, known.attacks, f"attackers.{index}.kind", "attack")
        if not 0 <= attack.at_s <= scenario.duration_s:
            yield f"attackers.{index}.at_s", f"{attack.at_s:g} s is not within the run of {scenario.duration_s:g} s"
        yield from _options(options.ATTACKS, attack.kind, attack.options, f"attackers.{index}", scenario)


def _options(
    table: Mapping[str, options.Options], kind: str, said: Mapping[str, Any], at: str, scenario: Scenario
) -> Problems:
    known = table.get(kind)
    if known is None:
        return
    for name, value in said.items():
        path = f"{at}.options.{name}"
        if name not in known:
            yield f"{at}.options", f"{kind} has no option {name!r}; {nearest(name, known, 'it has', 1)}"
        elif not options.is_right(known[name], value):
            yield path, f"must be {known[name]}, and {value!r} is not"
        elif known[name] is Means.SECOND and not 0 <= value <= scenario.duration_s:
            yield path, f"{value:g} s is not within the run of {scenario.duration_s:g} s"
        elif known[name] is Means.PROVIDERS:
            yield from _unknown(value, [group.name for group in scenario.providers], path, "group of providers")
        elif known[name] is Means.CLIENTS:
            yield from _unknown(value, [group.name for group in scenario.clients], path, "group of clients")


def _expectations(scenario: Scenario, known: Registries) -> Problems:
    groups = group_names(scenario)
    groups |= {attack.kind for attack in scenario.attackers}
    for index, expectation in enumerate(scenario.expect):
        at = f"expect.{index}"
        yield from _unknown(expectation.measure, known.measures, f"{at}.measure", "measure")
        least, most = expectation.at_least, expectation.at_most
        if least is None and most is None:
            yield at, "expects nothing; give at_least, at_most or both"
        if least is not None and most is not None and least > most:
            yield at, f"at_least ({least:g}) is above at_most ({most:g})"
        if expectation.group:
            yield from _unknown(expectation.group, groups, f"{at}.group", "group")
        start = 0.0 if expectation.from_s is None else expectation.from_s
        end = scenario.duration_s if expectation.to_s is None else expectation.to_s
        if not 0 <= start < end <= scenario.duration_s:
            yield at, f"from_s ({start:g}) to to_s ({end:g}) is no part of the run of {scenario.duration_s:g} s"


def _bulk(scenario: Scenario) -> Problems:
    for entries in ("providers", "clients", "faults", "attackers", "expect"):
        if len(getattr(scenario, entries)) > limits.MAX_ENTRIES:
            yield entries, f"more than {limits.MAX_ENTRIES} of them"
    if (jobs := expected_jobs(scenario)) > limits.MAX_JOBS:
        yield "clients", f"they would ask for {jobs:.3g} jobs; {limits.MAX_JOBS} at most"


def group_names(scenario: Scenario) -> set[str]:
    """The names by which faults and expectations can mean a group."""
    return {group.name for group in scenario.providers} | {group.name for group in scenario.clients}


def expected_jobs(scenario: Scenario) -> float:
    """How many jobs all clients want in the mean, from the start to the end, their curves included."""
    total = 0.0
    for group in scenario.clients:
        corners = [(0.0, 1.0), *group.demand.curve, (scenario.duration_s, 0.0)]
        area = sum((end - start) * factor for (start, factor), (end, _) in itertools.pairwise(corners))
        total += group.count * group.demand.jobs_per_hour / 3600 * area
    return total


def _not_negative(path: str, value: float) -> Problems:
    if value < 0:
        yield path, f"must not be negative, and {value:g} is"


def _unknown(word: str, known: Collection[str] | None, path: str, kind: str) -> Problems:
    if known is not None and word not in known:
        yield path, f"there is no {kind} {word!r}; {nearest(word, known, 'known')}"
