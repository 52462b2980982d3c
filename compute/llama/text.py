"""From token ids to a stream of text: never half a character, never past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 8
"""A UTF-8 character has at most four bytes, hence at most four byte tokens; beyond this the bytes are no character."""


class StreamDecoder:
    """Turns ids into text as they come.

    ``decode`` is the tokeniser's. It is called with a few ids only: those of the unfinished text and, in front of them,
    the last finished stretch, because some tokenisers write a token differently at the start of a text. ``stops`` end
    the text; a tail that may become one is held back. The text that a stop string cuts off is never shown.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._finished = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now, maybe none. Sets :attr:`stopped` at a stop string."""
        self._ids.append(token)
        text = self._new_text(final=False)
        return self._release(text, final=False) if text else ""

    def finish(self) -> str:
        """The rest, once no token follows; bytes that never became a character are shown as U+FFFD."""
        return "" if self.stopped else self._release(self._new_text(final=True), final=True)

    def _new_text(self, *, final: bool) -> str:
        before = self._decode(self._ids[: self._finished]) if self._finished else ""
        after = self._decode(self._ids)
        pending = len(self._ids) - self._finished
        if after.endswith(_REPLACEMENT) and not final and pending < _MAX_PENDING:
            return ""
        self._ids = self._ids[self._finished :]
        self._finished = len(self._ids)
        return after[len(before) :]

    def _release(self, text: str, *, final: bool) -> str:
        text, self._held = self._held + text, ""
        if not self._stops:
            return text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if not final and (held := max(_overlap(text, stop) for stop in self._stops)):
            text, self._held = text[:-held], text[-held:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` may be the beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
