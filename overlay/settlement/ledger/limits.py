"""Every bound of the ledger, with its reason."""

from __future__ import annotations

MAX_NANOTON = (1 << 62) - 1
"""No sum is larger: more than all Toncoin there will be, and sums of two still fit SQLite's signed 64 bits."""

MAX_OPERATIONS_PER_COMMIT = 512
"""Operations that share one transaction. At about 10 µs each, the last caller waits 5 ms for the first."""

MAX_PENDING_OPERATIONS = 8192
"""Operations waiting for the writer; at 5,000 a second that is well over a second behind, so more are refused."""

LAZY_WRITE_S = 0.02
"""How long a write that nobody waits for may wait for company. What a crash can cost in this time is only bookkeeping
that the other party's signature restores."""

BUSY_TIMEOUT_MS = 2000
"""How long a write waits for another process that reads the file, such as ``cocoon channel list``."""

MAX_EVENTS_PER_CHANNEL = 1000
"""Events kept for people to read; older ones are dropped, the books do not need them."""

MAX_LISTED = 1000
"""Rows that one listing returns."""

MAX_BLOB_BYTES = 16 * 1024
"""Largest stored terms, agreement or receipt. Ours have under 1 KiB."""

FILE_MODE = 0o600
"""Only the node's user may read what it earned and paid."""
