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
from overlay.settlement.mnemonic import check_mnemonic, mnemonic_problem, new_mnemonic
from overlay.settlement.sealed import SealError, WrongPassphrase
from overlay.settlement.transactions import AccountTransaction
from overlay.settlement.voucher import CloseAgreement, Voucher, channel_public_key
from overlay.settlement.wallet import Transfer, Wallet, wallet_address, wallet_address_of_key

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
    "SealError",
    "ServersDisagree",
    "SettlementError",
    "Transfer",
    "Voucher",
    "Wallet",
    "WrongPassphrase",
    "channel_public_key",
    "check_address",
    "check_mnemonic",
    "mnemonic_problem",
    "new_mnemonic",
    "normalise_address",
    "wallet_address",
    "wallet_address_of_key",
]
