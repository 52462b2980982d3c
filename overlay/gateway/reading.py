"""From OpenAI's request bodies to typed requests: known fields are checked, the others passed on in ``extra``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from compute.codec import check_request
from compute.tasks import ChatRequest, CompletionRequest, EmbedRequest, Message, Sampling
from overlay.errors import InvalidRequest

_decoder = msgspec.json.Decoder(dict[str, Any])
_T = TypeVar("_T")


@dataclass(frozen=True)
class Generate:
    """A chat or completion request, and how its answer should travel."""

    request: ChatRequest | CompletionRequest
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Embed:
    """An embeddings request; ``base64`` is how OpenAI's client wants its vectors."""

    request: EmbedRequest
    base64: bool


def _fields(body: bytes) -> dict[str, Any]:
    """The JSON object, without the fields that are null: OpenAI treats those as absent."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None
    return {name: value for name, value in fields.items() if value is not None}


def _take(fields: dict[str, Any], name: str, kind: type[_T], what: str) -> _T | None:
    value = fields.pop(name, None)
    if value is not None and type(value) is not kind:
        raise InvalidRequest(f"{name} must be {what}", param=name)
    return value


def _model(fields: dict[str, Any]) -> str:
    model = _take(fields, "model", str, "the name of a model, as text")
    if not model:
        raise InvalidRequest("model is missing; GET /v1/models lists what is on offer", param="model")
    return model


def _sampling(fields: dict[str, Any]) -> Sampling:
    max_tokens = _take(fields, "max_tokens", int, "an integer")
    # OpenAI's newer name for the same thing; it wins when both are there.
    newer = _take(fields, "max_completion_tokens", int, "an integer")
    stop = fields.pop("stop", ())
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or not all(type(item) is str for item in stops):
        raise InvalidRequest("stop must be text or a list of texts", param="stop")
    numbers = {}
    for name in ("temperature", "top_p"):
        value = fields.pop(name, None)
        if value is not None and type(value) not in (int, float):
            raise InvalidRequest(f"{name} must be a number", param=name)
        numbers[name] = value
    return Sampling(
        max_tokens=max_tokens if newer is None else newer,
        temperature=numbers["temperature"],
        top_p=numbers["top_p"],
        seed=_take(fields, "seed", int, "an integer"),
        stop=tuple(stops),
    )


def _streaming(fields: dict[str, Any]) -> tuple[bool, bool]:
    count = fields.pop("n", 1)
    if type(count) is not int or count != 1:
        raise InvalidRequest("n must be 1: send one request for each answer that you want", param="n")
    stream = _take(fields, "stream", bool, "true or false") or False
    options = _take(fields, "stream_options", dict, "an object")
    if options is None:
        return stream, False
    if not stream:
        raise InvalidRequest("stream_options is only allowed when stream is true", param="stream_options")
    return stream, options.get("include_usage") is True


def _content(value: Any, where: str) -> str:
    """A message's text: text, a list of text parts, or nothing (a turn that only calls tools)."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if type(value) is not list:
        raise InvalidRequest(f"{where} must be text or a list of parts", param=where)
    texts = []
    for part in value:
        if type(part) is not dict or part.get("type") != "text" or type(part.get("text")) is not str:
            raise InvalidRequest(f"{where}: only parts of type 'text' are understood", param=where)
        texts.append(part["text"])
    return "".join(texts)


def _messages(value: Any) -> tuple[Message, ...]:
    if type(value) is not list or not value:
        raise InvalidRequest("messages must be a list of at least one message", param="messages")
    messages = []
    for index, item in enumerate(value):
        if type(item) is not dict or type(item.get("role")) is not str:
            raise InvalidRequest(f"messages[{index}] must be an object with a role", param=f"messages[{index}]")
        content = _content(item.get("content"), f"messages[{index}].content")
        if len(item) == 2 and "content" in item:
            messages.append(Message(item["role"], content))
        else:
            extra = {k: v for k, v in item.items() if v is not None and k not in ("role", "content")}
            messages.append(Message(item["role"], content, extra))
    return tuple(messages)


def read_chat(body: bytes) -> Generate:
    """Parse a body of `/v1/chat/completions`. Raises ``InvalidRequest`` or ``TaskError``, which name the field."""
    fields = _fields(body)
    model = _model(fields)
    messages = _messages(fields.pop("messages", None))
    sampling = _sampling(fields)
    stream, include_usage = _streaming(fields)
    request = ChatRequest(model, messages, sampling, fields)
    check_request(request)
    return Generate(request, stream, include_usage)


def read_completion(body: bytes) -> Generate:
    """Parse a body of `/v1/completions`. Raises ``InvalidRequest`` or ``TaskError``, which name the field."""
    fields = _fields(body)
    model = _model(fields)
    prompt = fields.pop("prompt", None)
    if type(prompt) is list and len(prompt) == 1:
        prompt = prompt[0]
    if type(prompt) is not str:
        raise InvalidRequest("prompt must be one text: send one request for each prompt", param="prompt")
    sampling = _sampling(fields)
    stream, include_usage = _streaming(fields)
    request = CompletionRequest(model, prompt, sampling, fields)
    check_request(request)
    return Generate(request, stream, include_usage)


def read_embed(body: bytes) -> Embed:
    """Parse a body of `/v1/embeddings`. Raises ``InvalidRequest`` or ``TaskError``, which name the field."""
    fields = _fields(body)
    model = _model(fields)
    inputs = fields.pop("input", None)
    texts = [inputs] if type(inputs) is str else inputs
    if type(texts) is not list or not texts or not all(type(text) is str for text in texts):
        raise InvalidRequest("input must be a text or a list of texts (token ids are not understood)", param="input")
    form = fields.pop("encoding_format", "float")
    if form not in ("float", "base64"):
        raise InvalidRequest("encoding_format must be 'float' or 'base64'", param="encoding_format")
    if "dimensions" in fields:
        raise InvalidRequest("dimensions is not supported: vectors come as the model makes them", param="dimensions")
    request = EmbedRequest(model, tuple(texts))
    check_request(request)
    return Embed(request, form == "base64")
