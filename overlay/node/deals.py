"""Standing agreements: for each (task, model) one that jobs can start under, renewed before it runs out.

The first job of a kind waits for a negotiation; the next ones find the agreement and start at once. When its provider
has a queue, others are asked again before the next job. What providers did with earlier jobs
(:mod:`overlay.node.reputation`) says whom the next negotiation leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

import trio

from compute.estimate import estimate_usage, expected_usage
from compute.tasks import Request, Task
from compute.usage import Prices, Unit
from dht import Directory, Provider
from dht.announcing import Allowance
from overlay.config import MarketSection
from overlay.errors import CocoonError, NoProvider, ProviderGone, TooExpensive, UnknownModel
from overlay.events import EventLog, prices_text
from overlay.jobs import Overcharged
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
    silent,
)
from overlay.market import Offer as QuotedOffer
from overlay.market.limits import LOOKED_AT
from overlay.market.selection import Bid, acceptable, outdone
from overlay.node.links import Link, Links
from overlay.node.reputation import Reputation, Served
from overlay.node.shortlisting import Shortlister
from overlay.node.trade_log import TradeLog
from transport.host.interface import Host
from transport.identity import PeerId

AUTO = "auto"
"""The model name that leaves the choice to us."""

RENEW_AT = 0.3
"""An agreement with less than this share of its time left is renewed in the background."""

CROWDED_WAIT_MS = 200
"""A standing agreement whose provider tells of a longer queue than this is not used while others may have none:
negotiating takes half a second. Without this a client's jobs queue up at one provider for the whole minute while others
idle, and a busy market loses half of its worth (docs/simulation.md, "The market alone")."""

FIRST_OFFERS_S = 5.0
"""A client that has just started waits this long for the first offer."""

MORE_OFFERS_S = 0.4
"""… and this much longer for others to compare it with."""

LATER_OFFERS_S = 0.5
"""A client that has been up for a while knows the market: who is not there yet will not be in a moment."""

RESHOP_BURST, RESHOPS_PER_S = 8, 1.0
"""How often a client leaves a standing agreement to compare: as often as a provider answers, for a while, and half of
its burst. Every five seconds was too seldom: jobs in between piled up where the price had been best, and a full market
lost a tenth of its worth (docs/protocols/market.md)."""

LEFT_S = 1.0
"""An agreement with less time left than this starts no job: the provider's clock decides."""

MAX_DEALS = 256
"""Standing agreements kept: (task, model) pairs a client really uses."""

SILENT_S = 20.0
"""A provider that has told nothing of a job it began for so long gets no other job meanwhile. Slow machines tell of
their work every few seconds."""


