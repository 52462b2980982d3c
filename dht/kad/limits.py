"""Every bound of the Kademlia, each with its reason. What a user may change is in :class:`dht.kad.KadConfig`."""

from __future__ import annotations

# --- shape (Kademlia paper §2; libp2p kad-dht §Definitions) ---------------------------------------------------------
K = 20
"""Peers in a bucket, and peers that hold one record."""

ALPHA = 3
"""Requests in flight of one lookup while it gets nearer."""

FINAL_WIDTH = 9
"""Requests in flight once a lookup no longer gets nearer and only the rest of the k closest is to be asked: these
would all be asked anyway, so width costs no message (paper §2.3, the last round)."""

PATHS = 3
"""Disjoint paths of one lookup (S/Kademlia §4.4): a lie told on one is not believed on the others."""

KEY_BITS = 256
"""SHA-256."""

# --- messages -------------------------------------------------------------------------------------------------------
MAX_KEY_BYTES = 128
"""Record keys. A provider key is a multihash (34 bytes), a namespaced key a name and a peer id (under 100)."""

MAX_VALUE_BYTES = 8 * 1024
"""One value. Capacity records have 1 KiB; twenty peers keep each."""

MAX_REQUEST_BYTES = 16 * 1024
"""The longest request: a PUT_VALUE of the largest record names its key twice; an ADD_PROVIDER has one peer."""

MAX_REPLY_BYTES = 128 * 1024
"""The longest reply that we read: twenty closer peers and a hundred providers of eight long addresses each."""

MAX_CLOSER_PEERS = 2 * K
"""Closer peers in one message. Honest nodes send k, and the target itself."""

MAX_PROVIDER_PEERS = 100
"""Providers read from one message; js-libp2p sends as many as it has, so what follows is skipped, not an error."""

MAX_REQUEST_PROVIDERS = 4
"""Providers read from a request: an ADD_PROVIDER names its sender."""

MAX_SENT_PROVIDERS = 64
"""Providers in one of our replies: 6 KiB of the usual kind."""

MAX_PEER_BYTES = 4 * 1024
"""One peer on the wire: go-libp2p nodes may list dozens of addresses with certificate hashes."""

MAX_PEER_ADDRS = 8
"""Addresses kept of one peer; also what a host dials at most (transport.host.limits)."""

MAX_ADDRS_BYTES = 512
"""Its addresses together: eighty peers in a reply stay under MAX_REPLY_BYTES whatever they claim."""

MAX_PEER_ID_BYTES = 64
"""A peer id as a multihash has 34 (SHA-256) to 42 bytes (inlined secp256k1 keys)."""

MAX_ADDR_BYTES = 256
"""One binary multiaddr; a relayed address with certificate hashes has about 200."""

MAX_TIME_BYTES = 64
"""RFC 3339 with nanoseconds and zone has 35."""

MAX_FIELDS = 512
"""Fields of one protobuf message, known or not: bounds the work, whatever the bytes."""

MAX_VARINT_BYTES = 10
"""64 bits (protobuf encoding guide)."""

# --- routing table --------------------------------------------------------------------------------------------------
MAX_REPLACEMENTS = 8
"""Peers remembered for a full bucket; unverified, so they are asked before they enter."""

OUTAGE_FAILURES = 8
"""Requests in a row without any answer after which the fault is held to be ours, and nobody is blamed."""

MAX_FAILURES = 2
"""Unanswered requests in a row after which a peer without a replacement leaves; one with a replacement leaves at the
first. Until then it is not told to others."""

BUCKET_PER_NARROW, TABLE_PER_NARROW, TABLE_PER_WIDE = 2, 5, 20
"""Peers of one IPv4 /24 or IPv6 /48 in a bucket and in the table, and of one /16 or /32 in the table. Private and
loopback addresses are not counted: whoever has one is on our own network."""

LOOKUP_PER_NARROW, LOOKUP_PER_WIDE = 2, 5
"""The same for the k closest that a lookup believes in: a flood of ids from one network gets a tenth of them."""

LOOKUP_NETWORKS, OUTSIDERS = 15, 6
"""A look-up that would begin with k = 20 peers of fewer /16s than the first also asks so many peers of others: honest
peers are of 17 to 20 where half are homes and half in data centres, and 20 of an attacker's with addresses in 30 /16s
are of 15 in the mean. So whoever fills a newcomer's table with ids of a few networks does not get its look-ups."""

CHECK_AFTER_S = 900.0
"""A peer not heard for this long is asked whether it lives: seven requests a minute for an unused table of a hundred.
Those that a look-up meets are found out at once."""

CHECKS_PER_ROUND = 8
"""Peers asked in one round of upkeep."""

REFRESH_MAX_BITS = 12
"""The deepest bucket that is refreshed by a key found at random: a key with n given bits costs 2^n hashes (12: 4 ms).
Deeper ones hold our nearest neighbours, which the look-up of our own id finds."""

# --- lookups --------------------------------------------------------------------------------------------------------
SETTLED = 8
"""The nearest peers that must have answered before a record is stored. The rest of the k are sent it unasked if two
paths told of them: the nearest eight know that neighbourhood, and the answer to a store shows who is there as well as
any other. Spares twelve of forty-two requests of a put."""

MAX_WINDOW = 4 * K
"""Peers that a path asks, and that a record is stored at, when there are more near a key than there should be: what an
attacker has to exceed with ids there."""

MAX_SHORTLIST = 8 * K
"""Peers that one lookup remembers; the farthest goes."""

MAX_REQUESTS = 10 * K
"""Requests of one lookup, whatever it is told."""

MAX_TRIES = 2
"""Times that one peer is tried in a lookup: again only with addresses that another path told."""

