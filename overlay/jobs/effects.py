"""What a channel machine wants done: first these writes, in one transaction, and only then these messages."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.jobs.messages import PaymentMessage
from overlay.jobs.receipt import SignedReceipt
from overlay.settlement.ledger import Store, VoucherRecord


@dataclass(frozen=True, slots=True)
class Effects:
    """Writes and messages. ``truncate_after`` drops unsigned receipts beyond that index before ``receipts`` are added;
    ``signed`` is ``(index, client's signature)``."""

    channel: str
    voucher: VoucherRecord | None = None
    truncate_after: int | None = None
    receipts: tuple[SignedReceipt, ...] = ()
    signed: tuple[int, bytes] | None = None
    written_off_nanoton: int = 0
    messages: tuple[PaymentMessage, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return (
            self.voucher is not None
            or self.truncate_after is not None
            or bool(self.receipts)
            or self.signed is not None
            or self.written_off_nanoton > 0
        )

    def write(self, store: Store) -> None:
        """Do the writes; an operation for :class:`~overlay.settlement.ledger.GroupCommit`."""
        if self.voucher is not None:
            store.put_voucher(self.voucher)
        if self.truncate_after is not None:
            store.truncate_receipts(self.channel, after=self.truncate_after)
        for receipt in self.receipts:
            store.append_receipt(receipt.to_record())
        if self.signed is not None:
            store.countersign(self.channel, *self.signed)
        if self.written_off_nanoton:
            store.write_off(self.channel, self.written_off_nanoton)
