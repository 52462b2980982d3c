"""Constants of the model, each with where it comes from. The bounds of a host are those of `transport.host.limits`."""

from __future__ import annotations

TICK_S = 0.002
"""Messages arrive on whole ticks: those of one are delivered in one go, and a round trip of the
internet is tens of them."""

CONNECT_ROUND_TRIPS = 2.1
"""From the first SYN until the dialler may use the connection: TCP's round trip and that of the Noise handshake, on
which the rest of the negotiation rides (`tests/transport/host/test_host_round_trips.py` counts them). Measured with
the real host through a relay that delays each way by 100 ms: 2.04 with the work of both ends, and 3.1 to 3.2 until the
first answer. The listener has the connection half a round trip later; opening a stream takes none."""

REFUSED_ROUND_TRIPS = 1.0
"""A closed port answers the SYN with a reset."""

STAGGER_S = 0.25
"""Head start of each address over the next one (RFC 8305 §5), as in the real host."""

FRAME_BYTES = 72
"""Added to each message: TCP and IPv4 headers 40, Noise 18 (length and tag), yamux 12, the length prefix 2."""

HANDSHAKE_BYTES = 900
"""Both directions of a handshake together, counted once."""

GOSSIP_OVERHEAD_BYTES = 220
"""A gossipsub message beside its data: origin, sequence number, topic, signature, key."""

IHAVE_ID_BYTES = 50
"""A message id in IHAVE and IWANT."""

KEEPALIVE_S = 30.0
"""A silent connection whose other end is gone: KEEPALIVE_IDLE_S plus three probes of `transport.host.limits`."""

RETRANSMIT_MIN_S = 0.2
"""The least retransmission timeout of Linux (TCP_RTO_MIN)."""

MAX_RETRANSMITS = 6
"""Losses of one segment in a row before the model resets the connection; Linux tries longer, but its application
does not wait."""

NAT_MAPPING_S = 2 * 3600.0 + 240
"""How long a NAT keeps the mapping of an idle TCP connection (RFC 5382 REQ-5)."""

OPENING_S = 0.02
"""By when a stream's opening leaves without a first message to travel with, at the latest."""

PROMPT_IDLE_S = 5.0
"""How long a stream whose requests were answered without a task may be silent before its handler gets it as a stream,
and its own rule for idle ones holds."""

IDLE_WORKERS = 4
"""Tasks that a host keeps for its next inbound streams; waking one costs a fifth of starting one."""

TRIM_SHARE = 0.1
"""Of its connections that a full host closes, those idle for longest first, to take new ones."""

MAX_KNOWN_PEERS = 4096
"""Peers whose addresses a host remembers."""

GOSSIP_LAZY = 6
"""Neighbours outside of the mesh told in each heartbeat what is held (D_lazy of the gossipsub v1.1 specification)."""

GOSSIP_WINDOW, GOSSIP_HISTORY = 3, 5
"""Heartbeats for which a message is offered, and held (mcache_gossip and mcache_len of the specification)."""

PRUNE_BACKOFF_S = 60.0
"""How long a pruned neighbour is not grafted again (specification, "Prune backoff")."""

SEEN_S = 120.0
"""How long message ids are remembered at least (seen_ttl of the specification)."""

MEAN_FIELD_HOP_S = 0.0125
"""What a mesh adds to the direct way for each natural logarithm of its members, in the mean. Measured with the mesh of
this network (hosts of all regions, six dialled by each): 51, 62 and 86 ms with 60, 200 and 800 hosts, and so 51, 66 and
84. A test compares the two."""

MEAN_FIELD_SPREAD = 1.0
"""How far single pairs of hosts are from that mean, as a share of it: a standard deviation of 30 to 48 ms, where those
of the mesh are 44 to 51."""

MEAN_FIELD_LATEST_S = 1.0
"""By then everybody has heard: the slowest of 800 hosts take 380 ms."""

MEAN_FIELD_COPIES = 5.3
"""Of each message, for each follower, that a mesh sends: measured at 60 to 800 hosts."""
