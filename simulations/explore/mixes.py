"""Random small scenarios, each from one number: parts of the shipped ones, shaken together and scaled down.

Swarm testing (Groce et al., ISSTA 2012): a mix leaves most kinds of trouble out, so that those it has meet more often
and in more ways than in one scenario that has them all. Parts come from shipped scenarios because those who wrote them
knew which options make sense together.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from simulations.scenarios import options, reading
from simulations.scenarios.checks import expected_jobs
from simulations.scenarios.model import (
    AttackGroup,
    ChainPart,
    ClientGroup,
    Demand,
    Fault,
    Gossip,
    NetworkPart,
    ProviderGroup,
    Scenario,
)
from simulations.scenarios.options import Means
from simulations.scenarios.registries import Registries

MAX_PROVIDERS = 8
MAX_CLIENTS = 10
MAX_SYBILS = 6
MAX_JOBS = 80.0
DURATIONS_S = (60.0, 90.0, 120.0, 180.0, 300.0)
"""With those above, a case takes at most some 5 s of one core."""

_BASE = Scenario(
    title="base",
    about="",
    duration_s=120.0,
    providers=(ProviderGroup("gpus", 4),),
    clients=(ClientGroup("people", 4, Demand(60.0)),),
)
"""What a mix is made of where nothing is shipped."""

CONFIGS: tuple[dict[str, object], ...] = (
    {"node.queue_per_engine": 1},
    {"node.queue_per_engine": 4},
    {"discovery.dht": False},
    {"discovery.gossip": False},
    {"price.cap_ratio": 1.0},
    {"market.agreement_s": 5},
    {"ton.credit_window_nanoton": 100_000},
    {"ton.settle_at_nanoton": 5_000_000},
    {"ton.claim_dust_nanoton": 10_000_000},
    {"ton.challenge_period_s": 60},
    {"ton.deposit_nanoton": 120_000_000},
    {"risk.credit_nanoton": 500_000},
    {"risk.spend_per_channel_nanoton": 50_000_000},
)
"""Corners of a node's configuration, each near an edge of something."""

HONEST = "honest"

T = TypeVar("T")


@dataclass(frozen=True)
class Pool:
    """Parts to mix. Times of faults and attackers are shares of the run that they come from."""

    providers: tuple[ProviderGroup, ...]
    clients: tuple[ClientGroup, ...]
    faults: tuple[Fault, ...]
    attackers: tuple[AttackGroup, ...]

    @classmethod
    def of(cls, scenarios: tuple[Scenario, ...]) -> Pool:
        """The parts of some scenarios."""
        faults, attackers, clients, providers = [], [], [], []
        for scenario in scenarios:
            share = 1 / scenario.duration_s
            faults += [replace(one, at_s=one.at_s * share, for_s=one.for_s * share) for one in scenario.faults]
            for attack in scenario.attackers:
                said = _scaled(options.ATTACKS, attack.kind, attack.options, share)
                attackers.append(replace(attack, at_s=attack.at_s * share, options=said))
            for group in scenario.clients:
                curve = tuple((second * share, factor) for second, factor in group.demand.curve)
                said = _scaled(options.CLIENTS, group.behaviour, group.options, share)
                clients.append(replace(group, demand=replace(group.demand, curve=curve), options=said))
            for seller in scenario.providers:
                said = _scaled(options.PROVIDERS, seller.behaviour, seller.options, share)
                providers.append(replace(seller, options=said))
        return cls(tuple(providers), tuple(clients), tuple(faults), tuple(attackers))

    def completed(self, known: Registries) -> Pool:
        """With what the world can do besides, once each, as by default: what no scenario shows yet is tried too."""
        provider, client = _BASE.providers[0], _BASE.clients[0]
        behaving = {group.behaviour for group in self.providers}, {group.behaviour for group in self.clients}
        kinds = {fault.kind for fault in self.faults}, {attack.kind for attack in self.attackers}
        sellers, buyers = (
            _missing(known.provider_behaviours, behaving[0]),
            _missing(known.client_behaviours, behaving[1]),
        )
        return Pool(
            (*self.providers, *(replace(provider, behaviour=name) for name in sellers)),
            (*self.clients, *(replace(client, behaviour=name) for name in buyers)),
            (*self.faults, *(Fault(kind, 0.3, 0.2) for kind in _missing(known.faults, kinds[0]))),
            (*self.attackers, *(AttackGroup(kind, 4, 0.2) for kind in _missing(known.attacks, kinds[1]))),
        )


