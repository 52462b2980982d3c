"""The chain client: proved states through liteservers, a wallet that sends, and the operations of channels."""

from overlay.settlement.chain.account import Resumed, WalletAccount
from overlay.settlement.chain.blockstore import BlockStore, FileBlockStore
from overlay.settlement.chain.client import ChannelState, TonClient
from overlay.settlement.chain.estimate import OperationCost, OperationName, TransferCost, operation_cost
from overlay.settlement.chain.network import NETWORK_IDS, Network, read_global_config
from overlay.settlement.chain.operations import (
    ChannelRefused,
    Claim,
    TxResult,
    claim,
    claim_many,
    cooperative_close,
    finish_opening,
    finish_refund,
    open_channel,
    start_refund,
    top_up,
)
from overlay.settlement.chain.pending import MemoryPendingStore, PendingExternal, PendingStore, SqlitePendingStore
from overlay.settlement.chain.pool import ServerReport
from overlay.settlement.chain.prices import Prices
from overlay.settlement.chain.proved import AccountState

__all__ = [
    "NETWORK_IDS",
    "AccountState",
    "BlockStore",
    "ChannelRefused",
    "ChannelState",
    "Claim",
    "FileBlockStore",
    "MemoryPendingStore",
    "Network",
    "OperationCost",
    "OperationName",
    "PendingExternal",
    "PendingStore",
    "Prices",
    "Resumed",
    "ServerReport",
    "SqlitePendingStore",
    "TonClient",
    "TransferCost",
    "TxResult",
    "WalletAccount",
    "claim",
    "claim_many",
    "cooperative_close",
    "finish_opening",
    "finish_refund",
    "open_channel",
    "operation_cost",
    "read_global_config",
    "start_refund",
    "top_up",
]
