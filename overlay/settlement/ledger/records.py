"""What the ledger stores, as frozen values. All sums are integer nanoTON, all times Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

GENESIS_HASH = bytes(32)
"""What the first receipt of a channel names as its predecessor."""


class Role(StrEnum):
    """Which side of a channel we are."""

    PAYER = "payer"
    PAYEE = "payee"


class ChannelStatus(StrEnum):
    """Where a channel stands. ``DISPUTED``: no more vouchers or jobs, but not closed yet."""

    OPENING = "opening"
    OPEN = "open"
    DISPUTED = "disputed"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True)
class ChannelRecord:
    """One payment channel. ``terms`` are its on-chain terms as :mod:`overlay.settlement` encodes them; ``paid_nanoton``
    is what the payee has already been paid on chain; ``written_off_nanoton`` is work given up for lack of proof."""

    channel: str
    role: Role
    peer: str
    network_id: int
    terms: bytes
    deposit_nanoton: int
    status: ChannelStatus
    opened_at: int
    closed_at: int | None = None
    paid_nanoton: int = 0
    written_off_nanoton: int = 0


@dataclass(frozen=True)
class VoucherRecord:
    """The highest voucher of a channel: the payer's Ed25519 signature over (seq, cumulative amount)."""

    channel: str
    seq: int
    amount_nanoton: int
    signature: bytes


@dataclass(frozen=True)
class AgreementRecord:
    """An agreement both parties signed; ``body`` is the signed encoding."""

    agreement_id: bytes
    peer: str
    body: bytes
    valid_until: int


@dataclass(frozen=True)
class ReceiptRecord:
    """One link of a channel's receipt chain. ``index`` counts from 1; ``prev_hash`` is the link before. A client
    signature on one receipt says yes to it and to every receipt before it."""

    channel: str
    index: int
    job_id: bytes
    agreement_id: bytes
    amount_nanoton: int
    cumulative_nanoton: int
    hash: bytes
    prev_hash: bytes
    body: bytes
    provider_signature: bytes
    client_signature: bytes | None = None


@dataclass(frozen=True)
class ChainHead:
    """The end of a receipt chain: index 0, the genesis hash and 0 nanoTON when there is none yet."""

    index: int
    hash: bytes
    cumulative_nanoton: int


@dataclass(frozen=True)
class Reservation:
    """Money set aside for a job that has no receipt yet."""

    channel: str
    job_id: bytes
    maximum_nanoton: int
    made_at: int


@dataclass(frozen=True)
class ChannelEvent:
    """Something worth telling the owner about a channel."""

    channel: str
    at: int
    kind: str
    amount_nanoton: int
    detail: str


@dataclass(frozen=True)
class MoneyAtRisk:
    """A channel's stored sums. ``owed`` counts receipts only: what running jobs add is known to their account.

    ``unpaid``: served, receipted and not promised by a voucher (the payee's risk). ``prepaid``: promised and not
    receipted (the payer's). ``reserved``: what the jobs that were running may have cost at most. ``unclaimed``:
    promised and not yet paid on chain (the payee's, until it settles)."""

    owed_nanoton: int
    promised_nanoton: int
    reserved_nanoton: int
    paid_nanoton: int
    written_off_nanoton: int

    @property
    def unpaid_nanoton(self) -> int:
        """Receipted, not promised."""
        return max(0, self.owed_nanoton - self.promised_nanoton)

    @property
    def prepaid_nanoton(self) -> int:
        """Promised, not receipted."""
        return max(0, self.promised_nanoton - self.owed_nanoton)

    @property
    def unclaimed_nanoton(self) -> int:
        """Promised, not yet paid on chain."""
        return max(0, self.promised_nanoton - self.paid_nanoton)