Said = dict[str, Any]
Table = Mapping[str, options.Options]


def _scaled(table: Table, kind: str, said: Said, factor: float) -> Said:
    """Options with their seconds times ``factor``."""
    seconds = options.meaning(table, kind, said, Means.SECOND)
    return {**said, **{name: value * factor for name, value in seconds}}


@dataclass(frozen=True)
class _Here:
    """What options of a part are fitted to: this mix's groups and length."""

    rng: random.Random
    providers: list[str]
    clients: list[str]
    duration_s: float

    def fit(self, table: Table, kind: str, said: Said) -> Said:
        """Options with seconds of this mix, and groups of it in the place of those that they named."""
        fitted = _scaled(table, kind, said, self.duration_s)
        for name, _ in options.meaning(table, kind, said, Means.PROVIDERS):
            fitted[name] = self.rng.choice(self.providers)
        for name, _ in options.meaning(table, kind, said, Means.CLIENTS):
            fitted[name] = self.rng.choice(self.clients)
        return fitted


def _missing(known: Collection[str] | None, there: Collection[str]) -> list[str]:
    return sorted(set(known or ()) - set(there))


@functools.cache
def shipped_pool() -> Pool:
    """The parts of all shipped scenarios, and whatever else the world can do."""
    known = Registries.of_the_world()
    scenarios = tuple(reading.read(one.name, known=known) for one in reading.shipped())
    return Pool.of((_BASE, *scenarios)).completed(known)


def mix(seed: int, pool: Pool | None = None, known: Registries | None = None) -> Scenario:
    """A small scenario, the same for the same ``seed`` and ``pool`` (default: :func:`shipped_pool`).

    It is checked against ``known`` (default: the names of the world) as one from a file would be.
    """
    pool = shipped_pool() if pool is None else pool
    known = Registries.of_the_world() if known is None else known
    rng = random.Random(f"mix {seed}")  # noqa: S311  # a simulation, not a secret
    duration_s = rng.choice(DURATIONS_S)
    providers = _providers(rng, pool, known, duration_s)
    clients = _clients(rng, pool, duration_s)
    here = _Here(rng, [group.name for group in providers], [group.name for group in clients], duration_s)
    providers = tuple(
        replace(group, options=here.fit(options.PROVIDERS, group.behaviour, group.options)) for group in providers
    )
    clients = tuple(
        replace(group, options=here.fit(options.CLIENTS, group.behaviour, group.options)) for group in clients
    )
    scenario = Scenario(
        title=f"Mix {seed}",
        about="A random mix of parts of the shipped scenarios.",
        name=f"mix-{seed}",
        duration_s=duration_s,
        warmup_s=0.0,
        sample_s=10.0,
        network=NetworkPart(
            jitter_ms=rng.choice((0.0, 4.0, 4.0, 40.0)),
            loss=rng.choice((0.0, 0.0, 0.0, 0.01, 0.05)),
            gossip=Gossip.MESH,
        ),
        chain=ChainPart(
            block_s=rng.choice((1.0, 5.0, 5.0, 15.0)),
            delay_s=rng.choice((0.1, 1.0, 1.0, 5.0)),
            liteservers=rng.choice((1, 3, 3, 5)),
        ),
        providers=providers,
        clients=clients,
        faults=tuple(_fault(pool.faults, here) for _ in range(_few(rng, len(pool.faults)))),
        attackers=tuple(_attack(pool.attackers, here) for _ in range(_few(rng, len(pool.attackers)))),
    )
    jobs = expected_jobs(scenario)
    if jobs > MAX_JOBS:
        scenario = replace(scenario, clients=tuple(_calmer(group, MAX_JOBS / jobs) for group in clients))
    return reading.from_tree(reading.to_tree(scenario), scenario.name, known=known)


def _few(rng: random.Random, available: int) -> int:
    """0 to 3, mostly 0 or 1."""
    return rng.choice((0, 0, 1, 1, 1, 2, 2, 3)) if available else 0


def _split(rng: random.Random, total: int, parts: int) -> list[int]:
    """``total`` as the sum of ``parts`` counts of at least 1."""
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


def _chosen(rng: random.Random, available: tuple[T, ...], total: int, groups: int) -> list[tuple[T, int]]:
    return [(rng.choice(available), count) for count in _split(rng, total, min(groups, total))]


