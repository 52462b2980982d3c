"""Every bound of the channel protocol, with its reason."""

from __future__ import annotations

from overlay.settlement.limits import ATTACHED_NANOTON

MAX_MESSAGE_BYTES = 2048
"""Terms take 260 bytes, a close agreement and its signature under 300."""

MESSAGES_PER_STREAM = 8
"""Announce, a top-up or two, close: more on one stream is not this protocol."""

STREAM_IDLE_S = 30.0
"""Between two messages on one stream; verifying a channel asks a liteserver, which takes seconds at worst."""

MAX_STREAMS_PER_PEER = 2
MAX_STREAMS = 64
"""Each may be waiting for a liteserver."""

MAX_CHANNELS_PER_PEER = 8
"""Channels of one client that are open at once: one, a second while they change over, and room for lost data."""

MAX_ANNOUNCED = 1024
"""Channels that a client remembers to have announced, 100 bytes each; one that it forgot it announces again, which
costs a round trip."""

MAX_CHAIN_LOOKUPS_PER_PEER = 30
LOOKUP_WINDOW_S = 60.0
"""A peer makes us ask the chain this often at most: each costs a liteserver request and nothing to the peer."""

MIN_REMAINING_S = 3600
"""A channel that expires sooner is not worth starting on: the provider needs time to claim."""

MAX_CLOCK_SKEW_S = 600
"""How wrong this machine's clock, or the peer's, may be without anybody losing money. Deadlines go by the later of our
clock and the proved chain's time, so a slow clock costs nothing and a fast one only claims early; what is left for this
number is a slow clock together with a liteserver whose newest block is as old."""

CLAIM_MARGIN_S = 1800
"""A provider claims this long before a channel expires, whatever it holds: the skew above, ten minutes of a congested
chain (a wallet's message may be tried six times, a minute each and some blocks), and ten for a node that is restarted
or updated. The channel's own challenge period, ten minutes at least, comes on top."""

CLOSE_MARGIN_S = 900
"""A claim leaves at the latest this long before a started refund can be finished, jobs running or not: the skew above
and three tries of the wallet. Earlier, closing waits for the running jobs, which may earn a higher voucher."""

MIN_CHALLENGE_PERIOD_S = 600
"""Shorter, and a provider that restarts may miss a refund that its client started."""

CLOSE_VALID_S = 300
"""How long both signatures under a close agreement may be used, by the chain's time; after it the channel is served
again or claimed."""

GUARD_INTERVAL_S = 15.0
"""How often a provider looks whether a channel needs to be claimed."""

CLOSING_INTERVAL_S = 1.0
"""The same while a channel is being closed: its end should be known soon, and a close takes seconds."""

MAX_DEPOSIT_NANOTON = 1_000_000_000_000
"""A client never puts more than this into one channel (1000 TON), whatever a configuration says."""

REPLY_S = 30.0
"""How long a client waits for the provider's answer: it asks a liteserver first."""

EXPIRY_MARGIN_S = 2 * CLAIM_MARGIN_S
"""A client stops using a channel this long before it expires, and opens another."""

OPENING_GRACE_S = 180
"""A channel whose opening message was signed this recently may still appear: a wallet message is valid for a minute."""

LOOKS_AT_ONCE = 8
"""Channels whose state is asked for at the same time: a public liteserver takes 0.1 to 0.3 s for one, so that a
thousand channels are looked at in half a minute."""

REFUSED_PAUSE_S = 120
"""A claim that the contract refused is not tried again sooner: what it costs to be refused (0.001 to 0.002 TON) is then
a few hundredths of a TON an hour, and there are several tries within every margin."""

CLAIM_COST_BASE_NANOTON = 1_900_000
CLAIM_COST_EACH_NANOTON = 4_200_000
"""What a claim is reckoned to cost before the first one of this node has shown it: a message of the wallet, and each
claim in it (docs/protocols/channel.md, "Money")."""

CLAIM_RESERVE_NANOTON = 10_000_000
CLAIM_ATTACHED_NANOTON = ATTACHED_NANOTON + 2_000_000
"""What the wallet must hold for a message of claims, and for each claim in it: what is attached mostly comes back, the
rest is for fees. A wallet that holds less claims the most urgent ones first and the others with the change."""
