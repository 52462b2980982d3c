"""Every bound of the tunnel, each with its reason.

Receiver memory of one tunnel, whatever the peer does: (MAX_STREAMS + MAX_OPEN) x INITIAL_WINDOW (3.75 MiB) +
WINDOW_POOL (3 MiB) + the receive ring and a record (1.13 MiB) = 7.9 MiB.
"""

from __future__ import annotations

# --- records -----------------------------------------------------------------------------------------------------
TAG_BYTES = 16
"""AES-GCM tag (Noise §12.4)."""

MAX_RECORD_PLAIN = 65_518
"""Plaintext of one record: with length (2) and tag (16) exactly 64 KiB on the wire, under Noise's 65,535 (§3)."""

BATCH_RECORDS = 17
"""Records sealed before one send: a message of 1 MiB and its header. More gains nothing and lets tokens wait."""

EARLY_RECORDS = 11
"""Where the kernel paces (BBR), so many records of a full batch leave before the rest is sealed: 8 to 12 gained 30 %
over loopback with BBR; with cubic it costs 5 %."""

BATCH_PLAIN = BATCH_RECORDS * MAX_RECORD_PLAIN
"""Plaintext bytes in one batch: also the largest stall of a small message behind a bulk one."""

MIN_QUANTUM = 32_768
"""Least bulk in a batch on a slow link: 26 ms at 10 Mbit/s."""

BATCH_SECONDS = 0.02
"""A batch that took longer to leave is followed by one with half as much bulk, so that tokens pass sooner."""

RING_BYTES = BATCH_RECORDS * 65_536
"""Receive ring: as much as the other side sends in one batch."""

DIRECT_BYTES = 16_384
"""Pieces from this size on are sealed from where they lie; smaller ones are joined first (cheaper than a record)."""

REKEY_BYTES = 1 << 34
"""A sender rekeys after 16 GiB under one key: 2^30 AES blocks, far inside GCM's bound (NIST SP 800-38D §8.3)."""

REKEY_RECORDS = 1 << 24
"""... or after 2^24 records, TLS 1.3's bound for AES-GCM (RFC 8446 §5.5) with margin."""

REKEY_SECONDS = 600.0
"""... or after ten minutes, so that a key taken from memory opens little of the past (Noise §11.3 is one-way)."""

REKEY_SLACK = 2
"""A receiver tolerates twice the volumes above before it calls a missing rekey a violation."""

# --- frames ------------------------------------------------------------------------------------------------------
MAX_SMALL = 4_096
"""Longest body of a MESSAGE frame: copied and corked. Longer messages go as BEGIN/PART, from where they lie."""

MAX_FRAME = BATCH_PLAIN
"""Longest payload of a BEGIN or PART frame: one batch."""

MAX_MESSAGE = 1 << 40
"""Announced length of one message: a terabyte is a mistake or an attack."""

MAX_REASON = 200
"""Bytes of text in RESET, GOAWAY and CLOSE: enough to say why."""

FRAME_COST = 64
"""Credit that every message frame costs beside its payload: what its objects cost the receiver to hold."""

PAD_BUCKETS = (128, 256, 512, 1_024, 2_048, 4_224, 8_448)
"""Lengths of padded batches: a token of 1 to 112 bytes looks like any other; at most twice the bytes. The last two hold
one and two of the longest small messages."""

# --- streams and credit ------------------------------------------------------------------------------------------
MAX_STREAMS = 256
"""Streams of the peer that we hold at once. Jobs are a stream each; more than this between two peers is a flood."""

MAX_OPEN = 224
"""Streams that we open at once: fewer than the other side holds, for it may not have let go of those just reset."""

INITIAL_WINDOW = 8_192
"""Credit of a fresh stream: a request of ordinary size, and all of both sides stay under 4 MiB."""

MAX_WINDOW = 2 * BATCH_PLAIN
"""A busy stream's window grows up to two batches: one on its way while the reader takes the other."""

WINDOW_POOL = 3 << 20
"""What all streams of a tunnel may have beyond their initial windows."""

MAX_LENT = 16 << 20
"""Extra credit while a reader waits with its own memory for a message of known length: 160 MB/s at 100 ms."""

MIN_LENT = 512 << 10
"""... and the least of it, for a reader that is slower than the link: what is on the way queues before it, and with it
every token behind. With the window, 2.5 MiB: 2.5 ms at 1 GB/s."""

MIN_FRAGMENT = 1_024
"""A sender with less credit than this (and more to send) waits, rather than send silly small fragments."""

SEND_QUEUE_STREAM = 64 << 10
"""Queued small messages of one stream before its sender waits."""

SEND_QUEUE_TUNNEL = 1 << 20
"""Queued small messages of all streams before senders wait: one batch."""

MAX_CONTROL = 256 << 10
"""Queued control frames. A peer that provokes more while reading nothing is cut off."""

# --- time --------------------------------------------------------------------------------------------------------
HANDSHAKE_SECONDS = 5.0
"""From accept or connect to the first authenticated record; four round trips of a bad link."""

PING_SECONDS = 25.0
"""Silence of the peer after which the initiator pings: keeps NAT mappings (30 s at the strictest) alive. Whatever else
is heard does so too, so a busy tunnel is not pinged for that."""

SECOND_PING_SECONDS = 35.0
"""... and after which the responder does: the initiator's pings, which it answers, come first, and suffice for both."""

MEASURE_SECONDS = 120.0
"""A tunnel that is never quiet is pinged this often all the same, or its round-trip time would be that of its start."""

DEAD_SECONDS = 45.0
"""Silence after which a peer is dead: twenty seconds after a ping that only a broken path can have swallowed."""

MAX_PINGS = 4
"""Unanswered pings remembered: as many as both rules above send in three dead peers' time."""

RATE_SECONDS = 5.0
"""Rates are averages of at least this long."""

STALL_SECONDS = 60.0
"""A batch that has not left after this long: the peer does not read."""

CLOSE_SECONDS = 2.0
"""For the farewell to leave and be answered; after it the socket is closed regardless."""

FLUSH_SECONDS = 10.0
"""How long closing a stream waits for the peer to take what was sent before."""

MAX_SPIN_SECONDS = 0.001
"""Longest spin before waiting: the whole process does nothing else meanwhile."""

RELAY_CHUNK = 65_536
"""Bytes of a tunnel in one message of the control plane: a full record."""

# --- listener ----------------------------------------------------------------------------------------------------
MAX_HALF_OPEN = 128
"""Connections that have not authenticated yet. One more evicts the oldest of the address that holds most."""

MAX_HALF_OPEN_PER_ADDRESS = 32
"""... of one address (IPv6: one /64). One more evicts that address's own oldest."""

MAX_TUNNELS = 1_024
"""Established tunnels of one listener: 7 GiB in the very worst case, some 100 KiB each in the usual one."""

MAX_TUNNELS_PER_PEER = 8
"""Established tunnels of one authenticated peer. One is the rule; the rest is room for reconnects not yet noticed."""

LISTEN_BACKLOG = 512
"""Connections the kernel holds before we accept them."""
