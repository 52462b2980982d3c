"""Every bound of the host, each with its reason. All of them guard against a peer that we cannot trust."""

from __future__ import annotations

MAX_CONNECTIONS = 256
"""Connections of both directions together: about 0.15 MB each, so the table stays under 40 MB."""

MAX_INBOUND_CONNECTIONS = 192
"""Of those, made by others: a quarter stays for peers that we choose ourselves, so that no flood can eclipse us."""

MAX_CONNECTIONS_PER_PEER = 2
"""Two, not one: when two nodes dial each other at once, both connections stand until one closes."""

MAX_CONNECTIONS_PER_ADDRESS = 16
"""Inbound, of one IPv4 address or IPv6 /64: an office behind one address, not a machine with a thousand identities."""

MAX_CONNECTIONS_PER_NETWORK = 64
"""Inbound, of one IPv4 /24 or IPv6 /48: whoever rents a whole one gets a third of the inbound places."""

MAX_CONNECTIONS_LOCAL = 128
"""Inbound, from loopback: a swarm of processes on the owner's own machine, or what a local proxy forwards."""

CONNECTION_GRACE_S = 20.0
"""A new connection is not trimmed for this long (go-libp2p's default): enough for identify, a lookup and a quote."""

MAX_PROTECTED_PEERS = 96
"""Peers that may not be trimmed by name; never more than half of all connections."""

CLOSING_CONNECTIONS = 64
"""Connections beyond MAX_CONNECTIONS while the trimmed ones close, which takes them up to CLOSE_S."""

MAX_HALF_OPEN = 128
"""Accepted sockets that have not authenticated yet. Each costs a file descriptor and two tasks. One more, and the
oldest of the most crowded address goes."""

MAX_HALF_OPEN_PER_ADDRESS = 32
"""Of those, from one IPv4 address or IPv6 /64: a flood from one machine leaves room for everybody else."""

INBOUND_HANDSHAKE_S = 8.0
"""From accept to an authenticated, multiplexed connection. A slow link needs under 2 s; a slow-loris gets 8."""

HANDSHAKES_BURST, HANDSHAKES_PER_S = 32, 2.0
"""Inbound handshakes of one IPv4 address or IPv6 /64: twice the connections that it may have, at once, then as many as
cost us a fiftieth of a core (10 ms each, connection and identify included)."""

HANDSHAKES_BURST_NETWORK, HANDSHAKES_PER_S_NETWORK = 128, 8.0
"""The same of one /24 or /48: twice the connections that it may have, four addresses' worth a second."""

HANDSHAKES_BURST_LOCAL, HANDSHAKES_PER_S_LOCAL = 512, 64.0
"""The same of one loopback address, where swarms of the owner's own processes start, and of all circuits together."""

MAX_HANDSHAKE_ORIGINS = 8192
"""Addresses and networks whose handshakes are counted: a megabyte."""

DIAL_S = 8.0
"""From the first SYN to an authenticated connection, for one address."""

MAX_ADVERTISED_ADDRS = 4
"""Addresses that we tell others, public ones first: a machine with many bridges would fill its records with them."""

MAX_DIAL_ADDRS = 8
"""Addresses of one peer that one caller has tried: a record must not make us a port scanner."""

MAX_RACE_ADDRS = 32
"""Addresses tried in one dial that several callers share: four full lists. Whoever brings more begins another."""

DIAL_STAGGER_S = 0.25
"""Head start of each address over the next one (RFC 8305 §5)."""

NEGOTIATE_S = 8.0
"""Protocol negotiation of one stream, either direction."""

MAX_INBOUND_STREAMS = 64
"""Streams that one connection may have open towards us at once; the next is reset."""

STREAM_WINDOW_BYTES = 256 * 1024
"""The yamux receive window (yamux spec, "Flow control"): also the most that a stream ever buffers."""

WRITE_BUFFER_BYTES = 512 * 1024
"""Bytes waiting for the socket of one connection before its writers wait."""

WRITE_STALL_S = 20.0
"""A socket that takes no byte for this long is dead; its connection is closed. A stream whose window does not open for
this long fails: half a window takes 20 s on a link of 50 kbit/s."""

READ_CHUNK_BYTES = 64 * 1024
"""One read from a socket or stream."""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 15, 5, 3
"""TCP probes of a silent connection: a peer that lost power is gone after 30 s, not after two hours."""

CLOSE_S = 1.0
"""How long a closing connection may take to flush what is queued."""

MAX_MESSAGE_BYTES = 1024 * 1024
"""No message of any control-plane protocol is longer, whatever its reader allows."""

MAX_PROTOCOL_NAME_BYTES = 256
"""Names on multistream-select lines that we read (ours have under 64 bytes)."""

MAX_ADDR_BYTES = 256
"""One multiaddr in identify: a DNS name has at most 253 characters, the rest is a few bytes."""

MAX_IDENTIFY_BYTES = 64 * 1024
"""One identify message: 8 addresses, 128 protocols and a signed record take under 40 KiB."""

