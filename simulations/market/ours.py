"""Our market in virtual time: production's rules, called in the order in which its shells call them.

Nothing is signed and nothing is sent: a message is an event half a round trip later. What decides is production's own:
the shop window and the controller (`seller`), whom to ask (`shortlist`), when a provider declines, yields or refuses an
award (`quotable`, `last_word`, `slipped`), whose quote is accepted (`to_award`, `to_counter`), when a record is told
(`dht.announcing`) and how long an agreement stands (`overlay.node.deals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random

from compute.tasks import Task
from compute.usage import Prices
from dht.announcing import Allowance, news_age_s
from dht.limits import SETTLED_AFTER_S
from overlay.errors import TooExpensive
from overlay.market import Candidate, ClientPolicy, Listing, Refusal, Want, limits, shortlist
from overlay.market.negotiation import yielded
from overlay.market.provider import UPDATE_S
from overlay.market.quoting import last_word, promised_start_ms, quotable, slipped, yields
from overlay.market.selection import Bid, acceptable, outdone, to_award, to_counter
from overlay.node.client import MAX_TRIES
from overlay.node.deals import LEFT_S, RENEW_AT, RESHOP_BURST, RESHOPS_PER_S, crowded
from overlay.node.reputation import FAILED_FOR_S
from overlay.node.shop import told_pressure
from overlay.node.shortlisting import CHANNEL_NANOTON, with_setup
from simulations.market.floor import MODEL, ROUND_TRIP_S, TASK, UNIT, Floor, Machine, Policy
from simulations.market.seller import HONEST, Conduct, Seller, phase
from simulations.market.workload import Job
from transport.identity import PeerId

HALF_S = ROUND_TRIP_S / 2

NEWS_MEDIAN_S, NEWS_SPREAD = 0.28, 1.25
"""A record reaches half of a thousand nodes within 0.28 s and 95 % within 2.2 s (docs/benchmarks.md): log-normal."""

OPEN_S = (5.0, 10.0)
"""How long opening a payment channel takes."""


@dataclass(frozen=True)
class Options:
    """What is varied. ``standing_s`` 0 negotiates every job; else agreements stand that long. ``channels``: the first
    deal of a client with a provider opens a channel, which takes money and time."""

    standing_s: float = 0.0
    channels: bool = False
    weighs: bool = False
    """Whether clients weigh what opening a channel takes, as production does."""
    conduct: Mapping[int, Conduct] = field(default_factory=dict)
    """Of providers that are not honest."""
    asks: Mapping[int, int] = field(default_factory=dict)
    """How many quotes a client asks for, of clients that do not keep to the limit."""
    pretends: frozenset[int] = frozenset()
    """Clients that call every quote too dear."""


@dataclass(frozen=True)
class Known:
    """A record in the index: a client's reading of it, until when it stands, how full it says that its provider is."""

    candidate: Candidate
    until_s: float
    pressure: float


@dataclass
class Deal:
    """An agreement as its client holds it."""

    provider: int
    price_nanoton_per_munit: int
    made_s: float
    ends_s: float
    renew_s: float
    renewing: bool = False


@dataclass
class Client:
    """One client's memory."""

    number: int
    deal: Deal | None = None
    negotiating: bool = False
    waiting: list[tuple[Job, bool]] = field(default_factory=list)
    """Jobs behind its negotiation, and whether each left an agreement for it."""
    failed: dict[PeerId, float] = field(default_factory=dict)
    reshops: Allowance = field(default_factory=lambda: Allowance(RESHOP_BURST, RESHOPS_PER_S))
    channels: set[int] = field(default_factory=set)


Done = Callable[[Deal | None, float], None]


@dataclass
class Talk:
    """One negotiation."""

    client: Client
    job: Job
    want: Want
    policy: ClientPolicy
    rng: Random
    done: Done
    order: list[Bid] = field(default_factory=list)
    awarded: int = 0
    holds_s: dict[PeerId, float] = field(default_factory=dict)
    """How long each who quoted holds its price."""


