"""Bounds of the compute layer, each with its reason."""

MAX_MODEL_CHARS = 200
"""A model name: Hugging Face ids are below 100 characters."""

MAX_MESSAGES = 1024
"""Turns in a conversation: a day of chatting, not a parser's nightmare."""

MAX_ROLE_CHARS = 16
"""The longest role is ``assistant``; anything longer is not echoed into an error message."""

MAX_TEXT_BYTES = 4 << 20
"""All text of a request together, UTF-8: beyond a million tokens no model on offer reads on."""

MAX_MAX_TOKENS = 1 << 20
"""Tokens that one job may ask for."""

DEFAULT_MAX_TOKENS = 1024
"""Tokens reserved when the request names no limit; engines stop there too, so the reservation is a true bound."""

MAX_STOPS = 16
"""Stop strings of a job (OpenAI takes 4; local servers more)."""

MAX_STOP_CHARS = 256
"""One stop string: the engine searches for each in every delta and holds back that much text."""

MAX_TEMPERATURE = 2.0
"""OpenAI's range."""

MAX_SEED = (1 << 63) - 1
"""Seeds are signed 64-bit on every server that takes them; both signs are accepted."""

MAX_EXTRA_KEYS = 64
"""Further OpenAI fields of a request (``tools``, ``response_format``, …)."""

MAX_EXTRA_BYTES = 1 << 20
"""Those fields as JSON: large tool schemas are tens of kilobytes."""

MAX_EXTRA_DEPTH = 24
"""Nesting of those fields: JSON schemas reach ten."""

MAX_AUDIO_BYTES = 32 << 20
"""One audio file: OpenAI takes 25 MB; an hour of Telegram's Opus is 15 MB."""

MAX_AUDIO_MS = 2 * 3600 * 1000
"""Decoded length of one audio file: two hours, so that a small file cannot decode to gigabytes."""

MAX_INPUTS = 2048
"""Texts of one embedding request, as OpenAI has it."""

MAX_DELTA_CHARS = 1 << 20
"""Text of one event: a whole answer at once fits."""

MAX_VECTOR_BYTES = 4 * 16384
"""One embedding: sixteen thousand float32 dimensions, four times the largest in use."""

MAX_TIME_MS = 1 << 40
"""Segment times: 34 years."""

PROMPT_TOKENS_PER_MESSAGE = 16
"""Upper bound of the tokens that a chat template adds around one message; the usual ones add 3 to 6."""

PROMPT_TOKENS_BASE = 512
"""Upper bound of what a template adds once: default system prompts have up to a few hundred tokens."""

MAX_QUEUE_PER_ENGINE = 64
"""Jobs that wait for one engine; more would wait longer than their clients do."""

JOB_BUFFER_EVENTS = 4096
"""Events that wait for a consumer that does not read: several answers' worth, some hundred kilobytes."""

JOB_BUFFER_BYTES = 4 << 20
"""The same in bytes of text, for engines that send large events."""

PROMISED_PLACE_S = 2.0
"""A place promised to somebody who is on the way counts as taken this long: connecting and sending a request takes
less, and who comes later has lost nothing but the estimate."""

SERVICE_TIME_SAMPLES = 32
"""Finished jobs over which an engine's service time is averaged: follows a change of load within minutes."""

ENGINE_CLOSE_S = 5.0
"""Time that an engine's thread has to end a step and close before it is left behind as a daemon."""

MAX_ENGINE_CRASHES = 3
"""Steps in a row that may raise before an engine is given up: a broken driver does not heal."""

MAX_OUTBOX_EVENTS = 65_536
"""Events between an engine's thread and trio, all jobs together; the thread waits when trio lags so far behind."""

IDLE_STEP_PAUSE_S = 0.001
"""Pause after a step that returned at once and empty, so that an engine that waits for something does not spin."""

MAX_UPSTREAM_JOBS = 256
"""Concurrent requests to one upstream: one thread each, waiting in a socket."""

MAX_UPSTREAM_LINE_BYTES = 4 << 20
"""One line of an upstream's event stream."""

MAX_UPSTREAM_BODY_BYTES = 64 << 20
"""One whole answer of an upstream that does not stream (embeddings: 2048 vectors of 4096 floats as JSON text)."""

MAX_UPSTREAM_EVENTS = 1024
"""Events of one upstream job that wait for the engine's thread; the upstream's socket is not read meanwhile."""
