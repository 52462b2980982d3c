"""When a provider's record is worth sending again (pure), and how much a neighbour may ask for (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dht.limits import CHANGE_PERCENT, MIN_ANNOUNCE_INTERVAL_S, TOPIC_RECORDS_PER_S
from dht.records import CapacityRecord, Offer

_WAIT_FLOOR_MS = 100  # a wait that moves by less than this is no news, whatever the percentage


def due_at(sent: CapacityRecord | None, sent_at: float, wanted: CapacityRecord, providers: int = 1) -> float:
    """When ``wanted`` should be sent, if ``sent`` (None: nothing) was at ``sent_at``; all in seconds of one clock.

    A change of substance is due as soon as the interval of a market with so many ``providers`` allows; otherwise a
    third of the TTL after the last one.
    """
    if sent is None:
        return sent_at
    renewal_s = max(MIN_ANNOUNCE_INTERVAL_S, sent.ttl_s / 3)
    return sent_at + (min(interval_s(providers), renewal_s) if moved(sent, wanted) else renewal_s)


def interval_s(providers: int) -> float:
    """How long one of ``providers`` waits between two changes of its record, so that all of them together send no more
    than :data:`TOPIC_RECORDS_PER_S`."""
    return max(MIN_ANNOUNCE_INTERVAL_S, providers / TOPIC_RECORDS_PER_S)


def news_age_s(providers: int) -> float:
    """How old in the mean what is known of one of ``providers`` is, where all of them change all the time."""
    return interval_s(providers) / 2


def moved(old: CapacityRecord, new: CapacityRecord) -> bool:
    """Whether anything but small changes of price and load lies between two records."""
    return _frame(old) != _frame(new) or offers_moved(old.offers, new.offers)


def offers_moved(old: Sequence[Offer], new: Sequence[Offer]) -> bool:
    """The same of what two records offer."""
    if old is new or len(old) != len(new):
        return old is not new
    return any(a is not b and _offer_moved(a, b) for a, b in zip(old, new, strict=True))


def _frame(record: CapacityRecord) -> tuple[object, ...]:
    return (
        record.version, record.subnet, record.host_addrs, record.tunnel_addrs, record.noise_key, record.ttl_s,
        record.software,
    )  # fmt: skip


def _offer_moved(old: Offer, new: Offer) -> bool:
    fixed = ("task", "model", "tier", "slots", "context")
    if any(getattr(old, name) != getattr(new, name) for name in fixed) or old.prices.keys() != new.prices.keys():
        return True
    if any(_by_percent(price, new.prices[unit]) for unit, price in old.prices.items()):
        return True
    if 100 * abs(new.busy - old.busy) > CHANGE_PERCENT * new.slots or _by_percent(old.units_per_s, new.units_per_s):
        return True
    wait = abs(new.queue_wait_ms - old.queue_wait_ms)
    return wait > _WAIT_FLOOR_MS and _by_percent(old.queue_wait_ms, new.queue_wait_ms)


def _by_percent(old: int, new: int) -> bool:
    return 100 * abs(new - old) > CHANGE_PERCENT * old


class Allowance:
    """A token bucket for each peer; the table forgets whoever was idle longest."""

    def __init__(self, burst: int, per_s: float, max_peers: int = 1024) -> None:
        self._burst = burst
        self._per_s = per_s
        self._max_peers = max_peers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, now: float) -> bool:
        """Take one token of ``peer`` at ``now`` (seconds of any one clock); False when there is none."""
        level, since = self._buckets.pop(peer, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._per_s)
        granted = level >= 1.0
        self._buckets[peer] = (level - 1.0 if granted else level, now)
        if len(self._buckets) > self._max_peers:
            self._buckets.popitem(last=False)
        return granted
