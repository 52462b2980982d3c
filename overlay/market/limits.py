"""The market's bounds and tuned numbers, each with its reason."""

from __future__ import annotations

# ---- messages ---------------------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES = 8192
"""The largest message, an award with its agreement inside, has under 2 KiB; four times that is room, not an attack."""

MAX_AGREEMENT_BYTES = 2048
"""Two peer ids, a model name, six prices and two addresses come to about 900 bytes."""

MAX_MODEL_CHARS = 200
"""What a request may name (compute's limit): longer than any model name on the public hubs (96 characters)."""

MAX_SUBNET_CHARS = 64
"""A subnet id is short: it is part of every protocol id and topic name."""

MAX_TEXT_CHARS = 300
"""A decline is one or two sentences; a wall of text from a stranger is not shown to a user."""

MAX_AMOUNT_NANOTON = 10**18
"""A billion TON: a fifth of all there is. Larger amounts are mistakes."""

MAX_CLOCK_SKEW_MS = 30_000
"""Clocks of home machines differ by seconds; half a minute admits them, and bounds how long a nonce is remembered."""

MAX_MESSAGE_LIFETIME_MS = 60_000
"""No message of a negotiation needs to live longer than a minute."""

REQUEST_TTL_MS = 10_000
"""A request that was not answered in ten seconds is of no use to the client."""

QUOTE_TTL_MS = 10_000
"""Long enough for a counter round and an award over slow links (about 2 s), and the price is still true."""

MAX_AGREEMENT_MS = 3_600_000
"""An hour: beyond it the price says nothing about the market any more."""

DEFAULT_AGREEMENT_MS = 60_000
"""A minute keeps negotiation off the path of nearly every job and the price close to the market's."""

BUSY_FROM = 0.75
"""A provider under this load (busy over slots, and the queue) holds a price for as long as it is asked to."""

BUSY_AGREEMENT_MS = 5_000
"""A fuller one does so for this long: a price held for a minute after demand has doubled sells to whoever came before
what others need more, 5 % of all there is to gain (docs/protocols/market.md). Negotiating that often costs four
messages a job."""

# ---- the client's side (measured: docs/protocols/market.md, "Why this mechanism") -----------------------------------

SAMPLE = 64
"""The shortlist looks at this many random entries of the index: a deterministic best-k over everything makes all
clients herd to the same providers and refuses 10 % of valuable jobs."""

SHORTLIST = 8
"""Quotes asked for: 4, 6 and 8 reach .959, .964 and .967 of the optimum; more only costs messages, where news is
fresh."""

QUOTES_PER_S, MAX_SHORTLIST = 2.0, 16
"""… and so many for each second that the news of a subnet is old, where that is more, and at most: a quote tells what
an old record does not, who idles now. 300 sellers, whose news is 7.5 s old, served doubled demand with .954 of the
optimum after 8 quotes and .962 after 15 (means of three seeds)."""

HOPELESS_LOSS = 0.10
"""Entries whose ask and delay cost over 10 % more than the job is worth are not asked: a quote will not mend that."""

OUTDONE_BY = 0.03
"""A standing agreement is compared with others once somebody's record looks better by this share of what a job costs in
money and time: less is the noise of what is announced."""

LOOKED_AT = 8
"""Records that a client looks at before a job under a standing agreement: as many as it would ask, and no message."""

GUMBEL_SCALE = 0.05
"""Noise on the shortlist's score, as a fraction of the job's value: spreads clients over near-equal providers."""

GUMBEL_PER_S, MAX_GUMBEL_SCALE = 0.025, 0.25
"""The same for each second that the news of a subnet is old, and at most: in a large one all clients read for many
seconds that the same few idle, and the queue of those they all ask is what quotes then tell. With 300 sellers and news
7.5 s old, doubled demand was served with .90 of the optimum at the noise of fresh news, and with .95 at 0.2."""

COUNTERED = 3
"""Who is asked to yield when every quote is too dear: the best three."""

QUOTE_DEADLINE_S = 3.0
"""A cold dial and one round trip across the world take about a second; three admit a slow home link."""

QUOTE_GRACE_S = 0.4
"""After the first usable quote the others have this long: a dead entry of the shortlist must not hold a job up."""

COUNTER_DEADLINE_S = 2.0
"""One round trip on an open stream."""

AWARD_DEADLINE_S = 3.0
"""One round trip, and a write to the provider's disk before it answers."""

CLOSE_DEADLINE_S = 1.0
"""Streams are closed politely, but not at the price of holding up who was cancelled."""

MAX_AWARDS = 4
"""Awards tried before giving up: each failure is a provider that broke its word, and four seldom do."""

# ---- the provider's side -------------------------------------------------------------------------------------------

MAX_WAIT_MS = 10_000
"""A provider whose queue is longer declines: clients do better elsewhere, and the price has risen already."""

SLIP_TOLERANCE_MS = 250
"""An award is refused when the start moved by more than this since the quote; the client's next best is then better."""

YIELD_NUMERATOR, YIELD_DENOMINATOR = 9, 10
"""In the counter round a provider goes down to 9/10 of its quote and no lower."""

MAX_OPEN_QUOTES = 4096
"""Binding promises held at once (about 4 MiB); beyond it requests are declined as busy."""

MAX_OPEN_QUOTES_PER_CLIENT = 32
"""One identity cannot fill the table of quotes."""

MAX_REMEMBERED_REQUESTS = 16_384
"""Requests remembered against replay, 32 bytes and a time each; when full, new ones are declined rather than old ones
forgotten."""

REQUEST_BURST = 16
"""Requests that one client may send at once: a gateway with several models starts like that."""

REQUESTS_PER_S = 1.0
"""And then this many a second: asking more providers more often pays the client some 3 % at everybody's cost."""

MAX_TRACKED_CLIENTS = 8192
"""Clients whose rate is tracked; the least recently seen is forgotten."""

MAX_SESSIONS = 256
"""Negotiation streams served at once; more are reset."""

MAX_SESSIONS_PER_PEER = 16
"""Of one peer: as many as its burst."""

MESSAGES_PER_SESSION = 3
"""Request, counter, award: a stream that goes on after them is closed."""

SESSION_IDLE_S = 12.0
"""The life of a quote and a little: a silent stream is closed."""

# ---- what a provider hears of the others ---------------------------------------------------------------------------

TOLD = 16
"""Records looked at each second to learn how full the market is: the mean of those of a few seconds is within a tenth
of the market's, and looking costs some tens of microseconds however large the market."""

MAX_TOLD_PRESSURE = 2.0
"""What one of them counts for at most: all slots busy and ten seconds of queue, after which everybody declines. So
whoever owns a share of the records moves what is heard by no more than that share."""
