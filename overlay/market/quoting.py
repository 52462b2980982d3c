"""The provider's side of every negotiation, without I/O, clock or randomness of its own.

One :class:`QuoteDesk` answers all clients: one message in, one answer out. It does not care which stream a message came
by, so a quote given is honoured on any stream until it expires, and an award sent again (because the first
acknowledgement was lost) gets the same acknowledgement. Bad messages raise :class:`~transport.wire.WireError`: the
caller drops the peer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from compute.tasks import Task
from compute.usage import Prices
from overlay.market import limits
from overlay.market.agreement import (
    Agreement,
    AgreementBody,
    Payer,
    Tier,
    agreement_id,
    sign_agreement,
)
from overlay.market.controller import Load
from overlay.market.messages import (
    NONCE_BYTES,
    Ack,
    Award,
    Counter,
    Decline,
    Message,
    Quote,
    Reason,
    Request,
    Sealed,
    seal,
    unseal,
)
from overlay.market.negotiation import agreed_terms, yielded
from transport.identity import Identity, PeerId
from transport.wire import WireError


@dataclass(frozen=True)
class Listing:
    """What is on offer for one (task, model, tier) at this moment: the prices asked, the floor below which nothing is
    sold, how long a new job would wait, how many may run at once for one client, how long the price is held."""

    prices: Prices
    floor: Prices
    wait_ms: int
    max_parallel: int
    holds_ms: int = limits.MAX_AGREEMENT_MS


@dataclass(frozen=True)
class Refusal:
    """Why nothing is on offer: a reason, and a sentence for the user."""

    reason: Reason
    explanation: str


Catalog = Callable[[Task, str, Tier], Listing | Refusal]
"""Looks up what is on offer now."""


@dataclass(frozen=True)
class PaymentTerms:
    """How the provider is paid: TON address (raw form), the key that a channel names as payee, TON's network id, the
    least deposit worth a channel, how much may be owed between vouchers, and the bounds of one standing agreement."""

    payee_address: str
    payee_key: bytes
    network_id: int
    min_deposit_nanoton: int
    credit_window_nanoton: int
    min_amount_nanoton: int = 1
    max_amount_nanoton: int = limits.MAX_AMOUNT_NANOTON
    max_duration_ms: int = limits.MAX_AGREEMENT_MS


@dataclass(frozen=True)
class Reply:
    """What to send, and the agreement that sending it makes: store that durably before the reply leaves."""

    data: bytes
    agreement: Agreement | None = None


@dataclass
class _Open:
    """A promise given: until ``ends_ms`` an award of this quote is honoured, once."""

    request: Request
    quote: Quote
    floor: Prices
    ends_ms: int
    countered: bool = False
    award: bytes = b""
    reply: Reply | None = None


@dataclass
class _Rate:
    """A client's token bucket."""

    tokens: float
    at_ms: int
    open_quotes: int = 0