class Waiting(Protocol):
    """A running job: since when its reader has waited for what comes next, by trio's clock; infinity otherwise."""

    waits_since_s: float


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
    jobs: int = 0
    """That began under it."""


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
    _usual: dict[tuple[Task, str], int] = field(default_factory=dict)
    """Jobs that the last agreement of a kind served."""
    reputation: Reputation = field(default_factory=Reputation)
    _running: dict[PeerId, dict[bytes, Waiting]] = field(default_factory=dict)
    _reshops: Allowance = field(default_factory=lambda: Allowance(RESHOP_BURST, RESHOPS_PER_S))
    _started_at: float = field(default_factory=trio.current_time)
    _choice: Shortlister = field(init=False)

    def __post_init__(self) -> None:
        value_of_time = self.market.value_of_time_nanoton_per_s
        self._choice = Shortlister(self.reputation, self.directory.index, value_of_time, self.rng)

    async def get(self, request: Request) -> Deal:
        """An agreement for ``request`` with a working link, at once when there is one.

        Raises :class:`~overlay.errors.CocoonError`.
        """
        key = (request.task, request.model)
        deal = self._usable(key)
        if deal is not None and self._is_worse(request, deal) and self._may_reshop(key):
            deal = await self._reshop(key, request, deal)
        elif deal is None:
            if len(self._locks) > MAX_DEALS:
                self._locks = {k: lock for k, lock in self._locks.items() if lock.locked()}
            async with self._locks.setdefault(key, trio.Lock()):
                deal = self._usable(key) or await self._make(key, request)
        elif trio.current_time() >= deal.renew_at and not deal.renewing:
            deal.renewing = True
            self.nursery.start_soon(self._renew, key, request)
        # The common case: the link is up and the channel can pay.
        deal.link = await self.links.get(deal.agreement.body, self._most(request, deal.agreement))
        deal.jobs += 1
        return deal

    def running(self, peer: PeerId) -> dict[bytes, Waiting]:
        """The jobs that a provider has begun for us, by id: enter what begins."""
        return self._running.setdefault(peer, {})

    def over(self, peer: PeerId, job_id: bytes) -> None:
        """One of them has ended."""
        jobs = self._running.get(peer, {})
        jobs.pop(job_id, None)
        if not jobs:
            self._running.pop(peer, None)

    def _is_silent(self, peer: PeerId) -> bool:
        before_s = trio.current_time() - SILENT_S
        return any(job.waits_since_s < before_s for job in self._running.get(peer, {}).values())

    def served(self, request: Request, deal: Deal, job: Served) -> None:
        """``deal``'s provider did a job."""
        peer = deal.link.peer
        if self.reputation.served(peer, job, trio.current_time()):
            self.log.warning(
                "counts_high", f"…{peer[-8:]} counts far more tokens for its text than others of {job.model}; it is "
                "left out for a while", provider=peer, model=job.model,
            )  # fmt: skip
            self.ended(request, deal)

    def failed(self, request: Request, deal: Deal, error: CocoonError) -> None:
        """``deal``'s provider failed a job: look for another one for a while."""
        peer, now_s = deal.link.peer, trio.current_time()
        if isinstance(error, Overcharged):
            self.reputation.disputed(peer, now_s)
        else:
            self.reputation.failed(peer, now_s)
        self.ended(request, deal)

    def full(self, request: Request, deal: Deal) -> None:
        """``deal``'s provider has no room for a job now: the same, and no fault of its."""
        self.reputation.full(deal.link.peer, trio.current_time())
        self.ended(request, deal)

    def claimed_wait_s(self, deal: Deal) -> float:
        """What the provider announced last that a job would wait there."""
        body = deal.agreement.body
        record = self.directory.index.get(deal.link.peer, self.clock())
        for offer in record.offers if record is not None else ():
            if offer.model == body.model and offer.task == body.task:
                return offer.queue_wait_ms / 1000
        return 0.0

    def ended(self, request: Request, deal: Deal) -> None:
        """``deal`` is used up, or its provider does not know it any more."""
        if self._deals.get((request.task, request.model)) is deal:
            del self._deals[request.task, request.model]

    def drop(self, request: Request) -> None:
        """Whatever stands for jobs like ``request`` stands no more: its channel cannot be filled."""
        self._deals.pop((request.task, request.model), None)

    async def quotes(self, task: Task, model: str, request: Request) -> list[tuple[QuotedOffer, str]]:
        """Binding quotes for a job like ``request``, best first, none of them accepted; each with its model."""
        rows = self._of_one_model(await self._rows(task, model), request)
        want = self._want(request, rows[0][2].model)
        try:
            candidates = self._choice.shortlist(rows, want, self._policy(), await self.links.paid())
            found = await collect_quotes(
                self.host, self.buyer, candidates, want, self._policy(), clock=self.clock, rng=self.rng,
                observer=self._told(want, candidates),
            )  # fmt: skip
        except TooExpensive as error:
            raise _too_dear(want.model, error.best, self._policy().max_prices) from error
        return [(offer, want.model) for offer in found]

    # ---- leaving one for a better one ----

    def _may_reshop(self, key: tuple[Task, str]) -> bool:
        return self._reshops.take("/".join(key), trio.current_time())

    def _held(self, request: Request, deal: Deal) -> Bid | None:
        """An agreement as its provider's record makes it look now; None without one."""
        body = deal.agreement.body
        record = self.directory.index.get(body.provider, self.clock())
        for offer in record.offers if record is not None else ():
            if record is not None and (offer.task, offer.model, offer.tier) == (body.task, body.model, body.tier):
                candidate = self._choice.candidate((body.provider, record, offer), self._want(request, body.model))
                return Bid(candidate, body.prices, offer.queue_wait_ms)
        return None

    def _is_worse(self, request: Request, deal: Deal) -> bool:
        """Whether what was the best offer may not be any more: its provider announces that a job would wait, or one of
        a few others at hand announces better."""
        body, now = deal.agreement.body, self.clock()
        mine = self._held(request, deal)
        if mine is None or crowded(mine.start_ms):
            return mine is not None
        want, most = self._want(request, body.model), self._most(request, deal.agreement)
        rivals = [
            self._choice.candidate(row, want)
            for row in self.directory.index.sample(body.task, body.model, LOOKED_AT, self.rng, now=now)
            if row[0] != body.provider and row[2].tier == body.tier and self._is_at_hand(row[0], most)
        ]
        return outdone(mine, rivals, want, self._policy())

    def _is_at_hand(self, peer: PeerId, most_nanoton: int) -> bool:
        """Whether a job could begin there at once."""
        out = self.reputation.is_out(peer, trio.current_time()) or self.reputation.is_disputed(peer)
        return not out and not self._is_silent(peer) and self.links.without_chain(peer, most_nanoton)

    async def _reshop(self, key: tuple[Task, str], request: Request, deal: Deal) -> Deal:
        """Ask around again, the provider that we have included; keep what we have when nobody does better, if it is
        still worth having: its queue may have grown too long."""
        async with self._locks.setdefault(key, trio.Lock()):
            other = self._usable(key)
            if other is not None and other is not deal and not self._is_worse(request, other):
                return other
            deal = other or deal
            paid = await self.links.paid()
            if not paid - {deal.link.peer}:
                # The others cost a channel, which takes longer than most queues: see to that beside the work.
                if not deal.renewing:
                    deal.renewing = True
                    self.nursery.start_soon(self._renew, key, request)
                return deal
            try:
                return await self._make(key, request, among=paid)
            except CocoonError:
                held = self._held(request, deal)
                if held is not None and not acceptable(
                    held, self._want(request, deal.agreement.body.model), self._policy()
                ):
                    raise
                return deal

    # ---- making one ----

    def _usable(self, key: tuple[Task, str]) -> Deal | None:
        deal = self._deals.get(key)
        if deal is None or trio.current_time() >= deal.ends_at or not deal.link.works:
            return None
        if self._is_silent(deal.link.peer):
            self.reputation.full(deal.link.peer, trio.current_time())
            return None
        return deal

    async def _make(self, key: tuple[Task, str], request: Request, among: Collection[PeerId] | None = None) -> Deal:
        """Agree with the best, of those in ``among`` if it is given."""
        task, model = key
        found = self._payable(await self._rows(task, model), request)
        rows = self._of_one_model([row for row in found if among is None or row[0] in among] or found, request)
        before = self._deals.get(key)
        if before is not None and before.jobs:
            self._usual[key] = before.jobs
        want = replace(self._want(request, rows[0][2].model), jobs=self._usual.get(key, 1))
        paid = await self.links.paid()
        try:
            candidates = self._choice.shortlist(rows, want, self._policy(), paid)
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
            self.reputation.failed(body.provider, trio.current_time())
            raise
        lasts_s = (body.valid_until_ms / 1000) - self.clock()
        if lasts_s <= LEFT_S and among is None:
            # A busy provider holds a price for less time than a channel takes to open: agree anew, now that it is.
            return await self._make(key, request, among=await self.links.paid())
        now = trio.current_time()
        asks = next((offer for peer, _, offer in rows if peer == body.provider), None)
        ask = body.prices if asks is None else Prices.from_wire(dict(asks.prices))
        deal = Deal(agreement, link, ask, now + lasts_s - LEFT_S, now + lasts_s * (1 - RENEW_AT))
        if len(self._deals) >= MAX_DEALS:
            oldest = next(iter(self._deals))
            self._deals.pop(oldest)
            self._usual.pop(oldest, None)
        self._deals[key] = deal
        return deal

    async def _renew(self, key: tuple[Task, str], request: Request) -> None:
        try:
            await self._make(key, request)
        except Exception as error:
            # The old one still stands for a while; the next job negotiates in the foreground and tells its user.
            self.log.warning("renewal", f"the agreement for {key[1]} could not be renewed: {error}")

    async def _rows(self, task: Task, model: str) -> list[Provider]:
        """Who offers it; waits for first offers when we are new. Those that failed a moment ago count only when there
        is nobody else: the one provider of a small network may be back already."""
        fresh = trio.current_time() - self._started_at < FIRST_OFFERS_S
        wanted = None if model == AUTO else model
        tier = self.market.tier
        timeout = FIRST_OFFERS_S if fresh else LATER_OFFERS_S
        await self.directory.wait_for_providers(task, wanted, tier, timeout_s=timeout)
        if fresh:
            await trio.sleep(MORE_OFFERS_S)
        now, reputation = trio.current_time(), self.reputation
        known = self.directory.providers(task, wanted, tier)
        rows = [row for row in known if not reputation.is_disputed(row[0])]
        if known and not rows:
            raise NoProvider(
                f"every provider of {model} that is known charged what it did not deliver and is not dealt with any "
                "more; wait for another one, or ask for another model"
            )
        if not rows:
            raise self._nobody(task, model)
        return [r for r in rows if not (reputation.is_out(r[0], now) or self._is_silent(r[0]))] or rows

    def _payable(self, rows: list[Provider], request: Request) -> list[Provider]:
        """While no channel can be opened, whoever can be paid from one that is; everybody when there is none such."""
        if not self.links.chain_is_away:
            return rows
        usage, paid = estimate_usage(request), []
        for row in rows:
            if self.links.without_chain(row[0], Prices.from_wire(dict(row[2].prices)).cost_nanoton(usage)):
                paid.append(row)
        return paid or rows

    def can_do_without_chain(self) -> bool:
        """Whether the chain failed a moment ago and there is somebody who can be paid all the same."""
        return self.links.chain_is_away and any(
            self.links.without_chain(peer, 1)
            for task, model in self.directory.models()
            for peer, _, _ in self.directory.providers(task, model)
        )

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

    def _of_one_model(self, rows: list[Provider], request: Request) -> list[Provider]:
        """The rows of one model: for `auto`, the one whose cheapest provider asks least for a job like this."""
        if request.model != AUTO:
            return rows

        def cost(row: Provider) -> int:
            usage = expected_usage(request)
            return Prices.from_wire(dict(row[2].prices)).cost_nanoton(usage)

        best = min(rows, key=lambda row: (cost(row), row[2].model))[2].model
        return [row for row in rows if row[2].model == best]

    def _told(self, want: Want, candidates: Iterable[Candidate]) -> Observer:
        log = TradeLog.of(self.log, want, self.market.value_of_time_nanoton_per_s, candidates)

        def observe(event: Trace) -> None:
            # The record of a provider that was killed stands for two minutes and looks cheaper all the while: each
            # negotiation would ask it again, and soon nobody else.
            if isinstance(event, Declined) and silent(event):
                self.reputation.failed(event.provider, trio.current_time())
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
