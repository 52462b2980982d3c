"""The client's shell: negotiate with several providers at once and come back with one agreement.

Drives a :class:`~overlay.market.negotiation.ClientNegotiation` over one host stream per provider. Nothing is decided
here but the order of things; what is said is the machine's business, what is chosen is `selection`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import trio

from overlay.errors import NoProvider, TooExpensive
from overlay.market import limits
from overlay.market.agreement import Agreement, Payer
from overlay.market.messages import Quote, Reason
from overlay.market.negotiation import ClientNegotiation, State
from overlay.market.selection import (
    Bid,
    Candidate,
    ClientPolicy,
    Want,
    ranked,
    show_prices,
    to_award,
    to_counter,
)
from overlay.market.trace import Agreed, Asked, Countered, Declined, Observer, Quoted, ignore
from transport.host.interface import Host, HostError, HostStream
from transport.identity import Identity, PeerId

Clock = Callable[[], float]
"""Unix time in seconds, such as ``time.time``."""


def market_protocol(subnet: str) -> str:
    """The libp2p protocol id of the market in ``subnet``."""
    return f"/cocoon/{subnet}/market/1.0.0"


@dataclass(frozen=True)
class Buyer:
    """Who negotiates: the node's identity, its subnet, who pays, and TON's network id."""

    identity: Identity
    subnet: str
    payer: Payer
    network_id: int


@dataclass(frozen=True)
class Offer:
    """A binding quote in hand, as `cocoon quote` shows it."""

    provider: PeerId
    quote: Quote
    cost_nanoton: int


@dataclass
class _Talk:
    """One conversation: the machine, and the stream once it is open."""

    candidate: Candidate
    machine: ClientNegotiation
    stream: HostStream | None = None


@dataclass
class _Round:
    """One purchase in progress."""

    host: Host
    buyer: Buyer
    want: Want
    policy: ClientPolicy
    clock: Clock
    rng: Random
    observer: Observer
    talks: list[_Talk] = field(default_factory=list)

    @property
    def now_ms(self) -> int:
        return int(self.clock() * 1000)

    # ---- one conversation ----

    async def ask(self, talk: _Talk) -> None:
        candidate = talk.candidate
        self.observer(Asked(candidate.provider, candidate.asks, candidate.asks.cost_nanoton(self.want.usage)))
        try:
            talk.stream = await self.host.open_stream(
                candidate.provider, market_protocol(self.buyer.subnet), addrs=candidate.addrs
            )
        except HostError as error:
            self._lost(talk, Reason.UNREACHABLE, str(error))
            return
        await self._exchange(talk, talk.machine.request(self.want, self.now_ms))
        self._show_quote(talk)

    async def counter(self, talk: _Talk) -> None:
        data = talk.machine.counter(self.now_ms)
        assert talk.machine.quote is not None
        proposed = talk.machine.proposed
        self.observer(Countered(talk.candidate.provider, proposed, proposed.cost_nanoton(self.want.usage)))
        await self._exchange(talk, data)
        self._show_quote(talk)

    async def award(self, talk: _Talk) -> Agreement | None:
        with trio.move_on_after(limits.AWARD_DEADLINE_S):
            await self._exchange(talk, talk.machine.award(self.buyer.payer, self.now_ms))
        agreement = talk.machine.agreement
        if agreement is not None:
            self.observer(Agreed(agreement))
            return agreement
        self._lost(talk, Reason.NO_ANSWER, f"no acknowledgement within {limits.AWARD_DEADLINE_S:g} s")
        return None

    async def _exchange(self, talk: _Talk, data: bytes) -> None:
        assert talk.stream is not None
        try:
            await talk.stream.send(data)
            answer = await talk.stream.receive(limits.MAX_MESSAGE_BYTES)
        except HostError as error:
            self._lost(talk, Reason.NO_ANSWER, f"the conversation broke off: {error}")
            return
        talk.machine.receive(answer, self.now_ms)
        if talk.machine.state is State.FAILED:
            self._show_failure(talk)

    def _lost(self, talk: _Talk, reason: Reason, explanation: str) -> None:
        if talk.machine.state is not State.FAILED:
            talk.machine.fail(reason, explanation)
            self._show_failure(talk)

    def _show_failure(self, talk: _Talk) -> None:
        failure = talk.machine.failure
        assert failure is not None
        self.observer(Declined(talk.candidate.provider, failure.reason, failure.explanation))

    def _show_quote(self, talk: _Talk) -> None:
        machine = talk.machine
        if machine.state is State.QUOTED and machine.quote is not None:
            cost = machine.quote.prices.cost_nanoton(self.want.usage)
            quote = machine.quote
            self.observer(Quoted(talk.candidate.provider, quote.prices, quote.start_ms, cost, machine.last_word))

    # ---- all of them ----

    async def ask_all(self) -> None:
        """Ask everybody at once. When the first quote is in, the others have a short grace; there is a deadline."""
        with trio.move_on_after(limits.QUOTE_DEADLINE_S) as scope:
            async with trio.open_nursery() as nursery:

                async def one(talk: _Talk) -> None:
                    await self.ask(talk)
                    if talk.machine.state is State.QUOTED:
                        scope.deadline = min(scope.deadline, trio.current_time() + limits.QUOTE_GRACE_S)

                for talk in self.talks:
                    nursery.start_soon(one, talk)
        self._give_up_on(State.ASKED, "no quote in time")

    async def counter_best(self) -> None:
        """If every quote is too dear, ask the best few to yield, at once."""
        best = self._talks_of(to_counter(self.bids(), self.want, self.policy))
        if not best:
            return
        with trio.move_on_after(limits.COUNTER_DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for talk in best:
                    nursery.start_soon(self.counter, talk)
        self._give_up_on(State.COUNTERED, "no answer to the counter in time")

    def _give_up_on(self, state: State, explanation: str) -> None:
        for talk in self.talks:
            if talk.machine.state is state:
                self._lost(talk, Reason.NO_ANSWER, explanation)

    def quoted(self) -> list[_Talk]:
        """The conversations with a quote that still holds and whose deposit is acceptable."""
        held = []
        for talk in self.talks:
            quote = talk.machine.quote
            if quote is None or not talk.machine.quote_holds(self.now_ms):
                continue
            if quote.min_deposit_nanoton > self.policy.max_deposit_nanoton:
                least = quote.min_deposit_nanoton
                self._lost(talk, Reason.DEPOSIT_TOO_LARGE, f"it wants a deposit of {least} nanoTON")
                continue
            held.append(talk)
        return held

    def bids(self) -> list[Bid]:
        """The quotes of :meth:`quoted`."""
        return [
            Bid(t.candidate, t.machine.quote.prices, t.machine.quote.start_ms) for t in self.quoted() if t.machine.quote
        ]

    def ranked(self) -> list[_Talk]:
        """Those of :meth:`quoted`, best first."""
        return self._talks_of(ranked(self.bids(), self.want, self.policy))

    def acceptable(self) -> list[_Talk]:
        """Those of :meth:`quoted` whose quote may be accepted, best first."""
        return self._talks_of(to_award(self.bids(), self.want, self.policy, self.rng))

    def _talks_of(self, bids: Sequence[Bid]) -> list[_Talk]:
        talks = {talk.candidate.provider: talk for talk in self.talks}
        return [talks[bid.candidate.provider] for bid in bids]

    async def close(self) -> None:
        """Close every stream, in bounded time, whatever happens to us."""
        with trio.CancelScope(deadline=trio.current_time() + limits.CLOSE_DEADLINE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for talk in self.talks:
                    if talk.stream is not None:
                        nursery.start_soon(talk.stream.aclose)


@asynccontextmanager
async def _round(
    host: Host,
    buyer: Buyer,
    shortlist: Sequence[Candidate],
    want: Want,
    policy: ClientPolicy,
    clock: Clock,
    rng: Random,
    observer: Observer,
) -> AsyncIterator[_Round]:
    if not shortlist:
        raise NoProvider(
            f"no provider of {want.model} ({want.task}, {want.tier}) is known that the price cap and the policy admit; "
            "wait for one to announce itself, raise the cap, or check the bootstrap peers"
        )
    current = _Round(host, buyer, want, policy, clock, rng, observer)
    for candidate in shortlist[: limits.MAX_SHORTLIST]:
        machine = ClientNegotiation(buyer.identity, candidate.provider, buyer.subnet, buyer.network_id, rng.randbytes)
        current.talks.append(_Talk(candidate, machine))
    try:
        await current.ask_all()
        yield current
    finally:
        await current.close()


async def collect_quotes(
    host: Host,
    buyer: Buyer,
    shortlist: Sequence[Candidate],
    want: Want,
    policy: ClientPolicy,
    *,
    clock: Clock,
    rng: Random,
    observer: Observer = ignore,
) -> list[Offer]:
    """Ask for quotes and accept none: what `cocoon quote` does. Best first; empty when nobody quoted.

    Raises :class:`~overlay.errors.NoProvider` when the shortlist is empty.
    """
    async with _round(host, buyer, shortlist, want, policy, clock, rng, observer) as current:
        offers = []
        for talk in current.ranked():
            quote = talk.machine.quote
            assert quote is not None
            offers.append(Offer(talk.candidate.provider, quote, quote.prices.cost_nanoton(want.usage)))
        return offers


async def negotiate(
    host: Host,
    buyer: Buyer,
    shortlist: Sequence[Candidate],
    want: Want,
    policy: ClientPolicy,
    *,
    clock: Clock,
    rng: Random,
    observer: Observer = ignore,
) -> Agreement:
    """Agree with one of ``shortlist`` and return what both signed.

    Asks all at once, counters the best three once if every quote is above the cap, awards the best, and goes on to the
    next best when an award is not acknowledged. ``rng`` makes nonces: a ``random.SystemRandom`` outside simulations.
    Takes a few seconds at most. On cancellation all streams are closed; an award may have reached its provider, which
    commits nobody to pay anything.

    Raises :class:`~overlay.errors.TooExpensive` or :class:`~overlay.errors.NoProvider`, whose messages say what to do.
    """
    async with _round(host, buyer, shortlist, want, policy, clock, rng, observer) as current:
        await current.counter_best()
        order = current.acceptable()
        if not order:
            raise _nobody(current)
        for talk in order[: limits.MAX_AWARDS]:
            if not talk.machine.quote_holds(current.now_ms):
                continue
            agreement = await current.award(talk)
            if agreement is not None:
                return agreement
        raise _nobody(current)


def _nobody(current: _Round) -> NoProvider:
    """Why there is no agreement, in words for the user."""
    accepted = current.acceptable()
    too_dear = [talk for talk in current.ranked() if talk not in accepted]
    if too_dear:
        quote = too_dear[0].machine.quote
        assert quote is not None
        if current.policy.affords(quote.prices):
            return NoProvider(
                f"every quote for {current.want.model} is within the price cap and comes too late for the deadline, or "
                "for what its time is worth (market.value_of_time_nanoton_per_s, market.cap_covers_time)"
            )
        return TooExpensive(
            f"every provider of {current.want.model} asks more than the cap; the cheapest of {len(too_dear)} quotes is "
            f"{show_prices(quote.prices)} against a cap of {show_prices(current.policy.max_prices)} (nanoTON per "
            "million units); raise the price cap or try again later",
            best=quote.prices,
        )
    reasons = "; ".join(
        f"{talk.candidate.provider[-6:]}: {talk.machine.failure.explanation}"
        for talk in current.talks
        if talk.machine.failure is not None
    )
    asked = len(current.talks)
    return NoProvider(
        f"none of the {asked} provider{'s' if asked > 1 else ''} asked for {current.want.model} came to an agreement "
        f"({reasons or 'their quotes ran out'}); try again in a few seconds"
    )
