"""Standing agreements: for each (task, model) one that jobs can start under, renewed before it runs out.

The first job of a kind waits for a negotiation; the next ones find the agreement and start at once. When its provider
has a queue, the next job negotiates anew. When a provider fails, it is left out for a while and the next negotiation
finds another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random

import trio

from compute.estimate import estimate_usage, expected_usage
from compute.tasks import Request, Task
from compute.usage import Prices, Unit, Usage
from dht import CapacityRecord, Directory, Offer
from overlay.config import MarketSection
from overlay.errors import NoProvider, ProviderGone, TooExpensive, UnknownModel
from overlay.events import EventLog, prices_text
from overlay.market import (
    Agreement,
    Buyer,
    Candidate,
    ClientPolicy,
    Declined,
    Observer,
    Tier,
    Trace,
    Want,
    collect_quotes,
    negotiate,
    shortlist,
    silent,
)
from overlay.market import Offer as QuotedOffer
from overlay.node.links import Link, Links
from overlay.node.trade_log import TradeLog
from transport.host.interface import Host
from transport.identity import PeerId

AUTO = "auto"
"""The model name that leaves the choice to us."""

FAILED_FOR_S = 30.0
"""A provider that failed a job, or was not there when it was asked, is left out of negotiations this long."""

RENEW_AT = 0.3
"""An agreement with less than this share of its time left is renewed in the background."""

CROWDED_WAIT_MS = 1_000
"""A standing agreement whose provider tells of a longer queue than this is not used while others may have none:
negotiating takes half a second. Without this a client's jobs queue up at one provider for the whole minute while others
idle, and a busy market loses half of its worth (docs/simulation.md, "The market alone")."""

OPENING_MS = 7_500
"""Opening a payment channel takes 5 to 10 s until it is on the chain."""

CHANNEL_FEES_NANOTON = 12_900_000
"""What opening a channel and settling it at its end costs (docs/benchmarks.md, `channel_life`)."""

FIRST_OFFERS_S = 5.0
"""A client that has just started waits this long for the first offer."""

MORE_OFFERS_S = 0.4
"""… and this much longer for others to compare it with."""

LATER_OFFERS_S = 0.5
"""A client that has been up for a while knows the market: who is not there yet will not be in a moment."""

MAX_DEALS = 256
"""Standing agreements kept: (task, model) pairs a client really uses."""

_Row = tuple[PeerId, CapacityRecord, Offer]


@dataclass
class Deal:
    """An agreement, the link to its provider, and what the provider asked in public when it was made."""

    agreement: Agreement
    link: Link
    ask: Prices
    ends_at: float
    """When no job should start under it any more, by trio's clock."""
    renew_at: float
    renewing: bool = False


