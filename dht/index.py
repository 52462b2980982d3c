"""Who sells what, as far as this node has heard: pure and bounded. Time comes in; nothing here reads a clock."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum

from dht.limits import MAX_RECORDS, MAX_RECORDS_PER_MODEL
from dht.records import CapacityRecord, Offer, RecordError, SignedRecord, check_time, forget_at
from transport.identity import PeerId

Provider = tuple[PeerId, CapacityRecord, Offer]
"""A peer, its record, and the offer in it that matched."""


class Verdict(Enum):
    """What became of a record."""

    NEWS = "news"
    """It is the newest of its provider and was taken."""
    KNOWN = "known"
    """These very bytes are held already."""
    STALE = "stale"
    """A newer one is held, or its time has passed or not come."""
    FORGED = "forged"
    """Its provider signed two different records of one sequence number."""


class CapacityIndex:
    """The newest record of each provider.

    A provider's newest record is remembered past its expiry for as long as an older one might still stand, so that a
    withdrawn or replaced record cannot be brought back by replaying it. When full, the oldest goes.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_per_model: int = MAX_RECORDS_PER_MODEL) -> None:
        self._max_records = max_records
        self._max_per_model = max_per_model
        self._records: dict[PeerId, SignedRecord] = {}
        self._sellers: dict[tuple[str, str], set[PeerId]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._records)

    def judge(self, signed: SignedRecord, now: float) -> Verdict:
        """What :meth:`add` would say, changing nothing."""
        try:
            check_time(signed.record, now)
        except RecordError:
            return Verdict.STALE
        held = self._records.get(signed.peer_id)
        if held is None or held.record.seq < signed.record.seq:
            return Verdict.NEWS
        if held.record.seq > signed.record.seq:
            return Verdict.STALE
        return Verdict.KNOWN if held.envelope == signed.envelope else Verdict.FORGED

    def add(self, signed: SignedRecord, now: float) -> Verdict:
        """Take a record whose signature and subnet the caller has checked; ``now`` in Unix seconds."""
        verdict = self.judge(signed, now)
        if verdict is Verdict.NEWS:
            self._remove(signed.peer_id)
            self._records[signed.peer_id] = signed
            keys = [(offer.task, offer.model) for offer in signed.record.offers]
            for key in keys:
                self._sellers[key].add(signed.peer_id)
            for key in keys:
                while len(sellers := self._sellers.get(key, set())) > self._max_per_model:
                    self._remove(self._oldest(sellers))
            if len(self._records) > self._max_records:
                self.sweep(now)
            while len(self._records) > self._max_records:
                self._remove(self._oldest(set(self._records)))
        return verdict

    def _oldest(self, peers: set[PeerId]) -> PeerId:
        return min(peers, key=lambda peer: (self._records[peer].record.issued_at, peer))

    def _remove(self, peer: PeerId) -> None:
        gone = self._records.pop(peer, None)
        for offer in gone.record.offers if gone else ():
            key = (offer.task, offer.model)
            self._sellers[key].discard(peer)
            if not self._sellers[key]:
                del self._sellers[key]

    def sweep(self, now: float) -> None:
        """Forget what can matter no more."""
        for peer in [peer for peer, held in self._records.items() if now >= forget_at(held.record)]:
            self._remove(peer)

    def _live(self, peer: PeerId, now: float) -> CapacityRecord | None:
        held = self._records.get(peer)
        return held.record if held and not held.record.withdrawn and now < held.record.expires_at else None

    def get(self, peer: PeerId, now: float) -> CapacityRecord | None:
        """The standing record of one provider."""
        return self._live(peer, now)

    def providers(self, task: str, model: str | None = None, tier: str | None = None, *, now: float) -> list[Provider]:
        """Standing offers of ``task``, for any model and tier unless named, in the order of peer id and offer."""
        if model is not None:
            peers = self._sellers.get((task, model), set())
        else:
            peers = {peer for (sold, _), sellers in self._sellers.items() if sold == task for peer in sellers}
        return [
            (peer, record, offer)
            for peer in sorted(peers)
            if (record := self._live(peer, now)) is not None
            for offer in record.offers
            if offer.task == task and model in (None, offer.model) and tier in (None, offer.tier)
        ]

    def models(self, *, now: float) -> list[tuple[str, str]]:
        """Every (task, model) that somebody sells now, sorted."""
        return sorted(key for key, sellers in self._sellers.items() if any(self._live(peer, now) for peer in sellers))

    def page(self, after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        """At most ``limit`` standing records with a peer id above ``after``, sorted by it, and whether more follow.

        Withdrawals count as standing: a neighbour needs them to unlearn what they take back.
        """
        found: list[SignedRecord] = []
        for peer in sorted(peer for peer in self._records if peer > after):
            held = self._records[peer]
            if now < (forget_at(held.record) if held.record.withdrawn else held.record.expires_at):
                if len(found) == limit:
                    return found, True
                found.append(held)
        return found, False
