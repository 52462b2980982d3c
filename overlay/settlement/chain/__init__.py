"""The chain client: proved states through liteservers, a wallet that sends, and the operations of channels."""

from overlay.settlement.chain.account import WalletAccount
from overlay.settlement.chain.client import ChannelState, TonClient
from overlay.settlement.chain.operations import (
    ChannelRefused,
    Claim,
    TxResult,
    claim,
    claim_many,
    cooperative_close,
    finish_refund,
    open_channel,
    start_refund,
    top_up,
)
from overlay.settlement.chain.proved import AccountState

__all__ = [
    "AccountState",
    "ChannelRefused",
    "ChannelState",
    "Claim",
    "TonClient",
    "TxResult",
    "WalletAccount",
    "claim",
    "claim_many",
    "cooperative_close",
    "finish_refund",
    "open_channel",
    "start_refund",
    "top_up",
]
