"""The OpenAI HTTP dialect as servers speak it: request bodies, event stream chunks, usage, errors. No I/O.

Reference: OpenAI API, *Chat completions*, *Completions (legacy)*, *Embeddings*, *Audio*. vLLM, SGLang, TabbyAPI and
Ollama differ in details that are met here: reasoning text under two names, usage in every chunk, in the last, or never.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from compute import limits
from compute.engines.base import EngineFailure
from compute.tasks import (
    REASONS,
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbedRequest,
    Event,
    Finished,
    RawDelta,
    Segment,
    TaskError,
    TextDelta,
)
from compute.usage import NO_USAGE, Meter, Unit, Usage

RESERVED = frozenset(
    ("model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
     "top_p", "seed", "stop", "n", "best_of", "echo", "input")
)  # fmt: skip
"""Fields that ``extra`` may not set: they have a place of their own, or would make more output than was reserved."""


def generation_body(request: ChatRequest | CompletionRequest, model: str, *, continuous_usage: bool) -> dict[str, Any]:
    """The JSON body of a streamed chat or completion. Raises :class:`TaskError` for reserved ``extra`` fields."""
    for key in request.extra:
        if key in RESERVED:
            raise TaskError(f"the field {key!r} cannot be passed through", param=key)
    body: dict[str, Any] = dict(request.extra)
    body |= {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if continuous_usage:
        body["stream_options"]["continuous_usage_stats"] = True
    if isinstance(request, ChatRequest):
        body["messages"] = [{**m.extra, "role": m.role, "content": m.content} for m in request.messages]
    else:
        body["prompt"] = request.prompt
    sampling = request.sampling
    body["max_tokens"] = sampling.max_tokens or limits.DEFAULT_MAX_TOKENS
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def embedding_body(request: EmbedRequest, model: str) -> dict[str, Any]:
    """The JSON body of an embedding request."""
    return {"model": model, "input": list(request.inputs), "encoding_format": "float"}


def error_of(status: int, body: bytes) -> Exception:
    """What an HTTP error of the upstream means to the job: the user's mistake, or ours and the upstream's."""
    try:
        detail = json.loads(body)
        detail = detail.get("error", detail)
        text = detail.get("message") or detail.get("detail") if isinstance(detail, dict) else detail
    except (ValueError, AttributeError):
        text = body.decode(errors="replace")
    said = str(text or "no reason given").strip()[:300]
    if status in (400, 404, 413, 415, 422):
        return TaskError(f"the model's server refused the request: {said}")
    if status in (401, 403):
        return EngineFailure("the model's server refused the provider's key")
    return EngineFailure(f"the model's server failed ({status}): {said}")


class StreamTranslator:
    """Turns the chunks of one streamed answer into events and counts them.

    Each delta counts one token, of its kind, until the upstream reports usage; a report raises the count to its own
    figures, never lowers it. So a server that reports usage is billed by its report, and one that never does by the
    number of deltas, with the prompt free: nothing is billed that nobody counted.
    """

    def __init__(self) -> None:
        self._counted = Meter()
        self._reason = ""

    def chunk(self, data: str) -> Iterator[Event]:
        """The events of one ``data:`` payload. Raises :class:`EngineFailure` when it is no chunk or an error."""
        try:
            value = json.loads(data)
        except ValueError:
            raise EngineFailure("the model's server sent a chunk that is not JSON") from None
        if not isinstance(value, dict):
            raise EngineFailure("the model's server sent a chunk that is not an object")
        if value.get("error"):
            raise EngineFailure(f"the model's server failed: {str(value['error'])[:300]}")
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        events = [] if not choice else list(self._deltas(choice))
        reported = self._reported(value.get("usage"))
        if reported and events:
            # The units of a report ride on the last event of its chunk.
            last = events.pop()
            events.append(type(last)(**{**last.__dict__, "units": last.units + reported}))
            reported = NO_USAGE
        yield from events
        if reported:
            yield TextDelta("", reported)

    def finish(self) -> Finished:
        """The last event. Raises :class:`EngineFailure` when the stream broke off before its end."""
        if not self._reason:
            raise EngineFailure("the model's server closed the stream before the end of the answer")
        return Finished(self._reason)

    def _deltas(self, choice: dict[str, Any]) -> Iterator[TextDelta | RawDelta]:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = {"content": choice.get("text")}
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            yield TextDelta(reasoning, self._count(Unit.REASONING), reasoning=True)
        content = delta.get("content")
        if isinstance(content, str) and content:
            yield TextDelta(content, self._count(Unit.COMPLETION))
        raw = {key: delta[key] for key in ("tool_calls", "function_call", "refusal") if delta.get(key)}
        if raw:
            yield RawDelta(json.dumps(raw, separators=(",", ":")), self._count(Unit.COMPLETION))
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            reason = {"function_call": "tool_calls", "eos": "stop", "max_tokens": "length"}.get(reason, reason)
            self._reason = reason if reason in REASONS else "stop"

    def _count(self, unit: Unit) -> Usage:
        usage = Usage.of(unit, 1)
        self._counted.add(usage)
        return usage

    def _reported(self, usage: object) -> Usage:
        """The units by which a usage report exceeds what was counted so far."""
        if not isinstance(usage, dict):
            return NO_USAGE
        cached = min(_detail(usage, "prompt_tokens_details", "cached_tokens"), _natural(usage.get("prompt_tokens")))
        wanted = {Unit.PROMPT: _natural(usage.get("prompt_tokens")) - cached, Unit.CACHED: cached}
        completion = _natural(usage.get("completion_tokens"))
        counted = self._counted.usage()
        # Servers that do not tell reasoning apart count it in; then the kinds keep what the deltas showed.
        reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens") or counted.get(Unit.REASONING)
        reasoning = min(reasoning, completion)
        wanted |= {Unit.REASONING: reasoning, Unit.COMPLETION: completion - reasoning}
        more = {unit: count - counted.get(unit) for unit, count in wanted.items() if count > counted.get(unit)}
        result = Usage(more)
        self._counted.add(result)
        return result


def _natural(value: object) -> int:
    return value if type(value) is int and 0 <= value <= limits.MAX_TEXT_BYTES else 0


def _detail(usage: dict[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return _natural(details.get(name)) if isinstance(details, dict) else 0


def transcription_events(body: bytes, measured_ms: int, billable_ms: int) -> Iterator[Event]:
    """Segments of a ``verbose_json`` or ``json`` transcription. All units ride on the last event."""
    answer = _object(body)
    segments = answer.get("segments")
    if isinstance(segments, list) and segments:
        for segment in segments:
            try:
                start_ms, end_ms = (min(max(0, round(float(segment[k]) * 1000)), measured_ms) for k in ("start", "end"))
                yield Segment(str(segment["text"]).strip(), start_ms, max(start_ms, end_ms))
            except (KeyError, TypeError, ValueError, OverflowError):
                raise EngineFailure("the model's server sent a segment without text or times") from None
    elif isinstance(answer.get("text"), str):
        yield Segment(answer["text"].strip(), 0, measured_ms)
    else:
        raise EngineFailure("the model's server sent a transcription without text")
    yield Finished("stop", Usage({Unit.AUDIO_MS: billable_ms}))


def embedding_events(body: bytes, inputs: int) -> Iterator[Event]:
    """Vectors of an embedding answer, in the order of the inputs."""
    answer = _object(body)
    rows = answer.get("data")
    if not isinstance(rows, list) or len(rows) != inputs:
        raise EngineFailure("the model's server did not send one vector for each input")
    usage = answer.get("usage")
    tokens = _natural(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0
    for index, row in enumerate(rows):
        try:
            vector = struct.pack(f"<{len(row['embedding'])}f", *row["embedding"])
        except (KeyError, TypeError, struct.error, OverflowError):
            raise EngineFailure("the model's server sent a vector that is not a list of numbers") from None
        yield Embedding(index, vector)
    yield Finished("stop", Usage({Unit.EMBEDDING: tokens}) if tokens else NO_USAGE)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        raise EngineFailure("the model's server sent an answer that is not JSON") from None
    if not isinstance(value, dict):
        raise EngineFailure("the model's server sent an answer that is not an object")
    return value