MAX_IDENTIFY_PROTOCOLS = 128
"""Protocols of one peer that are remembered; ours speak about ten."""

IDENTIFY_PUSH_AFTER_S = 2.0
"""What has changed waits this long for more before all peers are told: a new relay brings an address and a role."""

IDENTIFY_ADDR_TTL_S = 3600
"""How long addresses from identify are believed without being confirmed."""

# --- gossip -------------------------------------------------------------------------------------------------------
GOSSIP_HEARTBEAT_S = 1
"""The gossipsub default (v1.1 spec); py-libp2p's own is 120 s."""

GOSSIP_DEGREE, GOSSIP_DEGREE_LOW, GOSSIP_DEGREE_HIGH = 6, 4, 12
"""D, D_lo, D_hi of the gossipsub v1.1 spec."""

MAX_GOSSIP_BYTES = 16 * 1024
"""Payload of one gossip message; a capacity record has at most 1 KiB."""

MAX_GOSSIP_RPC_BYTES = 256 * 1024
"""One gossipsub RPC frame: sixteen messages of the largest size."""

GOSSIP_MESSAGES_PER_S = 200
"""From one neighbour on one topic: a neighbour relays a whole market, each of whose providers is bounded by itself."""

GOSSIP_QUEUE = 256
"""Frames waiting for one neighbour: a burst of a whole market's news (4 MiB at the very most)."""

MAX_SUBSCRIPTIONS_PER_PEER = 64
"""Topics that a neighbour may make us remember."""

SUBSCRIPTION_QUEUE = 256
"""Messages waiting for a slow subscriber; then the oldest goes."""

MAX_BAD_GOSSIP = 20
"""Messages refused by a validator that one neighbour may relay in BAD_GOSSIP_WINDOW_S before it is dropped."""

BAD_GOSSIP_WINDOW_S = 60.0

# --- the peer book ------------------------------------------------------------------------------------------------
MAX_KNOWN_PEERS = 1024
"""Peers whose addresses are remembered, in memory and on disk: a megabyte at the most."""

MAX_CLAIMED_PEERS_PER_NETWORK = 32
"""Peers of one /24 or /48 remembered on their own word alone: 3 % of the book."""

CONFIRMED_ADDR_S = 30 * 86400.0
"""An address at which a peer was reached is forgotten a month later; home connections change within weeks."""

CLAIMED_ADDR_S = 86400.0
"""An address that a peer only claimed is forgotten after a day."""

MAX_ADDR_FAILURES = 8
"""Dials in a row after which a confirmed address is forgotten."""

PEERSTORE_SAVE_S = 5.0
"""News of peers waits this long for more before one transaction writes it."""

REJOIN_PEERS = 4
"""With fewer peers than this a host that has a peer store dials those it remembers."""

REJOIN_TRIES, REJOIN_AT_ONCE = 32, 4
"""Remembered peers tried in one round, and how many of them at the same time."""

# --- relays -------------------------------------------------------------------------------------------------------
RELAY_RESERVATIONS, RELAY_RESERVATIONS_PER_ADDRESS = 64, 4
"""Peers that a relay keeps a place for, in all and of one address: each needs a connection that stands."""

RELAY_RESERVATION_S = 3600.0
"""How long a place is kept without being renewed (circuit v2's own default)."""

RELAY_RENEW_FRACTION = 0.75
"""When of that time a place is renewed."""

RELAY_CIRCUITS, RELAY_CIRCUITS_PER_PEER = 32, 4
"""Circuits at once, in all and with one peer at either end: 64 windows of 256 KiB in memory."""

RELAY_BYTES = 8 * 1024 * 1024
"""Bytes of one circuit, both ways together: hours of the control plane, or a long answer's tokens."""

RELAY_SECONDS = 1800.0
"""How long one circuit may stand; whoever still needs it dials again."""

MAX_RELAY_RESERVATIONS, MAX_RELAY_CIRCUITS, MAX_RELAY_BYTES = 128, 128, 1 << 34
"""What an owner may raise these to. Each reservation holds one of MAX_INBOUND_CONNECTIONS, of which a third stays for
others; 128 circuits have 64 MiB of windows."""

MAX_RELAYS = 4
"""Relays that a host keeps a place on: two are advertised (MAX_ADVERTISED_ADDRS), the others stand by."""

RELAYS_WANTED = 2
"""Relays that a host finds for itself: as many as are advertised, so that the loss of one is noticed by nobody."""

RELAY_FIND_S = 5.0
"""How often a host that is short of relays looks for one among its peers."""

RELAY_EXPLORE_S = 60.0
"""How often it dials strangers of its peer book for want of a relay among its peers, and how many at once."""

RELAY_EXPLORE_PEERS = 4

RELAY_AVOID_S, RELAY_AVOID_MAX_S = 60.0, 3600.0
"""How long a relay that refused or was lost is left alone: doubled each time in a row, up to the second."""

MAX_AVOIDED_RELAYS = 256
"""Such relays remembered; then the oldest is forgotten."""

