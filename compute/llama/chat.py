"""Chat templates as data: what stands before and after the turns of a conversation.

A model's folder may hold ``chat.json`` with the fields of :class:`ChatTemplate`; without it the template is recognised
by the special tokens of the vocabulary (ChatML, Llama 3). Jinja templates are programs from a download: none are run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compute.llama.weights import ModelError
from compute.tasks import Message, TaskError


@dataclass(frozen=True)
class ChatTemplate:
    """``turns`` maps a role to the marks before and after its text; ``answer`` opens the assistant's turn.

    ``max_prompt_tokens`` (0: none) bounds what is fed: older turns are left out first, the last one never.
    """

    begin: Sequence[str]
    turns: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    answer: Sequence[str]
    stop: Sequence[str]
    max_prompt_tokens: int = 0


_CHATML = ChatTemplate(
    begin=(),
    turns={role: (("<|im_start|>", role + "\n"), ("<|im_end|>", "\n")) for role in ("system", "user", "assistant")},
    answer=("<|im_start|>", "assistant\n"),
    stop=("<|im_end|>",),
)
_LLAMA3 = ChatTemplate(
    begin=("<|begin_of_text|>",),
    turns={
        role: (("<|start_header_id|>", role, "<|end_header_id|>", "\n\n"), ("<|eot_id|>",))
        for role in ("system", "user", "assistant")
    },
    answer=("<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"),
    stop=("<|eot_id|>", "<|end_of_text|>"),
)


def load_template(folder: Path, special: Callable[[str], int | None]) -> ChatTemplate | None:
    """The template of a model: from ``chat.json``, else by its special tokens, else ``None`` (completion only)."""
    path = folder / "chat.json"
    if path.exists():
        try:
            raw = json.loads(path.read_text())
            turns = {role: (tuple(before), tuple(after)) for role, (before, after) in raw["turns"].items()}
            return ChatTemplate(**{**raw, "turns": turns})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is no chat template: {error}") from error
    for template, mark in ((_CHATML, "<|im_start|>"), (_LLAMA3, "<|start_header_id|>")):
        if special(mark) is not None:
            return template
    return None


def render(
    template: ChatTemplate,
    messages: Sequence[Message],
    encode: Callable[[str], list[int]],
    special: Callable[[str], int | None],
) -> list[int]:
    """The prompt's ids: marks as special tokens, what people wrote as plain text, so that nobody can forge a turn.

    Raises :class:`TaskError` for a role that the model does not know.
    """

    def marks(parts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            token = special(part)
            ids += encode(part) if token is None else [token]
        return ids

    turns: list[list[int]] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        if role not in template.turns:
            raise TaskError(f"this model does not take messages of the role {role!r}", param="messages")
        before, after = template.turns[role]
        turns.append(marks(before) + encode(message.content) + marks(after))
    begin, answer = marks(template.begin), marks(template.answer)
    if template.max_prompt_tokens:
        room = template.max_prompt_tokens - len(begin) - len(answer)
        while len(turns) > 1 and sum(map(len, turns)) > room:
            turns.pop(0)
    return begin + [token for turn in turns for token in turn] + answer
