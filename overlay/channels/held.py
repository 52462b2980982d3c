"""A provider's channel as its ledger has it and as its jobs use it, for whoever guards it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from overlay.settlement import ChannelTerms
from overlay.settlement.ledger import ChannelRecord, MoneyAtRisk, Store, VoucherRecord


class ChannelUse(Protocol):
    """What the desk must be able to tell whoever serves jobs on channels."""

    async def deposit_grew(self, channel: str, deposit_nanoton: int) -> None:
        """A channel was topped up to this deposit in all."""

    async def freeze(self, channel: str) -> bool:
        """Serve no more jobs on a channel; False, and nothing changed, while some are running."""


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
