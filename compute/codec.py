"""The plain form of requests and events, and the check of every field.

Requests are maps with named fields: they are read once a job, and people read them in a packet dump. Events are short
lists ``[tag, ...]``: thousands leave a node each second. Both hold only text, integers, floats, bytes, lists and maps.
Parsing is strict: unknown fields, wrong types and values out of range raise :class:`TaskError`, whose message is fit
for the user who wrote the request. The JSON that a request passes through (``extra``) travels as JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from compute import limits
from compute.tasks import (
    REASONS,
    ROLES,
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbedRequest,
    Event,
    Finished,
    Message,
    RawDelta,
    Request,
    Sampling,
    Segment,
    Started,
    Task,
    TaskError,
    TextDelta,
    TranscribeRequest,
)
from compute.usage import NO_USAGE, Unit, Usage

# --- requests ------------------------------------------------------------------------------------------------------


def check_request(request: Request) -> None:
    """Check every field of ``request`` against its type and range. Raises :class:`TaskError` that names the field."""
    _text(request.model, "model", limits.MAX_MODEL_CHARS, empty=False)
    if isinstance(request, ChatRequest):
        _check_messages(request.messages)
        _check_sampling(request.sampling)
        _check_extra(request.extra, "extra")
    elif isinstance(request, CompletionRequest):
        _bounded(len(_text(request.prompt, "prompt").encode()), "prompt")
        _check_sampling(request.sampling)
        _check_extra(request.extra, "extra")
    elif isinstance(request, TranscribeRequest):
        _check_audio(request)
    else:
        _list(request.inputs, "input", limits.MAX_INPUTS, empty=False)
        _bounded(sum(len(_text(text, "input").encode()) for text in request.inputs), "input")


def _check_messages(messages: Sequence[Message]) -> None:
    _list(messages, "messages", limits.MAX_MESSAGES, empty=False)
    size = 0
    for message in messages:
        if type(message) is not Message:
            raise TaskError("each message is a role and a content", param="messages")
        if message.role not in ROLES:
            shown = repr(message.role)[: limits.MAX_ROLE_CHARS]
            raise TaskError(f"a message's role is one of {', '.join(sorted(ROLES))}, not {shown}", param="messages")
        size += len(_text(message.content, "messages").encode())
        _check_extra(message.extra, "messages")
    _bounded(size, "messages")


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_tokens is not None:
        _integer(sampling.max_tokens, "max_tokens", 1, limits.MAX_MAX_TOKENS)
    if sampling.temperature is not None:
        _number(sampling.temperature, "temperature", 0.0, limits.MAX_TEMPERATURE)
    if sampling.top_p is not None:
        _number(sampling.top_p, "top_p", 0.0, 1.0)
    if sampling.seed is not None:
        _integer(sampling.seed, "seed", -limits.MAX_SEED - 1, limits.MAX_SEED)
    for stop in _list(sampling.stop, "stop", limits.MAX_STOPS):
        _text(stop, "stop", limits.MAX_STOP_CHARS, empty=False)


def _check_audio(request: TranscribeRequest) -> None:
    if type(request.audio) is not bytes:
        raise TaskError("audio is the bytes of a file", param="file")
    if not 0 < len(request.audio) <= limits.MAX_AUDIO_BYTES:
        size = len(request.audio)
        raise TaskError(f"the audio file has {size} bytes; send 1 to {limits.MAX_AUDIO_BYTES} bytes", param="file")
    _integer(request.duration_ms, "duration_ms", 1, limits.MAX_AUDIO_MS)
    if request.language is not None:
        language = _text(request.language, "language")
        if not (len(language) == 2 and language.isascii() and language.isalpha() and language.islower()):
            raise TaskError("language is two small letters (ISO 639-1), as in 'en'", param="language")
    if request.prompt is not None:
        _bounded(len(_text(request.prompt, "prompt").encode()), "prompt")


def _check_extra(extra: Mapping[str, Any], param: str) -> None:
    if not extra and type(extra) is dict:
        return
    if type(extra) is not dict or len(extra) > limits.MAX_EXTRA_KEYS or any(type(key) is not str for key in extra):
        raise TaskError(f"{param} is a map of at most {limits.MAX_EXTRA_KEYS} named fields", param=param)
    _check_json(extra, param, limits.MAX_EXTRA_DEPTH)
    if len(_dump(extra)) > limits.MAX_EXTRA_BYTES:
        raise TaskError(f"{param} is larger than {limits.MAX_EXTRA_BYTES} bytes of JSON", param=param)


def _check_json(value: Any, param: str, depth: int) -> None:
    if depth < 0:
        raise TaskError(f"{param} is nested deeper than {limits.MAX_EXTRA_DEPTH} levels", param=param)
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            raise TaskError(f"{param} holds a map whose keys are not text", param=param)
        for item in value.values():
            _check_json(item, param, depth - 1)
    elif type(value) is list:
        for item in value:
            _check_json(item, param, depth - 1)
    elif type(value) is str:
        _text(value, param)
    elif type(value) not in (int, bool, type(None)) and not (type(value) is float and math.isfinite(value)):
        raise TaskError(f"{param} holds a value that JSON cannot express", param=param)
    elif type(value) is int and abs(value) >= 1 << 64:
        raise TaskError(f"{param} holds an integer beyond 64 bits", param=param)


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def request_to_wire(request: Request) -> dict[str, Any]:
    """Check ``request`` and return its plain form. Raises :class:`TaskError`."""
    check_request(request)
    wire: dict[str, Any] = {"task": request.task.value, "model": request.model}
    if isinstance(request, ChatRequest | CompletionRequest):
        if isinstance(request, ChatRequest):
            wire["messages"] = [
                [m.role, m.content, _dump(m.extra)] if m.extra else [m.role, m.content] for m in request.messages
            ]
        else:
            wire["prompt"] = request.prompt
        sampling = request.sampling
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            if (value := getattr(sampling, name)) is not None:
                wire[name] = float(value) if name in ("temperature", "top_p") else value
        if sampling.stop:
            wire["stop"] = list(sampling.stop)
        if request.extra:
            wire["extra"] = _dump(request.extra)
    elif isinstance(request, TranscribeRequest):
        wire |= {"audio": request.audio, "duration_ms": request.duration_ms}
        wire |= {} if request.language is None else {"language": request.language}
        wire |= {} if request.prompt is None else {"prompt": request.prompt}
    else:
        wire["input"] = list(request.inputs)
    return wire


_SAMPLING_FIELDS = frozenset(("max_tokens", "temperature", "top_p", "seed", "stop"))
_FIELDS = {
    Task.CHAT: frozenset(("task", "model", "messages", "extra")) | _SAMPLING_FIELDS,
    Task.COMPLETION: frozenset(("task", "model", "prompt", "extra")) | _SAMPLING_FIELDS,
    Task.TRANSCRIBE: frozenset(("task", "model", "audio", "duration_ms", "language", "prompt")),
    Task.EMBED: frozenset(("task", "model", "input")),
}
_REQUIRED = {
    Task.CHAT: ("model", "messages"),
    Task.COMPLETION: ("model", "prompt"),
    Task.TRANSCRIBE: ("model", "audio", "duration_ms"),
    Task.EMBED: ("model", "input"),
}


def request_from_wire(value: object) -> Request:
    """Parse what :func:`request_to_wire` made. Raises :class:`TaskError` on anything else."""
    if type(value) is not dict:
        raise TaskError("a request is a map")
    try:
        task = Task(str(value.get("task")))
    except ValueError:
        raise TaskError(f"task is one of {', '.join(Task)}", param="task") from None
    for key in value:
        if key not in _FIELDS[task]:
            raise TaskError(f"a {task} request has no field {_shown(key)}", param=None)
    for key in _REQUIRED[task]:
        if key not in value:
            raise TaskError(f"a {task} request needs the field {key!r}", param=key)
    request: Request
    if task is Task.CHAT:
        messages = tuple(_message(item) for item in _list(value["messages"], "messages", limits.MAX_MESSAGES))
        request = ChatRequest(value["model"], messages, _sampling(value), _load(value.get("extra"), "extra"))
    elif task is Task.COMPLETION:
        extra = _load(value.get("extra"), "extra")
        request = CompletionRequest(value["model"], value["prompt"], _sampling(value), extra)
    elif task is Task.TRANSCRIBE:
        request = TranscribeRequest(
            value["model"], value["audio"], value["duration_ms"], value.get("language"), value.get("prompt")
        )
    else:
        request = EmbedRequest(value["model"], tuple(_list(value["input"], "input", limits.MAX_INPUTS)))
    check_request(request)
    return request


def _message(item: object) -> Message:
    if type(item) is not list or not 2 <= len(item) <= 3:
        raise TaskError("each message is a role and a content", param="messages")
    if type(item[0]) is not str:
        raise TaskError("a message's role is text", param="messages")
    return Message(item[0], item[1], _load(item[2], "messages") if len(item) == 3 else {})


def _sampling(value: dict[str, Any]) -> Sampling:
    return Sampling(
        value.get("max_tokens"),
        value.get("temperature"),
        value.get("top_p"),
        value.get("seed"),
        tuple(_list(value.get("stop", []), "stop", limits.MAX_STOPS)),
    )


def _load(text: object, param: str) -> dict[str, Any]:
    if text is None:
        return {}
    if type(text) is not str or len(text) > limits.MAX_EXTRA_BYTES:
        raise TaskError(f"{param} is JSON text of at most {limits.MAX_EXTRA_BYTES} bytes", param=param)
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        raise TaskError(f"{param} is not JSON", param=param) from None
    if type(loaded) is not dict:
        raise TaskError(f"{param} is a map", param=param)
    return loaded


# --- field checks --------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    return repr(value)[:40]


def _text(value: object, param: str, max_chars: int = limits.MAX_TEXT_BYTES, *, empty: bool = True) -> str:
    if type(value) is not str:
        raise TaskError(f"{param} is text, not {type(value).__name__}", param=param)
    if len(value) > max_chars or not (empty or value):
        allowed = f"allowed are {0 if empty else 1} to {max_chars}"
        raise TaskError(f"{param} has {len(value)} characters; {allowed}", param=param)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise TaskError(f"{param} holds half a surrogate pair, which is no text", param=param) from None
    return value


def _bounded(size: int, param: str) -> None:
    if size > limits.MAX_TEXT_BYTES:
        raise TaskError(f"{param} has {size} bytes of text; at most {limits.MAX_TEXT_BYTES} are taken", param=param)


def _list(value: Any, param: str, max_items: int, *, empty: bool = True) -> Sequence[Any]:
    if type(value) not in (list, tuple):
        raise TaskError(f"{param} is a list", param=param)
    if len(value) > max_items or not (empty or value):
        raise TaskError(f"{param} has {len(value)} items; allowed are {0 if empty else 1} to {max_items}", param=param)
    items: Sequence[Any] = value
    return items


def _integer(value: object, param: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise TaskError(f"{param} is an integer from {low} to {high}, not {_shown(value)}", param=param)


def _number(value: object, param: str, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]  # narrowed by the type() test
        raise TaskError(f"{param} is a number from {low:g} to {high:g}, not {_shown(value)}", param=param)


# --- events --------------------------------------------------------------------------------------------------------

_STARTED, _TEXT, _REASONING, _RAW, _SEGMENT, _EMBEDDING, _FINISHED = "b", "t", "r", "j", "s", "e", "f"


def event_to_wire(event: Event) -> list[Any]:
    """The short list of ``event``: its tag, its fields, its units last and only if there are any.

    A text delta's completion tokens are a bare integer, other units a map from unit to count.
    """
    kind = type(event)
    if kind is TextDelta:
        counts = event.units.counts
        tag = _REASONING if event.reasoning else _TEXT  # type: ignore[union-attr]  # kind is TextDelta
        if len(counts) == 1 and (tokens := counts.get(Unit.COMPLETION)):
            return [tag, event.text, tokens]  # type: ignore[union-attr]  # kind is TextDelta
        return _with_units([tag, event.text], event.units)  # type: ignore[union-attr]  # kind is TextDelta
    if isinstance(event, Finished):
        return _with_units([_FINISHED, event.reason], event.units)
    if isinstance(event, Started):
        return _with_units([_STARTED], event.units)
    if isinstance(event, Segment):
        return _with_units([_SEGMENT, event.text, event.start_ms, event.end_ms], event.units)
    if isinstance(event, RawDelta):
        return _with_units([_RAW, event.json], event.units)
    assert isinstance(event, Embedding)
    return _with_units([_EMBEDDING, event.index, event.vector], event.units)


def _with_units(wire: list[Any], units: Usage) -> list[Any]:
    if units.counts and (counts := units.to_wire()):
        wire.append(counts)
    return wire


def event_from_wire(value: object) -> Event:
    """Parse what :func:`event_to_wire` made. Raises :class:`TaskError` on anything else."""
    if type(value) is not list or not value:
        raise TaskError("an event is a list that begins with its tag")
    tag, length = value[0], len(value)
    if tag in (_TEXT, _REASONING):
        text = value[1] if 2 <= length <= 3 else None
        if type(text) is not str or len(text) > limits.MAX_DELTA_CHARS:
            raise TaskError("a text delta is [tag, text, units]")
        return TextDelta(text, NO_USAGE if length == 2 else _units(value[2]), tag == _REASONING)
    if tag == _FINISHED and 2 <= length <= 3:
        if type(value[1]) is not str or value[1] not in REASONS:
            raise TaskError(f"a job ends with one of {', '.join(sorted(REASONS))}")
        return Finished(value[1], _tail(value, 2))
    if tag == _STARTED and length <= 2:
        return Started(_tail(value, 1))
    if tag == _SEGMENT and 4 <= length <= 5:
        _, text, start_ms, end_ms = value[:4]
        _event_text(text)
        _integer(start_ms, "start_ms", 0, limits.MAX_TIME_MS)
        _integer(end_ms, "end_ms", start_ms, limits.MAX_TIME_MS)
        return Segment(text, start_ms, end_ms, _tail(value, 4))
    if tag == _RAW and 2 <= length <= 3:
        _event_text(value[1])
        return RawDelta(value[1], _tail(value, 2))
    if tag == _EMBEDDING and 3 <= length <= 4:
        _integer(value[1], "index", 0, limits.MAX_INPUTS - 1)
        vector = value[2]
        if type(vector) is not bytes or not 0 < len(vector) <= limits.MAX_VECTOR_BYTES or len(vector) % 4:
            raise TaskError(f"a vector is 4 to {limits.MAX_VECTOR_BYTES} bytes of float32")
        return Embedding(value[1], vector, _tail(value, 3))
    raise TaskError(f"no event has the tag {_shown(tag)} and {length - 1} fields")


def _event_text(text: object) -> None:
    if type(text) is not str or len(text) > limits.MAX_DELTA_CHARS:
        raise TaskError(f"the text of an event is at most {limits.MAX_DELTA_CHARS} characters")


def _tail(value: list[Any], at: int) -> Usage:
    return _units(value[at]) if len(value) > at else NO_USAGE


def _units(value: object) -> Usage:
    try:
        if type(value) is int:
            return Usage.of(Unit.COMPLETION, value)
        return Usage.from_wire(value)
    except ValueError as error:
        raise TaskError(f"wrong units: {error}") from None