class Ours(Policy):
    """See the module's docstring."""

    name = "ours"

    def __init__(self, options: Options = Options()) -> None:
        self.options = options

    def begin(self, floor: Floor) -> None:
        """Every provider opens, and its price takes steps from a phase of its own."""
        self._floor = floor
        seed = floor.workload.seed
        conduct = self.options.conduct
        self._rng = Random(seed + 7_000_003)  # noqa: S311  # a model, no secret
        self._sellers = [
            Seller(m, lambda: floor.now, self._told, conduct.get(m.provider.number, HONEST)) for m in floor.machines
        ]
        self._number = {seller.peer: n for n, seller in enumerate(self._sellers)}
        self._clients: dict[int, Client] = {}
        self._index: dict[PeerId, Known] = {}
        self._known: list[Known] = []
        self._attempts: dict[int, int] = {}
        for seller in self._sellers:
            floor.at(phase(self._rng) * UPDATE_S, self._step, seller)

    def asks(self, machine: Machine) -> float:
        """What it would quote."""
        return self._sellers[machine.provider.number].ask()

    def returned(self, machine: Machine, now: float) -> None:
        """It starts anew."""
        self._sellers[machine.provider.number].restart()

    # ---- the index ----

    def _step(self, seller: Seller, now: float) -> None:
        self._floor.at(now + UPDATE_S, self._step, seller)
        if not seller.machine.up:
            return
        record = seller.step(now, self._settled(now))
        if record is not None:
            delay = NEWS_MEDIAN_S * math.exp(self._rng.gauss(0.0, NEWS_SPREAD))
            known = Known(seller.candidate(record), record.expires_at, told_pressure(record.offers[0]))
            self._floor.at(now + min(delay, 5.0), self._heard, known)

    def _settled(self, now: float) -> int:
        """Production counts those whose record was renewed for a while: here, all of them or none."""
        return len(self._index) if now >= SETTLED_AFTER_S else 0

    def _heard(self, known: Known, now: float) -> None:
        self._index[known.candidate.provider] = known
        self._known = list(self._index.values())

    def _told(self, task: Task, model: str) -> list[float]:
        """What a provider hears of some others: `CapacityIndex.sample`."""
        picked = self._rng.choices(self._known, k=limits.TOLD) if self._known else []
        return [known.pressure for known in picked if known.until_s > self._floor.now]

    def _candidates(self, client: Client, second_nanoton: int, now: float) -> list[Candidate]:
        client.failed = {peer: until for peer, until in client.failed.items() if until > now}
        standing = [known.candidate for known in self._known if known.until_s > now]
        there = [c for c in standing if c.provider not in client.failed] or standing
        if not self.options.weighs:
            return there
        open_with = {self._sellers[number].peer for number in client.channels}
        return [c if c.provider in open_with else with_setup(c, second_nanoton) for c in there]

    # ---- a job ----

    def want(self, job: Job, now: float) -> None:
        """Find it a provider."""
        self._attempts[job.number] = 0
        self._get(job, now)

    def _client(self, number: int) -> Client:
        if number not in self._clients:
            self._clients[number] = Client(number)
        return self._clients[number]

    def _get(self, job: Job, now: float) -> None:
        """Production's ``Deals.get``: a standing agreement at once, else a negotiation that one job makes for all."""
        client = self._client(job.client)
        if not self.options.standing_s:
            self._negotiate(client, job, lambda deal, when: self._placed(job, deal, when), now)
            return
        deal = self._usable(client, now)
        worse = deal is not None and self._is_worse(client, job, deal, now) and client.reshops.take("", now)
        if deal is not None and not worse:
            if now >= deal.renew_s and not deal.renewing:
                deal.renewing = True
                self._negotiate(client, job, lambda found, when: self._stands(client, found, when), now)
            self._placed(job, deal, now)
        elif client.negotiating:
            client.waiting.append((job, worse))
        else:
            client.negotiating = True
            self._negotiate(client, job, lambda found, when: self._first(client, job, found, when), now)

    def _usable(self, client: Client, now: float) -> Deal | None:
        return client.deal if client.deal is not None and now < client.deal.ends_s else None

    def _held(self, deal: Deal, now: float) -> Bid | None:
        """An agreement as its provider's record makes it look now."""
        known = self._index.get(self._sellers[deal.provider].peer)
        if known is None or now >= known.until_s:
            return None
        return Bid(known.candidate, Prices({UNIT: deal.price_nanoton_per_munit}), known.candidate.wait_ms)

    def _is_worth_having(self, job: Job, deal: Deal, now: float) -> bool:
        held = self._held(deal, now)
        return held is None or acceptable(held, *self._terms(job, now))

    def _is_worse(self, client: Client, job: Job, deal: Deal, now: float) -> bool:
        """Production's ``Deals._is_worse``."""
        mine = self._held(deal, now)
        if mine is None or crowded(mine.start_ms):
            return mine is not None
        rivals = [
            rival.candidate
            for rival in self._rng.choices(self._known, k=limits.LOOKED_AT)
            if rival.until_s > now
            and rival.candidate.provider != mine.candidate.provider
            and client.failed.get(rival.candidate.provider, 0.0) <= now
        ]
        want, policy = self._terms(job, now)
        return outdone(mine, rivals, want, policy)

    def _stands(self, client: Client, deal: Deal | None, now: float) -> None:
        if deal is not None:
            client.deal = deal

    def _first(self, client: Client, job: Job, deal: Deal | None, now: float) -> None:
        client.negotiating = False
        self._stands(client, deal, now)
        held = self._usable(client, now)
        if deal is None and held is not None and self._is_worth_having(job, held, now):
            deal = held
        waiting, client.waiting = client.waiting, []
        self._placed(job, deal, now)
        for other, left in waiting:
            # What one agreed on is for those behind it too, unless they left another for the same fault.
            usable = self._usable(client, now)
            if usable is not None and not (left and self._is_worse(client, other, usable, now)):
                self._placed(other, usable, now)
            elif client.negotiating:
                client.waiting.append((other, left))
            else:
                client.negotiating = True
                self._negotiate(client, other, partial(self._first, client, other), now)

    def _placed(self, job: Job, deal: Deal | None, now: float) -> None:
        if deal is None:
            self._floor.nobody(job, now)
            return
        client = self._client(job.client)
        wait = HALF_S
        if self.options.channels and deal.provider not in client.channels:
            client.channels.add(deal.provider)
            wait += self._floor.rng(job, 2).uniform(*OPEN_S)
            self._floor.outcomes[job.number].setup_nanoton += CHANNEL_NANOTON
        self._floor.outcomes[job.number].messages += 1
        self._floor.at(now + wait, self._submit, job, deal)

    def _submit(self, job: Job, deal: Deal, now: float) -> None:
        if self._floor.start(job, deal.provider, deal.price_nanoton_per_munit, deal.made_s, now):
            return
        client = self._client(job.client)
        client.failed[self._sellers[deal.provider].peer] = now + FAILED_FOR_S
        if client.deal is deal:
            client.deal = None
        self._attempts[job.number] += 1
        again = self._get if self._attempts[job.number] < MAX_TRIES else self._floor.nobody
        self._floor.at(now + HALF_S, again, job)

    # ---- a negotiation ----

    def _terms(self, job: Job, now: float) -> tuple[Want, ClientPolicy]:
        left = max(0.0, job.at_s + job.deadline_s - now - 2 * ROUND_TRIP_S)
        policy = ClientPolicy(
            Prices({UNIT: job.value_nanoton_per_munit}),
            job.value_of_time_nanoton_per_s,
            deadline_s=left,
            cap_covers_time=True,
        )
        usage = self._floor.usages[job.number]
        return Want(TASK, MODEL, usage, 10**9, duration_ms=max(1, int(self.options.standing_s * 1000))), policy

    def _negotiate(self, client: Client, job: Job, done: Done, now: float) -> None:
        want, policy = self._terms(job, now)
        talk = Talk(client, job, want, policy, self._floor.rng(job, 3), done)
        size = self.options.asks.get(client.number)
        try:
            there = self._candidates(client, policy.value_of_time_nanoton_per_s, now)
            news_s = news_age_s(self._settled(now))
            chosen = shortlist(there, want, policy, talk.rng, size, news_s=news_s)
        except TooExpensive:
            chosen = []
        if not chosen:
            done(None, now)
            return
        self._floor.at(now + HALF_S, self._ask, talk, chosen)

    def _ask(self, talk: Talk, chosen: list[Candidate], now: float) -> None:
        """The requests arrive at the providers, all at once."""
        bids, silent = [], False
        outcome = self._floor.outcomes[talk.job.number]
        for candidate in chosen:
            outcome.messages += 1
            seller = self._sellers[self._number[candidate.provider]]
            if not seller.machine.up:
                silent = True
                talk.client.failed[candidate.provider] = now + FAILED_FOR_S
                continue
            outcome.messages += 1
            listing = quotable(seller.listing())
            if isinstance(listing, Listing):
                bids.append(Bid(candidate, listing.prices, promised_start_ms(listing)))
                talk.holds_s[candidate.provider] = min(self.options.standing_s, listing.holds_ms / 1000)
        wait = HALF_S
        if silent:
            # Dead entries hold a job up: briefly once there is a quote, else for the whole deadline.
            wait = HALF_S + limits.QUOTE_GRACE_S if bids else limits.QUOTE_DEADLINE_S
        self._floor.at(now + wait, self._quoted, talk, bids)

    def _quoted(self, talk: Talk, bids: list[Bid], now: float) -> None:
        yielding = to_counter(bids, talk.want, talk.policy)
        if talk.client.number in self.options.pretends:
            yielding = to_award(bids, talk.want, talk.policy)[: limits.COUNTERED] or yielding
        if yielding:
            self._floor.outcomes[talk.job.number].messages += 2 * len(yielding)
            self._floor.at(now + HALF_S, self._counter, talk, bids, yielding)
        else:
            self._award_first(talk, bids, now)

    def _counter(self, talk: Talk, bids: list[Bid], yielding: list[Bid], now: float) -> None:
        answered = []
        for bid in bids:
            seller = self._sellers[self._number[bid.candidate.provider]]
            if bid not in yielding:
                answered.append(bid)
                continue
            listing = seller.listing() if seller.machine.up else None
            if isinstance(listing, Listing):
                prices = bid.prices
                if yields(listing):
                    prices = last_word(prices, yielded(prices), listing.floor)
                answered.append(Bid(bid.candidate, prices, promised_start_ms(listing)))
        self._floor.at(now + HALF_S, self._award_first, talk, answered)

    def _award_first(self, talk: Talk, bids: list[Bid], now: float) -> None:
        talk.order = to_award(bids, talk.want, talk.policy, talk.rng)[: limits.MAX_AWARDS]
        self._award(talk, now)

    def _award(self, talk: Talk, now: float) -> None:
        if talk.awarded >= len(talk.order):
            talk.done(None, now)
            return
        bid = talk.order[talk.awarded]
        talk.awarded += 1
        self._floor.outcomes[talk.job.number].messages += 1
        self._floor.at(now + HALF_S, self._awarded, talk, bid)

    def _awarded(self, talk: Talk, bid: Bid, now: float) -> None:
        """An award arrives at its provider."""
        number = self._number[bid.candidate.provider]
        seller = self._sellers[number]
        if not seller.machine.up:
            self._floor.at(now + limits.AWARD_DEADLINE_S, self._award, talk)
            return
        self._floor.outcomes[talk.job.number].messages += 1
        listing = seller.listing()
        if isinstance(listing, Refusal) or slipped(listing, bid.start_ms):
            self._floor.at(now + HALF_S, self._award, talk)
            return
        seller.machine.admission.promise(now)
        lasts, back = talk.holds_s[bid.candidate.provider], now + HALF_S
        deal = Deal(number, bid.prices.per_million[UNIT], back, back + lasts - LEFT_S, back + lasts * (1 - RENEW_AT))
        self._floor.at(back, talk.done, deal)
