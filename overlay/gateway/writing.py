"""OpenAI's answers for chat and completion, whole and as server-sent events.

A stream's events differ in a few characters: everything around the text is encoded once an answer, so that a token
costs one JSON string and two concatenations.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from compute.tasks import Event, Finished, RawDelta, TextDelta
from compute.usage import Unit, Usage
from overlay.errors import ProviderGone
from overlay.gateway import limits
from overlay.gateway.backend import JobRun

json_bytes = msgspec.json.encode

DONE = b"data: [DONE]\n\n"
_FINISH_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter"))


def usage_object(run: JobRun) -> dict[str, Any]:
    """OpenAI's ``usage``, and under ``cocoon`` what only this network knows: provider, units, nanoTON paid."""
    usage: Usage = run.usage
    cached, reasoning = usage.get(Unit.CACHED), usage.get(Unit.REASONING)
    prompt = usage.get(Unit.PROMPT) + cached + usage.get(Unit.EMBEDDING)
    completion = usage.get(Unit.COMPLETION) + reasoning
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "cocoon": cocoon_object(run),
    }


def cocoon_object(run: JobRun) -> dict[str, Any]:
    """Who served a job and what it cost: ``paid_nanoton`` for ``units``, through a relay or not."""
    return {
        "provider": run.provider,
        "model": run.model,
        "relayed": run.relayed,
        "paid_nanoton": run.paid_nanoton,
        "units": run.usage.to_wire(),
    }


def cost_headers(run: JobRun, *, final: bool) -> list[tuple[bytes, bytes]]:
    """The same as headers; the amount only when it is known."""
    headers = [
        (b"x-cocoon-provider", run.provider.encode("ascii", "replace")),
        (b"x-cocoon-relayed", b"true" if run.relayed else b"false"),
    ]
    if final:
        headers.append((b"x-cocoon-paid-nanoton", b"%d" % run.paid_nanoton))
    return headers


def finish_reason(event: Finished) -> str:
    """OpenAI's word for it. Raises :class:`~overlay.errors.ProviderGone` when the provider gave the job up."""
    if event.reason not in _FINISH_REASONS:
        raise ProviderGone("the provider stopped before the answer was complete; send the request again")
    return event.reason


def parse_raw(event: RawDelta) -> dict[str, Any]:
    """A provider's delta object. Raises :class:`~overlay.errors.ProviderGone` when it is none."""
    try:
        return msgspec.json.decode(event.json, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ProviderGone("the provider sent a piece of answer that is not JSON; send the request again") from None


class Stream:
    """Encodes the server-sent events of one answer."""

    def __init__(self, *, chat: bool, model: str, created: int, include_usage: bool) -> None:
        self.finish = "stop"
        self._chat = chat
        name = "chat.completion.chunk" if chat else "text_completion"
        identity = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        head = json_bytes({"id": identity, "object": name, "created": created, "model": model})[:-1]
        # With include_usage, OpenAI's other chunks say that theirs is null.
        end = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._head = b"data: " + head + b',"choices":['
        self._usage_head = self._head + b"]"
        choice = b'{"index":0,'
        none = b',"logprobs":null,"finish_reason":null}]' + end
        if chat:
            self._delta = self._head + choice + b'"delta":'
            self._content = self._delta + b'{"content":'
            self._content_end = b"}" + none
            self._delta_end = none
        else:
            self._content = self._head + choice + b'"text":'
            self._content_end = none
        self._end = end

    def opening(self) -> bytes:
        """The first event of a chat says who speaks."""
        return self._delta + b'{"role":"assistant","content":""}' + self._delta_end if self._chat else b""

    def events(self, batch: Iterable[Event]) -> bytes:
        """The server-sent events for what arrived together; notes the reason when it holds the end."""
        parts = []
        for event in batch:
            kind = type(event)
            if kind is TextDelta:
                parts.append(self._text(event))  # type: ignore[arg-type]  # kind is TextDelta
            elif isinstance(event, RawDelta):
                if self._chat:
                    parts.append(self._delta + json_bytes(parse_raw(event)) + self._delta_end)
            elif isinstance(event, Finished):
                self.finish = finish_reason(event)
        return b"".join(parts)

    def _text(self, event: TextDelta) -> bytes:
        if event.reasoning and self._chat:
            return self._delta + b'{"reasoning_content":' + json_bytes(event.text) + b"}" + self._delta_end
        return self._content + json_bytes(event.text) + self._content_end

    def closing(self, usage: dict[str, Any] | None) -> bytes:
        """The reason, the usage if it was asked for, and the end."""
        start = self._delta + b"{}" if self._chat else self._content + b'""'
        last = start + b',"logprobs":null,"finish_reason":' + json_bytes(self.finish) + b"}]" + self._end
        if usage is not None:
            last += self._usage_head + b',"usage":' + json_bytes(usage) + b"}\n\n"
        return last + DONE


class Whole:
    """Collects one answer and encodes it."""

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._raw: dict[str, Any] = {}
        self._size = 0
        self.finish = "stop"

    def add(self, batch: Iterable[Event]) -> None:
        """Take in what arrived. Raises :class:`~overlay.errors.ProviderGone` when it is too much to be an answer."""
        for event in batch:
            if isinstance(event, TextDelta):
                (self._reasoning if event.reasoning else self._texts).append(event.text)
                self._grow(len(event.text))
            elif isinstance(event, RawDelta):
                self._grow(len(event.json))
                _merge(self._raw, parse_raw(event))
            elif isinstance(event, Finished):
                self.finish = finish_reason(event)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > limits.MAX_ANSWER_BYTES:
            raise ProviderGone("the provider sent more than any answer has; send the request again")

    def encode(self, model: str, created: int, usage: dict[str, Any]) -> bytes:
        """The JSON document."""
        text = "".join(self._texts)
        choice: dict[str, Any] = {"index": 0}
        if self._chat:
            raw_content = self._raw.pop("content", None)
            text += raw_content if isinstance(raw_content, str) else ""
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if self._raw.get("tool_calls") and not text:
                message["content"] = None
            if self._reasoning:
                message["reasoning_content"] = "".join(self._reasoning)
            choice["message"] = message | {key: value for key, value in self._raw.items() if key != "role"}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": self.finish}
        identity = ("chatcmpl-" if self._chat else "cmpl-") + secrets.token_hex(12)
        name = "chat.completion" if self._chat else "text_completion"
        return json_bytes(
            {"id": identity, "object": name, "created": created, "model": model, "choices": [choice], "usage": usage}
        )


def _merge(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to what it continues, as OpenAI's clients do: texts are joined, list items meet by their index."""
    for key, value in delta.items():
        held = whole.get(key)
        if isinstance(value, str) and isinstance(held, str) and key not in ("id", "type", "role", "name"):
            whole[key] = held + value
        elif isinstance(value, dict) and isinstance(held, dict):
            _merge(held, value)
        elif isinstance(value, list):
            items = whole.setdefault(key, [])
            for item in value if isinstance(items, list) else ():
                _merge_item(items, item)
        elif value is not None:
            whole[key] = value


def _merge_item(items: list[Any], item: Any) -> None:
    if isinstance(item, dict):
        index = item.pop("index", len(items))
        if isinstance(index, int) and 0 <= index < len(items) and isinstance(items[index], dict):
            _merge(items[index], item)
            return
    items.append(item)
