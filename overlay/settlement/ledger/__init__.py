"""The books of a node: channels, vouchers, agreements, receipts and what is at risk, kept so that no crash loses money.

:class:`ChannelAccount` is the arithmetic of one channel in memory, :class:`Store` the SQLite file, and
:func:`open_ledger` gives trio tasks a :class:`GroupCommit`, which writes for many at once.
"""

from overlay.settlement.ledger.account import Budget, ChannelAccount, Hold
from overlay.settlement.ledger.commit import GroupCommit, Operation, open_ledger
from overlay.settlement.ledger.errors import LedgerBusy, LedgerConflict, LedgerError, LedgerUnavailable, OverLimit
from overlay.settlement.ledger.records import (
    GENESIS_HASH,
    AgreementRecord,
    ChainHead,
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    MoneyAtRisk,
    ReceiptRecord,
    Reservation,
    Role,
    VoucherRecord,
)
from overlay.settlement.ledger.risk import Cap, CreditLine, RiskBook, RiskLimits
from overlay.settlement.ledger.store import Store

__all__ = [
    "GENESIS_HASH",
    "AgreementRecord",
    "Budget",
    "Cap",
    "ChainHead",
    "ChannelAccount",
    "ChannelEvent",
    "ChannelRecord",
    "ChannelStatus",
    "CreditLine",
    "GroupCommit",
    "Hold",
    "LedgerBusy",
    "LedgerConflict",
    "LedgerError",
    "LedgerUnavailable",
    "MoneyAtRisk",
    "Operation",
    "OverLimit",
    "ReceiptRecord",
    "Reservation",
    "RiskBook",
    "RiskLimits",
    "Role",
    "Store",
    "VoucherRecord",
    "open_ledger",
]
