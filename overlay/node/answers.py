"""What a client can tell of an answer without having the model: whether it contradicts itself. Pure.

A wrong answer, or one that is cut short and says that it is complete, cannot be told from a right one here: that is
what people's eyes and, later, verified outputs are for.
"""

from __future__ import annotations

from compute.tasks import ChatRequest, CompletionRequest, EmbedRequest, Request
from compute.usage import Unit, Usage


def odd(request: Request, usage: Usage, *, things: int, reason: str, context: int) -> str | None:
    """Why an answer cannot be what it says it is; ``None`` for one that can.

    ``things`` are the deltas with something in them, or the vectors, that came; ``reason`` is what the last event said
    (:data:`compute.tasks.REASONS`); ``context`` is the provider's claim, in tokens, 0 if it makes none. Half of a bound
    counts as reached: engines count a little differently.
    """
    if reason == "cancelled":
        return "it says that it was cancelled, and nobody did"
    if isinstance(request, EmbedRequest) and things != len(request.inputs):
        return f"{things} vectors for {len(request.inputs)} texts"
    if not isinstance(request, ChatRequest | CompletionRequest):
        return None
    if not things and reason != "content_filter":
        return "there is nothing in it"
    answer = usage.get(Unit.COMPLETION) + usage.get(Unit.REASONING)
    most, whole = request.sampling.max_tokens, answer + usage.get(Unit.PROMPT) + usage.get(Unit.CACHED)
    if reason == "length" and most and context and 2 * answer < most and 2 * whole < context:
        return f"it says that it ended for its length, after {answer} of {most} tokens"
    return None


__all__ = ["odd"]
