"""Whom to ask for quotes: of those who sell what is wanted, a few that look best, by what they say, by what they did
for us, and by what it costs to pay them.

What a record says is believed with care: identities cost nothing, and may name any price and any speed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from statistics import median_low

import trio

from compute.usage import Prices
from dht import CapacityIndex, Provider
from dht.announcing import news_age_s
from overlay.errors import TooExpensive
from overlay.market import Candidate, ClientPolicy, Want, shortlist
from overlay.market.selection import MAIN_UNIT, quotes_asked
from overlay.node.reputation import Reputation
from transport.identity import PeerId

CHANNEL_NANOTON = 12_900_000
"""What one more payment channel costs in its life (docs/benchmarks.md, "Money"): as much as hundreds of chats."""

OPENING_S = 15.0
"""How long the first job waits for it: three blocks of TON."""

BELIEVED_SHARE = 1 / 8
"""Of negotiations that believe what a provider says of its speed before it has served us. In the others it counts as no
quicker than the middle one: so saying more brings a liar an eighth of the first jobs, and who really is quick is found
within a few minutes of use."""


class Shortlister:
    """Reads records for one client. ``value_of_time`` is its own, in nanoTON a second."""

    def __init__(self, reputation: Reputation, index: CapacityIndex, value_of_time: int, rng: Random) -> None:
        self._reputation = reputation
        self._index = index
        self._value_of_time = value_of_time
        self._rng = rng

    def candidate(self, row: Provider, want: Want) -> Candidate:
        """A reading of a record, as quick as it showed itself."""
        peer, _, offer = row
        size = want.usage.get(MAIN_UNIT[want.task])
        return _read(row, self._reputation.units_per_s(peer, offer.units_per_s, size, trio.current_time()))

    def shortlist(
        self, rows: Iterable[Provider], want: Want, policy: ClientPolicy, paid: Collection[PeerId]
    ) -> list[Candidate]:
        """Whom to ask: at least half of them are no strangers, as far as there are any; of these, those first whom a
        channel pays (``paid``). Identities cost nothing and may name any price: strangers whom a flood of them brings
        would be the cheapest of all."""
        known: list[Candidate] = []
        strangers: list[Candidate] = []
        rows = list(rows)
        speeds = self.speeds(rows, want)
        for row, speed in zip(rows, speeds, strict=True):
            peer, candidate = row[0], _read(row, speed)
            if peer not in paid:
                candidate = with_setup(candidate, self._value_of_time)
            trusted = self._reputation.is_trusted(peer) or self._index.is_settled(peer)
            (known if trusted else strangers).append(candidate)
        # Announcers go by the same count. Inventing providers does not raise it, nor make those known look alike.
        news_s = news_age_s(self._index.settled())
        look = partial(shortlist, want=want, policy=policy, rng=self._rng, news_s=news_s)
        ready = [candidate for candidate in known if not candidate.setup_nanoton]
        if not ready and not (known and strangers):
            return look(known or strangers)
        best: dict[PeerId, Candidate] = {}
        most = quotes_asked(news_s)
        for group in (ready, known):
            for candidate in _affordable(look, group)[: most // 2 - len(best)] if group else ():
                best.setdefault(candidate.provider, candidate)
        for candidate in look([*known, *strangers]):
            if len(best) < most:
                best.setdefault(candidate.provider, candidate)
        return list(best.values())

    def speeds(self, rows: Sequence[Provider], want: Want) -> list[float]:
        """How quick each of them is to be taken for."""
        now_s, size, reputation = trio.current_time(), want.usage.get(MAIN_UNIT[want.task]), self._reputation
        speeds = [reputation.units_per_s(peer, o.units_per_s, size, now_s) for peer, _, o in rows]
        if self._rng.random() < BELIEVED_SHARE or not any(speeds):
            return speeds
        middle = median_low([speed for speed in speeds if speed > 0])
        return [
            speed if reputation.is_measured(row[0], now_s) else min(speed, middle)
            for row, speed in zip(rows, speeds, strict=True)
        ]


def _read(row: Provider, units_per_s: float) -> Candidate:
    peer, record, offer = row
    return Candidate(peer, Prices.from_wire(dict(offer.prices)), offer.queue_wait_ms, units_per_s, record.host_addrs)


def _affordable(look: Callable[[list[Candidate]], list[Candidate]], candidates: list[Candidate]) -> list[Candidate]:
    try:
        return look(candidates)
    except TooExpensive:
        return []  # strangers may ask less


def with_setup(candidate: Candidate, value_of_time_nanoton_per_s: int) -> Candidate:
    """``candidate`` as somebody with whom there is no channel yet."""
    return replace(candidate, setup_nanoton=CHANNEL_NANOTON + round(value_of_time_nanoton_per_s * OPENING_S))
