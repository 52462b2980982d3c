"""Every bound of the channel protocol, with its reason."""

from __future__ import annotations

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

MAX_CHAIN_LOOKUPS_PER_PEER = 30
LOOKUP_WINDOW_S = 60.0
"""A peer makes us ask the chain this often at most: each costs a liteserver request and nothing to the peer."""

MIN_REMAINING_S = 3600
"""A channel that expires sooner is not worth starting on: the provider needs time to claim."""

CLAIM_MARGIN_S = 1800
"""A provider claims this long before a channel expires, whatever it holds: chains are congested now and then."""

MIN_CHALLENGE_PERIOD_S = 600
"""Shorter, and a provider that restarts may miss a refund that its client started."""

CLOSE_VALID_S = 300
"""How long both signatures under a close agreement may be used; after it the channel is served again or claimed."""

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

LAST_MINUTE_S = 120.0
"""A claim leaves at the latest this long before a started refund can be finished, jobs running or not."""

OPENING_GRACE_S = 180
"""A channel whose opening message was signed this recently may still appear: a wallet message is valid for a minute."""
