"""What scenarios may expect of a run, by name: each measure is a function of a result, a group and a span of time.

Jobs count by the second at which they were asked for, samples by theirs; the span is ``from_s <= t < to_s``. A group is
one of clients for measures of jobs, and one of providers for those of providers; empty is everybody. A measure of
nothing is ``None``: no job, no sample. Money is in nanoTON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from compute.usage import UNITS_PER_PRICE
from simulations.results import Job, Mark, Market, PolicyFigures, Provider, RunResult, Sample
from simulations.scenarios.model import Expectation, Scenario
from simulations.world.efficiency import CAUSES, reached

Measure = Callable[[RunResult, str, float, float], float | None]


def jobs(result: RunResult, group: str, from_s: float, to_s: float) -> list[Job]:
    """Those of the group that were asked for in the span."""
    return [job for job in result.jobs if group in ("", job.group) and from_s <= job.asked_at_s < to_s]


def samples(result: RunResult, from_s: float, to_s: float) -> list[Sample]:
    """Those of the span."""
    return [sample for sample in result.samples if from_s <= sample.at_s < to_s]


def share(part: float, whole: float) -> float | None:
    """``None`` of nothing."""
    return part / whole if whole else None


def mean(values: Sequence[float]) -> float | None:
    """``None`` of nothing."""
    return sum(values) / len(values) if values else None


def variation(values: Sequence[float]) -> float | None:
    """Standard deviation by the mean; ``None`` with less than two values or a mean of zero."""
    middle = mean(values)
    if middle is None or len(values) < 2 or middle == 0:
        return None
    return math.sqrt(sum((value - middle) ** 2 for value in values) / len(values)) / middle


def quantile(values: Iterable[float], part: float) -> float | None:
    """The smallest value that at least ``part`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


# --- jobs -------------------------------------------------------------------------------------------------------------


def _outcome(name: str) -> Measure:
    def measure(result: RunResult, group: str, from_s: float, to_s: float) -> float | None:
        ended = [job for job in jobs(result, group, from_s, to_s) if job.outcome != "running"]
        return share(sum(job.outcome == name for job in ended), len(ended))

    return measure


def _asked(result: RunResult, group: str, from_s: float, to_s: float) -> float:
    return float(len(jobs(result, group, from_s, to_s)))


def _recovered(result: RunResult, group: str, from_s: float, to_s: float) -> float:
    return float(sum(job.outcome == "done" and job.tries > 1 for job in jobs(result, group, from_s, to_s)))


def _stuck(result: RunResult, group: str, from_s: float, to_s: float) -> float:
    """Asked for in the span and still running at the end of the run, ten minutes later or more; not those whose client
    stopped."""
    late = [job for job in jobs(result, group, from_s, to_s) if job.outcome == "running" and job.ended_at_s is None]
    return float(sum(result.virtual_s - job.asked_at_s >= 600 for job in late))


def waits(result: RunResult, group: str, from_s: float, to_s: float) -> list[float]:
    """Seconds from asking to the first token, of jobs that had one."""
    asked = jobs(result, group, from_s, to_s)
    return [job.first_token_at_s - job.asked_at_s for job in asked if job.first_token_at_s is not None]


def _wait(part: float) -> Measure:
    return lambda result, group, from_s, to_s: quantile(waits(result, group, from_s, to_s), part)


def _wait_mean(result: RunResult, group: str, from_s: float, to_s: float) -> float | None:
    return mean(waits(result, group, from_s, to_s))


def _surplus(result: RunResult, group: str, from_s: float, to_s: float) -> float | None:
    """What was delivered was worth, less what was paid, as a share of the worth."""
    found = jobs(result, group, from_s, to_s)
    worth = sum(job.value_nanoton for job in found)
    return share(worth - sum(job.paid_nanoton for job in found), worth)


# --- prices and load --------------------------------------------------------------------------------------------------


def _paid(result: RunResult, group: str, from_s: float, to_s: float) -> float | None:
    """A million of the main unit, prompts in the sum: what all jobs of the span cost by what they delivered."""
    found = jobs(result, group, from_s, to_s)
    return share(sum(job.paid_nanoton for job in found) * UNITS_PER_PRICE, sum(job.units for job in found))


def _over_time(read: Callable[[Sample], float | None]) -> Callable[[RunResult, float, float], list[float]]:
    def series(result: RunResult, from_s: float, to_s: float) -> list[float]:
        return [value for sample in samples(result, from_s, to_s) if (value := read(sample)) is not None]

    return series


def _by_slots(price: Callable[[Market], float | None]) -> Callable[[Sample], float | None]:
    """The mean of a sample's markets, each weighing as many as it has slots."""

    def read(sample: Sample) -> float | None:
        known = [(value, market.slots) for market in sample.markets if (value := price(market)) is not None]
        return share(sum(value * slots for value, slots in known), sum(slots for _, slots in known))

    return read


_asks = _over_time(_by_slots(lambda market: market.ask_p50))
_paid_prices = _over_time(_by_slots(lambda market: market.paid))


def _busy(sample: Sample) -> float | None:
    return share(sum(market.busy for market in sample.markets), sum(market.slots for market in sample.markets))


_loads = _over_time(_busy)


def _of(
    series: Callable[[RunResult, float, float], list[float]], what: Callable[[Sequence[float]], float | None]
) -> Measure:
    """Measures of the whole market: there is no price of a group."""
    return lambda result, _, from_s, to_s: what(series(result, from_s, to_s))


def _most(read: Callable[[Sample], float]) -> Measure:
    return lambda result, _, from_s, to_s: max(map(read, samples(result, from_s, to_s)), default=None)


def _least(read: Callable[[Sample], float]) -> Measure:
    return lambda result, _, from_s, to_s: min(map(read, samples(result, from_s, to_s)), default=None)


# --- of the whole run -------------------------------------------------------------------------------------------------


def _each(of: Callable[[Provider], float]) -> Measure:
    """The mean of the group's providers, over the whole run."""
    return lambda result, group, _from, _to: mean([of(each) for each in result.providers if group in ("", each.group)])


def profit(provider: Provider) -> int:
    """What is left of what it earned after the work's and the chain's costs."""
    return provider.earned_nanoton - provider.cost_nanoton - provider.chain_fees_nanoton


def _gained(result: RunResult, group: str, _from: float, _to: float) -> float:
    """By all attackers, or those of one kind, less what it cost them; over the whole run."""
    return float(sum(a.gained_nanoton - a.cost_nanoton for a in result.attackers if group in ("", a.kind)))


def _gained_share(result: RunResult, group: str, from_s: float, to_s: float) -> float | None:
    """The same by what all providers earned."""
    return share(_gained(result, group, from_s, to_s), sum(each.earned_nanoton for each in result.providers))


def _fees_share(result: RunResult, _group: str, _from: float, _to: float) -> float | None:
    """What the chain took in the whole run by what clients paid in it."""
    return share(result.chain_fees_nanoton, sum(job.paid_nanoton for job in result.jobs))


def _traffic(read: Callable[[Sample], int]) -> Measure:
    """Between the first and the last sample of the span, by the jobs that ended meanwhile."""

    def measure(result: RunResult, _group: str, from_s: float, to_s: float) -> float | None:
        found = samples(result, from_s, to_s)
        if len(found) < 2:
            return None
        first, last = found[0], found[-1]
        return share(read(last) - read(first), last.done + last.failed - first.done - first.failed)

    return measure


def _efficiency(result: RunResult, _group: str, from_s: float, to_s: float) -> float | None:
    if from_s == result.warmup_s and to_s == math.inf:
        return result.efficiency.get("ours")
    found = reached(result, from_s, to_s)
    return None if found is None else found.share


def _loss(cause: str) -> Measure:
    """Of what the optimum would have had, over the whole run."""
    return lambda result, _group, _from, _to: result.losses.get(cause)


MEASURES: Mapping[str, Measure] = {
    "jobs.asked": _asked,
    "jobs.done_share": _outcome("done"),
    "jobs.failed_share": _outcome("failed"),
    "jobs.refused_share": _outcome("refused"),
    "jobs.recovered": _recovered,
    "jobs.stuck": _stuck,
    "first_token.mean": _wait_mean,
    "first_token.p50": _wait(0.5),
    "first_token.p95": _wait(0.95),
    "clients.surplus_share": _surplus,
    "price.paid.mean": _paid,
    "price.paid.variation": _of(_paid_prices, variation),
    "price.ask.p50": _of(_asks, mean),
    "price.ask.variation": _of(_asks, variation),
    "utilisation": _of(_loads, mean),
    "providers.up_least": _least(lambda sample: sample.providers_up),
    "providers.earned": _each(lambda each: each.earned_nanoton),
    "providers.profit": _each(profit),
    "attackers.gained": _gained,
    "attackers.gained_share": _gained_share,
    "at_risk.unpaid_most": _most(lambda sample: sample.unpaid_nanoton),
    "at_risk.unclaimed_most": _most(lambda sample: sample.unclaimed_nanoton),
    "chain.channels_most": _most(lambda sample: sample.channels),
    "chain.fees_share": _fees_share,
    "traffic.messages_per_job": _traffic(lambda sample: sample.messages),
    "traffic.bytes_per_job": _traffic(lambda sample: sample.bytes),
    "efficiency": _efficiency,
    **{f"efficiency.lost.{cause}": _loss(cause) for cause in CAUSES},
}
"""By name, for ``[[expect]]``. Shares are of jobs that ended; times are seconds, prices nanoTON a million units."""


def figures(result: RunResult, policy: str) -> PolicyFigures:
    """What a run shows of its policy."""
    asked = jobs(result, "", result.warmup_s, math.inf)
    found = reached(result)

    def measured(name: str) -> float | None:
        return MEASURES[name](result, "", result.warmup_s, math.inf)

    ends = Counter(job.outcome for job in asked)
    return PolicyFigures(
        policy, result.digest, len(asked), ends["done"], ends["failed"], ends["refused"],
        efficiency=result.efficiency.get(policy), losses=result.losses,
        gained_nanoton=None if found is None else round(found.gained_nanoton),
        first_token_p50=measured("first_token.p50"), first_token_p95=measured("first_token.p95"),
        price_paid=measured("price.paid.mean"), utilisation=measured("utilisation"),
    )  # fmt: skip


def marks(result: RunResult, scenario: Scenario) -> tuple[Mark, ...]:
    """What the scenario expects, beside what was measured. What cannot be measured does not hold."""
    return tuple(_mark(result, expected) for expected in scenario.expect)


def _mark(result: RunResult, expected: Expectation) -> Mark:
    from_s = result.warmup_s if expected.from_s is None else expected.from_s
    to_s = math.inf if expected.to_s is None else expected.to_s
    measured = MEASURES[expected.measure](result, expected.group, from_s, to_s)
    least = -math.inf if expected.at_least is None else expected.at_least
    most = math.inf if expected.at_most is None else expected.at_most
    holds = measured is not None and least <= measured <= most
    return Mark(_name(expected), measured, holds, expected.at_least, expected.at_most)


def _name(expected: Expectation) -> str:
    name = expected.measure + (f" of {expected.group}" if expected.group else "")
    if expected.from_s is None and expected.to_s is None:
        return name
    return f"{name}, {expected.from_s or 0:g} s to {'the end' if expected.to_s is None else f'{expected.to_s:g} s'}"


__all__ = ["MEASURES", "Measure", "marks", "profit"]
