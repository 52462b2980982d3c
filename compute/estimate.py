"""What a request may cost at most: the basis of a reservation before any token is made."""

from __future__ import annotations

from compute import limits
from compute.codec import _dump
from compute.tasks import ChatRequest, CompletionRequest, Request, TranscribeRequest
from compute.usage import Unit, Usage


def estimate_usage(request: Request, *, context: int = 0) -> Usage:
    """An upper bound on the units that ``request`` can use, for reserving money.

    A byte-level tokeniser makes at most one token of one byte, so the UTF-8 length bounds the prompt; a chat template
    adds at most :data:`~compute.limits.PROMPT_TOKENS_PER_MESSAGE` a message and a base. The model's ``context``
    (tokens, 0 unknown) bounds prompt and answer. The answer is bounded by ``max_tokens``, or by
    :data:`~compute.limits.DEFAULT_MAX_TOKENS`, at which engines stop when the request names no limit. Reasoning tokens
    are part of the completion's bound.
    """
    if isinstance(request, TranscribeRequest):
        return Usage({Unit.AUDIO_MS: request.duration_ms})
    if isinstance(request, ChatRequest | CompletionRequest):
        extra = len(_dump(request.extra)) if request.extra else 0
        if isinstance(request, ChatRequest):
            prompt = limits.PROMPT_TOKENS_BASE + extra
            for message in request.messages:
                prompt += len(message.content.encode()) + limits.PROMPT_TOKENS_PER_MESSAGE
                prompt += len(_dump(message.extra)) if message.extra else 0
        else:
            prompt = len(request.prompt.encode()) + limits.PROMPT_TOKENS_PER_MESSAGE + extra
        completion = request.sampling.max_tokens or limits.DEFAULT_MAX_TOKENS
        if context:
            prompt, completion = min(prompt, context), min(completion, context)
        return Usage({Unit.PROMPT: prompt, Unit.COMPLETION: completion})
    tokens = sum(len(text.encode()) + limits.PROMPT_TOKENS_PER_MESSAGE for text in request.inputs)
    return Usage({Unit.EMBEDDING: tokens})


TYPICAL_COMPLETION_TOKENS = 256
"""What an answer is expected to have when the request names no limit, or a higher one: for ranking quotes and telling
waits, never for money."""

PROMPT_BYTES_PER_TOKEN = 3
"""The same for prompts."""

PROMPT_TOKENS_PER_COMPLETION_TOKEN = 16
"""Reading a prompt goes about this much faster a token than writing an answer."""


def expected_usage(request: Request) -> Usage:
    """What a job like this is likely to use: for ranking offers."""
    most = estimate_usage(request)
    if not isinstance(request, (ChatRequest, CompletionRequest)):
        return most
    answer = min(request.sampling.max_tokens or TYPICAL_COMPLETION_TOKENS, TYPICAL_COMPLETION_TOKENS)
    return Usage({Unit.PROMPT: max(1, most.get(Unit.PROMPT) // PROMPT_BYTES_PER_TOKEN), Unit.COMPLETION: answer})


def expected_work(request: Request) -> float:
    """How long a job is likely to take, in units of its task (completion tokens, milliseconds of audio, embedding
    tokens): only the proportion between two jobs of one engine means something. Above zero."""
    usage = expected_usage(request)
    whole = sum(usage.counts.values()) - usage.get(Unit.PROMPT)
    return max(1.0, whole + usage.get(Unit.PROMPT) / PROMPT_TOKENS_PER_COMPLETION_TOKEN)
