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
"""Blocks that can still be asked for: hours of an idle chain, a few kilobytes each on disk. Key blocks, and blocks
whose transactions are kept, stay longer."""

MAX_STATES_KEPT = 1024
"""Blocks whose states can still be proved, from this process's own: states share their cells, a few kilobytes each."""

MAX_BLOCKS_PARSED = 128
"""Older blocks that are kept parsed after they were asked for."""

MAX_TRANSACTIONS_KEPT = 200_000
"""Transactions that can still be asked for, on disk: about a kilobyte each. The oldest blocks' go first."""

MAX_TRANSACTIONS_CACHED = 4096
"""Transactions kept parsed: those that clients ask for again and again are the newest."""

GENESIS_LT = 1_000_000
"""Logical time at which the chain begins."""

VALIDATOR_COUNT = 4
"""Validators of the masterchain: three of the four signatures make the two thirds that clients ask for."""

VALIDATORS_VALID_S = 10 * 365 * 86_400
"""How long a validator set says it is in office: longer than any devnet, or a test's clock, runs."""

MAX_POOL = 2048
"""External messages that wait for a slow block; the next ones are refused, as a real network does."""

MAX_PROOF_STEPS = 16
"""Links in one answer to ``getBlockProof``; the client asks on from where they end."""

MAX_TRANSACTIONS_LISTED = 256
"""Transactions in one answer to ``listBlockTransactions``, as on real servers; the client asks on."""

MAX_CONNECTIONS = 256
"""Clients at once; each holds one socket and a few tasks. One more takes the place of the one that is idle longest."""

MAX_HALF_OPEN = 64
"""Connections that have not finished the handshake. One more takes the place of the oldest, so that a flood of silent
connections delays nobody who completes it: a handshake takes a millisecond or two."""

MAX_QUERIES_IN_FLIGHT = 64
"""Unanswered queries of one connection; the next ones wait in the socket."""

MAX_PACKET_BYTES = 128 * 1024
"""One ADNL packet from a client: an external message has 64 KiB at most."""

MAX_REQUEST_BYTES = 4096
"""A request that carries no bag of cells: sixteen hashes and two block ids at most. pytoniq_core's TL parser takes time
that grows with the square of a vector's length."""

MAX_EXTERNAL_BYTES = 65_536
"""An external message (TON configuration, ``ext_msg_limits``)."""

MAX_CELL_DEPTH = 320
"""Depth of the cells that a client may bring, where TON takes 512: from about 400 on the emulator's WebAssembly stack
overflows, and takes the emulator with it. A wallet's message with 255 transfers is 257 deep."""

HANDSHAKE_TIMEOUT_S = 10.0
"""A client that does not finish the handshake in this time is dropped."""

IDLE_TIMEOUT_S = 120.0
"""A client that sends nothing, not even the pings of ADNL over TCP, is gone."""

SEND_TIMEOUT_S = 20.0
"""A client that does not take its answers for this long is dropped."""

MAX_WAIT_S = 30.0
"""``waitMasterchainSeqno`` holds a query for this long at most."""

MAX_FAUCET_LINE_BYTES = 1024
"""One request of the faucet."""

MAX_TROUBLE_S = 7 * 86_400.0
"""A longer delay in a trouble script is a mistake of its writer."""

MAX_TROUBLE_BYTES = 1024 * 1024
"""A trouble script: thousands of steps."""

MAX_LITESERVERS = 16
"""Servers that show one chain: tests of quorums need a handful."""
