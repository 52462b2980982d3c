"""What simulated requests and answers say: enough for a model engine to know how long an answer is to be.

A token is four bytes, as English has it. A prompt begins with an instruction, which an engine follows as a model would;
the rest is filler. All of it is ASCII, so that characters are bytes.
"""

from __future__ import annotations

from compute.tasks import ChatRequest, CompletionRequest

BYTES_PER_TOKEN = 4

USUAL_ANSWER_TOKENS = 250
"""Length of the answer to a prompt that says nothing about it."""

MOST_TOKENS = 1 << 20
"""No simulated prompt or answer is longer: what a request may ask for at most."""

GARBAGE = "%#!@"
"""What an engine that cheats says instead of an answer: one token."""

_FILLER = "and the sea was wide and the night was long "
_ANSWER = "so it went on "
_BEGIN, _END = "Answer in ", " tokens: "


def prompt_text(prompt_tokens: int, answer_tokens: int) -> str:
    """A prompt of ``prompt_tokens`` that asks for an answer of ``answer_tokens``. It is never shorter than its
    instruction (about seven tokens)."""
    return _filled(f"{_BEGIN}{answer_tokens}{_END}", _FILLER, prompt_tokens)


def answer_text(tokens: int) -> str:
    """``tokens`` of an answer."""
    return _filled("", _ANSWER, tokens)


def garbage_text(tokens: int) -> str:
    """``tokens`` of what nobody asked for."""
    return GARBAGE * tokens


def is_garbage(text: str) -> bool:
    """Whether a user would see at once that this is no answer."""
    return text.startswith(GARBAGE)


def _filled(start: str, filler: str, tokens: int) -> str:
    size = min(tokens, MOST_TOKENS) * BYTES_PER_TOKEN
    if len(start) >= size:
        return start
    return (start + filler * ((size - len(start)) // len(filler) + 1))[:size]


def read_prompt(request: ChatRequest | CompletionRequest) -> tuple[int, int]:
    """How many tokens the prompt has, and how many its answer is to have."""
    texts = [request.prompt] if isinstance(request, CompletionRequest) else [m.content for m in request.messages]
    tokens = sum(-(-len(text) // BYTES_PER_TOKEN) for text in texts)
    asking = texts[-1] if texts else ""
    wanted = asking[len(_BEGIN) : asking.find(_END)] if asking.startswith(_BEGIN) else ""
    answer = int(wanted) if wanted.isdecimal() and len(wanted) <= 7 else USUAL_ANSWER_TOKENS
    return tokens, min(max(1, answer), MOST_TOKENS)
