"""When a provider claims: the cheapest moment between what waiting risks and what a claim costs. Pure.

A voucher that waits is at risk: the disk may die, the node may be away when the channel ends. A claim costs a fee,
whatever it brings, and a channel needs one at its end in any case. Between the two:

* **deadlines** come first: a claim leaves before the channel can end without it;
* **caps** are the owner's word: what one channel, and all together, may hold unclaimed;
* otherwise a channel is claimed once what its waiting has risked by now (unclaimed × time × the owner's daily rate)
  has reached the fee, provided that waiting for the deadline would risk that much again.

The last rule is the greedy one of the dynamic TCP acknowledgement problem (Dooly, Goldman and Scott, STOC 1998):
whatever is earned and when, fees and risk together are at most twice what somebody who knew the future would have paid,
and one fee; no deterministic rule without that knowledge has a better factor. A wallet's message that leaves anyway
takes others along, for which only the claim itself is then paid and not the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

_PPM_DAYS = 1_000_000 * 86_400
"""nanoTON·seconds × parts per million a day, divided by this, are nanoTON."""


@dataclass(frozen=True)
class ClaimCost:
    """What claims cost: ``base_nanoton`` for a wallet's message, ``each_nanoton`` for every claim in it."""

    base_nanoton: int
    each_nanoton: int

    @property
    def alone_nanoton(self) -> int:
        """One claim in a message of its own."""
        return self.base_nanoton + self.each_nanoton


@dataclass(frozen=True)
class ClaimPolicy:
    """What the owner of a provider wants. Sums in nanoTON.

    ``settle_at_nanoton`` and ``unclaimed_cap_nanoton`` bound what one channel, and all of them, hold unclaimed;
    ``risk_ppm_per_day`` is what he reckons to lose of it in a day, in millionths; ``dust_nanoton`` and less is never
    claimed by itself, not even at the end."""

    settle_at_nanoton: int
    unclaimed_cap_nanoton: int
    risk_ppm_per_day: int
    dust_nanoton: int = 0


@dataclass(frozen=True)
class Waiting:
    """A channel with something unclaimed.

    ``deadline_s``: when its claim must leave; ``settled_from_s``: from when on its sum will not grow any more (a claim
    after that is its last); ``exposure_nanoton_s``: unclaimed sum × seconds since it was claimed last."""

    channel: str
    unclaimed_nanoton: int
    deadline_s: int
    settled_from_s: int
    exposure_nanoton_s: int


class Why(StrEnum):
    """What decided."""

    DEADLINE = "deadline"
    CAP = "cap"
    TOTAL_CAP = "total cap"
    RISK = "risk"
    COMPANY = "company"


@dataclass(frozen=True)
class Chosen:
    """A channel to claim now, and why."""

    channel: str
    why: Why


def choose(now_s: int, waiting: Iterable[Waiting], cost: ClaimCost, policy: ClaimPolicy) -> list[Chosen]:
    """Which channels to claim now, the most urgent first; the rest is looked at again in the next round."""
    ordered = sorted(
        (w for w in waiting if w.unclaimed_nanoton > policy.dust_nanoton),
        key=lambda w: (w.deadline_s, -w.unclaimed_nanoton, w.channel),
    )
    chosen = {w.channel: why for w in ordered if (why := _by_itself(now_s, w, cost.alone_nanoton, policy)) is not None}
    left = sum(w.unclaimed_nanoton for w in ordered if w.channel not in chosen)
    for w in sorted(ordered, key=lambda w: (-w.unclaimed_nanoton, w.channel)):
        if left <= policy.unclaimed_cap_nanoton:
            break
        if w.channel not in chosen:
            chosen[w.channel] = Why.TOTAL_CAP
            left -= w.unclaimed_nanoton
    if chosen:
        for w in ordered:
            if w.channel not in chosen and (
                now_s >= w.settled_from_s or _risked(now_s, w, cost.each_nanoton, policy.risk_ppm_per_day)
            ):
                chosen[w.channel] = Why.COMPANY
    return _by_urgency(chosen, ordered)


def _by_itself(now_s: int, w: Waiting, fee_nanoton: int, policy: ClaimPolicy) -> Why | None:
    if now_s >= w.deadline_s:
        return Why.DEADLINE
    if w.unclaimed_nanoton >= policy.settle_at_nanoton:
        return Why.CAP
    return Why.RISK if _risked(now_s, w, fee_nanoton, policy.risk_ppm_per_day) else None


def _risked(now_s: int, w: Waiting, fee_nanoton: int, ppm_per_day: int) -> bool:
    """Whether waiting has risked the fee by now, and would risk it again until the deadline."""
    fee = fee_nanoton * _PPM_DAYS
    ahead_s = max(0, w.deadline_s - now_s)
    return w.exposure_nanoton_s * ppm_per_day >= fee and w.unclaimed_nanoton * ahead_s * ppm_per_day >= fee


def _by_urgency(chosen: dict[str, Why], ordered: Sequence[Waiting]) -> list[Chosen]:
    rank = {why: position for position, why in enumerate(Why)}
    found = [Chosen(w.channel, chosen[w.channel]) for w in ordered if w.channel in chosen]
    return sorted(found, key=lambda c: rank[c.why])  # stable: by deadline within each reason


@dataclass
class Exposures:
    """How much has waited for how long, by channel, in nanoTON·seconds.

    In memory only: a restart begins at zero, which delays what the risk rule would have claimed and nothing else."""

    _since: dict[str, tuple[int, int]]

    @classmethod
    def empty(cls) -> Exposures:
        """Nothing has waited yet."""
        return cls({})

    def grow(self, channel: str, unclaimed_nanoton: int, now_s: int) -> int:
        """Note that ``unclaimed_nanoton`` waits at ``now_s``; the exposure so far. Time that goes back adds nothing."""
        if unclaimed_nanoton <= 0:
            self._since.pop(channel, None)
            return 0
        at_s, exposure = self._since.get(channel, (now_s, 0))
        exposure += unclaimed_nanoton * max(0, now_s - at_s)
        self._since[channel] = (max(at_s, now_s), exposure)
        return exposure

    def claimed(self, channel: str) -> None:
        """Nothing of ``channel`` waits any more."""
        self._since.pop(channel, None)