RELAY_BYTES_PER_S, RELAY_BURST_BYTES = 1024 * 1024, 4 * 1024 * 1024
"""What all circuits through one relay may carry together: the tokens of a thousand answers, and a twelfth of a line of
100 Mbit/s. When it is used up, circuits wait."""

MAX_RELAY_BYTES_PER_S = 1 << 30

RELAY_CONNECT_S = 5.0
"""Each exchange of hop and stop messages; a dial through a relay has DIAL_S in all."""

# --- reachability (AutoNAT v1) ------------------------------------------------------------------------------------
AUTONAT_LEAD = 2
"""By how much the answers of one kind must outweigh the others to decide: two networks, or one that says it twice. The
specification advises more than three; a young network has no four."""

AUTONAT_VOICE_WEIGHT = 2
"""The most that one network weighs, whatever it repeats."""

AUTONAT_MAX_VOICES = 16
"""Networks whose answers count; then the oldest goes."""

AUTONAT_ENOUGH_VOICES = 3
"""With answers of so many networks there is no haste."""

AUTONAT_ANSWER_TTL_S = 3600.0
"""How long an answer counts: four regular questions' time."""

AUTONAT_FIRST_S, AUTONAT_HASTE_S, AUTONAT_SCARCE_S, AUTONAT_REFRESH_S = 1.0, 10.0, 120.0, 900.0
"""Between two questions: after the start; while undecided; decided by fewer than enough networks; else (go-libp2p's
refresh interval). Each is shortened by up to a quarter at random."""

AUTONAT_EXCHANGE_S = 20.0
"""From the question to the answer: the other side may take AUTONAT_DIALS_S."""

AUTONAT_DIAL_S, AUTONAT_DIALS_S = 5.0, 12.0
"""Dialling back: one address, and all of one question."""

AUTONAT_MAX_ADDRS = 4
"""Addresses of one question that are dialled; they have one IP address, so they differ in the port."""

AUTONAT_MAX_MESSAGE = 4096
"""Go's and js's limit."""

AUTONAT_DIALS_AT_ONCE = 4
"""Questions that are being answered at the same time."""

AUTONAT_PER_ADDRESS, AUTONAT_IN_ALL, AUTONAT_WINDOW_S = 3, 30, 60.0
"""Questions answered in that time, from one IPv4 address or IPv6 /64 and in all (go-libp2p's numbers)."""

# --- hole punching (DCUtR) ----------------------------------------------------------------------------------------
PUNCH_ATTEMPTS = 3
"""As the specification has it."""

PUNCH_MAX_ADDRS = 4
"""Addresses of a peer that are knocked at: what it is seen at by IPv4 and IPv6, and two of its own."""

PUNCH_MAX_MESSAGE = 4096
"""The specification's limit."""

PUNCH_EXCHANGE_S, PUNCH_DIAL_S = 10.0, 5.0
"""One exchange of messages through the relay; and how long both knock (go-libp2p's time for a dial)."""

PUNCH_RETRY_S = 0.1
"""Between two knocks at a router that refuses rather than drops."""

PUNCH_MAX_ROUND_TRIP_S = 2.0
"""A longer round trip is none that a dial can be timed by."""

PUNCH_AT_ONCE, PUNCH_PER_PEER, PUNCH_IN_ALL, PUNCH_WINDOW_S = 4, 3, 20, 60.0
"""Upgrades at the same time, and begun in that time with one peer and in all: what strangers can make us dial."""

PUNCH_GRACE_S = 10.0
"""How long a circuit stays beside the direct connection that replaced it, and is then looked at again."""

# --- events and bootstrap -----------------------------------------------------------------------------------------
EVENT_QUEUE = 128
"""Host events waiting for a slow reader; then the oldest goes."""

BOOTSTRAP_FIRST_RETRY_S = 1.0
BOOTSTRAP_MAX_RETRY_S = 60.0
"""Back-off between attempts on one bootstrap peer doubles from the first to the second, with jitter."""

BOOTSTRAP_ENOUGH = 4
"""Who has so many connections does not dial a bootstrap peer again that was lost: one that is full would close those
that are idle, and ten thousand nodes would dial it again and again. Four are what a gossip mesh needs (D_lo)."""

DIALLER_ENOUGH = 2
"""The same, and REJOIN_PEERS, of a host that listens nowhere: nobody's mesh is thinner without it. Each of its
connections is a place at a node that serves others, and 150 nodes of 192 inbound places have three for each of ten
thousand such hosts: with four wanted, all would displace each other for ever."""

BOOTSTRAP_STABLE_S = 60.0
"""A connection to a bootstrap peer that ended before this was as good as none: the back-off goes on."""

BOOTSTRAP_RECHECK_S = 5.0
"""How often a connected bootstrap peer is looked at, so that a lost one is dialled again."""

DROPPED_PEER_S = 30.0
"""How long a peer dropped for breaking a protocol is refused."""

MAX_DROPPED_PEERS = 4096
"""Dropped peers remembered; then the oldest is forgotten."""