@dataclass
class QuoteDesk:
    """All that a provider has promised. ``nonce`` gives fresh random bytes; times are Unix milliseconds."""

    identity: Identity
    subnet: str
    terms: PaymentTerms
    catalog: Catalog
    nonce: Callable[[int], bytes]
    _open: dict[bytes, _Open] = field(default_factory=dict)
    _seen: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    _rates: OrderedDict[PeerId, _Rate] = field(default_factory=OrderedDict)

    @property
    def open_quotes(self) -> int:
        """How many quotes are outstanding."""
        return len(self._open)

    def handle(self, sender: PeerId, data: bytes, now_ms: int) -> Reply:
        """Answer one message that came over a connection authenticated as ``sender``.

        Raises :class:`~transport.wire.WireError` when it is not a message that ``sender`` could honestly send now.
        """
        return self.answer(sender, unseal(data), now_ms)

    def answer(self, sender: PeerId, sealed: Sealed, now_ms: int) -> Reply:
        """The same of a message that was unsealed. When it raises, nothing has changed."""
        message = sealed.message
        if message.client != sender or not message.from_client:
            raise WireError("not a message that this client sends")
        if message.provider != self.identity.peer_id or message.subnet != self.subnet:
            raise WireError("a message for another provider or subnet")
        skew = limits.MAX_CLOCK_SKEW_MS
        if not message.issued_ms - skew <= now_ms <= message.valid_until_ms + skew:
            raise WireError("written at another time than now: check the clock of this machine and of the other")
        self._forget(now_ms)
        if isinstance(message, Request):
            return self._request(sealed, message, now_ms)
        if isinstance(message, Counter):
            return self._counter(sealed, message, now_ms)
        assert isinstance(message, Award)
        return self._award(sealed, message, now_ms)

    # ---- the three things that a client says ----

    def _request(self, sealed: Sealed, request: Request, now_ms: int) -> Reply:
        if sealed.digest in self._seen:
            raise WireError("a request that was answered before")
        rate = self._rate(request.client, now_ms)
        if rate.tokens < 1:
            return self._decline(sealed, now_ms, Reason.RATE_LIMITED, "too many requests; wait a few seconds")
        rate.tokens -= 1
        full = len(self._open) >= limits.MAX_OPEN_QUOTES or len(self._seen) >= limits.MAX_REMEMBERED_REQUESTS
        if full or rate.open_quotes >= limits.MAX_OPEN_QUOTES_PER_CLIENT:
            return self._decline(sealed, now_ms, Reason.BUSY, "too many quotes are outstanding; wait a few seconds")
        self._seen[sealed.digest] = request.valid_until_ms + limits.MAX_CLOCK_SKEW_MS
        listing = quotable(self.catalog(request.task, request.model, request.tier))
        if isinstance(listing, Refusal):
            return self._decline(sealed, now_ms, listing.reason, listing.explanation)
        if request.max_amount_nanoton < self.terms.min_amount_nanoton:
            least = self.terms.min_amount_nanoton
            return self._decline(
                sealed, now_ms, Reason.AMOUNT_TOO_SMALL, f"the agreement must cover at least {least} nanoTON"
            )
        return self._offer(sealed, request, listing.prices, listing, now_ms, countered=False)

    def _counter(self, sealed: Sealed, counter: Counter, now_ms: int) -> Reply:
        promise = self._promise(counter, now_ms)
        if promise is None:
            return self._decline(sealed, now_ms, Reason.QUOTE_EXPIRED, "no such quote is outstanding; ask again")
        if promise.countered or promise.award:
            raise WireError("a quote is countered once, and not after it was awarded")
        listing = self.catalog(promise.request.task, promise.request.model, promise.request.tier)
        if isinstance(listing, Refusal):
            return self._decline(sealed, now_ms, listing.reason, listing.explanation)
        # The last word replaces the quote before it: there is one promise to keep, not two.
        self._drop(counter.answers)
        prices = promise.quote.prices
        if yields(listing):
            prices = last_word(prices, counter.prices, promise.floor)
        return self._offer(sealed, promise.request, prices, listing, now_ms, countered=True)

    def _award(self, sealed: Sealed, award: Award, now_ms: int) -> Reply:
        promise = self._promise(award, now_ms)
        if promise is None:
            return self._decline(sealed, now_ms, Reason.QUOTE_EXPIRED, "no such quote is outstanding; ask again")
        if promise.reply is not None:
            if promise.award != sealed.digest:
                raise WireError("this quote was awarded before")
            return Reply(promise.reply.data)
        body = AgreementBody.parse(award.body)
        payer = Payer(address=body.payer_address, key=body.payer_key)
        if body != agreed_terms(promise.request, promise.quote, award.answers, payer):
            return self._decline(sealed, now_ms, Reason.TERMS_DIFFER, "the agreement does not say what was quoted")
        listing = self.catalog(body.task, body.model, body.tier)
        if isinstance(listing, Refusal):
            return self._decline(sealed, now_ms, listing.reason, listing.explanation)
        if slipped(listing, promise.quote.start_ms):
            return self._decline(sealed, now_ms, Reason.START_SLIPPED, "other jobs came first; take the next quote")
        agreement = Agreement(body, award.signature, sign_agreement(self.identity, body))
        if not agreement.verify():
            raise WireError("the award does not sign the agreement")
        ack = Ack(
            **self._header(sealed.message, now_ms),
            answers=sealed.digest,
            agreement=agreement_id(body),
            signature=agreement.provider_signature,
        )
        promise.award = sealed.digest
        promise.reply = Reply(seal(self.identity, ack).data, agreement)
        return promise.reply

    # ---- promises ----

    def _offer(
        self, sealed: Sealed, request: Request, prices: Prices, listing: Listing, now_ms: int, *, countered: bool
    ) -> Reply:
        quote = Quote(
            **self._header(request, now_ms),
            answers=sealed.digest,
            prices=prices,
            start_ms=promised_start_ms(listing),
            credit_window_nanoton=self.terms.credit_window_nanoton,
            payee_address=self.terms.payee_address,
            payee_key=self.terms.payee_key,
            network_id=self.terms.network_id,
            min_deposit_nanoton=self.terms.min_deposit_nanoton,
            max_parallel=listing.max_parallel,
            max_amount_nanoton=min(request.max_amount_nanoton, self.terms.max_amount_nanoton),
            duration_ms=min(request.duration_ms, self.terms.max_duration_ms, listing.holds_ms),
        )
        given = seal(self.identity, quote)
        self._open[given.digest] = _Open(request, quote, listing.floor, quote.valid_until_ms, countered)
        self._rate(request.client, now_ms).open_quotes += 1
        return Reply(given.data)

    def _promise(self, message: Counter | Award, now_ms: int) -> _Open | None:
        promise = self._open.get(message.answers)
        if promise is None or now_ms >= promise.ends_ms:
            return None
        if promise.request.client != message.client:
            raise WireError("the quote was given to another client")
        return promise

    def _drop(self, digest: bytes) -> None:
        promise = self._open.pop(digest)
        rate = self._rates.get(promise.request.client)
        if rate is not None and rate.open_quotes:
            rate.open_quotes -= 1

    def _forget(self, now_ms: int) -> None:
        """Drop what has expired. Quotes all live equally long, so the oldest are first and this is cheap."""
        for digest in _expired(self._open, now_ms):
            self._drop(digest)
        while self._seen and next(iter(self._seen.values())) < now_ms:
            self._seen.popitem(last=False)

    def _rate(self, client: PeerId, now_ms: int) -> _Rate:
        rate = self._rates.get(client)
        if rate is None:
            rate = self._rates[client] = _Rate(limits.REQUEST_BURST, now_ms)
            if len(self._rates) > limits.MAX_TRACKED_CLIENTS:
                self._rates.popitem(last=False)
        self._rates.move_to_end(client)
        gained = max(0, now_ms - rate.at_ms) / 1000 * limits.REQUESTS_PER_S
        rate.tokens, rate.at_ms = min(limits.REQUEST_BURST, rate.tokens + gained), now_ms
        return rate

    # ---- answers ----

    def _header(self, asked: Message, now_ms: int) -> dict[str, Any]:
        return {
            "nonce": self.nonce(NONCE_BYTES),
            "issued_ms": now_ms,
            "valid_until_ms": now_ms + limits.QUOTE_TTL_MS,
            "client": asked.client,
            "provider": self.identity.peer_id,
            "subnet": self.subnet,
        }

    def _decline(self, sealed: Sealed, now_ms: int, reason: Reason, explanation: str) -> Reply:
        message = Decline(
            **self._header(sealed.message, now_ms), answers=sealed.digest, reason=reason, explanation=explanation
        )
        return Reply(seal(self.identity, message).data)


