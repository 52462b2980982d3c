"""Every bound of payment channels and of the chain client, with its reason. Amounts in nanoTON, times in seconds.

The first five also stand in ``contract/channel.tolk``; a test reads them out of the source and compares.
"""

RENT_RESERVE_NANOTON = 20_000_000
"""Kept in a channel beside the deposit for storage fees: 0.0085 TON a year, and a life of 13 months at most."""

ATTACHED_MIN_NANOTON = 10_000_000
"""The contract refuses a message with less attached: more than twice the dearest operation; the change comes back."""

MIN_DEPOSIT_NANOTON = 100_000_000
"""A smaller channel would spend a noticeable part of itself on its fees: 0.013 TON a life in batches, 0.021 alone."""

MAX_LIFETIME_S = 366 * 86_400
"""From a top-up to the expiry: with the challenge period it bounds the rent."""

MAX_CHALLENGE_PERIOD_S = 30 * 86_400
"""A payee that cannot act within a month will not act; the payer's money should not wait longer."""

ATTACHED_NANOTON = 20_000_000
"""What our client attaches to an operation: above the contract's least, so that a price rise does not stop us."""

MAX_AMOUNT_NANOTON = 2**63 - 1
"""Above the supply of Toncoin, and still an SQLite integer."""

MAX_SEQ = 2**63 - 1
"""Voucher sequence numbers: as above."""

MAX_NONCE = 2**63 - 1
"""Channel nonces: as above."""

MAX_UINT32 = 2**32 - 1
"""TON's times and periods are unsigned 32-bit seconds."""

MAX_TERMS_BYTES = 512
"""Encoded channel terms: two addresses, two keys and five integers take 260 bytes."""

REMEMBERED_TERMS = 4096
"""Channel terms kept parsed, with their addresses: those of all channels of a busy provider, at 2 KB each."""

MAX_VOUCHER_BYTES = 256
"""An encoded voucher takes about 100 bytes, a signature 64 more."""

MAX_CELL_CACHE = 4096
"""Cached prefixes of voucher cells: one for each channel in use, 100 bytes each."""

MAX_TRANSFERS = 255
"""Messages in one wallet v5 transfer: the contract's and the TVM's action limit."""

TRANSFER_VALID_S = 60
"""How long a signed wallet message may be accepted: it bounds how long we must wait before signing another."""

RESEND_INTERVAL_S = 5.0
"""A lost external message is sent again this often while it is valid; liteservers relay only once."""

POLL_INTERVAL_S = 0.4
"""How often a proved state is asked for while waiting for a change: a TON block takes seconds, the devnet less."""

CONFIRM_TIMEOUT_S = 90.0
"""How long an operation may take to show in a proved state: the wallet's 60 s and some blocks after them."""

REQUEST_TIMEOUT_S = 10.0
"""One liteserver answer. Public servers answer in under a second or not at all."""

RECONNECT_BACKOFF_S = (0.2, 0.5, 1.0, 2.0)
"""Waits before the next try of a failed request, each on the next server of the configuration."""

MAX_TRANSACTIONS_PER_REQUEST = 16
"""The liteserver protocol's own limit of ``getTransactions``."""

MAX_TRANSACTIONS_READ = 1024
"""An account's transactions read back in one call: 255 claims answer with 510, and others may be sending."""
