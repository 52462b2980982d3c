"""The market's yellow pages: announces our record, and learns everybody else's.

Three ways lead here, and each works without the others: gossip among whoever is connected, an exchange with each new
neighbour, and the hash table, under whose shard keys (:mod:`dht.shards`) providers are listed. Whichever way a record
came, it was signed by its provider, and it is checked before it enters the index.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import trio

from dht.announcing import Allowance, due_at
from dht.index import CapacityIndex, Provider, Source, Verdict
from dht.limits import (
    FETCH_S,
    GOSSIP_BURST,
    GOSSIP_PER_S,
    INTEREST_S,
    MAX_FETCHES,
    MAX_HINTS,
    MAX_ORIGINS,
    MAX_RECORD_BYTES,
    MAX_REFRESH_S,
    MAX_SEARCH_RETRY_S,
    MEET_BURST,
    MEET_PER_S,
    PROVIDER_TTL_S,
    REFRESH_S,
    REGOSSIP_DELAY_S,
    REGOSSIP_INTERVAL_S,
    RENEW_AHEAD_S,
    SAMPLE_AT_LEAST,
    SEARCH_RETRY_S,
    STRANGERS_BURST,
    STRANGERS_PER_S,
    WANTED_PROVIDERS,
    WARM_S,
    WITHDRAW_FLUSH_S,
)
from dht.listing import Listed, Listing
from dht.neighbours import Neighbours
from dht.providers import FoundProvider, ProviderIndex
from dht.records import CapacityRecord, RecordError, SignedRecord, check_size, parse_record, sign_record
from dht.search import Market, Search
from dht.shards import ANY_MODEL, Sold, sold_in
from transport.host import EventKind, GossipMessage, Host, background
from transport.identity import Identity, PeerId


class Directory:
    """Run it with ``async with``; leaving the block withdraws what was announced.

    ``clock`` gives Unix seconds: records carry wall time, since strangers must agree on it. Without ``providers``, a
    hash table, there is only gossip and exchange; with ``gossip=False`` only the table (others are still answered).
    ``provider_ttl_s`` is how long the table keeps a provider record.
    """

    def __init__(
        self,
        host: Host,
        identity: Identity,
        subnet: str,
        *,
        clock: Callable[[], float] = time.time,
        index: CapacityIndex | None = None,
        rng: random.Random | None = None,
        providers: ProviderIndex | None = None,
        gossip: bool = True,
        provider_ttl_s: float = PROVIDER_TTL_S,
    ) -> None:
        self.index = index if index is not None else CapacityIndex()
        """What is known; read it with the same clock."""
        self._host = host
        self._identity = identity
        self._subnet = subnet
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  # picks a neighbour and a shard, no secret
        self._table = providers
        self._gossip = gossip
        self._topic = f"/cocoon/{subnet}/capacity/1"
        self._protocol = f"/cocoon/{subnet}/capacity/1.0.0"
        self._neighbours = Neighbours(host, self._protocol, self.index, self._take, clock, self._rng)
        self._listing: Listing | None = None
        if providers is not None:
            self._listing = Listing(providers, identity.peer_id, subnet, self._rng, ttl_s=provider_ttl_s)
        self._search: Search | None = None
        self._wanted: CapacityRecord | None = None
        self._sent: SignedRecord | None = None
        self._sent_at = float("-inf")
        self._changed = trio.Event()
        self._news: trio.Event | None = None
        """While somebody waits for news."""
        self._asked = trio.Event()
        """Set when somebody wants providers."""
        self._origins = Allowance(GOSSIP_BURST, GOSSIP_PER_S, MAX_ORIGINS)
        self._strangers = Allowance(STRANGERS_BURST, STRANGERS_PER_S, 1)
        self._meetings = Allowance(MEET_BURST, MEET_PER_S, 1)
        self._regossip_at = float("-inf")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._host.set_handler(self._protocol, self._neighbours)
        async with AsyncExitStack() as stack:
            if self._gossip:
                # The validator takes records in. Nobody reads the queue behind it, which keeps the last few.
                await stack.enter_async_context(self._host.subscribe(self._topic, self._hear))
            events = await stack.enter_async_context(self._host.events())
            nursery = await stack.enter_async_context(background())

            async def greet() -> None:
                async for event in events:
                    if event.kind is EventKind.CONNECTED and event.peer_id is not None:
                        self._meet(event.peer_id, nursery)

            nursery.start_soon(greet)
            nursery.start_soon(self._announce_when_due)
            nursery.start_soon(self._refresh)
            if self._table is not None and self._listing is not None:
                self._search = Search(
                    self._table, self._identity.peer_id, self._subnet, self._bring, nursery, self._rng
                )
                nursery.start_soon(self._listing.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(5 * WITHDRAW_FLUSH_S):
            await self.withdraw()
        await self._stack.__aexit__(kind, error, trace)

    # --- what we sell -------------------------------------------------------------------------------------------------

    async def announce(self, record: CapacityRecord) -> None:
        """Offer what ``record`` says from now on; ``subnet``, ``seq`` and ``issued_at`` are set here.

        Call it as often as anything changes: it is sent when a price or load moved by more than 10 %, what is sold
        changed, or a third of its TTL has passed, and at most every two seconds, less often in a market of more than
        forty. Raises
        :class:`dht.RecordError` when it is too long to be sent. On cancellation it is announced or not.
        """
        wanted = record if record.subnet == self._subnet else replace(record, subnet=self._subnet)
        check_size(wanted if wanted.seq and wanted.issued_at else self._stamp(wanted))  # the caller's error, now
        self._wanted = wanted
        self._changed.set()
        if self._listing is not None:
            self._listing.sell(sold_in(wanted))
        await trio.lowlevel.checkpoint()

    @property
    def told(self) -> CapacityRecord | None:
        """What was announced last, as it was sent."""
        return self._sent.record if self._sent is not None else None

    async def withdraw(self) -> None:
        """Take back what was announced, if anything was, and wait a moment for it to leave. The hash table forgets by
        itself; until then whoever finds us there is told by ourselves that we sell nothing, or does not reach us."""
        self._wanted = None
        self._changed.set()
        if self._listing is not None:
            self._listing.sell(())
        if self._sent is None or self._sent.record.withdrawn:
            return
        await self._send(self._sent.record.withdrawal())
        await trio.sleep(WITHDRAW_FLUSH_S)

    def _stamp(self, record: CapacityRecord) -> CapacityRecord:
        now = self._clock()
        last = self._sent.record.seq if self._sent else -1
        return replace(record, seq=max(last + 1, int(now * 1000)), issued_at=int(now))

    async def _send(self, record: CapacityRecord) -> None:
        signed = sign_record(self._identity, self._stamp(record))
        self._sent, self._sent_at = signed, trio.current_time()
        self.index.add(signed, self._clock(), Source.OWN)
        if self._gossip:
            await self._host.publish(self._topic, signed.envelope)

    async def _announce_when_due(self) -> None:
        while True:
            self._changed = trio.Event()
            due = float("inf")
            if self._wanted is not None:
                sent = self._sent.record if self._sent and not self._sent.record.withdrawn else None
                due = due_at(sent, self._sent_at, self._wanted, self.index.settled())
            if trio.current_time() >= due and self._wanted is not None:
                await self._send(self._wanted)
                continue
            with trio.move_on_at(due):
                await self._changed.wait()

    def _meet(self, peer: PeerId, nursery: trio.Nursery) -> None:
        if self._gossip:
            if len(self.index) < SAMPLE_AT_LEAST or self._meetings.take("", trio.current_time()):
                nursery.start_soon(self._neighbours.sample, peer)
            if self._sent is not None and trio.current_time() >= self._regossip_at:
                self._regossip_at = trio.current_time() + REGOSSIP_INTERVAL_S
                nursery.start_soon(self._regossip)
        if self._listing is not None:
            self._listing.again()

    async def _regossip(self) -> None:
        """Gossip our record again for a neighbour that was not in our mesh when we last did."""
        await trio.sleep(REGOSSIP_DELAY_S)
        if self._sent is not None and not self._sent.record.withdrawn:
            await self._host.publish(self._topic, self._sent.envelope)

    # --- what others sell ---------------------------------------------------------------------------------------------

    def providers(self, task: str, model: str | None = None, tier: str | None = None) -> list[Provider]:
        """Who sells ``task`` now: (peer id, record, matching offer)."""
        return self.index.providers(task, model, tier, now=self._clock())

    def models(self) -> list[tuple[str, str]]:
        """Every (task, model) that somebody sells now."""
        return self.index.models(now=self._clock())

    async def wait_for_providers(
        self, task: str, model: str | None = None, tier: str | None = None, *, timeout_s: float
    ) -> list[Provider]:
        """Like :meth:`providers`, but wait for the first one to become known; empty after ``timeout_s``.

        Who is known already comes first. When that is nobody, or few, the hash table is searched too (for a tier that
        is named); the search goes on in the background when this returns or is cancelled.
        """
        sold = Sold(task, ANY_MODEL if model is None else model, tier) if tier is not None else None
        pause_s, search_at = SEARCH_RETRY_S, trio.current_time()
        with trio.move_on_after(timeout_s):
            while not (found := self.providers(task, model, tier)):
                if self._news is None:
                    self._news = trio.Event()
                news = self._news
                if trio.current_time() >= search_at:
                    if self._search is not None and sold is not None:
                        self._ask_for(sold)
                        self._search.start(sold, within_s=SEARCH_RETRY_S / 2)
                    search_at = trio.current_time() + pause_s
                    pause_s = min(2 * pause_s, MAX_SEARCH_RETRY_S)
                with trio.move_on_at(search_at):
                    await news.wait()
            if self._search is not None and sold is not None:
                self._ask_for(sold)
                if len(found) < WANTED_PROVIDERS:
                    self._search.start(sold)
            return found
        return self.providers(task, model, tier)

    def _ask_for(self, sold: Sold) -> None:
        assert self._search is not None
        self._search.market(sold).asked_at = trio.current_time()
        self._asked.set()

    async def look_further(
        self, task: str, model: str | None = None, tier: str | None = None, *, timeout_s: float
    ) -> list[Provider]:
        """Like :meth:`providers`, after a search of the hash table, or as far as it got within ``timeout_s``."""
        if self._search is not None and tier is not None:
            sold = Sold(task, ANY_MODEL if model is None else model, tier)
            self._search.start(sold, within_s=SEARCH_RETRY_S)
            market = self._search.market(sold)
            if market.running:
                with trio.move_on_after(timeout_s):
                    await market.ended.wait()
        return self.providers(task, model, tier)

    async def record_of(
        self, peer: PeerId, *, addrs: Sequence[str] = (), timeout_s: float = FETCH_S
    ) -> CapacityRecord | None:
        """The standing record of one provider: the one known, else what it says when asked (``addrs`` are hints); None
        after ``timeout_s``, and when it cannot be reached or sells nothing."""
        if self.index.get(peer, self._clock()) is None:
            with trio.move_on_after(timeout_s):
                await self._neighbours.fetch(peer, tuple(addrs)[:MAX_HINTS])
        return self.index.get(peer, self._clock())

    @property
    def listed(self) -> dict[Sold, Listed]:
        """How we are listed in the hash table; empty without one."""
        return self._listing.listed if self._listing is not None else {}

    @property
    def markets(self) -> dict[Sold, Market]:
        """What was searched for in the hash table; empty without one."""
        return dict(self._search.markets) if self._search is not None else {}

    def _take(self, envelope: bytes, source: Source, sender: PeerId) -> tuple[SignedRecord, Verdict]:
        """Verify and index a record. Raises :class:`RecordError` for what no honest node passes on; a stale record, or
        the second of two with one sequence number, is its provider's doing and not held against who passed it on."""
        signed = parse_record(envelope)
        if source is not Source.NEIGHBOUR and sender != signed.peer_id:
            raise RecordError(f"{sender} sends a record of {signed.peer_id} as its own")
        if signed.record.subnet != self._subnet:
            raise RecordError(f"a record of the subnet {signed.record.subnet!r} in {self._subnet!r}")
        teller = sender if source is Source.NEIGHBOUR else None
        verdict = self.index.add(signed, self._clock(), source, teller)
        if verdict is Verdict.NEWS and self._news is not None:
            self._news.set()
            self._news = None
        return signed, verdict

    def _hear(self, message: GossipMessage) -> bool | None:
        """The gossip validator: only a provider itself gossips its record, only its newest is passed on, and no more of
        them than an honest one sends. A neighbour cannot know how much of a flood we have seen: it is ignored. Those
        not known for long share an allowance, which is what inventing identities spends."""
        now = trio.current_time()
        known = self.index.is_settled(message.origin)
        if not ((known or self._strangers.take("", now)) and self._origins.take(message.origin, now)):
            return None if len(message.data) <= MAX_RECORD_BYTES else False
        try:
            _, verdict = self._take(message.data, Source.GOSSIP, message.origin)
        except RecordError:
            return False
        return True if verdict in (Verdict.NEWS, Verdict.KNOWN) else None

    # --- the hash table, and what gossip may have lost ----------------------------------------------------------------

    async def _bring(self, found: FoundProvider, sold: Sold) -> bool:
        """Have the record of a provider that is listed under ``sold``; whether it sells that now."""
        if not self._lasts(found.peer_id):
            await self._neighbours.fetch(found.peer_id, tuple(found.addrs)[:MAX_HINTS])
        record = self.index.get(found.peer_id, self._clock())
        return record is not None and sold in sold_in(record)

    def _lasts(self, peer: PeerId) -> bool:
        record = self.index.get(peer, self._clock())
        return record is not None and record.expires_at > self._clock() + RENEW_AHEAD_S

    async def _refresh(self) -> None:
        """Now and then a neighbour is asked, and what somebody wants is kept warm. Who wants nothing, and lost nothing
        for a while, sleeps for long."""
        wait_s, ask_at = REFRESH_S, trio.current_time() + REFRESH_S
        while True:
            self._asked = trio.Event()
            jitter = self._rng.uniform(0.8, 1.2)
            if not self._is_warm():
                with trio.move_on_at(ask_at - jitter * WARM_S):
                    await self._asked.wait()
            await trio.sleep(jitter * WARM_S)
            self.index.sweep(self._clock())
            if self._gossip and trio.current_time() >= ask_at and (peers := self._host.peers()):
                lost = await self._neighbours.sample(self._rng.choice(peers).peer_id)
                wait_s = REFRESH_S if lost else min(2 * wait_s, MAX_REFRESH_S)
                ask_at = trio.current_time() + wait_s
            await self._keep_warm()

    def _is_warm(self) -> bool:
        markets = self._search.markets.values() if self._search is not None else ()
        return any(trio.current_time() <= market.asked_at + INTEREST_S for market in markets)

    async def _keep_warm(self) -> None:
        """Keep what somebody asks for in the index: renew records that are about to expire, look for more when few."""
        if self._search is None:
            return
        for sold, market in list(self._search.markets.items()):
            if trio.current_time() > market.asked_at + INTEREST_S:
                continue
            known = self.providers(sold.task, sold.model or None, sold.tier)
            ending = [peer for peer, _, _ in known if not self._lasts(peer) and peer != self._identity.peer_id]
            async with trio.open_nursery() as nursery:
                for peer in dict.fromkeys(self._rng.sample(ending, min(len(ending), MAX_FETCHES))):
                    nursery.start_soon(self._renew, peer)
            if len(known) < WANTED_PROVIDERS:
                self._search.start(sold)

    async def _renew(self, peer: PeerId) -> None:
        record = self.index.get(peer, self._clock())
        with trio.move_on_after(FETCH_S):
            await self._neighbours.fetch(peer, record.host_addrs if record is not None else ())