def _expired(open_quotes: dict[bytes, _Open], now_ms: int) -> list[bytes]:
    expired = []
    for digest, promise in open_quotes.items():
        if promise.ends_ms > now_ms:
            break
        expired.append(digest)
    return expired


def quotable(listing: Listing | Refusal) -> Listing | Refusal:
    """What is on offer, unless its queue is so long that nobody should be given a quote."""
    if isinstance(listing, Listing) and listing.wait_ms > limits.MAX_WAIT_MS:
        return Refusal(Reason.BUSY, f"the queue is {listing.wait_ms // 1000} s long; ask another provider")
    return listing


def holds_ms(load: Load) -> int:
    """How long a provider under ``load`` holds a price."""
    return limits.BUSY_AGREEMENT_MS if load.pressure >= limits.BUSY_FROM else limits.MAX_AGREEMENT_MS


def promised_start_ms(listing: Listing) -> int:
    """When a quote says that a job would start."""
    return min(listing.wait_ms, limits.MAX_WAIT_MS)


def slipped(listing: Listing, promised_ms: int) -> bool:
    """Whether a job would start noticeably later now than the quote said: its award is refused."""
    return listing.wait_ms > promised_ms + limits.SLIP_TOLERANCE_MS


def yields(listing: Listing) -> bool:
    """Whether a counter is met at all: while there is room, and the price is held for long because of it. A provider
    that is nearly full sells the place to somebody else, and who always says that it is too dear must not get it for a
    tenth less."""
    return listing.wait_ms == 0 and listing.holds_ms > limits.BUSY_AGREEMENT_MS


def last_word(quoted: Prices, proposed: Prices, floor: Prices) -> Prices:
    """The answer to a counter: what was proposed, but no lower than nine tenths of the quote or than the floor, and
    never above the quote. Unit by unit, so that no mix of units can be played against another."""
    least = yielded(quoted).per_million
    answer = {}
    for unit, price in quoted.per_million.items():
        bottom = max(least[unit], floor.per_million.get(unit, 0))
        answer[unit] = min(price, max(bottom, proposed.per_million.get(unit, 0)))
    return Prices(answer)
