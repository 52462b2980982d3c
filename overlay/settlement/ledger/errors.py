"""What can go wrong with the books.

LedgerError
├── OverLimit          a reservation or a charge does not fit into a deposit or an agreement
├── LedgerConflict     a write would break a rule of the books (a voucher lowered, a chain broken)
├── LedgerBusy         more unwritten operations than the ledger queues
└── LedgerUnavailable  the file cannot be opened or written, or the ledger is closed
"""

from __future__ import annotations


class LedgerError(Exception):
    """The books could not do what was asked; nothing was changed."""


class OverLimit(LedgerError):
    """The sum does not fit: says how much was asked for, how much is left, and of what."""

    def __init__(self, what: str, asked_nanoton: int, left_nanoton: int) -> None:
        super().__init__(f"{what}: {asked_nanoton} nanoTON asked for, {left_nanoton} left")
        self.what = what
        self.asked_nanoton = asked_nanoton
        self.left_nanoton = left_nanoton


class LedgerConflict(LedgerError):
    """A write that would make the books wrong was refused; the message names the rule."""


class LedgerBusy(LedgerError):
    """Too many operations wait to be written; try again later."""


class LedgerUnavailable(LedgerError):
    """The ledger file cannot be opened or written; the message says why and what to do."""
