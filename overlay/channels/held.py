"""A provider's channel as its ledger has it, for whoever guards it."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.settlement import ChannelTerms
from overlay.settlement.ledger import ChannelRecord, MoneyAtRisk, Store, VoucherRecord


@dataclass(frozen=True)
class Held:
    """Terms, highest voucher and sums of one channel."""

    record: ChannelRecord
    terms: ChannelTerms
    voucher: VoucherRecord | None
    sums: MoneyAtRisk


def hold(store: Store, record: ChannelRecord) -> Held:
    """Read the rest of a channel."""
    terms = ChannelTerms.from_bytes(record.terms)
    return Held(record, terms, store.voucher(record.channel), store.at_risk(record.channel))
