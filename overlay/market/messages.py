"""The six messages of a negotiation, and how they are signed.

    client                 provider
      Request  ─────────────▶
               ◀─────────────  Quote | Decline
      Counter  ─────────────▶                      (at most once, only when every quote is too dear)
               ◀─────────────  Quote | Decline     (the provider's last word)
      Award    ─────────────▶
               ◀─────────────  Ack | Decline

Every message names both parties, the subnet, when it was written and until when it holds, carries a fresh nonce, and
(but for the request) the hash of the message that it answers: nothing can be replayed into another negotiation. What
the client is ready to pay and what a second is worth to him are in none of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from compute.tasks import Task
from compute.usage import Prices, Usage
from overlay.market import limits
from overlay.market.agreement import Tier
from overlay.market.codec import PEER, PRICES, TON_ADDRESS, USAGE, Record, blob, choice, integer, text
from transport.identity import SIGNATURE_BYTES, Identity, PeerId
from transport.wire import WireError, decode, encode, parse_envelope, sign_envelope

NONCE_BYTES = 16
DIGEST_BYTES = 32
_VERSION = 1
_TIME = integer(0, 1 << 53)
_AMOUNT = integer(0, limits.MAX_AMOUNT_NANOTON)
_SPAN = integer(1, limits.MAX_AGREEMENT_MS)


class Reason(StrEnum):
    """Why there is no agreement. Those up to ``TERMS_DIFFER`` travel in a :class:`Decline`; the others are the client's
    own findings about a provider."""

    BUSY = "busy"
    RATE_LIMITED = "rate_limited"
    UNKNOWN_TASK = "unknown_task"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_TIER = "unknown_tier"
    AMOUNT_TOO_SMALL = "amount_too_small"
    START_SLIPPED = "start_slipped"
    QUOTE_EXPIRED = "quote_expired"
    TERMS_DIFFER = "terms_differ"
    TOO_EXPENSIVE = "too_expensive"
    DEPOSIT_TOO_LARGE = "deposit_too_large"
    WRONG_NETWORK = "wrong_network"
    NO_ANSWER = "no_answer"
    UNREACHABLE = "unreachable"
    BROKE_PROTOCOL = "broke_protocol"
    NOT_CHOSEN = "not_chosen"


@dataclass(frozen=True, kw_only=True)
class Message(Record):
    """What all six have. Times are Unix milliseconds by the writer's clock."""

    kind: ClassVar[str]
    from_client: ClassVar[bool]

    nonce: Annotated[bytes, blob(NONCE_BYTES)]
    issued_ms: Annotated[int, _TIME]
    valid_until_ms: Annotated[int, _TIME]
    client: Annotated[PeerId, PEER]
    provider: Annotated[PeerId, PEER]
    subnet: Annotated[str, text(limits.MAX_SUBNET_CHARS)]

    def _check(self) -> None:
        if not 0 < self.valid_until_ms - self.issued_ms <= limits.MAX_MESSAGE_LIFETIME_MS:
            raise ValueError(f"a message holds for at most {limits.MAX_MESSAGE_LIFETIME_MS} ms, and longer than none")

    @property
    def sender(self) -> PeerId:
        """Who must have signed it."""
        return self.client if self.from_client else self.provider


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """Ask for a binding quote. ``usage`` is what one job is expected to use; ``max_amount_nanoton`` and ``duration_ms``
    are how much and how long the standing agreement should cover."""

    kind = "request"
    from_client = True

    task: Annotated[Task, choice(Task)]
    model: Annotated[str, text(limits.MAX_MODEL_CHARS)]
    tier: Annotated[Tier, choice(Tier)]
    usage: Annotated[Usage, USAGE]
    max_amount_nanoton: Annotated[int, integer(1, limits.MAX_AMOUNT_NANOTON)]
    duration_ms: Annotated[int, _SPAN]


@dataclass(frozen=True, kw_only=True)
class Answer(Message):
    """A message that answers another: ``answers`` is the SHA-256 of that one's payload."""

    answers: Annotated[bytes, blob(DIGEST_BYTES)]