@dataclass
class Deals:
    """See the module's docstring. ``clock`` gives Unix seconds; ``rng`` makes nonces and shortlists."""

    host: Host
    directory: Directory
    buyer: Buyer
    market: MarketSection
    max_amount_nanoton: int
    links: Links
    nursery: trio.Nursery
    log: EventLog
    clock: Callable[[], float]
    rng: Random
    _deals: dict[tuple[Task, str], Deal] = field(default_factory=dict)
    _locks: dict[tuple[Task, str], trio.Lock] = field(default_factory=dict)
    _failed: dict[PeerId, float] = field(default_factory=dict)
    _started_at: float = field(default_factory=trio.current_time)

    async def get(self, request: Request) -> Deal:
        """An agreement for ``request`` with a working link, at once when there is one.

        Raises :class:`~overlay.errors.CocoonError`.
        """
        key = (request.task, request.model)
        deal = self._usable(key)
        if deal is None or self._crowded(deal):
            deal = await self._another(key, request)
        elif trio.current_time() >= deal.renew_at and not deal.renewing:
            deal.renewing = True
            self.nursery.start_soon(self._renew, key, request)
        # The common case: the link is up and the channel can pay.
        deal.link = await self.links.get(deal.agreement.body, self._most(request, deal.agreement))
        return deal

    def failed(self, request: Request, deal: Deal) -> None:
        """``deal``'s provider failed a job: look for another one for a while."""
        self._failed[deal.link.peer] = trio.current_time() + FAILED_FOR_S
        self.ended(request, deal)

    def ended(self, request: Request, deal: Deal) -> None:
        """``deal`` is used up, or its provider does not know it any more."""
        if self._deals.get((request.task, request.model)) is deal:
            del self._deals[request.task, request.model]

    async def quotes(self, task: Task, model: str, request: Request) -> list[tuple[QuotedOffer, str]]:
        """Binding quotes for a job like ``request``, best first, none of them accepted; each with its model."""
        rows = self._of_one_model(await self._rows(task, model), request)
        want = self._want(request, rows[0][2].model)
        try:
            candidates = await self._shortlist(rows, want)
            found = await collect_quotes(
                self.host, self.buyer, candidates, want, self._policy(), clock=self.clock, rng=self.rng,
                observer=self._told(want, candidates),
            )  # fmt: skip
        except TooExpensive as error:
            raise _too_dear(want.model, error.best, self._policy().max_prices) from error
        return [(offer, want.model) for offer in found]

    # ---- making one ----

    async def _another(self, key: tuple[Task, str], request: Request) -> Deal:
        """Negotiate; one job does it for all that wait. When nobody else has room either, a crowded deal will do."""
        if len(self._locks) > MAX_DEALS:
            self._locks = {k: lock for k, lock in self._locks.items() if lock.locked()}
        async with self._locks.setdefault(key, trio.Lock()):
            deal = self._usable(key)
            if deal is not None and not self._crowded(deal):
                return deal
            try:
                return await self._make(key, request)
            except TooExpensive:
                raise
            except NoProvider:
                if (deal := self._usable(key)) is None:
                    raise
                return deal

    def _crowded(self, deal: Deal) -> bool:
        """Whether its provider says that a new job would wait."""
        body = deal.agreement.body
        record = self.directory.index.get(body.provider, self.clock())
        sold = (body.task, body.model, body.tier)
        offers = () if record is None else record.offers
        return any(crowded(o.queue_wait_ms) for o in offers if (o.task, o.model, o.tier) == sold)

    def _usable(self, key: tuple[Task, str]) -> Deal | None:
        deal = self._deals.get(key)
        if deal is None or trio.current_time() >= deal.ends_at or not deal.link.works:
            return None
        return deal

    async def _make(self, key: tuple[Task, str], request: Request) -> Deal:
        task, model = key
        rows = self._of_one_model(await self._rows(task, model), request)
        want = self._want(request, rows[0][2].model)
        try:
            candidates = await self._shortlist(rows, want)
            agreement = await negotiate(
                self.host, self.buyer, candidates, want, self._policy(), clock=self.clock, rng=self.rng,
                observer=self._told(want, candidates),
            )  # fmt: skip
        except TooExpensive as error:
            raise _too_dear(want.model, error.best, self._policy().max_prices) from error
        body = agreement.body
        self.directory.index.deal_with(body.provider)
        try:
            link = await self.links.get(body, self._most(request, agreement))
        except ProviderGone:
            self._failed[body.provider] = trio.current_time() + FAILED_FOR_S
            raise
        lasts_s = (body.valid_until_ms / 1000) - self.clock()
        now = trio.current_time()
        asks = next((offer for peer, _, offer in rows if peer == body.provider), None)
        ask = body.prices if asks is None else Prices.from_wire(dict(asks.prices))
        # A second of margin at the end: the provider's clock decides whether a job is admitted.
        deal = Deal(agreement, link, ask, now + lasts_s - 1.0, now + lasts_s * (1 - RENEW_AT))
        if len(self._deals) >= MAX_DEALS:
            self._deals.pop(next(iter(self._deals)))
        self._deals[key] = deal
        return deal

    async def _renew(self, key: tuple[Task, str], request: Request) -> None:
        try:
            await self._make(key, request)
        except Exception as error:
            # The old one still stands for a while; the next job negotiates in the foreground and tells its user.
            self.log.warning("renewal", f"the agreement for {key[1]} could not be renewed: {error}")

    async def _rows(self, task: Task, model: str) -> list[_Row]:
        """Who offers it; waits for first offers when we are new. Those that failed a moment ago count only when there
        is nobody else: the one provider of a small network may be back already."""
        fresh = trio.current_time() - self._started_at < FIRST_OFFERS_S
        wanted = None if model == AUTO else model
        tier = self.market.tier
        timeout = FIRST_OFFERS_S if fresh else LATER_OFFERS_S
        await self.directory.wait_for_providers(task, wanted, tier, timeout_s=timeout)
        if fresh:
            await trio.sleep(MORE_OFFERS_S)
        now = trio.current_time()
        self._failed = {peer: until for peer, until in self._failed.items() if until > now}
        rows = self.directory.providers(task, wanted, tier)
        if not rows:
            raise self._nobody(task, model)
        return [row for row in rows if row[0] not in self._failed] or rows

    def _nobody(self, task: Task, model: str) -> Exception:
        others = sorted({name for kind, name in self.directory.models() if kind == task})
        if others and model != AUTO:
            return UnknownModel(model, f"nobody offers the model {model!r} for {task}; on offer: {', '.join(others)}")
        if not self.host.peers():
            return NoProvider(
                "this node is connected to nobody: name a peer with --bootstrap, or start a provider on this machine "
                "with `cocoon node run`"
            )
        return NoProvider(f"nobody in this network offers {task} now; try again later, or sell it: `cocoon node run`")

    def _of_one_model(self, rows: list[_Row], request: Request) -> list[_Row]:
        """The rows of one model: for `auto`, the one whose cheapest provider asks least for a job like this."""
        if request.model != AUTO:
            return rows

        def cost(row: _Row) -> int:
            usage = expected_usage(request)
            return Prices.from_wire(dict(row[2].prices)).cost_nanoton(usage)

        best = min(rows, key=lambda row: (cost(row), row[2].model))[2].model
        return [row for row in rows if row[2].model == best]

    async def _shortlist(self, rows: Iterable[_Row], want: Want) -> list[Candidate]:
        payable = await self.links.payable()
        candidates = []
        for peer, record, o in rows:
            asks = Prices.from_wire(dict(o.prices))
            known = Candidate(peer, asks, o.queue_wait_ms, o.units_per_s, record.host_addrs)
            candidates.append(known if peer in payable else with_setup(known, want.usage, self.max_amount_nanoton))
        return shortlist(candidates, want, self._policy(), self.rng)

    def _told(self, want: Want, candidates: Iterable[Candidate]) -> Observer:
        log = TradeLog.of(self.log, want, self.market.value_of_time_nanoton_per_s, candidates)

        def observe(event: Trace) -> None:
            # The record of a provider that was killed stands for two minutes and looks cheaper all the while: each
            # negotiation would ask it again, and soon nobody else.
            if isinstance(event, Declined) and silent(event):
                self._failed[event.provider] = trio.current_time() + FAILED_FOR_S
            log(event)

        return observe

    def _want(self, request: Request, model: str) -> Want:
        return Want(
            request.task, model, expected_usage(request), self.max_amount_nanoton, Tier(self.market.tier),
            self.market.agreement_s * 1000,
        )  # fmt: skip

    def _policy(self) -> ClientPolicy:
        market = self.market
        caps = {unit: getattr(market, key) for unit, key in _CAP_KEYS.items()}
        # The deposit is ours to choose: a provider that wants more locked up is not dealt with.
        return ClientPolicy(
            Prices(caps), market.value_of_time_nanoton_per_s, max_deposit_nanoton=self.max_amount_nanoton,
            cap_covers_time=market.cap_covers_time,
        )  # fmt: skip

    @staticmethod
    def _most(request: Request, agreement: Agreement) -> int:
        return agreement.body.prices.cost_nanoton(estimate_usage(request))


