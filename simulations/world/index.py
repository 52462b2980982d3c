"""The capacity index of a simulated node whose gossip comes when it looks (:mod:`simulations.network.meanfield`)."""

from __future__ import annotations

import trio

from dht.index import CapacityIndex, Heard, Provider, Source, Verdict
from dht.records import CapacityRecord, SignedRecord
from simulations.network.meanfield import MeanFieldGossip
from transport.identity import PeerId

FEW = 16
"""Records of a page up to which it is cheaper to look for the news of each provider than of all."""

POPULATION_S = 120.0
"""How old the count of providers may be: whoever only counts them need not look at each one."""


class LateIndex(CapacityIndex):
    """Lets in what ``gossip`` has brought before it answers. What a search finds nobody for is waited for."""

    def __init__(self, gossip: MeanFieldGossip) -> None:
        super().__init__()
        self._gossip = gossip
        self._counted_at = float("-inf")

    def get(self, peer: PeerId, now: float) -> CapacityRecord | None:
        """As :meth:`CapacityIndex.get`."""
        self._gossip.let_in_of(peer)
        return super().get(peer, now)

    def heard(self, peer: PeerId) -> Heard | None:
        """As :meth:`CapacityIndex.heard`."""
        self._gossip.let_in_of(peer)
        return super().heard(peer)

    def providers(self, task: str, model: str | None = None, tier: str | None = None, *, now: float) -> list[Provider]:
        """As :meth:`CapacityIndex.providers`."""
        self._gossip.let_in()
        found = super().providers(task, model, tier, now=now)
        if not found:
            self._gossip.hunger()
        return found

    def models(self, *, now: float) -> list[tuple[str, str]]:
        """As :meth:`CapacityIndex.models`."""
        self._gossip.let_in()
        return super().models(now=now)

    def add(
        self, signed: SignedRecord, now: float, source: Source = Source.GOSSIP, teller: PeerId | None = None
    ) -> Verdict:
        """As :meth:`CapacityIndex.add`: what a neighbour tells is no news if gossip has brought it."""
        if source in (Source.NEIGHBOUR, Source.PROVIDER):
            self._gossip.let_in_of(signed.peer_id)
        return super().add(signed, now, source, teller)

    def settled(self) -> int:
        """As :meth:`CapacityIndex.settled`, of two minutes ago at most."""
        if (now := trio.current_time()) >= self._counted_at + POPULATION_S:
            self._counted_at = now
            self._gossip.let_in()
        return super().settled()

    def page(self, after: str, limit: int, *, now: float) -> tuple[list[SignedRecord], bool]:
        """As :meth:`CapacityIndex.page`. A sample of a few looks at the news of those few alone."""
        if limit > FEW:
            self._gossip.let_in()
            return super().page(after, limit, now=now)
        found: list[SignedRecord] = []
        for peer in sorted(peer for peer in {*self._records, *self._gossip.origins()} if peer > after):
            self._gossip.let_in_of(peer)
            if (signed := self.standing(peer, now=now)) is not None:
                if len(found) == limit:
                    return found, True
                found.append(signed)
        return found, False
