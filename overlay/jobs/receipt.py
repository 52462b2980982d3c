"""Receipts: what both parties say a job delivered and cost, each chained to the one before (docs/protocols/receipt.md).

The provider signs each receipt. The client's signature is over a receipt's hash, and since that hash covers the hash of
the receipt before, it says yes to the whole chain up to there: one signature may answer hundreds of receipts.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import cbor2

from compute.usage import Usage
from overlay.jobs.limits import JOB_ID_BYTES, MAX_RECEIPT_BYTES
from overlay.settlement.ledger import ReceiptRecord
from transport.identity import Identity, verify_peer
from transport.wire import WireError, decode

RECEIPT_DOMAIN = "jobs/receipt/1"
"""What the provider signs: the body."""

CHAIN_DOMAIN = "jobs/receipt-chain/1"
"""What the client signs: the hash of the last body it accepts."""

_TAG = "receipt/1"
_MAX_SUM = 1 << 62


@dataclass(frozen=True, slots=True)
class Receipt:
    """One job on one channel. ``index`` counts a channel's receipts from 1; ``cumulative_nanoton`` is their sum with
    this one; ``voucher_seq`` is the highest voucher the provider held (0: none); ``handshake_hash`` the tunnel's."""

    channel: str
    index: int
    agreement_id: bytes
    handshake_hash: bytes
    job_id: bytes
    usage: Usage
    amount_nanoton: int
    cumulative_nanoton: int
    voucher_seq: int
    prev_hash: bytes

    def to_bytes(self) -> bytes:
        """The body: a deterministic CBOR list."""
        fields: list[Any] = [
            _TAG,
            self.channel,
            self.index,
            self.agreement_id,
            self.handshake_hash,
            self.job_id,
            self.usage.to_wire(),
            self.amount_nanoton,
            self.cumulative_nanoton,
            self.voucher_seq,
            self.prev_hash,
        ]
        return cbor2.dumps(fields, canonical=True)

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Parse :meth:`to_bytes`. Raises :class:`~transport.wire.WireError`."""
        value = decode(body, max_bytes=MAX_RECEIPT_BYTES)
        if type(value) is not list or len(value) != 11 or value[0] != _TAG:
            raise WireError("a receipt is a list of eleven that begins with its version")
        _, channel, index, agreement_id, handshake_hash, job_id, usage, amount, cumulative, seq, prev_hash = value
        if type(channel) is not str or len(channel) > 100:
            raise WireError("a receipt's channel is a short text")
        for name, blob, size in (
            ("agreement", agreement_id, 32),
            ("handshake hash", handshake_hash, 32),
            ("job", job_id, JOB_ID_BYTES),
            ("previous hash", prev_hash, 32),
        ):
            if type(blob) is not bytes or len(blob) != size:
                raise WireError(f"a receipt's {name} has {size} bytes")
        for number in (index, amount, cumulative, seq):
            if type(number) is not int or not 0 <= number < _MAX_SUM:
                raise WireError("a receipt's numbers are integers from 0 to 2^62 - 1")
        if index == 0 or cumulative < amount:
            raise WireError("a receipt's index counts from 1, and its sum includes its amount")
        try:
            parsed = Usage.from_wire(usage)
        except ValueError as error:
            raise WireError(f"a receipt's usage: {error}") from error
        return cls(channel, index, agreement_id, handshake_hash, job_id, parsed, amount, cumulative, seq, prev_hash)


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the provider's signature, and the bytes that both are over."""

    receipt: Receipt
    body: bytes
    hash: bytes
    signature: bytes

    def to_wire(self) -> list[bytes]:
        """``[body, provider's signature]``."""
        return [self.body, self.signature]

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Parse :meth:`to_wire`; the signature is not verified yet. Raises :class:`~transport.wire.WireError`."""
        if type(value) is not list or len(value) != 2 or type(value[0]) is not bytes or type(value[1]) is not bytes:
            raise WireError("a signed receipt is [body, signature]")
        if len(value[1]) != 64:
            raise WireError("a signature has 64 bytes")
        return cls(Receipt.from_bytes(value[0]), value[0], sha256(value[0]).digest(), value[1])

    def signed_by(self, provider: str) -> bool:
        """Whether the provider of this peer id signed it."""
        return verify_peer(provider, RECEIPT_DOMAIN, self.body, self.signature)

    def to_record(self) -> ReceiptRecord:
        """As the ledger keeps it."""
        receipt = self.receipt
        return ReceiptRecord(
            receipt.channel,
            receipt.index,
            receipt.job_id,
            receipt.agreement_id,
            receipt.amount_nanoton,
            receipt.cumulative_nanoton,
            self.hash,
            receipt.prev_hash,
            self.body,
            self.signature,
        )

    @classmethod
    def from_record(cls, record: ReceiptRecord) -> Self:
        """What the ledger kept."""
        return cls(Receipt.from_bytes(record.body), record.body, record.hash, record.provider_signature)


def sign_receipt(identity: Identity, receipt: Receipt) -> SignedReceipt:
    """The provider's signature under a receipt."""
    body = receipt.to_bytes()
    return SignedReceipt(receipt, body, sha256(body).digest(), identity.sign(RECEIPT_DOMAIN, body))


def countersign(identity: Identity, receipt_hash: bytes) -> bytes:
    """The client's signature: yes to the receipt of this hash and to all before it."""
    return identity.sign(CHAIN_DOMAIN, receipt_hash)


def countersigned_by(client: str, receipt_hash: bytes, signature: bytes) -> bool:
    """Whether the client of this peer id countersigned the receipt of this hash."""
    return verify_peer(client, CHAIN_DOMAIN, receipt_hash, signature)
