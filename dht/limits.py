"""Every bound of the directory, each with its reason."""

from __future__ import annotations

# --- records ------------------------------------------------------------------------------------------------------
MAX_RECORD_BYTES = 1024
"""A signed record on the wire: ten thousand providers are 10 MB of gossip a TTL, not more."""

MAX_OFFERS = 8
"""Offers in one record; eight of ordinary size fill it."""

MAX_NAME_CHARS = 24
"""Names of subnets, tasks, tiers and units."""

MAX_MODEL_CHARS = 96
"""Model names; the longest in common use have about 80 characters."""

MAX_SOFTWARE_CHARS = 32
"""The software version that a node claims."""

MAX_ADDRS = 4
"""Addresses of each kind: IPv4 and IPv6, of two networks."""

MAX_ADDR_CHARS = 128
"""One address; a multiaddr with a DNS name and a peer id has about 110."""

MAX_UNITS = 6
"""Entries of a price map: there are six units."""

MAX_PRICE_NANOTON = 1 << 60
"""nanoTON per million units: a billion TON, more than exist."""

MAX_COUNT = 1 << 32
"""Slots, milliseconds, rates and context lengths."""

MAX_SEQ = (1 << 53) - 1
"""Sequence numbers are Unix milliseconds; below 2^53 every language reads them exactly."""

NOISE_KEY_BYTES = 32
"""A Curve25519 public key."""

MIN_TTL_S, MAX_TTL_S, DEFAULT_TTL_S = 10, 600, 120
"""How long a record stands without being renewed; 0 marks a withdrawal. A provider that was killed is gone after
the default at the latest, at a cost of a record every 40 s."""

CLOCK_SKEW_S = 60
"""How far the clocks of two nodes may differ: a record from further in the future is refused."""

# --- announcing ---------------------------------------------------------------------------------------------------
MIN_ANNOUNCE_INTERVAL_S = 2.0
"""Between two records of one provider, whatever its prices do."""

CHANGE_PERCENT = 10
"""A price or load that moved further than this is worth a record before its time."""

REGOSSIP_DELAY_S = 1.5
"""After a neighbour connects, our record is gossiped once more: one gossipsub heartbeat later it is in our mesh."""

REGOSSIP_INTERVAL_S = 5.0
"""Between two of these."""

WITHDRAW_FLUSH_S = 0.2
"""What a withdrawal gets to leave through the sockets before the host may close them."""

# --- the index ----------------------------------------------------------------------------------------------------
MAX_RECORDS = 4096
"""Records kept: about 10 MB."""

MAX_RECORDS_PER_MODEL = 1024
"""Records kept of those who sell one (task, model): a popular model must not crowd out the others."""

# --- exchange between neighbours ------------------------------------------------------------------------------------
PAGE_RECORDS = 64
"""Records in one reply."""

MAX_REQUEST_BYTES = 128
MAX_REPLY_BYTES = PAGE_RECORDS * (MAX_RECORD_BYTES + 4) + 128
"""A full page and its frame."""

MAX_PAGES = MAX_RECORDS // PAGE_RECORDS
"""Pages asked of one neighbour in a row."""

EXCHANGE_S = 10.0
"""One request and its reply."""

MAX_EXCHANGES = 8
"""Neighbours asked at once."""

MAX_SERVED_STREAMS = 32
"""Neighbours answered at once."""

SERVE_BURST_PAGES, SERVE_PAGES_PER_S = 128, 4.0
"""What one neighbour may ask: the whole index twice, then a page every 250 ms."""

REFRESH_S = 30.0
"""How often a neighbour at random is asked for what gossip may have lost."""
