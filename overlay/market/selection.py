"""The client's two choices: whom to ask, and whose quote to take.

Both weigh money against time: the least ``price · usage + value of a second · seconds`` wins. Awarding on that instead
of on price alone is worth four points of the optimum; not herding (a random sample, a little noise) is worth six.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.errors import TooExpensive
from overlay.market import limits
from overlay.market.agreement import Tier
from transport.identity import PeerId

MAIN_UNIT = {
    Task.CHAT: Unit.COMPLETION,
    Task.COMPLETION: Unit.COMPLETION,
    Task.TRANSCRIBE: Unit.AUDIO_MS,
    Task.EMBED: Unit.EMBEDDING,
}
"""The unit whose number divided by a provider's speed is how long a job takes."""


@dataclass(frozen=True)
class Want:
    """What is to be bought: ``usage`` is what one job is expected to use, ``max_amount_nanoton`` and ``duration_ms``
    how much and how long the standing agreement should cover."""

    task: Task
    model: str
    usage: Usage
    max_amount_nanoton: int
    tier: Tier = Tier.PLAIN
    duration_ms: int = limits.DEFAULT_AGREEMENT_MS
    jobs: int = 1
    """How many jobs the agreement is likely to serve."""


@dataclass(frozen=True)
class Candidate:
    """A provider as the capacity index knows it: claims, seconds old. ``units_per_s`` is the speed of one job in its
    main unit, 0 when unknown; ``addrs`` are multiaddrs to reach it by."""

    provider: PeerId
    asks: Prices
    wait_ms: int
    units_per_s: float
    addrs: Sequence[str] = ()
    setup_nanoton: int = 0
    """What dealing with it costs before the first job, in money and time: a payment channel; 0 where there is one."""

    def seconds(self, wait_ms: int, units: int) -> float:
        """How long until ``units`` are done if a slot is free in ``wait_ms``; where the speed is unknown, until it is
        free."""
        return wait_ms / 1000 + (units / self.units_per_s if self.units_per_s > 0 else 0.0)


@dataclass(frozen=True)
class Bid:
    """A candidate's binding quote: its prices, and in how many milliseconds a job would start."""

    candidate: Candidate
    prices: Prices
    start_ms: int


@dataclass(frozen=True)
class ClientPolicy:
    """What a client accepts. None of it is ever sent.

    ``max_prices`` caps each unit's price (a unit that it does not list must be free). ``value_of_time_nanoton_per_s``
    is what a second less of waiting is worth. ``deadline_s`` drops providers that would take longer for one job.
    ``allow``, when given, is the only providers dealt with; ``deny`` are never dealt with.
    """

    max_prices: Prices
    value_of_time_nanoton_per_s: int = 0
    deadline_s: float = math.inf
    max_deposit_nanoton: int = limits.MAX_AMOUNT_NANOTON
    allow: Collection[PeerId] | None = None
    deny: Collection[PeerId] = ()
    cap_covers_time: bool = False
    """Whether what a job would cost at the cap is all that it is worth, waiting included: then a quote that with the
    value of its seconds comes to more is not accepted, however low its price."""

    def admits(self, provider: PeerId) -> bool:
        """Whether ``provider`` may be dealt with."""
        return provider not in self.deny and (self.allow is None or provider in self.allow)

    def affords(self, prices: Prices) -> bool:
        """Whether no unit's price is above its cap. Each unit counts: a standing agreement serves jobs whose mix of
        units nobody knows yet."""
        return all(price <= self.max_prices.per_million.get(unit, 0) for unit, price in prices.per_million.items())


def show_prices(prices: Prices) -> str:
    """A price vector in a sentence."""
    return ", ".join(f"{unit.value} {price}" for unit, price in sorted(prices.per_million.items())) or "nothing"


def seconds_until_done(want: Want, bid: Bid) -> float:
    """How long from now until one job would be done."""
    return bid.candidate.seconds(bid.start_ms, want.usage.get(MAIN_UNIT[want.task]))


def score_nanoton(want: Want, policy: ClientPolicy, bid: Bid) -> float:
    """What a job costs in money and time together; smaller is better. It ranks, and is never paid: hence a float."""
    return bid.prices.cost_nanoton(want.usage) + policy.value_of_time_nanoton_per_s * seconds_until_done(want, bid)


def quotes_asked(news_s: float) -> int:
    """How many quotes to ask for, where news is ``news_s`` seconds old in the mean: more, the less records tell."""
    return min(max(limits.SHORTLIST, int(limits.QUOTES_PER_S * news_s)), limits.MAX_SHORTLIST)


