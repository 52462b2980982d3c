"""What client and provider say about their channel (docs/protocols/channel.md, "Between the parties").

Protocol `/cocoon/<subnet>/channel/1.0.0` on a host stream, which authenticates both. Each message is a CBOR list that
begins with its name; each request has one answer. Nothing here is trusted: the provider reads the channel from proved
chain state, and what closes a channel carries signatures that the contract verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overlay.channels.limits import MAX_MESSAGE_BYTES
from overlay.settlement.cells import ChannelTerms
from overlay.settlement.voucher import CloseAgreement
from transport.wire import WireError, decode, encode

MAX_REASON_CHARS = 300


def channel_protocol(subnet: str) -> str:
    """The libp2p protocol id in ``subnet``."""
    return f"/cocoon/{subnet}/channel/1.0.0"


@dataclass(frozen=True)
class Announce:
    """Client: this channel is open (or was topped up); look at it."""

    terms: ChannelTerms


@dataclass(frozen=True)
class ProposeClose:
    """Client: let us close together at this sum; my signature is under it."""

    agreement: CloseAgreement
    payer_signature: bytes


@dataclass(frozen=True)
class Known:
    """Provider: I have seen it on chain, and serve jobs on it."""

    deposit_nanoton: int
    paid_nanoton: int


@dataclass(frozen=True)
class CloseSigned:
    """Provider: agreed, here is my signature; I serve nothing more on this channel until it is closed."""

    payee_signature: bytes


@dataclass(frozen=True)
class Refused:
    """Provider: no, and why, in words for a person."""

    reason: str


ChannelMessage = Announce | ProposeClose | Known | CloseSigned | Refused


def encode_message(message: ChannelMessage) -> bytes:
    """The bytes of one message."""
    match message:
        case Announce(terms):
            value: list[Any] = ["announce", terms.to_wire()]
        case ProposeClose(agreement, signature):
            value = ["close", agreement.to_wire(), signature]
        case Known(deposit, paid):
            value = ["known", deposit, paid]
        case CloseSigned(signature):
            value = ["signed", signature]
        case Refused(reason):
            value = ["refused", reason[:MAX_REASON_CHARS]]
    return encode(value)


def _is_sum(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def decode_message(data: bytes) -> ChannelMessage:
    """Parse one message. Raises :class:`~transport.wire.WireError` for anything else."""
    value = decode(data, max_bytes=MAX_MESSAGE_BYTES)
    match value:
        case ["announce", terms]:
            return Announce(ChannelTerms.from_wire(terms))
        case ["close", agreement, bytes(signature)] if len(signature) == 64:
            return ProposeClose(CloseAgreement.from_wire(agreement), signature)
        case ["known", deposit, paid] if _is_sum(deposit) and _is_sum(paid):
            return Known(deposit, paid)
        case ["signed", bytes(signature)] if len(signature) == 64:
            return CloseSigned(signature)
        case ["refused", str(reason)] if len(reason) <= MAX_REASON_CHARS:
            return Refused(reason)
    raise WireError("not a message of the channel protocol")
