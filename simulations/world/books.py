"""The books of a simulated node: production's ledger in memory, whose disk dies with a kill, and which keeps note of
what was committed so that invariants look at nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from overlay.settlement.ledger import AgreementRecord, ReceiptRecord, Store, VoucherRecord


class KilledError(OSError):
    """The process that writes was killed."""


class Books(Store):
    """See the module's docstring. ``killed`` says whether the node was killed: then every transaction fails."""

    def __init__(self, killed: Callable[[], bool]) -> None:
        self._killed = killed
        self._noted: list[AgreementRecord | ReceiptRecord | VoucherRecord | tuple[str, int]] = []
        self.news: list[AgreementRecord | ReceiptRecord | VoucherRecord | tuple[str, int]] = []
        """What was committed since somebody emptied it, in order; a pair is a channel and the index beyond which its
        receipts were dropped."""
        super().__init__(":memory:", fault=self._point)

    def _point(self, name: str) -> None:
        if name == "committed":
            if self._noted:
                self.news += self._noted
                self._noted.clear()
        elif self._killed():
            raise KilledError("the process was killed")
        elif name == "begin":
            self._noted.clear()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Notes of what is undone go with it."""
        before = len(self._noted)
        try:
            with super().savepoint():
                yield
        except BaseException:
            del self._noted[before:]
            raise

    def put_voucher(self, record: VoucherRecord) -> None:
        """As :meth:`Store.put_voucher`."""
        super().put_voucher(record)
        self._noted.append(record)

    def put_agreement(self, record: AgreementRecord) -> None:
        """As :meth:`Store.put_agreement`."""
        super().put_agreement(record)
        self._noted.append(record)

    def append_receipt(self, record: ReceiptRecord) -> None:
        """As :meth:`Store.append_receipt`."""
        super().append_receipt(record)
        self._noted.append(record)

    def truncate_receipts(self, channel: str, *, after: int) -> int:
        """As :meth:`Store.truncate_receipts`."""
        dropped = super().truncate_receipts(channel, after=after)
        self._noted.append((channel, after))
        return dropped

    def summary(self, channel: str) -> tuple[int, ...] | None:
        """What must never sink of a channel: deposit, paid on chain, the voucher's number and sum, and the index of the
        last receipt that both signed. None for a channel that is not in the books."""
        row = self._db.execute(
            "SELECT deposit, paid, coalesce(seq, 0), coalesce(amount, 0), coalesce((SELECT max(idx) FROM receipts "
            "WHERE channel = id AND client_signature IS NOT NULL), 0) "
            "FROM channels LEFT JOIN vouchers ON vouchers.channel = id WHERE channels.channel = ?",
            (channel,),
        ).fetchone()
        return None if row is None else tuple(row)

    def summaries(self) -> dict[str, tuple[int, ...]]:
        """The same of every channel."""
        names = [name for (name,) in self._db.execute("SELECT channel FROM channels")]
        return {name: found for name in names if (found := self.summary(name)) is not None}
