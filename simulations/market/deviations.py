"""What one party gains by not following the rules: paired runs of the same jobs, with it and without.

One provider's earnings in one run are noise, so a few providers (or clients) that are far from being a market deviate
at once and their earnings are added up. Those that competitive prices would leave idle are not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from overlay.market.controller import Tuning
from simulations.market.floor import Floor
from simulations.market.measure import bound, earned_nanoton, gained_nanoton, windows
from simulations.market.ours import Options, Ours
from simulations.market.seller import Conduct
from simulations.market.workload import CLASSES, Workload, make_workload, split, steady, withhold

MARKUP = 1.1
SOLO, CLIENTS = 3, 6
"""Providers and clients that deviate at once."""

UNDAMPED = Tuning(
    target=1.5, calm_gain=0.02, stirred_gain=0.02, damping_gain=0.0, own_gain=0.15, common_gain=0.15, far_gain=0.0
)


@dataclass(frozen=True)
class Deviation:
    """One way not to follow the rules. ``row``: whether it is held against a mark."""

    name: str
    text: str
    by: str
    """``provider``, ``client``, ``cheapest`` (a fifth of the capacity, one owner) or ``class`` (a cartel)."""
    conduct: Conduct | None = None
    change: Callable[[Workload, int], Workload] | None = None
    asks: int = 0
    pretends: bool = False
    row: bool = True


DEVIATIONS = (
    Deviation("markup", "asks and quotes 10 % more", "provider", Conduct(markup=MARKUP)),
    Deviation("withhold", "offers three quarters of its slots", "provider", change=lambda w, n: withhold(w, n, 0.25)),
    Deviation("overstate", "tells the index of a quarter more load", "provider", Conduct(bias=0.25)),
    Deviation("understate", "tells the index of a quarter less load", "provider", Conduct(bias=-0.25)),
    Deviation("sybils", "appears as eight providers", "provider", change=lambda w, n: split(w, n, 8)),
    Deviation("undamped", "drops the damping of its price", "provider", Conduct(tuning=UNDAMPED)),
    Deviation("deaf", "takes its own load for the market's", "provider", Conduct(deaf=True)),
    Deviation("corner", "owns the cheapest 20 % and asks 10 % more", "cheapest", Conduct(markup=MARKUP)),
    Deviation("cartel", "all servers (27 % of capacity) ask 10 % more", "class", Conduct(markup=MARKUP), row=False),
    Deviation("ask-16", "asks for 16 quotes instead of 8", "client", asks=16),
    Deviation("pretend", "calls every quote too dear", "client", pretends=True),
)


def setting(seed: int, providers: int, length_s: float) -> Workload:
    """The market in which deviations are compared."""
    return make_workload(seed, providers=providers, segments=steady(length_s))


def honest(workload: Workload) -> Floor:
    """The run that a deviation is compared with."""
    return Floor(workload, Ours()).run()


def gain(deviation: Deviation, before: Floor) -> float:
    """What the deviation adds to its makers' earnings, as a share of what they had in ``before``; NaN if that was
    nothing."""
    workload = before.workload
    window = windows(workload)["steady"]
    if deviation.by == "client":
        draw = Random(workload.seed)  # noqa: S311  # a model, no secret
        clients = draw.sample(sorted({job.client for job in workload.jobs}), CLIENTS)
        options = Options(
            asks=dict.fromkeys(clients, deviation.asks) if deviation.asks else {},
            pretends=frozenset(clients if deviation.pretends else ()),
        )
        after = Floor(workload, Ours(options)).run()
        return _ratio([(gained_nanoton(after, c, window), gained_nanoton(before, c, window)) for c in clients])
    makers = _makers(deviation, workload)
    changed = workload
    if deviation.change is not None:
        for number in makers:
            changed = deviation.change(changed, number)
    conduct = dict.fromkeys(makers, deviation.conduct) if deviation.conduct is not None else {}
    after = Floor(changed, Ours(Options(conduct=conduct))).run()
    return _ratio([(earned_nanoton(after, n, window), earned_nanoton(before, n, window)) for n in makers])


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    before = sum(before for _, before in pairs)
    return sum(after for after, _ in pairs) / before - 1 if before > 0 else math.nan


def _makers(deviation: Deviation, workload: Workload) -> list[int]:
    optimum = bound(workload, "steady")
    by_cost = sorted(
        workload.providers, key=lambda p: (p.cost_nanoton_per_munit / optimum.prices[p.hardware], p.number)
    )
    if deviation.by == "class":
        return [p.number for p in workload.providers if CLASSES[p.hardware].name == "server"]
    if deviation.by == "cheapest":
        total, chosen = 0, []
        for provider in by_cost:
            chosen.append(provider.number)
            total += provider.capacity
            if total >= 0.2 * sum(p.capacity for p in workload.providers):
                break
        return chosen
    busy = [p for p in by_cost if p.cost_nanoton_per_munit < 0.9 * optimum.prices[p.hardware]]
    if deviation.name == "sybils":
        busy = [p for p in busy if p.slots >= 8] or busy
    rng = Random(workload.seed)  # noqa: S311  # a model, no secret
    return [p.number for p in rng.sample(busy, min(SOLO, len(busy)))]
