"""Money: payment channels between two parties, the wallet behind them, and the chain that settles them.

The hot path is pure: :class:`ChannelTerms`, :class:`Voucher`. ``overlay.settlement.ledger`` keeps what must not be
lost, ``overlay.settlement.chain`` reads and writes the chain, ``overlay.settlement.devnet`` is one to develop against.
"""

from overlay.settlement.cells import ChannelTerms, check_address, normalise_address
from overlay.settlement.errors import (
    ChainUnavailable,
    ClockSkewed,
    DevnetError,
    InsufficientFunds,
    OperationFailed,
    ProofRejected,
    ServersDisagree,
    SettlementError,
)
from overlay.settlement.transactions import AccountTransaction
from overlay.settlement.voucher import CloseAgreement, Voucher, channel_public_key
from overlay.settlement.wallet import Transfer, Wallet, check_mnemonic, new_mnemonic, wallet_address

__all__ = [
    "AccountTransaction",
    "ChainUnavailable",
    "ChannelTerms",
    "ClockSkewed",
    "CloseAgreement",
    "DevnetError",
    "InsufficientFunds",
    "OperationFailed",
    "ProofRejected",
    "ServersDisagree",
    "SettlementError",
    "Transfer",
    "Voucher",
    "Wallet",
    "channel_public_key",
    "check_address",
    "check_mnemonic",
    "new_mnemonic",
    "normalise_address",
    "wallet_address",
]
