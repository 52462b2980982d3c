"""Every bound of the jobs protocol, with its reason."""

from __future__ import annotations

from compute.limits import MAX_AUDIO_BYTES, MAX_TEXT_BYTES

PROTOCOL_VERSION = 1
"""Named in the first message of every stream; another version is refused with a clear error."""

JOB_ID_BYTES = 16
"""Random, chosen by the client: two jobs never share one."""

MAX_REQUEST_BYTES = MAX_TEXT_BYTES + (2 << 20)
"""The header of a job with all its text: the request's own bound, its OpenAI extras and room for names."""

MAX_PART_BYTES = MAX_AUDIO_BYTES
"""One raw part after the header: an audio file."""

MAX_PARTS = 1
"""Raw parts of one request: only transcription has one."""

MAX_EVENTS_MESSAGE_BYTES = 4 << 20
"""A client takes no longer message on a job's stream: the largest event (a delta of 1 Mi characters) fits."""

EVENTS_SPLIT_BYTES = 512 << 10
"""A batch of events is split into messages of about this size, so that a thousand embeddings do not become one."""

MAX_CONTROL_BYTES = 256 << 10
"""A message on the payment stream: MAX_RECEIPTS_PER_MESSAGE receipts fit."""

MAX_AGREEMENT_BYTES = 8 << 10
"""A signed agreement that a provider asks for anew; ours have under 1 KiB."""

MAX_ERROR_CHARS = 500
"""Text of an error that one party shows the other's user."""

MAX_RECEIPT_BYTES = 1024
"""One receipt; ours have about 300 bytes."""

MAX_RECEIPTS_PER_MESSAGE = 128
"""Receipts sent again at once, when the parties' chains differ."""

MAX_OUT_OF_ORDER = 512
"""Receipts that wait for an earlier one: they come on the streams of their jobs, which may overtake each other."""

MAX_UNSIGNED_RECEIPTS = 1024
"""Receipts that a client has not countersigned; it signs each batch, so this many mean that it does not."""

MAX_CLAIMS = 128
"""Jobs of one channel that ended without a receipt; more and the channel takes no new job until they are settled."""

MAX_CHANNELS_PER_TUNNEL = 4
"""Payment streams in one tunnel: one, and a second while channels change over; the rest is room for mistakes."""

MAX_JOBS_PER_TUNNEL = 128
"""Jobs of one client at once, waiting ones included: half of a tunnel's streams."""

MAX_PENDING_OPENS = 32
"""Streams of one client whose request has not fully come: each may hold one request in memory."""

MAX_PENDING_BYTES = 256 << 20
"""Requests being read of all clients together."""

READ_REQUEST_S = 20.0
"""A request must have come this long after its stream opened: 32 MiB at 1.6 MB/s."""

HELLO_S = 10.0
"""Each step of the exchange of views at the start of a payment stream."""

PAYMENT_S = 10.0
"""How long jobs with a full credit window wait for vouchers before the channel's jobs are stopped, for each window that
is paid. In money it is little beside the window: a slot that makes 40 tokens a second at 60 nanoTON each, the floor,
stands still for 24,000 nanoTON, while who never pays has had the window of 2,000,000 by then; to an honest client whose
line is away for some seconds it is the difference between a pause and a lost answer."""

ACCEPT_GRACE_S = 0.05
"""A job that has nothing to say yet is told that it is accepted after this long; before, the two leave together."""

ACCEPT_S = 15.0
"""How long a client waits for the first sign of life."""

SILENCE_S = 120.0
"""How long a client waits between two messages of an accepted job: a queue of long prompts moves on within this."""

QUIET_S = 5.0
"""After so long without news of a job its client asks whether the provider is there: slow machines tell of their work
every few seconds."""

ALIVE_FIRST_S = 5.0
"""How long the answer may take before the job's first events: a round trip and TCP's first few repetitions. Another
provider can do the job."""

ALIVE_S = 15.0
"""The same after them, when what came would be lost: lines and machines that stand still for some seconds go on."""

SETTLE_S = 10.0
"""How long a client that gave up a job reads on for its receipt before it resets the stream."""

SEND_S = 30.0
"""A client that takes nothing for this long holds a slot of the engine for nobody: its job ends."""

PAY_EARLY_DIVISOR = 4
"""A client pays when more than a quarter of the credit window is unpaid: a voucher has three quarters of a window's
time to arrive before the provider would have to pause."""

CREDIT_RETRY_MS = 2000
"""When to ask again a provider whose user allows no more credit at one time: jobs and their vouchers take seconds."""

WRITTEN_OFF_PAID_DIVISOR = 16
"""Unprovable work narrows the credit window, except for this share (a sixteenth) of what the channel has paid: an
honest client's cut connections cost less than that, and a client that never pays gets one window in all."""

COMPLETION_SLACK_TOKENS = 256
"""Completion tokens that may be invisible: end and channel markers, a cut stop string, bytes that form no character."""

MAX_KNOWN_AGREEMENTS = 4096
"""Agreements kept in memory; the others are in the ledger."""
