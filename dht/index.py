"""Who sells what, as far as this node has heard: pure and bounded. Time comes in; nothing here reads a clock."""

from __future__ import annotations

from enum import Enum, StrEnum
from itertools import islice
from random import Random
from typing import NamedTuple

from dht.limits import MAX_DEALT_WITH, MAX_RECORDS, MAX_RECORDS_PER_MODEL, SETTLED_AFTER_S
from dht.pool import Pool, Standing
from dht.records import CapacityRecord, Offer, SignedRecord, forget_at, stands
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


class Source(StrEnum):
    """How a record came to us. Its signature is the same whichever way."""

    OWN = "own"
    """We made it."""
    GOSSIP = "gossip"
    """Its provider gossiped it."""
    NEIGHBOUR = "neighbour"
    """A neighbour told us, from its memory."""
    PROVIDER = "provider"
    """We asked the provider itself, having found it in the hash table."""


class Heard(NamedTuple):
    """A record held, and how and when it came."""

    signed: SignedRecord
    source: Source
    at: float
    """When this record came, in Unix seconds."""
    first_at: float
    """When the first of its provider came, of those held without a gap."""
    teller: PeerId | None = None
    """The neighbour that told us, if one did."""


class CapacityIndex:
    """The newest record of each provider.

    A provider's newest record is remembered past its expiry for as long as an older one might still stand, so that a
    withdrawn or replaced record cannot be brought back by replaying it. When full, :class:`dht.pool.Pool` says who
    goes, so that whoever floods it with identities displaces newcomers and leaves those alone that this node knows.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_per_model: int = MAX_RECORDS_PER_MODEL) -> None:
        self._max_per_model = max_per_model
        self._records: dict[PeerId, Heard] = {}
        self._all = Pool(max_records)
        self._sellers: dict[tuple[str, str], Pool] = {}
        self._dealt_with: dict[PeerId, None] = {}

    def __len__(self) -> int:
        return len(self._records)

    def deal_with(self, peer: PeerId) -> None:
        """This node does business with ``peer``: no stranger displaces its record from now on, nor later ones. The
        last :data:`MAX_DEALT_WITH` are remembered."""
        self._dealt_with.pop(peer, None)
        self._dealt_with[peer] = None
        if len(self._dealt_with) > MAX_DEALT_WITH:
            forgotten = next(iter(self._dealt_with))
            del self._dealt_with[forgotten]
            self._file(forgotten)
        self._file(peer)

    def is_settled(self, peer: PeerId) -> bool:
        """Whether a provider is more than a newcomer: it has renewed its record for a while, or was dealt with."""
        return peer in self._all and self._all.standing(peer) is not Standing.NEWCOMER

    def settled(self) -> int:
        """How many providers are more than newcomers. Inventing identities does not raise it at once."""
        return self._all.count(Standing.SETTLED) + self._all.count(Standing.DEALT_WITH)

    def judge(self, signed: SignedRecord, now: float) -> Verdict:
        """What :meth:`add` would say, changing nothing."""
        if not stands(signed.record, now):
            return Verdict.STALE
        heard = self._records.get(signed.peer_id)
        if heard is None or heard.signed.record.seq < signed.record.seq:
            return Verdict.NEWS
        if heard.signed.record.seq > signed.record.seq:
            return Verdict.STALE
        return Verdict.KNOWN if heard.signed.envelope == signed.envelope else Verdict.FORGED

    def add(
        self, signed: SignedRecord, now: float, source: Source = Source.GOSSIP, teller: PeerId | None = None
    ) -> Verdict:
        """Take a record whose signature and subnet the caller has checked; ``now`` in Unix seconds. ``teller`` is the
        neighbour that told it: no neighbour displaces by what it tells more than what tells as much."""
        verdict = self.judge(signed, now)
        if verdict is Verdict.NEWS:
            before = self._records.get(signed.peer_id)
            if before is not None and before.signed.record.sold != signed.record.sold:
                self._remove(signed.peer_id)
            self._records[signed.peer_id] = Heard(signed, source, now, before.first_at if before else now, teller)
            self._file(signed.peer_id)
            for key in signed.record.sold:
                while (surplus := self._sellers[key].surplus() if key in self._sellers else None) is not None:
                    self._remove(surplus)
            if self._all.surplus() is not None:
                self.sweep(now)
            while (surplus := self._all.surplus()) is not None:
                self._remove(surplus)
        return verdict

    def _file(self, peer: PeerId) -> None:
        """Enter a provider, or its new standing, wherever it counts."""
        heard = self._records.get(peer)
        if heard is None:
            return
        record = heard.signed.record
        standing = Standing.SETTLED if heard.at - heard.first_at >= SETTLED_AFTER_S else Standing.NEWCOMER
        if peer in self._dealt_with or heard.source is Source.OWN:
            standing = Standing.DEALT_WITH
        teller: str = heard.teller or heard.source.value
        self._all.put(peer, standing, record.issued_at, teller)
        for key in record.sold:
            sellers = self._sellers.get(key)
            if sellers is None:
                sellers = self._sellers[key] = Pool(self._max_per_model)
            sellers.put(peer, standing, record.issued_at, teller)

    def _remove(self, peer: PeerId) -> None:
        gone = self._records.pop(peer, None)
        self._all.drop(peer)
        for key in gone.signed.record.sold if gone else ():
            self._sellers[key].drop(peer)
            if not self._sellers[key]:
                del self._sellers[key]

    def sweep(self, now: float) -> None:
        """Forget what can matter no more."""
        for peer in [peer for peer, heard in self._records.items() if now >= forget_at(heard.signed.record)]:
            self._remove(peer)

    def _live(self, peer: PeerId, now: float) -> CapacityRecord | None:
        heard = self._records.get(peer)
        if heard is None:
            return None
        record = heard.signed.record
        return record if not record.withdrawn and now < record.expires_at else None

    def get(self, peer: PeerId, now: float) -> CapacityRecord | None:
        """The standing record of one provider."""
        return self._live(peer, now)

    def heard(self, peer: PeerId) -> Heard | None:
        """What is held of one provider, standing or not."""
        return self._records.get(peer)

    def providers(self, task: str, model: str | None = None, tier: str | None = None, *, now: float) -> list[Provider]:
        """Standing offers of ``task``, for any model and tier unless named, in the order of peer id and offer."""
        if model is not None:
            peers = sorted(self._sellers.get((task, model), ()))
        else:
            peers = sorted({peer for (sold, _), sellers in self._sellers.items() if sold == task for peer in sellers})
        found: list[Provider] = []
        for peer in peers:
            record = self._records[peer].signed.record
            if now < record.expires_at and not record.withdrawn:
                for offer in record.offers:
                    if offer.task == task and (model is None or offer.model == model) and tier in (None, offer.tier):
                        found.append((peer, record, offer))
        return found

    def sample(self, task: str, model: str, count: int, rng: Random, *, now: float) -> list[Provider]:
        """Offers of ``count`` sellers picked at random, with repetition; fewer where the one picked has none standing.
        Costs no more in a large market than a look at the list of its sellers."""
        sellers = self._sellers.get((task, model))
        if not sellers:
            return []
        found: list[Provider] = []
        # Each provider does this every second: no call for each that is picked.
        for peer in rng.choices(list(sellers), k=count):
            record = self._records[peer].signed.record
            if record.ttl_s and now < record.issued_at + record.ttl_s:
                for offer in record.offers:
                    if offer.model == model and offer.task == task:
                        found.append((peer, record, offer))
        return found

    def models(self, *, now: float) -> list[tuple[str, str]]:
        """Every (task, model) that somebody sells now, sorted."""
        return sorted(key for key, sellers in self._sellers.items() if any(self._live(peer, now) for peer in sellers))

    def page(self, after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        """At most ``limit`` standing records with a peer id above ``after``, sorted by it, and whether more follow.

        Withdrawals count as standing: a neighbour needs them to unlearn what they take back.
        """
        found: list[SignedRecord] = []
        for peer in sorted(peer for peer in self._records if peer > after):
            if (signed := self.standing(peer, now=now)) is not None:
                if len(found) == limit:
                    return found, True
                found.append(signed)
        return found, False

    def pick(self, rng: Random) -> str:
        """One of the providers at random, from which on to look at what somebody else knows; empty for the beginning,
        which is as likely as each of them."""
        number = rng.randrange(len(self._records) + 1)
        return next(islice(self._records, number, None), "")

    def standing(self, peer: PeerId, *, now: float) -> SignedRecord | None:
        """One provider's record or withdrawal as it may be passed on, or None."""
        heard = self._records.get(peer)
        if heard is None:
            return None
        record = heard.signed.record
        return heard.signed if now < (forget_at(record) if record.withdrawn else record.expires_at) else None
