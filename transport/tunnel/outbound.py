"""The sending half of the mux core: what leaves next.

Three lanes, in this order: control frames; small messages, corked first come first served; bulk messages, one fragment
a stream in turn. So a token frame passes a tensor, and never waits for more than the batch that is being sent. Within
one stream order is kept: a small message behind a bulk one of its own stream waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from transport.tunnel.errors import ProtocolViolation
from transport.tunnel.frames import (
    BEGIN,
    CREDIT,
    END,
    HEADER,
    HEADER_BYTES,
    MESSAGE,
    OPEN,
    PART,
    RESET,
    frame,
    reason_payload,
)
from transport.tunnel.limits import (
    BATCH_PLAIN,
    FRAME_COST,
    MAX_CONTROL,
    MAX_FRAME,
    MAX_SMALL,
    MIN_FRAGMENT,
    SEND_QUEUE_STREAM,
    SEND_QUEUE_TUNNEL,
)
from transport.tunnel.streams import Outgoing, StreamCore

Piece = bytes | memoryview
_TOTAL_BYTES = 8
_KIND_AT = 4  # offset of the kind in a frame header


class Outbound:
    """Queues of one tunnel. ``writable`` collects streams whose senders may go on; the shell empties it."""

    def __init__(self, grant: Callable[[StreamCore], int], ended: Callable[[StreamCore], None]) -> None:
        self.writable: list[StreamCore] = []
        self.quantum = BATCH_PLAIN
        """Bytes of bulk in one batch; the shell lowers it on slow links, so that small messages wait less."""
        self.small_bytes = 0
        self._grant = grant
        self._ended = ended
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._small: deque[bytes] = deque()
        self._bulk: deque[StreamCore] = deque()
        self._closing = False
        self.credit_due: dict[StreamCore, None] = {}

    @property
    def pending(self) -> bool:
        """Whether :meth:`take` would return anything."""
        return bool(self._small or self._control or self._bulk or self.credit_due)

    def may_queue(self, stream: StreamCore) -> bool:
        """Whether a sender may queue another message now, or has to wait until ``writable`` names its stream."""
        return stream.queued < SEND_QUEUE_STREAM and self.small_bytes < SEND_QUEUE_TUNNEL

    def may_queue_stream(self, stream: StreamCore) -> bool:
        """The part of :meth:`may_queue` that is the stream's own."""
        return stream.queued < SEND_QUEUE_STREAM

    def control(self, data: bytes) -> None:
        """Queue a control frame ahead of everything. Raises :class:`ProtocolViolation` when there are too many."""
        self._control_bytes += len(data)
        if self._control_bytes > MAX_CONTROL:
            raise ProtocolViolation("the peer provokes answers but does not read them")
        self._control.append(data)

    def in_order(self, data: bytes) -> None:
        """Queue a stream's OPEN, END or RESET behind the small messages already queued."""
        self._small.append(data)
        self.small_bytes += len(data)

    def open(self, stream: StreamCore) -> None:
        """Announce a stream of ours."""
        self.in_order(frame(stream.stream_id, OPEN))

    def reset(self, stream: StreamCore, code: int, reason: str) -> None:
        """Announce that a stream is abandoned; nothing more of it leaves."""
        self.forget(stream)
        self.in_order(frame(stream.stream_id, RESET, reason_payload(code, reason)))

    def forget(self, stream: StreamCore) -> None:
        """Drop what a stream still has queued."""
        stream.queue.clear()
        stream.queued = 0
        self.credit_due.pop(stream, None)

    def message(self, stream: StreamCore, body: bytes) -> bool:
        """Queue one small message if it can leave at once: what is frequent, made short. False: not queued."""
        cost = len(body) + FRAME_COST
        if stream.queue or stream.credit < cost or stream.end_queued or self.small_bytes >= SEND_QUEUE_TUNNEL:
            return False
        stream.credit -= cost
        self._small.append(HEADER.pack(stream.stream_id, MESSAGE << 24 | len(body)))
        self._small.append(body)
        self.small_bytes += len(body) + HEADER_BYTES
        return True

    @staticmethod
    def single(stream: StreamCore, body: bytes) -> bytes | None:
        """The frame of one small message that leaves right now, ahead of no other; None: it may not."""
        cost = len(body) + FRAME_COST
        if stream.queue or stream.credit < cost or stream.end_queued:
            return None
        stream.credit -= cost
        return HEADER.pack(stream.stream_id, MESSAGE << 24 | len(body)) + body

    def messages(self, stream: StreamCore, bodies: Sequence[bytes]) -> None:
        """Queue small messages, each of at most ``MAX_SMALL`` bytes, in order."""
        index = 0
        if not stream.queue:
            pack, append = HEADER.pack, self._small.append
            stream_id, credit, size = stream.stream_id, stream.credit, 0
            for body in bodies:
                length = len(body)
                assert length <= MAX_SMALL
                if credit < length + FRAME_COST:
                    break
                credit -= length + FRAME_COST
                append(pack(stream_id, MESSAGE << 24 | length))
                append(body)
                size += length + HEADER_BYTES
                index += 1
            stream.credit = credit
            self.small_bytes += size
        if index < len(bodies):
            rest = bodies[index:]
            stream.queue.extend(rest)
            stream.queued += sum(len(body) + FRAME_COST for body in rest)

    def bulk(self, stream: StreamCore, message: Outgoing) -> None:
        """Queue a long message; ``message.done`` is set when its last byte has been taken."""
        stream.queue.append(message)
        if len(stream.queue) == 1:
            self.advance(stream)

    def end(self, stream: StreamCore) -> None:
        """Queue the end of our side behind everything of the stream."""
        stream.end_queued = True
        stream.queue.append(None)
        if len(stream.queue) == 1:
            self.advance(stream)

    def drop_bulk(self) -> None:
        """The tunnel is closing: long messages go no further."""
        self._bulk.clear()
        self._closing = True

    def withdraw(self, stream: StreamCore, message: Outgoing) -> bool:
        """Take back a message whose sender was cancelled. False: part of it has left, the stream must be reset."""
        if message.begun:
            return message.done
        if message in stream.queue:
            stream.queue.remove(message)
            self.advance(stream)
        return True

    def advance(self, stream: StreamCore) -> None:
        """Move a stream's queue into the lanes as far as its credit goes."""
        queue = stream.queue
        while queue:
            head = queue[0]
            if head is None:
                queue.popleft()
                self.in_order(frame(stream.stream_id, END))
                stream.end_sent = True
                self._ended(stream)
            elif isinstance(head, Outgoing):
                if not (stream.in_bulk or self._closing) and self._fragment(stream, head, BATCH_PLAIN):
                    stream.in_bulk = True
                    self._bulk.append(stream)
                break
            else:
                cost = len(head) + FRAME_COST
                if stream.credit < cost:
                    break
                queue.popleft()
                stream.queued -= cost
                stream.credit -= cost
                self.in_order(HEADER.pack(stream.stream_id, MESSAGE << 24 | len(head)))
                self.in_order(head)
        if stream.queued < SEND_QUEUE_STREAM:
            self.writable.append(stream)

    @staticmethod
    def _fragment(stream: StreamCore, message: Outgoing, room: int) -> int:
        """How many bytes of ``message`` may leave now: 0 when credit is short."""
        overhead = FRAME_COST if message.begun else FRAME_COST + _TOTAL_BYTES
        size = min(message.remaining, stream.credit - overhead, room, MAX_FRAME - _TOTAL_BYTES)
        return size if size >= min(message.remaining, MIN_FRAGMENT) else 0

    def take(self) -> list[Piece]:
        """The next batch of plaintext, at most ``BATCH_PLAIN`` bytes in whole frames; empty when there is nothing.

        Views among the pieces point into senders' memory: they must be sealed before other code runs.
        """
        pieces: list[Piece] = []
        if self._control or self.credit_due:
            self._take_control(pieces)
        elif not self._bulk and self.small_bytes <= BATCH_PLAIN:  # a token: what is frequent, made short
            pieces.extend(self._small)
            self._small.clear()
            self.small_bytes = 0
            return pieces
        room = BATCH_PLAIN - sum(map(len, pieces))
        bulk_room = self.quantum
        while True:
            # A fragment that ends its message may set small ones free, which must leave before the stream's next.
            room = self._take_small(pieces, room)
            if self._small:
                return pieces
            used = self._take_fragment(pieces, min(room, bulk_room))
            if not used:
                return pieces
            room -= used
            bulk_room -= used

    def _take_control(self, pieces: list[Piece]) -> None:
        pieces.extend(self._control)
        self._control.clear()
        self._control_bytes = 0
        for stream in self.credit_due:
            amount = self._grant(stream)
            if amount > 0:
                pieces.append(frame(stream.stream_id, CREDIT, amount.to_bytes(4, "big")))
        self.credit_due.clear()

    def _take_small(self, pieces: list[Piece], room: int) -> int:
        """Take small messages first come first served; returns the room that is left."""
        small = self._small
        if self.small_bytes <= room:
            pieces.extend(small)
            small.clear()
            room -= self.small_bytes
            self.small_bytes = 0
            return room
        while small and room >= HEADER_BYTES + MAX_SMALL:
            piece = small.popleft()
            pieces.append(piece)
            size = len(piece)
            if piece[_KIND_AT] == MESSAGE:  # its body is a piece of its own, and nothing may come between
                body = small.popleft()
                pieces.append(body)
                size += len(body)
            room -= size
            self.small_bytes -= size
        return room

    def _take_fragment(self, pieces: list[Piece], room: int) -> int:
        """Take one fragment of the stream whose turn it is; returns its bytes, 0 when there is none or no room."""
        if room < HEADER_BYTES + _TOTAL_BYTES + MIN_FRAGMENT:
            return 0
        while self._bulk:
            stream = self._bulk.popleft()
            stream.in_bulk = False
            head = stream.queue[0] if stream.queue else None
            if not isinstance(head, Outgoing):
                continue  # reset meanwhile
            size = self._fragment(stream, head, room - HEADER_BYTES - _TOTAL_BYTES)
            if not size:
                continue  # `advance` puts it back when credit comes
            if head.begun:
                pieces.append(HEADER.pack(stream.stream_id, PART << 24 | size))
                stream.credit -= size + FRAME_COST
            else:
                head.begun = True
                total = head.total.to_bytes(_TOTAL_BYTES, "big")
                pieces.append(HEADER.pack(stream.stream_id, BEGIN << 24 | size + _TOTAL_BYTES) + total)
                stream.credit -= size + _TOTAL_BYTES + FRAME_COST
            pieces.extend(head.take(size))
            if not head.remaining:
                head.done = True
                stream.queue.popleft()
                self.writable.append(stream)
            self.advance(stream)
            return size + HEADER_BYTES + _TOTAL_BYTES
        return 0
