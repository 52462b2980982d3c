"""The client's side of one negotiation with one provider, without I/O, clock or randomness of its own.

    ASKED ──Quote──▶ QUOTED ──counter()──▶ COUNTERED ──Quote──▶ QUOTED (last word)
      │                │                       │                  │
      │                └──────award()──────────┼───▶ AWARDED ◀────┘
      └─Decline─▶ FAILED ◀──────Decline────────┴────────┤
                                                        └──Ack──▶ AGREED

Anything out of order, altered, signed by another, or naming another conversation ends in FAILED with
``broke_protocol``. There is an agreement only in AGREED, and it carries both signatures, checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

from compute.usage import Prices
from overlay.market import limits
from overlay.market.agreement import (
    Agreement,
    AgreementBody,
    Payer,
    agreement_id,
    sign_agreement,
)
from overlay.market.messages import (
    NONCE_BYTES,
    Ack,
    Answer,
    Award,
    Counter,
    Decline,
    Quote,
    Reason,
    Request,
    Sealed,
    seal,
    unseal,
)
from overlay.market.selection import Want
from transport.identity import Identity, PeerId
from transport.wire import WireError

_A = TypeVar("_A", bound=Answer)


class State(Enum):
    """Where a negotiation stands (see the module's diagram)."""

    ASKED = auto()
    QUOTED = auto()
    COUNTERED = auto()
    AWARDED = auto()
    AGREED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class Failure:
    """Why there is no agreement with this provider."""

    reason: Reason
    explanation: str


def agreed_terms(request: Request, quote: Quote, quote_digest: bytes, payer: Payer) -> AgreementBody:
    """The agreement that accepting ``quote`` makes: both sides compute the same body from what was said."""
    return AgreementBody(
        client=request.client,
        provider=request.provider,
        subnet=request.subnet,
        task=request.task,
        model=request.model,
        tier=request.tier,
        prices=quote.prices,
        credit_window_nanoton=quote.credit_window_nanoton,
        max_amount_nanoton=quote.max_amount_nanoton,
        min_deposit_nanoton=quote.min_deposit_nanoton,
        max_parallel=quote.max_parallel,
        valid_from_ms=quote.issued_ms,
        valid_until_ms=quote.issued_ms + quote.duration_ms,
        payer_address=payer.address,
        payer_key=payer.key,
        payee_address=quote.payee_address,
        payee_key=quote.payee_key,
        network_id=quote.network_id,
        quote=quote_digest,
    )


def yielded(prices: Prices) -> Prices:
    """The most that a provider gives way in the counter round: nine tenths of each price, rounded up."""
    n, d = limits.YIELD_NUMERATOR, limits.YIELD_DENOMINATOR
    return Prices({unit: -(-price * n // d) for unit, price in prices.per_million.items()})


@dataclass
class ClientNegotiation:
    """One negotiation with ``provider``. Start it with :meth:`request`; feed every message to :meth:`receive`.

    ``nonce`` gives fresh random bytes; times are Unix milliseconds by our own clock, and what the provider promises is
    counted from when it arrived, so that two clocks need not agree.
    """

    identity: Identity
    provider: PeerId
    subnet: str
    network_id: int
    nonce: Callable[[int], bytes]
    state: State = State.ASKED
    quote: Quote | None = None
    last_word: bool = False
    agreement: Agreement | None = None
    failure: Failure | None = None
    _request: Request | None = None
    _expected: bytes = b""
    """The digest that the next message must answer."""
    _quote_digest: bytes = b""
    _quote_ends_ms: int = 0
    _body: AgreementBody | None = None
    _body_signature: bytes = field(default=b"", repr=False)

    def request(self, want: Want, now_ms: int) -> bytes:
        """The opening message."""
        assert self._request is None
        self._request = Request(
            nonce=self.nonce(NONCE_BYTES),
            issued_ms=now_ms,
            valid_until_ms=now_ms + limits.REQUEST_TTL_MS,
            client=self.identity.peer_id,
            provider=self.provider,
            subnet=self.subnet,
            task=want.task,
            model=want.model,
            tier=want.tier,
            usage=want.usage,
            max_amount_nanoton=want.max_amount_nanoton,
            duration_ms=want.duration_ms,
        )
        return self._sent(seal(self.identity, self._request))

    @property
    def proposed(self) -> Prices:
        """What a counter proposes: it follows from the quote alone."""
        assert self.quote is not None
        return yielded(self.quote.prices)

    def counter(self, now_ms: int) -> bytes:
        """Say that the quote is too dear and propose nine tenths of it: the most that a provider yields. The proposal
        follows from the quote alone, so what we would really pay stays with us."""
        assert self.state is State.QUOTED
        assert self.quote is not None
        assert not self.last_word
        message = Counter(**self._header(now_ms), answers=self._quote_digest, prices=self.proposed)
        self.state = State.COUNTERED
        return self._sent(seal(self.identity, message))

    def award(self, payer: Payer, now_ms: int) -> bytes:
        """Accept the quote: the agreement's body with our signature."""
        assert self.state is State.QUOTED
        assert self.quote is not None
        assert self._request is not None
        self._body = agreed_terms(self._request, self.quote, self._quote_digest, payer)
        self._body_signature = sign_agreement(self.identity, self._body)
        message = Award(
            **self._header(now_ms),
            answers=self._quote_digest,
            body=self._body.encode(),
            signature=self._body_signature,
        )
        self.state = State.AWARDED
        return self._sent(seal(self.identity, message))

    def quote_holds(self, now_ms: int) -> bool:
        """Whether the quote can still be accepted, as far as our clock tells."""
        return self.state is State.QUOTED and now_ms < self._quote_ends_ms

    def fail(self, reason: Reason, explanation: str) -> None:
        """End it, unless it has ended."""
        if self.state not in (State.AGREED, State.FAILED):
            self.state = State.FAILED
            self.failure = Failure(reason, explanation)

    def receive(self, data: bytes, now_ms: int) -> None:
        """Take in one message from the provider; look at :attr:`state` afterwards. Never raises on bad input."""
        if self.state in (State.AGREED, State.FAILED):
            return
        try:
            sealed = unseal(data)
            message = self._answer(sealed, now_ms)
            if isinstance(message, Decline):
                self.fail(message.reason, message.explanation)
            elif self.state is State.AWARDED:
                self._take_ack(_expect(Ack, message))
            elif self.state in (State.ASKED, State.COUNTERED):
                self._take_quote(_expect(Quote, message), sealed.digest, now_ms)
            else:
                raise WireError("a message that nobody asked for")
        except (WireError, ValueError) as error:
            self.fail(Reason.BROKE_PROTOCOL, f"the provider broke the protocol: {error}")

    def _header(self, now_ms: int) -> dict[str, Any]:
        return {
            "nonce": self.nonce(NONCE_BYTES),
            "issued_ms": now_ms,
            "valid_until_ms": now_ms + limits.REQUEST_TTL_MS,
            "client": self.identity.peer_id,
            "provider": self.provider,
            "subnet": self.subnet,
        }

    def _sent(self, sealed: Sealed) -> bytes:
        self._expected = sealed.digest
        return sealed.data

    def _answer(self, sealed: Sealed, now_ms: int) -> Answer:
        """Whatever comes must be this provider's answer to what we said last, and be of now."""
        message = sealed.message
        if not isinstance(message, Answer) or message.from_client:
            raise WireError("not a message that a provider sends")
        named = (message.client, message.provider, message.subnet)
        if named != (self.identity.peer_id, self.provider, self.subnet):
            raise WireError("a message of another negotiation")
        if not self._expected or message.answers != self._expected:
            raise WireError("it does not answer what was said")
        if abs(message.issued_ms - now_ms) > limits.MAX_CLOCK_SKEW_MS:
            raise WireError("the two clocks are more than half a minute apart")
        return message

    def _take_quote(self, quote: Quote, digest: bytes, now_ms: int) -> None:
        assert self._request is not None
        if quote.max_amount_nanoton > self._request.max_amount_nanoton or quote.duration_ms > self._request.duration_ms:
            raise WireError("the quote is for more than was asked")
        if quote.network_id != self.network_id:
            self.fail(
                Reason.WRONG_NETWORK,
                f"the provider is paid on TON network {quote.network_id}, this node pays on {self.network_id}",
            )
            return
        if self.state is State.COUNTERED:
            assert self.quote is not None
            if not _no_worse(quote, self.quote):
                raise WireError("the answer to a counter is worse than the quote before it")
            self.last_word = True
        self.quote, self._quote_digest = quote, digest
        # Counted from our clock: the provider's may be off by seconds.
        self._quote_ends_ms = now_ms + quote.valid_until_ms - quote.issued_ms
        self.state = State.QUOTED

    def _take_ack(self, ack: Ack) -> None:
        assert self._body is not None
        if ack.agreement != agreement_id(self._body):
            raise WireError("the acknowledgement names another agreement")
        agreement = Agreement(self._body, self._body_signature, ack.signature)
        if not agreement.verify():
            raise WireError("the acknowledgement does not sign the agreement")
        self.agreement = agreement
        self.state = State.AGREED


def _expect(kind: type[_A], message: Answer) -> _A:
    if not isinstance(message, kind):
        raise WireError(f"a {kind.__name__.lower()} is expected here, not a {message.kind}")
    return message


def _no_worse(new: Quote, old: Quote) -> bool:
    """Whether the last word keeps every promise of the quote before it."""
    cheaper = all(price <= old.prices.per_million.get(unit, 0) for unit, price in new.prices.per_million.items())
    same_payee = (new.payee_address, new.payee_key) == (old.payee_address, old.payee_key)
    return cheaper and same_payee and new.min_deposit_nanoton <= old.min_deposit_nanoton
