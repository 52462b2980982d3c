"""What can go wrong between us and the chain, as one tree."""

from __future__ import annotations


class SettlementError(Exception):
    """Base of everything that the settlement layer raises on purpose."""


class ChainUnavailable(SettlementError):
    """No liteserver of the configuration answered in time. The message names the last cause; trying later may help."""


class ServersDisagree(ChainUnavailable):
    """The liteservers name different blocks and too few name the same one. The message says who says what."""


class ClockSkewed(ChainUnavailable):
    """This machine's clock and the chain's are too far apart for deadlines to be kept. The message says how far."""


class ProofRejected(SettlementError):
    """A liteserver's answer contradicts its own proof: the server lies or is broken."""


class OperationFailed(SettlementError):
    """A chain operation was refused or did not show in a proved state in time. Money that was sent bounces back."""


class InsufficientFunds(OperationFailed):
    """The wallet holds less than the operation needs. The message says how much is missing."""


class DevnetError(SettlementError):
    """The embedded devnet cannot start or go on; the message says what to do."""