_CAP_KEYS = {
    Unit.PROMPT: "max_prompt", Unit.CACHED: "max_prompt", Unit.COMPLETION: "max_completion",
    Unit.REASONING: "max_completion", Unit.AUDIO_MS: "max_audio_ms", Unit.EMBEDDING: "max_embedding",
}  # fmt: skip
"""The key of `[market]` that caps the price of each unit."""


def crowded(queue_wait_ms: int) -> bool:
    """Whether a provider with this queue is to be passed over although there is an agreement with it."""
    return queue_wait_ms > CROWDED_WAIT_MS


def with_setup(candidate: Candidate, usage: Usage, deposit_nanoton: int) -> Candidate:
    """``candidate`` as somebody with whom there is no channel yet: the fees of one, spread over all that a deposit pays
    for, and the wait for it."""
    share = CHANNEL_FEES_NANOTON * candidate.asks.cost_nanoton(usage) // max(1, deposit_nanoton)
    return replace(candidate, setup_nanoton=share, setup_ms=OPENING_MS)


def _too_dear(model: str, best: Prices, caps: Prices) -> TooExpensive:
    """Which price is above which key of the configuration, and what to set it to."""
    needed: dict[str, int] = {}
    for unit, price in best.per_million.items():
        if price > caps.per_million.get(unit, 0):
            needed[_CAP_KEYS[unit]] = max(price, needed.get(_CAP_KEYS[unit], 0))
    flags = " ".join(f"--set market.{key}={price}" for key, price in needed.items())
    return TooExpensive(
        f"every provider of {model} asks more than you are ready to pay; the cheapest asks "
        f"{prices_text(best.to_wire())}. Raise your cap ({flags}), or try again later",
        best=best,
    )
