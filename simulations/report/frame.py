"""What charts of one page have in common: the span of time and the names that they show, so that two runs side by side
have the same axes and the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from simulations.report import limits
from simulations.results import Job, Provider, RunResult

MarketKey = tuple[str, str]
"""Task and model."""

Name = TypeVar("Name")

_UNITS = {
    "chat": "completion tokens",
    "completion": "completion tokens",
    "transcribe": "ms of audio",
    "embed": "tokens",
}


@dataclass(frozen=True)
class Frame:
    """Names in the order in which charts show them, the largest first; those beyond the limits are not there."""

    horizon_s: float
    markets: tuple[MarketKey, ...]
    hardware: tuple[str, ...]
    tasks: tuple[str, ...]
    policies: tuple[str, ...]
    protocols: tuple[str, ...]
    attackers: tuple[str, ...]
    markets_left: int = 0
    """Markets without a picture."""

    @classmethod
    def of(cls, *results: RunResult) -> Frame:
        """The frame of these runs."""
        markets: Counter[MarketKey] = Counter()
        hardware: Counter[str] = Counter()
        tasks: Counter[str] = Counter()
        protocols: Counter[str] = Counter()
        attackers: Counter[str] = Counter()
        for result in results:
            for sample in result.samples:
                for market in sample.markets:
                    markets[market.task, market.model] += market.slots
            hardware.update(hardware_class(provider) for provider in result.providers)
            tasks.update(job.task for job in result.jobs)
            for carried in result.traffic:
                protocols[carried.protocol] += carried.bytes
            for attacker in result.attackers:
                attackers[attacker.kind] += attacker.nodes
        kept = _largest(markets, limits.MARKETS)
        return cls(
            horizon_s=max(max(result.duration_s, result.virtual_s) for result in results),
            markets=kept,
            hardware=_largest(hardware, limits.CATEGORIES),
            tasks=_largest(tasks, limits.CATEGORIES),
            policies=_policies(results),
            protocols=_largest(protocols, limits.CATEGORIES),
            attackers=_largest(attackers, limits.CATEGORIES),
            markets_left=len(markets) - len(kept),
        )


def _largest(counted: Counter[Name], most: int) -> tuple[Name, ...]:
    return tuple(name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))[:most])


def _policies(results: Iterable[RunResult]) -> tuple[str, ...]:
    """Our own market first, then the others as the runs have them."""
    names = dict.fromkeys(name for result in results for name in result.efficiency)
    return tuple(sorted(names, key=lambda name: not name.startswith("ours"))[: limits.CATEGORIES])


def hardware_class(provider: Provider) -> str:
    """Honest providers by their hardware; those that attack stand apart."""
    return provider.hardware if provider.behaviour == "honest" else f"{provider.hardware}, {provider.behaviour}"


def main_unit(task: str) -> str:
    """What prices and speeds of a task count, for people."""
    return _UNITS.get(task, "units")


def measured(result: RunResult) -> list[Job]:
    """The jobs that measures count: asked for after the warm-up."""
    return [job for job in result.jobs if job.asked_at_s >= result.warmup_s]


def waits(jobs: Iterable[Job]) -> list[float]:
    """Times to first token in seconds, of jobs that got one."""
    return [job.first_token_at_s - job.asked_at_s for job in jobs if job.first_token_at_s is not None]
