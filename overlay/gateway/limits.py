"""The gateway's bounds, each with its reason."""

from __future__ import annotations

MAX_JSON_BYTES = 4 << 20
"""A million tokens of conversation is about 4 MB of JSON."""

MAX_AUDIO_BYTES = 25 << 20
"""What OpenAI takes, and almost two hours of Telegram's Opus."""

MAX_FORM_BYTES = MAX_AUDIO_BYTES + (1 << 20)
"""The audio, the other fields, and the multipart framing."""

MAX_FORM_PARTS = 32
"""The transcription form has nine fields; some clients repeat one."""

MAX_FIELD_BYTES = 64 << 10
"""A field that is not the file: the longest is a prompt."""

MAX_DRAINED_BYTES = 64 << 20
"""A body that is too large is read to the end and dropped up to here, so that the client is listening when the answer
comes; beyond it the connection is cut."""

BODY_DEADLINE_S = 60.0
"""25 MiB in a minute is 3.5 Mbit/s; slower senders are refused rather than waited for."""

MAX_REQUESTS = 512
"""Jobs in the gateway at once; more are told to come back. Each holds a task, a request body and a tunnel stream."""

KEEP_ALIVE_S = 60.0
"""An idle connection lives this long; so long may a client also take over the head of a request."""

STALLED_CLIENT_S = 20.0
"""A client that reads nothing for so long while its answer is waiting is disconnected (where TCP can: Linux)."""

MAX_REQUESTS_PER_CONNECTION = 1 << 30
"""Connections are not recycled: on loopback a fresh one serves nobody."""

MAX_HEADER_BYTES = 16 << 10
"""The head of a request."""

BACKLOG = 1024
"""Connections that wait to be accepted: a burst of clients, not a refused one."""

THREADED_FORM_BYTES = 256 << 10
"""Forms above this are taken apart in a thread, so that streams of others do not stutter."""

MAX_ANSWER_BYTES = 32 << 20
"""A whole answer is collected in memory: a provider that sends more is stopped."""