QUORUM = 9
"""Valid values that end a get, from two paths at least (where there are two): as many holders that replay an old record
are needed to pass it off as the newest. Among 200 honest nodes and 50 liars around the key, 5 gave 0.90 to 0.92 right
answers for 13 requests a get, 7 gave 0.94 to 0.99, and 9 gives 0.99 to 1.0 for 26."""

# --- time -----------------------------------------------------------------------------------------------------------
OPEN_S = 3.0
"""How long a stream to a peer may take to open, connecting included: two round trips with a far peer, or three
and a retransmission; what is given up before it ends is a dial lost."""

FIRST_TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S = 5.0, 1.0, 10.0
"""How long a reply may take on an open stream: at first, and the bounds of what is learnt from replies."""

SLOW_S = 1.0
"""A request in flight for longer no longer holds its place among the alpha."""

QUERY_S = 60.0
"""One operation of the caller, from first to last request."""

STORE_WIDTH = K
"""Stores of one put in flight: all of them, so that those who do not answer cost one timeout together."""

UPKEEP_S = 60.0
"""Between rounds of upkeep: expiry, checks, hand-over, what is due of refresh and republish. Jittered by a quarter."""

SELF_REFRESH_S = 600.0
"""Between look-ups of our own id (go-libp2p's refresh interval)."""

BUCKET_REFRESH_S = 3600.0
"""A bucket that no lookup touched for this long is refreshed (paper §2.3)."""

JOIN_DELAY_S = 0.5
"""From the first peer in an empty table to the look-up of our own id: others connected meanwhile take part."""

PROBE_AGAIN_S = (2.0, 10.0, 60.0, 300.0)
"""A peer that does not serve the protocol is left alone for this long, the first time and each time after that: it may
just be starting, and no more than its host may be up."""

START_S = 5.0
"""Requests that come while a node still reads what it saved wait this long for it."""

MAX_PROBES = 8
"""New peers asked at once whether they serve."""

MAX_PROBE_QUEUE = 256
"""New peers waiting for that; then the oldest is forgotten."""

MAX_NON_SERVERS = 1024
"""Peers remembered as not serving."""

MAX_OBSERVED = 1024
"""Connected peers whose address is remembered; the host has fewer connections."""

MAX_SAVED_PEERS = 512
"""Peers kept on disk; a table of a million nodes has about 400."""

SAVE_S = 600.0
"""Between snapshots on disk."""

MAX_SESSION_STREAMS = 2 * K
"""Streams that one operation keeps open for its next request to the same peer."""

# --- records --------------------------------------------------------------------------------------------------------
MAX_RECORDS = 16_384
"""Records of all keys. A node of a network of n keeps k/n of all keys: two million keys on ten thousand nodes are
four thousand each."""

MAX_STORE_BYTES = 32 * 1024 * 1024
"""Their keys and values."""

MAX_RECORDS_PER_SENDER = MAX_RECORDS // 8
MAX_BYTES_PER_SENDER = MAX_STORE_BYTES // 8
"""What one peer may have us keep; beyond it, its own record that is farthest from us goes."""

MAX_OWN_RECORDS = 4096
"""Records and provided keys of our own that we republish."""

RECORD_TTL_S = 36 * 3600.0
"""How long a record is kept whose validator names no earlier end (go-libp2p: 36 h, js-libp2p: 48 h)."""

REPUBLISH_S = 3600.0
"""A holder that was not sent a record for this long stores it again at the k closest (paper §2.5)."""

MAX_PROVIDER_KEYS = 8192
MAX_PROVIDERS_PER_KEY = 512
MAX_PROVIDER_RECORDS = 32_768
MAX_PROVIDER_RECORDS_PER_SENDER = 2048
"""Provider records: keys, of one key, altogether, and of one provider. About 200 bytes each."""

PROVIDER_TTL_S = 48 * 3600.0
"""How long a provider record stands (js-libp2p and go-libp2p: 48 h)."""

PROVIDER_REPUBLISH_S = 22 * 3600.0
"""How often a provider renews its record (go-libp2p)."""

HANDOVER_MARGIN_S = 10.0
"""A record stored here so long after a newcomer was known is not handed to it: whoever stored it was told of the
newcomer on his way, as we are among those whom he asked."""

HANDOVER_PER_ROUND = 256
"""Records handed to new neighbours in one round of upkeep; the rest follows in the next."""

REPUBLISH_PER_ROUND = 64
"""Records republished in one round of upkeep: at a lookup each, about 3,000 messages a minute."""

# --- strangers' requests --------------------------------------------------------------------------------------------
REQUESTS_BURST, REQUESTS_PER_S = 200, 50.0
"""What one peer may ask: a put of a whole catalogue in a small network, then fifty a second."""

MAX_STREAMS = 256
"""Streams served at once."""

MAX_STREAMS_PER_PEER = 16
"""Of those, of one peer: a peer with several lookups at once needs a few."""

IDLE_STREAM_S = 10.0
"""An inbound stream without a request for this long is closed (js-libp2p: 10 s)."""

SEND_S = 10.0
"""A peer that does not take our reply for this long is cut."""

MAX_DELAY_S = 2.0
"""A peer over its budget is answered later; one that would have to wait for longer is cut."""

INVALID_RECORD_COST = 10
"""Requests that one invalid record counts as: its signature was checked."""

MAX_BUDGETS = 1024
"""Peers whose budgets are remembered; the host has fewer connections."""

MAX_OFFENCES, OFFENCES_PER_S = 10, 0.1
"""Malformed messages of one peer: ten, then one every ten seconds; more, and the host drops it."""

HOLDERS_S, MAX_HOLDERS = 10.0, 64
"""How long, and for how many keys, those found nearest to a key are remembered, for a provider record that follows: who
asks for the providers of a key to list himself among them looks it up once and not twice."""
