"""The one task of an idle node: hears who comes and goes, and now and then does what is due.

A round expires, checks peers that were silent, refreshes, hands records to newcomers, republishes and saves. It runs
beside the listening, so that no event is missed; two never run at once.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice

import trio

from dht.kad.answers import rfc3339
from dht.kad.config import KadConfig
from dht.kad.contacts import Contact
from dht.kad.errors import KadError
from dht.kad.handover import due_to
from dht.kad.keys import peer_bytes, random_key_in_bucket
from dht.kad.limits import (
    CHECKS_PER_ROUND,
    HANDOVER_PER_ROUND,
    JOIN_DELAY_S,
    REFRESH_MAX_BITS,
    REPUBLISH_PER_ROUND,
    SAVE_S,
    STORE_WIDTH,
)
from dht.kad.lookup import LookupRequest
from dht.kad.messages import Message, MessageType, Record
from dht.kad.neighbours import Neighbours
from dht.kad.providers import ProviderStore
from dht.kad.publications import Publication, Publications
from dht.kad.queries import Queries
from dht.kad.store import RecordStore, StoredRecord
from transport.host import EventKind, HostEvent
from transport.identity import PeerId

_NEVER = float("inf")


class Upkeep:
    """Upkeep of one node. ``publish`` sends one of our own publications, ``save`` writes a snapshot."""

    def __init__(
        self,
        own: PeerId,
        neighbours: Neighbours,
        queries: Queries,
        records: RecordStore,
        providers: ProviderStore,
        publications: Publications,
        config: KadConfig,
        clock: Callable[[], float],
        rng: random.Random,
        publish: Callable[[Publication], Awaitable[int]],
        save: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._own = own
        self._neighbours = neighbours
        self._table = neighbours.table
        self._queries = queries
        self._records = records
        self._providers = providers
        self._publications = publications
        self._config = config
        self._clock = clock
        self._rng = rng
        self._publish = publish
        self._save = save
        self._due = _NEVER
        self._self_refresh_at = _NEVER
        self._save_at = _NEVER
        self._waiting = trio.CancelScope()
        self._in_round = False

    async def run(self, events: AsyncIterator[HostEvent], nursery: trio.Nursery) -> None:
        """Follow ``events`` for ever. Waiting for the next one is cancelled when a round is due, which an iterator
        with a queue behind it, as every host's, survives."""
        now = trio.current_time()
        self._self_refresh_at = min(self._self_refresh_at, now + self._config.self_refresh_s)
        self._save_at = now + SAVE_S
        self._due = min(self._due, now + self._jittered(self._config.upkeep_s))
        while True:
            with trio.CancelScope(deadline=self._due) as self._waiting:
                async for event in events:
                    self._hear(event)
                await trio.sleep_forever()
            if not self._in_round:
                self._in_round = True
                self._due = trio.current_time() + self._jittered(self._config.upkeep_s)
                nursery.start_soon(self._round)
            else:
                self._due = trio.current_time() + self._config.upkeep_s / 4

    def soon(self) -> None:
        """The table has its first peer: look up our own id when the others of the same moment have come too."""
        self._self_refresh_at = self._due = trio.current_time() + JOIN_DELAY_S
        self._waiting.deadline = self._due

    def self_refreshed(self) -> None:
        """Our own id was looked up just now."""
        self._self_refresh_at = trio.current_time() + self._config.self_refresh_s

    def _hear(self, event: HostEvent) -> None:
        if event.peer_id is None:
            return
        if event.kind is EventKind.CONNECTED:
            self._neighbours.connected(event.peer_id, event.addr)
        elif event.kind is EventKind.DISCONNECTED:
            self._neighbours.disconnected(event.peer_id)
        elif event.kind is EventKind.DROPPED:  # it broke a protocol, this one or another
            self._table.remove(event.peer_id)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.75, 1.25)

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        try:
            now = self._clock()
            self._records.expire(now)
            self._providers.expire(now)
            for peer in self._table.to_check(trio.current_time(), self._config.check_after_s, CHECKS_PER_ROUND):
                self._neighbours.probe(peer)
            if trio.current_time() >= self._self_refresh_at:
                await self.refresh_self()
            if self._config.bucket_refresh_s < _NEVER:
                await self.refresh_buckets(self._config.bucket_refresh_s, limit=1)
            await self._hand_over()
            await self._republish_held()
            await self._republish_own()
            if self._save is not None and trio.current_time() >= self._save_at:
                self._save_at = trio.current_time() + SAVE_S
                await self._save()
        finally:
            self._in_round = False

    async def refresh_self(self) -> None:
        """Look up our own id: it finds our nearest neighbours, and they find us."""
        self.self_refreshed()
        enough = self._config.enough_peers

        def until(_step: LookupRequest, _reply: Message) -> bool:
            return enough is not None and len(self._table) >= enough

        async with self._queries.session() as session:
            await self._queries.find_node(peer_bytes(self._own), session, until=until)

    async def refresh_buckets(self, after_s: float, *, limit: int | None = None) -> None:
        """Look up a key at random in buckets that no look-up touched for ``after_s``, until they are full."""
        due = self._table.to_refresh(trio.current_time(), after_s, REFRESH_MAX_BITS)
        for index in due[:limit]:
            if self._table.size(index) >= self._config.k:
                continue
            key = random_key_in_bucket(self._table.own_key, index, self._rng)

            def full(_step: LookupRequest, _reply: Message, index: int = index) -> bool:
                return self._table.size(index) >= self._config.k

            async with self._queries.session() as session:
                await self._queries.find_node(key, session, until=full)

    async def _hand_over(self) -> None:
        newcomers, self._neighbours.newcomers = self._neighbours.newcomers, {}
        if not newcomers or not len(self._records):
            return
        records = list(self._records)
        clock, now = self._clock(), trio.current_time()
        since = {peer: clock - (now - entered) for peer, entered in newcomers.items()}
        due = list(islice(due_to(records, self._table, since, self._config.k), HANDOVER_PER_ROUND + 1))
        if len(due) > HANDOVER_PER_ROUND:  # the rest in the next round; a record stored twice is no harm
            rest = {peer.peer_id: newcomers[peer.peer_id] for _, peer in due[HANDOVER_PER_ROUND:]}
            self._neighbours.newcomers = {**rest, **self._neighbours.newcomers}
        by_peer: dict[PeerId, list[tuple[StoredRecord, Contact]]] = {}
        for record, peer in due[:HANDOVER_PER_ROUND]:
            by_peer.setdefault(peer.peer_id, []).append((record, peer))
        waiting = list(by_peer.values())

        async def give() -> None:
            while waiting:
                async with self._queries.session(keep=True) as session:
                    for record, peer in waiting.pop():
                        if not await self._queries.store([peer], _put(record), session, more=True):
                            break  # it is gone again, or wants no more

        async with trio.open_nursery() as nursery:
            for _ in range(min(STORE_WIDTH, len(waiting))):
                nursery.start_soon(give)

    async def _republish_held(self) -> None:
        """Store again what nobody has stored here lately: the holders may have changed altogether."""
        after_s = self._jittered(self._config.republish_s)  # so that not all holders of a record begin at once
        for record in self._records.to_republish(self._clock(), after_s, REPUBLISH_PER_ROUND):
            record.received_at = self._clock()  # whoever we send it to will not do it again for a while, nor do we
            async with self._queries.session(keep=True) as session:
                holders = await self._queries.find_holders(record.key, session)
                await self._queries.store(holders, _put(record), session)

    def _forget_ended(self) -> None:
        """Records of ours that have ended are renewed no more: whoever made them makes others."""
        now = self._clock()
        for publication in self._publications:
            if publication.value is not None and self._records.get(publication.key, now) is None:
                self._publications.withdraw_record(publication.key)

    async def _republish_own(self) -> None:
        self._forget_ended()
        for publication in self._publications.due(trio.current_time(), REPUBLISH_PER_ROUND):
            try:
                reached = await self._publish(publication)
            except KadError:
                if publication.value is not None:  # a better one is known
                    self._publications.withdraw_record(publication.key)
                    continue
                reached = 0  # no address at present
            provided = publication.value is None
            wait_s = self._config.provider_republish_s if provided else self._config.republish_s
            if not reached:
                wait_s = self._config.upkeep_s
            self._publications.done(publication, trio.current_time() + self._jittered(wait_s))


def _put(record: StoredRecord) -> Message:
    return Message(MessageType.PUT_VALUE, record.key, Record(record.key, record.value, rfc3339(record.received_at)))
