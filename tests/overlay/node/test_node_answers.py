"""Answers that contradict themselves are told from those that may be right; no more can be."""

from __future__ import annotations

import pytest

from compute.tasks import ChatRequest, EmbedRequest, Message, Request, Sampling
from compute.usage import NO_USAGE, Unit, Usage
from overlay.node.answers import odd


def chat(max_tokens: int | None = 100) -> Request:
    return ChatRequest("m", (Message("user", "hello"),), Sampling(max_tokens=max_tokens))


def used(prompt: int, completion: int) -> Usage:
    return Usage({Unit.PROMPT: prompt, Unit.COMPLETION: completion})


@pytest.mark.parametrize(
    ("request_", "usage", "things", "reason", "context", "why"),
    [
        (chat(), used(10, 3), 0, "stop", 0, "nothing in it"),
        (chat(), used(10, 20), 20, "length", 4096, "after 20 of 100"),
        (chat(), used(10, 20), 20, "cancelled", 4096, "cancelled"),
        (EmbedRequest("m", ["a", "b"]), NO_USAGE, 1, "stop", 0, "1 vectors for 2 texts"),
    ],
)
def test_what_cannot_be_is_named(
    request_: Request, usage: Usage, things: int, reason: str, context: int, why: str
) -> None:
    assert why in (odd(request_, usage, things=things, reason=reason, context=context) or "")


@pytest.mark.parametrize(
    ("request_", "usage", "things", "reason", "context"),
    [
        (chat(), used(10, 1), 1, "stop", 4096),  # cut short, perhaps: nobody can tell
        (chat(), used(10, 100), 100, "length", 4096),
        (chat(), used(4000, 20), 20, "length", 4096),  # the context was full
        (chat(), used(10, 20), 20, "length", 0),  # of an unknown size
        (chat(None), used(10, 20), 20, "length", 4096),
        (chat(), used(10, 0), 0, "content_filter", 4096),
        (chat(), used(10, 30), 1, "tool_calls", 4096),
        (EmbedRequest("m", ["a", "b"]), NO_USAGE, 2, "stop", 0),
    ],
)
def test_what_may_be_right_is_taken_for_it(
    request_: Request, usage: Usage, things: int, reason: str, context: int
) -> None:
    assert odd(request_, usage, things=things, reason=reason, context=context) is None