def _joins(rng: random.Random, duration_s: float) -> tuple[float, float]:
    first = rng.choice((0.0, 0.0, 0.0, 0.1, 0.5)) * duration_s
    return first, min(duration_s, first + rng.choice((0.0, 5.0, 20.0)))


def _config(rng: random.Random, own: dict[str, object]) -> dict[str, object]:
    return {**own, **rng.choice(CONFIGS)} if rng.random() < 0.3 else own


def _hardware(rng: random.Random, group: ProviderGroup, known: Registries) -> str:
    """Sometimes another class that holds the group's models."""
    if known.hardware is None or known.fit is None or rng.random() < 0.6:
        return group.hardware
    slots = getattr(group, "slots", None)
    fitting = [one for one in known.hardware if not any(known.fit(one, model, slots) for model in group.models)]
    return rng.choice(sorted(fitting)) if fitting else group.hardware


def _crowded(rng: random.Random, group: ProviderGroup) -> ProviderGroup:
    """Sometimes with few slots: so few jobs as a mix has would never wait otherwise."""
    slots = rng.choice((0, 0, 1, 2, 4))
    known = "slots" in group.__struct_fields__
    return replace(group, slots=slots) if slots and known else group


def _providers(rng: random.Random, pool: Pool, known: Registries, duration_s: float) -> tuple[ProviderGroup, ...]:
    """Some of the pool's, honest ones more often than as many as there are: a market of cheats alone shows little."""
    honest = tuple(group for group in pool.providers if group.behaviour == HONEST)
    available = pool.providers if rng.random() < 0.4 or not honest else honest
    picked = _chosen(rng, available, rng.randint(1, MAX_PROVIDERS), rng.randint(1, 3))
    made = []
    for index, (picked_group, count) in enumerate(picked):
        group = _crowded(rng, picked_group)
        made.append(
            replace(
                group,
                name=f"p{index}",
                count=count,
                hardware=_hardware(rng, group, known),
                joins_s=_joins(rng, duration_s),
                config=_config(rng, group.config),
                nat=rng.choice((group.nat, group.nat, "open", "full-cone")),
            )
        )
    return tuple(made)


def _clients(rng: random.Random, pool: Pool, duration_s: float) -> tuple[ClientGroup, ...]:
    picked = _chosen(rng, pool.clients, rng.randint(1, MAX_CLIENTS), rng.randint(1, 3))
    made = []
    for index, (group, count) in enumerate(picked):
        curve = tuple((second * duration_s, factor) for second, factor in group.demand.curve)
        demand = replace(
            group.demand, curve=curve, jobs_per_hour=group.demand.jobs_per_hour * rng.choice((1.0, 4.0, 16.0, 64.0))
        )
        made.append(
            replace(
                group,
                name=f"c{index}",
                count=count,
                demand=demand,
                joins_s=_joins(rng, duration_s),
                config=_config(rng, group.config),
            )
        )
    return tuple(made)


def _calmer(group: ClientGroup, factor: float) -> ClientGroup:
    return replace(group, demand=replace(group.demand, jobs_per_hour=group.demand.jobs_per_hour * factor))


def _fault(faults: tuple[Fault, ...], here: _Here) -> Fault:
    rng, duration_s = here.rng, here.duration_s
    fault = rng.choice(faults)
    known = options.FAULTS.get(fault.kind, {})
    flags = {name: True for name, means in known.items() if means is Means.FLAG and rng.random() < 0.3}
    return replace(
        fault,
        at_s=round(rng.uniform(0.0, 0.9) * duration_s, 3),
        for_s=round(min(fault.for_s, 1.0) * rng.choice((0.3, 1.0, 1.0, 2.0)) * duration_s, 3),
        group=rng.choice(("", *here.providers, *here.clients)) if fault.group else "",
        share=rng.choice((fault.share, 1.0, 0.5)),
        options={**here.fit(options.FAULTS, fault.kind, fault.options), **flags},
    )


def _attack(attackers: tuple[AttackGroup, ...], here: _Here) -> AttackGroup:
    rng = here.rng
    attack = rng.choice(attackers)
    count = min(attack.count, rng.randint(1, MAX_SYBILS))
    at_s = round(rng.uniform(0.0, 0.7) * here.duration_s, 3)
    return replace(attack, count=count, at_s=at_s, options=here.fit(options.ATTACKS, attack.kind, attack.options))
