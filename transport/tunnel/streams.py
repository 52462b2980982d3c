"""One stream's state in the mux core: what is queued, what has arrived, and the credit of both directions.

Receiving obeys one invariant: what the peer may still send (``outstanding``) plus what we hold for the reader
(``held``) never exceeds the stream's window plus what its waiting reader lends (memory of its own for a message of
known length). Sending obeys the mirror: ``credit`` never goes below zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from transport.tunnel.limits import INITIAL_WINDOW

Body = bytes | bytearray | memoryview


def flat(part: Body) -> memoryview:
    """``part`` as a one-dimensional view of bytes. Raises ``TypeError``/``ValueError`` when it is not contiguous."""
    view = memoryview(part)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


class Outgoing:
    """A message too long for one MESSAGE frame, cut into fragments from where it lies."""

    __slots__ = ("begun", "done", "parts", "remaining", "total")

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self.parts = deque(part for part in parts if len(part))
        self.total = self.remaining = sum(len(part) for part in parts)
        self.begun = False
        self.done = False

    def take(self, size: int) -> list[memoryview]:
        """The next ``size`` bytes, as views into the caller's memory."""
        assert 0 < size <= self.remaining
        self.remaining -= size
        taken = []
        while size:
            part = self.parts[0]
            if len(part) <= size:
                taken.append(self.parts.popleft())
                size -= len(part)
            else:
                taken.append(part[:size])
                self.parts[0] = part[size:]
                size = 0
        return taken


class StreamCore:
    """The state of one stream. Only the mux changes it; ``user`` is the shell's own."""

    __slots__ = (
        "accepted",
        "announced",
        "assembly",
        "charged",
        "credit",
        "end_queued",
        "end_sent",
        "expected",
        "got",
        "in_bulk",
        "inbox",
        "inbox_cost",
        "lending",
        "limit",
        "message_cost",
        "outstanding",
        "peer_ended",
        "queue",
        "queued",
        "released",
        "reset",
        "sink",
        "sink_done",
        "stream_id",
        "too_large",
        "user",
        "waiting",
        "window",
    )

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        # Sending: small bodies and Outgoing messages in order; None marks the end of our side.
        self.credit = INITIAL_WINDOW
        self.queue: deque[bytes | Outgoing | None] = deque()
        self.queued = 0
        self.in_bulk = False
        self.end_queued = False
        self.end_sent = False
        # Receiving whole messages.
        self.window = INITIAL_WINDOW
        self.outstanding = INITIAL_WINDOW
        self.inbox: deque[bytes] = deque()
        self.inbox_cost = 0
        self.peer_ended = False
        # Receiving a fragmented message: its length (-1: none), what its frames announced and what has come of it.
        self.expected = -1
        self.announced = 0
        self.got = 0
        self.charged = 0
        self.message_cost = 0  # credit that the last such message takes in one frame; 0 if it does not fit into one
        self.assembly = bytearray()
        self.sink: memoryview | None = None
        self.sink_done = -1
        self.lending = False
        # The reader: whether it waits, and how long a message it takes (-1: no reader).
        self.waiting = False
        self.limit = -1
        self.too_large = -1
        # Both.
        self.reset: tuple[int, str] | None = None
        self.accepted = False
        self.released = False
        self.user: Any = None

    @property
    def held(self) -> int:
        """Credit's worth of what we hold for the reader."""
        return self.inbox_cost + self.charged

    def allowance(self, most_lent: int) -> int:
        """The window plus what the reader lends, at most ``most_lent``."""
        if not self.lending:
            return self.window
        return self.window + min(self.expected - self.announced, most_lent)

    @property
    def closed(self) -> bool:
        """Both sides have ended, or one has reset."""
        return self.reset is not None or (self.end_sent and self.peer_ended)

    def take_inbox(self) -> list[bytes]:
        """All whole messages that have arrived, in order; the mux must be told by ``renew``."""
        messages = list(self.inbox)
        self.inbox.clear()
        self.inbox_cost = 0
        return messages