@dataclass(frozen=True, kw_only=True)
class Quote(Answer):
    """A binding offer: at these prices, until ``valid_until_ms``, a job would start in ``start_ms``.

    ``credit_window_nanoton`` is how much may be served before a voucher covers it; the payee's address and key and
    ``network_id`` name the channel to pay through, which must hold ``min_deposit_nanoton``. ``max_amount_nanoton`` and
    ``duration_ms`` are at most what was asked for; ``max_parallel`` jobs may run at once.
    """

    kind = "quote"
    from_client = False

    prices: Annotated[Prices, PRICES]
    start_ms: Annotated[int, integer(0, limits.MAX_WAIT_MS)]
    credit_window_nanoton: Annotated[int, _AMOUNT]
    payee_address: Annotated[str, TON_ADDRESS]
    payee_key: Annotated[bytes, blob(32)]
    network_id: Annotated[int, integer(-(1 << 31), (1 << 31) - 1)]
    min_deposit_nanoton: Annotated[int, _AMOUNT]
    max_parallel: Annotated[int, integer(1, 1 << 16)]
    max_amount_nanoton: Annotated[int, integer(1, limits.MAX_AMOUNT_NANOTON)]
    duration_ms: Annotated[int, _SPAN]


@dataclass(frozen=True, kw_only=True)
class Decline(Answer):
    """No, and why, in a sentence that a user may read."""

    kind = "decline"
    from_client = False

    reason: Annotated[Reason, choice(Reason)]
    explanation: Annotated[str, text(limits.MAX_TEXT_CHARS)]


@dataclass(frozen=True, kw_only=True)
class Counter(Answer):
    """The prices that the client proposes instead of the quote's."""

    kind = "counter"
    from_client = True

    prices: Annotated[Prices, PRICES]


@dataclass(frozen=True, kw_only=True)
class Award(Answer):
    """The agreement's body, signed by the client; answers the quote that it accepts."""

    kind = "award"
    from_client = True

    body: Annotated[bytes, blob(1, limits.MAX_AGREEMENT_BYTES)]
    signature: Annotated[bytes, blob(SIGNATURE_BYTES)]


@dataclass(frozen=True, kw_only=True)
class Ack(Answer):
    """The provider's signature under the same body."""

    kind = "ack"
    from_client = False

    agreement: Annotated[bytes, blob(DIGEST_BYTES)]
    signature: Annotated[bytes, blob(SIGNATURE_BYTES)]


_KINDS: dict[str, type[Message]] = {cls.kind: cls for cls in (Request, Quote, Decline, Counter, Award, Ack)}


@dataclass(frozen=True)
class Sealed:
    """A message whose signature was made or verified here: what it says, its bytes, the hash that names it."""

    message: Message
    data: bytes
    digest: bytes


def _domain(kind: str) -> str:
    return f"market/{kind}/1"


def seal(identity: Identity, message: Message) -> Sealed:
    """Sign ``message``, which must be ``identity``'s to send."""
    assert message.sender == identity.peer_id
    payload = encode({"kind": message.kind, "version": _VERSION, **message.to_map()})
    data = sign_envelope(identity, _domain(message.kind), payload).to_bytes()
    assert len(data) <= limits.MAX_MESSAGE_BYTES
    return Sealed(message, data, hashlib.sha256(payload).digest())


def unseal(data: bytes) -> Sealed:
    """Parse a message and verify that the party whose role it is to send it signed it.

    Raises :class:`~transport.wire.WireError`.
    """
    signed = parse_envelope(data, max_bytes=limits.MAX_MESSAGE_BYTES)
    fields = decode(signed.payload, max_bytes=limits.MAX_MESSAGE_BYTES)
    if type(fields) is not dict or fields.pop("version", None) != _VERSION:
        raise WireError(f"only version {_VERSION} of the market's messages is understood")
    kind = fields.pop("kind", None)
    if type(kind) is not str or kind not in _KINDS:
        raise WireError("no such message")
    try:
        message = _KINDS[kind].from_map(fields)
    except ValueError as error:
        raise WireError(f"{kind}: {error}") from error
    if not signed.verify(_domain(kind)):
        raise WireError("the signature does not match")
    if signed.peer_id != message.sender:
        raise WireError(f"a {kind} must be signed by the party that it names as its sender")
    return Sealed(message, data, hashlib.sha256(signed.payload).digest())
