"""What is sold: typed requests and the events that answer them.

A request is what a client asks of a provider, an event what an engine gives back. Both are frozen. Their plain form,
for the tunnel, is the business of :mod:`compute.codec`, which also checks every field of a request.

Metering lives in the events: each carries the units that it adds, and the sum over a job's events is the job's usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from compute.usage import NO_USAGE, Usage


class Task(StrEnum):
    """A kind of work on offer."""

    CHAT = "chat"
    COMPLETION = "completion"
    TRANSCRIBE = "transcribe"
    EMBED = "embed"


ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
"""Who speaks in a conversation (OpenAI's names)."""

REASONS = frozenset(("stop", "length", "tool_calls", "content_filter", "cancelled"))
"""Why a job ended."""


class TaskError(ValueError):
    """A request that cannot be served as written: says which field is wrong and what would be right."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is one of :data:`ROLES`. ``extra`` holds the turn's further OpenAI fields
    (``tool_calls``, ``tool_call_id``, ``name``: plain JSON values) for engines that know them."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``None`` leaves the engine's default; ``temperature`` 0 is greedy."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True)
class ChatRequest:
    """Continue a conversation. ``extra`` holds further OpenAI fields (plain JSON values) for engines that know them."""

    model: str
    messages: Sequence[Message]
    sampling: Sampling = Sampling()
    extra: Mapping[str, Any] = field(default_factory=dict)
    task = Task.CHAT


@dataclass(frozen=True)
class CompletionRequest:
    """Continue a text."""

    model: str
    prompt: str
    sampling: Sampling = Sampling()
    extra: Mapping[str, Any] = field(default_factory=dict)
    task = Task.COMPLETION


@dataclass(frozen=True)
class TranscribeRequest:
    """Write down speech. ``audio`` is a whole file (OGG/Opus, WAV, MP3, …); ``duration_ms`` is the length that the
    client measured, so that both sides agree on what is paid; ``language`` is ISO 639-1 or ``None``."""

    model: str
    audio: bytes
    duration_ms: int
    language: str | None = None
    prompt: str | None = None
    task = Task.TRANSCRIBE


@dataclass(frozen=True)
class EmbedRequest:
    """Turn texts into vectors."""

    model: str
    inputs: Sequence[str]
    task = Task.EMBED


Request = ChatRequest | CompletionRequest | TranscribeRequest | EmbedRequest


@dataclass(frozen=True)
class Started:
    """The engine took the job; ``units`` counts what it has read (prompt and cached tokens, audio)."""

    units: Usage = NO_USAGE


@dataclass(frozen=True)
class TextDelta:
    """More text. ``reasoning`` marks thinking that is shown apart from the answer."""

    text: str
    units: Usage = NO_USAGE
    reasoning: bool = False


@dataclass(frozen=True)
class RawDelta:
    """A chunk that only the OpenAI wire format can express (a tool call, log probabilities): a ``delta`` object as JSON
    text, passed through unchanged."""

    json: str
    units: Usage = NO_USAGE


@dataclass(frozen=True)
class Segment:
    """A stretch of transcribed speech, times from the start of the file."""

    text: str
    start_ms: int
    end_ms: int
    units: Usage = NO_USAGE


@dataclass(frozen=True)
class Embedding:
    """The vector of input ``index``: little-endian float32."""

    index: int
    vector: bytes
    units: Usage = NO_USAGE


@dataclass(frozen=True)
class Finished:
    """The last event; ``reason`` is one of :data:`REASONS`."""

    reason: str
    units: Usage = NO_USAGE


Event = Started | TextDelta | RawDelta | Segment | Embedding | Finished
