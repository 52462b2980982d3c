"""What a payee and its watchtower say to each other (docs/protocols/watchtower.md).

Protocol `/cocoon/<subnet>/watchtower/1.0.0` on a host stream. Every message is a signed envelope
(:mod:`transport.wire`), so that a hand-over and the promise that answers it can be shown to others later. The payload
is a CBOR list that begins with the message's name and the peer id of the one it is meant for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overlay.settlement import ChannelTerms, Voucher
from overlay.settlement.cells import check_bytes
from overlay.watchtower.limits import MAX_MESSAGE_BYTES
from transport.identity import Identity, PeerId
from transport.wire import WireError, decode, encode, open_envelope, sign_envelope

DOMAIN = "watchtower/1"
MAX_REASON_CHARS = 300


def watchtower_protocol(subnet: str) -> str:
    """The libp2p protocol id in ``subnet``."""
    return f"/cocoon/{subnet}/watchtower/1.0.0"


@dataclass(frozen=True)
class Watch:
    """Payee: claim this voucher for me, should I not be there when it has to be claimed."""

    terms: ChannelTerms
    voucher: Voucher
    signature: bytes
    """The payer's, over the voucher."""


@dataclass(frozen=True)
class Watching:
    """Tower: it is on my disk, and I claim at least this much until then.

    ``seq`` and ``amount_nanoton`` are those of the highest voucher that the tower has; ``until_s`` is the channel's
    expiry and challenge period, after which a refund may have been finished."""

    channel: str
    network_id: int
    seq: int
    amount_nanoton: int
    until_s: int


@dataclass(frozen=True)
class NotWatching:
    """Tower: no, and why, in words for a person. What it promised before stands."""

    channel: str
    reason: str


TowerMessage = Watch | Watching | NotWatching


def encode_message(identity: Identity, to: PeerId, message: TowerMessage) -> bytes:
    """The bytes of one message from ``identity`` to the peer ``to``."""
    match message:
        case Watch(terms, voucher, signature):
            value: list[Any] = ["watch", to, terms.to_wire(), voucher.to_wire(), signature]
        case Watching(channel, network_id, seq, amount, until):
            value = ["watching", to, bytes.fromhex(channel[2:]), network_id, seq, amount, until]
        case NotWatching(channel, reason):
            value = ["refused", to, bytes.fromhex(channel[2:]), reason[:MAX_REASON_CHARS]]
    return sign_envelope(identity, DOMAIN, encode(value)).to_bytes()


def decode_message(data: bytes, *, sender: PeerId, to: PeerId) -> TowerMessage:
    """Parse one message that ``sender`` must have signed for ``to``. Raises :class:`~transport.wire.WireError`."""
    envelope = open_envelope(DOMAIN, data, max_bytes=MAX_MESSAGE_BYTES)
    if envelope.peer_id != sender:
        raise WireError("signed by somebody else than the peer that sent it")
    value = decode(envelope.payload, max_bytes=MAX_MESSAGE_BYTES)
    if type(value) is not list or len(value) < 2 or value[1] != to:
        raise WireError("a message for another")
    match [value[0], *value[2:]]:
        case ["watch", terms, voucher, bytes(signature)] if len(signature) == 64:
            return _watch(ChannelTerms.from_wire(terms), Voucher.from_wire(voucher), signature)
        case ["watching", channel, network_id, seq, amount, until] if _is_sum(until):
            # A promise about a voucher obeys a voucher's rules.
            voucher = Voucher.from_wire([channel, network_id, seq, amount])
            return Watching(voucher.channel, voucher.network_id, voucher.seq, voucher.amount_nanoton, until)
        case ["refused", channel, str(reason)] if len(reason) <= MAX_REASON_CHARS:
            return NotWatching(_address(channel), reason)
    raise WireError("not a message of the watchtower protocol")


def _watch(terms: ChannelTerms, voucher: Voucher, signature: bytes) -> Watch:
    if voucher.channel != terms.address() or voucher.network_id != terms.network_id:
        raise WireError("the voucher is of another channel than the terms")
    if not voucher.verify(terms.payer_key, signature):
        raise WireError("the payer's signature under the voucher does not verify")
    return Watch(terms, voucher, signature)


def _address(value: object) -> str:
    try:
        return f"0:{check_bytes('channel', value, 32).hex()}"
    except ValueError as error:
        raise WireError(str(error)) from error


def _is_sum(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