def shortlist(
    candidates: Iterable[Candidate],
    want: Want,
    policy: ClientPolicy,
    rng: Random,
    size: int | None = None,
    *,
    news_s: float = 0.0,
) -> list[Candidate]:
    """Whom to ask for a quote: at most ``size`` providers (:func:`quotes_asked` when not given), best first.

    Takes a random sample of those that the policy admits, drops the hopeless (too slow, or costing over a tenth more
    than the cap allows) and returns the best with a little Gumbel noise, so that clients do not herd, and with more
    where what is told of them is old: by ``news_s`` seconds in the mean. Empty when there is nobody. Raises
    :class:`~overlay.errors.TooExpensive` when there are providers and the price rules out all.
    """
    admitted = [c for c in candidates if policy.admits(c.provider)]
    sample = rng.sample(admitted, min(limits.SAMPLE, len(admitted)))
    value = max(1, policy.max_prices.cost_nanoton(want.usage))
    scored = []
    too_dear = []
    units, second = want.usage.get(MAIN_UNIT[want.task]), policy.value_of_time_nanoton_per_s
    noise = max(limits.GUMBEL_SCALE, min(limits.GUMBEL_PER_S * news_s, limits.MAX_GUMBEL_SCALE))
    for candidate in sample:
        seconds = candidate.seconds(candidate.wait_ms, units)
        if candidate.wait_ms > limits.MAX_WAIT_MS or seconds > policy.deadline_s:
            continue
        # Only the price can rule a candidate out; what a second is worth ranks those that are left.
        cost = candidate.asks.cost_nanoton(want.usage)
        if cost > value * (1 + limits.HOPELESS_LOSS):
            too_dear.append(candidate)
            continue
        gumbel = -math.log(-math.log(rng.random() or 1e-12) or 1e-12)
        scored.append(((cost + second * seconds) / value - noise * gumbel, candidate))
    if too_dear and not scored:
        best = min(too_dear, key=lambda c: c.asks.cost_nanoton(want.usage)).asks
        raise TooExpensive(
            f"every provider of {want.model} asks far more than the cap; the cheapest of {len(too_dear)} asks "
            f"{show_prices(best)} against a cap of {show_prices(policy.max_prices)} (nanoTON per million units); "
            "raise the price cap or try again later",
            best=best,
        )
    scored.sort(key=lambda item: item[0])
    return [candidate for _, candidate in scored[: quotes_asked(news_s) if size is None else size]]


def ranked(bids: Iterable[Bid], want: Want, policy: ClientPolicy) -> list[Bid]:
    """Best first: price plus what the waiting costs."""
    return sorted(bids, key=lambda bid: score_nanoton(want, policy, bid))


def acceptable(bid: Bid, want: Want, policy: ClientPolicy) -> bool:
    """Whether a quote may be accepted: its prices are within the cap, the job would be done in time, and, where the cap
    covers time, price and time together are within it."""
    if not policy.affords(bid.prices):
        return False
    if seconds_until_done(want, bid) > policy.deadline_s:
        return False
    if not policy.cap_covers_time:
        return True
    return score_nanoton(want, policy, bid) <= policy.max_prices.cost_nanoton(want.usage)


def to_award(bids: Iterable[Bid], want: Want, policy: ClientPolicy, rng: Random | None = None) -> list[Bid]:
    """Whose quotes may be accepted, in the order in which to try; without ``rng`` set-ups count for nothing.

    One who can be dealt with only after a set-up goes before those who can be dealt with at once with the probability
    (what all jobs of the agreement would save) / (what the set-up costs). So a little saving leads to a new channel
    when it has come often enough, and a large one soon: Meyerson's rule for online facility location (FOCS 2001), which
    in expectation pays for set-ups no more than it lost by not having them.
    """
    order = ranked((bid for bid in bids if acceptable(bid, want, policy)), want, policy)
    ready = [bid for bid in order if not bid.candidate.setup_nanoton]
    if rng is None or not ready or not order[0].candidate.setup_nanoton:
        return order
    best, instead = score_nanoton(want, policy, order[0]), score_nanoton(want, policy, ready[0])
    if rng.random() * order[0].candidate.setup_nanoton < (instead - best) * want.jobs:
        return order
    return [*ready, *(bid for bid in order if bid.candidate.setup_nanoton)]


def outdone(mine: Bid, rivals: Iterable[Candidate], want: Want, policy: ClientPolicy) -> bool:
    """Whether one of ``rivals`` looks better by its record than ``mine``, what one has, by enough to ask around; or
    ``mine`` would be too late."""
    if seconds_until_done(want, mine) > policy.deadline_s:
        return True
    enough = score_nanoton(want, policy, mine) * (1 - limits.OUTDONE_BY)
    told = (Bid(rival, rival.asks, rival.wait_ms) for rival in rivals)
    return any(
        score_nanoton(want, policy, bid) < enough for bid in told if seconds_until_done(want, bid) <= policy.deadline_s
    )


def to_counter(bids: Sequence[Bid], want: Want, policy: ClientPolicy) -> list[Bid]:
    """Who is asked to yield: the best few when no quote is acceptable, else nobody."""
    if any(acceptable(bid, want, policy) for bid in bids):
        return []
    return ranked(bids, want, policy)[: limits.COUNTERED]
