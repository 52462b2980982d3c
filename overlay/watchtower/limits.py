"""Every bound of the watchtower protocol, with its reason. Times in seconds, amounts in nanoTON."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 2048
"""Terms take 260 bytes, a voucher and its signature under 200, the envelope 110."""

MESSAGES_PER_STREAM = 256
"""A provider that stops hands over all its channels on one stream."""

STREAM_IDLE_S = 30.0
"""Between two messages on one stream; a tower asks a liteserver about a channel that is new to it."""

MAX_STREAMS_PER_PEER = 2
MAX_STREAMS = 64
"""Each may be waiting for a liteserver."""

REQUESTS_PER_PEER = 300
REQUEST_WINDOW_S = 60.0
"""Five a second from one provider: its 256 channels handed over at once and some; each costs a signature check (0.1 ms)
and a write."""

MAX_CHANNELS_PER_PEER = 256
"""One batch of claims."""

MAX_CHANNELS = 4096
"""What one tower looks after: with 8 looks at once of 0.2 s each, a round over all takes under two minutes, and the
shortest challenge period that a tower accepts is ten."""

LOOKS_AT_ONCE = 8
"""States asked for at the same time, as a provider's guard does."""

MIN_CHALLENGE_PERIOD_S = 600
"""A channel that could end sooner is not watched: the promise could not be kept."""

LOOK_INTERVAL_S = 60.0
"""How often a channel is looked at: ten times within the shortest challenge period."""

TICK_S = 5.0
"""How often the tower sees which channels are to be looked at."""

PATIENCE_S = 600
"""When a refund has started, the payee has this long, and no more than a quarter of what is left, to claim by itself:
one that is there does so within a quarter of a minute, unless jobs still run, and a claim costs the tower money."""

EXPIRY_MARGIN_S = 900
"""Before a channel expires the tower claims this long ahead: after the payee, which does so 1800 s ahead, and with the
channel's challenge period still to come."""

CLOSE_MARGIN_S = 900
"""The least time between a claim and the moment when the refund can be finished, however patient: ten minutes of a
wrong clock and of a stale liteserver, and three tries of the wallet."""

REFUSED_PAUSE_S = 120
"""A claim that the contract refused is not tried again sooner."""

CLAIM_COST_NANOTON = 12_000_000
"""What one claim is reckoned to cost the tower when it promises one: 0.0078 TON measured, 0.0106 for the first, with
which the wallet is deployed, and a little more."""

ALLOWANCE_WINDOW_S = 30 * 86_400
"""What is spent on a payee counts against its allowance for 30 days."""

KEEP_ENDED_S = 30 * 86_400
"""A channel that has ended is remembered this long, for the owner's questions."""

MAX_ADDRESSES = 8
"""Towers that one provider hands its vouchers to."""

HAND_OVER_INTERVAL_S = 5.0
"""How often a provider sees what its towers do not have yet."""

HAND_OVER_BACKOFF_S = (5.0, 15.0, 60.0, 300.0)
"""Waits before a tower that did not answer is tried again."""

REFUSED_AGAIN_S = 600.0
"""A channel that a tower refused is offered again after this long: its allowance or its wallet may be filled."""

REPLY_S = 30.0
"""How long a provider waits for the tower's answer: it asks a liteserver first."""

LAST_HAND_OVER_S = 10.0
"""How long a provider that stops takes to hand over the rest."""
