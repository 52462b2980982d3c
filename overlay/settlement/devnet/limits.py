"""Every bound of the embedded devnet, with its reason."""

TVM_TIMEOUT_S = 20.0
"""One transaction takes milliseconds in the TVM; starting Node under load takes a second or two."""

TVM_LINE_BYTES = 8 * 1024 * 1024
"""One answer of the TVM process: an account of many cells in base64. More means that the process misbehaves."""

GENESIS_SUPPLY_NANOTON = 5_000_000_000 * 10**9
"""The devnet's Toncoin, all with the giver at first: about what mainnet has."""

NETWORK_ID = -667
"""The devnet's ``global_id``: neither mainnet (-239) nor testnet (-3), so no devnet voucher is worth anything there."""

MAX_FUND_NANOTON = 1_000_000 * 10**9
"""One gift of the faucet: enough for anything, far from emptying the giver by mistake."""

HEARTBEAT_S = 4.0
"""An idle chain seals a block this often: clients wait up to 10 s for the next before they call a server dead."""

LT_STEP = 1000
"""Logical time between transactions: above the 255 messages that one may send, which take the times in between."""

MAX_TRANSACTIONS_PER_BLOCK = 1000
"""A longer chain of messages goes on in the next block. Mainnet's blocks hold a few hundred by gas."""

MAX_BLOCKS_KEPT = 4096
"""Blocks that can still be asked for: hours of an idle chain. States share their cells: each is a few kilobytes."""

MAX_TRANSACTIONS_KEPT = 20_000
"""Transactions that can still be asked for, for each account."""

MAX_CONNECTIONS = 256
"""Clients at once; each holds one socket and a few tasks."""

MAX_QUERIES_IN_FLIGHT = 64
"""Unanswered queries of one connection; the next ones wait in the socket."""

MAX_PACKET_BYTES = 256 * 1024
"""One ADNL packet from a client: an external message has 64 KiB at most."""

MAX_EXTERNAL_BYTES = 65_536
"""An external message (TON configuration, ``ext_msg_limits``)."""

HANDSHAKE_TIMEOUT_S = 10.0
"""A client that does not finish the handshake in this time is dropped."""

IDLE_TIMEOUT_S = 120.0
"""A client that sends nothing, not even the pings of ADNL over TCP, is gone."""

MAX_WAIT_S = 30.0
"""``waitMasterchainSeqno`` holds a query for this long at most."""

MAX_FAUCET_LINE_BYTES = 1024
"""One request of the faucet."""
