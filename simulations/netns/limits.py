"""Bounds of the emulated network, each with its reason."""

from __future__ import annotations

from ipaddress import IPv4Network

POOL = IPv4Network("198.18.0.0/15")
"""Where swarms take their addresses: RFC 2544 set it aside for testing network equipment, so nothing on the internet is
hidden by a route into it, and home and office networks do not use it."""

SWARM_PREFIX = 23
"""One swarm's network: a /24 that all see, and a /24 of addresses behind NATs."""

FIRST_NODE = 11
"""Last byte of node-1's address; the host has 1, the devnet 2."""

MAX_NODES = 64
"""As many processes as `cocoon swarm up` starts; they fit the /24."""

MTU = 1500
"""Ethernet's, as on nearly every path of the internet."""

QUEUE_S = 0.2
"""What a line of limited rate holds before it drops: a home router's buffer, and tbf's latency in the kernel."""

QUEUE_MIN_BYTES = 32 * MTU
"""… but never less than this, or slow lines could not take one window of TCP."""

TBF_BURST_S = 0.01
"""What tbf lets through at once: the timer of a kernel with HZ=100."""

NETEM_LIMIT_PACKETS = 50_000
"""netem's own limit of 1,000 is 12 MB/s at 120 ms: less than a fast line holds."""

MAX_UNDERWAY_BYTES = 64 * 1024 * 1024
"""Of all packets in the relay together; then it drops, as a router without memory does. 1 Gbit/s at half a second."""

BATCH_PACKETS = 64
"""Packets read from one TUN device before the others have their turn."""

MAX_DELAY_S = 10.0
"""Longer ones than any path of this planet: beyond it, an option was mistyped."""

MIN_RATE_BIT_S = 8_000
"""One full packet takes a second and a half: below it TCP gives up."""

MAX_RATE_BIT_S = 10_000_000_000
"""What tbf holds in 32 bits is 34 Gbit/s; no line of this machine is as fast as this one."""

NAT_MAPPINGS = 4_096
"""Of one NAT: a home router's table. A full one refuses new flows until old ones expire."""

NAT_FIRST_PORT, NAT_LAST_PORT = 20_000, 65_000
"""Ports that a NAT takes for flows whose own port is taken already."""

NAT_UDP_S = 300.0
"""RFC 4787 REQ-5 recommends five minutes."""

NAT_TCP_S = 7_440.0
"""RFC 5382 REQ-5: not less than two hours and four minutes."""

NAT_CLOSING_S = 240.0
"""RFC 5382 REQ-5: four minutes for a connection that is being opened or closed."""

NAT_ICMP_S = 60.0
"""RFC 5508 REQ-2."""

ORPHAN_GRACE_S = 5.0
"""What processes of a killed swarm get between SIGTERM and SIGKILL: their owner is gone, and nobody waits for them."""
