"""The multiplexer as a pure state machine: plaintext in, streams and messages out; messages in, plaintext out.

It does no I/O and knows no clock. The shell feeds it opened records (:meth:`Mux.feed`, :meth:`Mux.direct`), asks for
batches to seal (``mux.out.take``), and looks after each at the lists of streams whose readers or senders may go on.
Whatever the peer does, the memory held is bounded by the windows in :mod:`transport.tunnel.limits`; everything that the
protocol forbids raises :class:`ProtocolViolation`, after which the tunnel must be closed.
"""

from __future__ import annotations

from collections import deque

from transport.tunnel.errors import ProtocolViolation
from transport.tunnel.frames import (
    BEGIN,
    CLOSE,
    CREDIT,
    END,
    FIXED_LENGTH,
    GOAWAY,
    HEADER,
    HEADER_BYTES,
    LENGTH_MASK,
    MESSAGE,
    NAMES,
    OPEN,
    PAD,
    PART,
    PING,
    PONG,
    RESET,
    ResetCode,
    frame,
    parse_reason,
    reason_payload,
)
from transport.tunnel.limits import (
    FRAME_COST,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_LENT,
    MAX_MESSAGE,
    MAX_OPEN,
    MAX_REASON,
    MAX_SMALL,
    MAX_STREAMS,
    MAX_WINDOW,
    MIN_LENT,
    WINDOW_POOL,
)
from transport.tunnel.outbound import Outbound
from transport.tunnel.streams import StreamCore

_TOTAL_BYTES = 8
_MAX_CREDIT = 1 << 31
_SINGLE_COST = FRAME_COST - HEADER_BYTES
_MAX_STREAM_ID = (1 << 32) - 1


class Mux:
    """All streams of one tunnel. The initiator opens odd ids, the responder even ones, each in rising order."""

    def __init__(self, *, initiator: bool) -> None:
        self.streams: dict[int, StreamCore] = {}
        self.out = Outbound(self._take_grant, self._retire)
        # For the shell, which empties them.
        self.readable: list[StreamCore] = []
        self.opened: deque[StreamCore] = deque()
        self.pongs: list[int] = []
        self.peer_closed: tuple[int, str] | None = None
        self.peer_goaway: tuple[int, str] | None = None
        self.going_away = False
        self._next_id = 1 if initiator else 2
        self._peer_parity = 0 if initiator else 1
        self._peer_highest = 0
        self._ours: set[StreamCore] = set()
        self._theirs: set[StreamCore] = set()
        self._pool = WINDOW_POOL
        self._most_lent = MAX_LENT
        # Parsing: bytes of a frame that is not whole yet, or the payload of a BEGIN/PART/PAD that is passing through.
        self._partial = b""
        self._body: StreamCore | None = None
        self.body_left = 0
        self.rekey = False
        self._pause = False

    # --- our side ------------------------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now: a slot is free and the peer is not going away."""
        return len(self._ours) < MAX_OPEN and self.peer_goaway is None and self._next_id <= _MAX_STREAM_ID

    def open(self) -> StreamCore:
        """Open a stream; the caller checked :attr:`can_open`."""
        assert self.can_open
        stream = StreamCore(self._next_id)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        self._ours.add(stream)
        self.out.open(stream)
        return stream

    def reset(self, stream: StreamCore, code: int, reason: str = "") -> None:
        """Abandon a stream in both directions; nothing happens when it is over already."""
        if not stream.closed:
            self.out.reset(stream, code, reason)
            stream.reset = (code, reason)
            stream.inbox.clear()
            stream.inbox_cost = 0
            self._over(stream)

    def end(self, stream: StreamCore) -> None:
        """Finish our side behind all that is queued; idempotent."""
        if stream.reset is None and not stream.end_queued:
            self.out.end(stream)

    def release(self, stream: StreamCore) -> None:
        """The user is done with the stream: unless the peer has ended it is reset; idempotent."""
        if stream.peer_ended:
            self.end(stream)
        else:
            self.reset(stream, ResetCode.CLOSED)
        stream.inbox.clear()
        stream.released = True
        if stream.closed:
            self._theirs.discard(stream)

    def want(self, stream: StreamCore, limit: int, sink: memoryview | None = None) -> bool:
        """A reader waits for a message of at most ``limit`` bytes, in ``sink`` if given. The inbox is empty.

        False: it need not wait, since ``stream.too_large`` tells that the message in passing is longer.
        """
        assert not stream.inbox
        if stream.expected > limit:
            stream.too_large = stream.expected
            return False
        stream.waiting, stream.limit, stream.sink = True, limit, sink
        if stream.expected >= 0:
            if sink is not None:
                sink[: stream.got] = stream.assembly
                stream.assembly = bytearray()
            stream.lending = True
            stream.charged = 0
            self.renew(stream)
        return True

    def unwant(self, stream: StreamCore) -> None:
        """The waiting reader was cancelled. What has gone into its own memory is lost, so its stream is then reset."""
        lost = stream.lending
        stream.waiting, stream.limit, stream.sink = False, -1, None
        if lost:
            self.reset(stream, ResetCode.CANCELLED, "the reader gave up in the middle of a message")

    def take_inbox(self, stream: StreamCore) -> list[bytes]:
        """Hand all whole messages to the reader and return their credit."""
        messages = stream.take_inbox()
        self.renew(stream)
        return messages

    def take_message(self, stream: StreamCore) -> bytes:
        """Hand the first whole message to the reader and return its credit."""
        message = stream.inbox.popleft()
        stream.inbox_cost -= len(message) + FRAME_COST
        self.renew(stream)
        return message

    def renew(self, stream: StreamCore) -> None:
        """Owe the peer credit when a quarter of what it may have is free again."""
        if stream.peer_ended or stream.reset is not None:
            return
        allowance = stream.allowance(self._most_lent)
        if (allowance - stream.outstanding - stream.held) * 4 >= allowance:
            self.out.credit_due[stream] = None

    def keeps_up(self, *, reader_waits: bool) -> None:
        """The reader has run out of data, or has had more than it could take for a while.

        What is on the way then only queues up before us, and every small message behind it: so less is lent.
        """
        if reader_waits:
            self._most_lent = min(self._most_lent * 2, MAX_LENT)
        else:
            self._most_lent = max(self._most_lent // 2, MIN_LENT)

    def _take_grant(self, stream: StreamCore) -> int:
        """Credit to announce now. A stream whose reader keeps up gets a larger window, while the pool lasts."""
        if stream.peer_ended or stream.reset is not None:
            return 0
        if stream.window < MAX_WINDOW:
            more = min(stream.window, MAX_WINDOW - stream.window, self._pool // 2)
            stream.window += more
            self._pool -= more
        room = stream.allowance(self._most_lent) - stream.held
        cost = stream.message_cost
        if 0 < 2 * cost <= stream.window:
            # Credit for what is to come of this message and for whole ones like it: with a rest of some more, each next
            # one would come in two parts.
            rest = stream.expected - stream.announced + FRAME_COST if stream.announced < stream.expected else 0
            if room >= rest + cost:
                room -= (room - rest) % cost
        amount = room - stream.outstanding
        if amount <= 0:
            return 0
        stream.outstanding += amount
        return amount

    def ping(self, token: int) -> None:
        """Queue a ping; its token comes back in :attr:`pongs`."""
        self.out.control(frame(0, PING, token.to_bytes(8, "big")))

    def go_away(self, code: int, reason: str) -> None:
        """Take no more streams; those open go on."""
        if not self.going_away:
            self.going_away = True
            self.out.control(frame(0, GOAWAY, reason_payload(code, reason)))

    # --- the peer's side -----------------------------------------------------------------------------------------

    def feed_single(self, stream: StreamCore, data: bytes) -> bool:
        """:meth:`feed` where ``data`` is one small message of a stream whose reader waits; False: it is not, and
        nothing has been done."""
        stream_id, word = HEADER.unpack_from(data) if len(data) >= HEADER_BYTES else (0, 0)
        left = stream.outstanding - len(data) - _SINGLE_COST
        if (
            stream_id != stream.stream_id
            or word != MESSAGE << 24 | len(data) - HEADER_BYTES
            or self._partial
            or self.body_left
            or not stream.waiting
            or stream.expected >= 0
            or stream.peer_ended
            or stream.reset is not None
            or left < 0
        ):
            return False
        stream.outstanding = left
        stream.inbox_cost += len(data) + _SINGLE_COST
        stream.inbox.append(data[HEADER_BYTES:])
        stream.waiting, stream.limit, stream.sink = False, -1, None
        return True

    def feed(self, data: bytes) -> bool:
        """Take the next plaintext bytes. Raises :class:`ProtocolViolation`.

        True when they completed a message in its reader's own memory, so that it should run and ask for the next.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, end = 0, len(data)
        unpack, streams = HEADER.unpack_from, self.streams
        while position < end:
            if self.body_left:
                stop = min(position + self.body_left, end)
                self._take_body(data, position, stop)
                position = stop
                continue
            if end - position < HEADER_BYTES:
                break
            stream_id, word = unpack(data, position)
            length = word & LENGTH_MASK
            start = position + HEADER_BYTES
            if word >> 24 != MESSAGE:
                used = self._other(data, stream_id, word >> 24, length, start)
                if used < 0:
                    break
                position = used
                continue
            # The hot path: one whole small message.
            if length > MAX_SMALL:
                raise ProtocolViolation(f"a MESSAGE of {length} bytes")
            stop = start + length
            if stop > end:
                break
            stream = streams.get(stream_id)
            if stream is None or stream.reset is not None:
                self._check_known(stream_id)
            else:
                left = stream.outstanding - length - FRAME_COST
                if left < 0 or stream.expected >= 0 or stream.peer_ended:
                    self._refuse_data(stream, length)
                stream.outstanding = left
                stream.inbox_cost += length + FRAME_COST
                stream.inbox.append(data[start:stop])
                if stream.waiting:
                    self._wake(stream)
            position = stop
        if position < end:
            self._partial = data[position:]
        pause, self._pause = self._pause, False
        return pause

    def direct(self) -> memoryview | None:
        """Where the next bytes may be written directly: the part of a waiting reader's memory that they belong to."""
        stream = self._body
        if stream is None or stream.sink is None:
            return None
        return stream.sink[stream.got : stream.got + self.body_left]

    def direct_done(self, size: int) -> bool:
        """``size`` bytes of :meth:`direct` are there. True when they completed a message: its reader should run."""
        stream = self._body
        assert stream is not None
        self.body_left -= size
        self._body_came(stream, size)
        pause, self._pause = self._pause, False
        return pause

    def _other(self, data: bytes, stream_id: int, kind: int, length: int, start: int) -> int:
        """Handle a frame that is not MESSAGE; return where the next begins, or -1 while it is not whole."""
        if self.peer_closed is not None:
            raise ProtocolViolation("frames after CLOSE")
        if kind in (BEGIN, PART):
            if length > MAX_FRAME:
                raise ProtocolViolation(f"a fragment of {length} bytes")
            prefix = _TOTAL_BYTES if kind == BEGIN else 0
            if length <= prefix:
                raise ProtocolViolation("an empty fragment")
            if len(data) - start < prefix:
                return -1
            total = int.from_bytes(data[start : start + prefix], "big")
            self._fragment(stream_id, length, prefix, total)
            return start + prefix
        if kind == PAD:
            self._body, self.body_left = None, length
            return start
        if kind >= len(NAMES):
            raise ProtocolViolation(f"a frame of unknown kind {kind}")
        fixed = FIXED_LENGTH.get(kind)
        if (length != fixed) if fixed is not None else (length > 4 + MAX_REASON):
            raise ProtocolViolation(f"a {NAMES[kind]} frame of {length} bytes")
        stop = start + length
        if stop > len(data):
            return -1
        payload = data[start:stop]
        if kind in (OPEN, END, RESET, CREDIT):
            self._on_stream_frame(stream_id, kind, payload)
        elif stream_id:
            raise ProtocolViolation(f"{NAMES[kind]} on a stream")
        else:
            self._on_tunnel_frame(kind, payload, last=stop == len(data))
        return stop

    def _on_stream_frame(self, stream_id: int, kind: int, payload: bytes) -> None:
        if kind == OPEN:
            self._on_open(stream_id)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id)
        elif kind == CREDIT:
            stream.credit += int.from_bytes(payload, "big")
            if stream.credit > _MAX_CREDIT:
                raise ProtocolViolation("more credit than a stream can have")
            if stream.queue:
                self.out.advance(stream)
        elif kind == END:
            if stream.peer_ended or stream.expected >= 0:
                raise ProtocolViolation("END twice, or inside a message")
            stream.peer_ended = True
            self._wake(stream)
            self._retire(stream)
        else:
            stream.reset = parse_reason(payload)
            self.out.forget(stream)
            self._over(stream)

    def _on_open(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id % 2 != self._peer_parity or stream_id <= self._peer_highest:
            raise ProtocolViolation(f"OPEN of stream {stream_id}")
        self._peer_highest = stream_id
        if self.going_away or len(self._theirs) >= MAX_STREAMS:
            reason = "going away" if self.going_away else "too many streams"
            self.out.control(frame(stream_id, RESET, reason_payload(ResetCode.REFUSED, reason)))
            return
        stream = self.streams[stream_id] = StreamCore(stream_id)
        self._theirs.add(stream)
        self.opened.append(stream)

    def _on_tunnel_frame(self, kind: int, payload: bytes, *, last: bool) -> None:
        if kind == PING:
            self.out.control(frame(0, PONG, payload))
        elif kind == PONG:
            self.pongs.append(int.from_bytes(payload, "big"))
        elif kind == GOAWAY:
            self.peer_goaway = parse_reason(payload)
        elif kind == CLOSE:
            self.peer_closed = parse_reason(payload)
        elif not last:
            raise ProtocolViolation("REKEY inside a record")
        else:
            self.rekey = True

    def _fragment(self, stream_id: int, length: int, prefix: int, total: int) -> None:
        """Account for the header of a BEGIN (``prefix`` 8) or PART (0) and expect its payload."""
        stream = self.streams.get(stream_id)
        size = length - prefix
        self._body, self.body_left = stream, size
        if stream is None:
            self._check_known(stream_id)
            return
        cost = length + FRAME_COST
        if cost > stream.outstanding or stream.peer_ended or (stream.expected >= 0) == bool(prefix):
            self._refuse_data(stream, length)
        stream.outstanding -= cost
        if prefix:
            if total > MAX_MESSAGE:
                raise ProtocolViolation(f"a message of {total} bytes")
            stream.expected, stream.announced, stream.got, stream.charged = total, 0, 0, 0
            whole = total + _TOTAL_BYTES
            stream.message_cost = whole + FRAME_COST if whole <= MAX_FRAME else 0
            if stream.waiting and total > stream.limit:
                stream.too_large = total
                self._wake(stream)
            elif stream.waiting:
                stream.lending = True
        stream.announced += size
        if stream.announced > stream.expected:
            raise ProtocolViolation("fragments exceed the length of their message")
        if stream.lending:
            self.renew(stream)
        else:
            stream.charged += cost

    def _take_body(self, data: bytes, start: int, stop: int) -> None:
        self.body_left -= stop - start
        stream = self._body
        if stream is None or stream.reset is not None:
            return
        if stream.sink is not None:
            stream.sink[stream.got : stream.got + stop - start] = memoryview(data)[start:stop]
        else:
            stream.assembly += memoryview(data)[start:stop]
        self._body_came(stream, stop - start)

    def _body_came(self, stream: StreamCore, size: int) -> None:
        stream.got += size
        if stream.got < stream.expected:
            return
        if stream.sink is not None:
            stream.sink_done = stream.got
            self._pause = True
        else:
            stream.inbox.append(bytes(stream.assembly))
            stream.inbox_cost += stream.got + FRAME_COST
            stream.assembly = bytearray()
        stream.expected = -1
        stream.charged = 0
        stream.lending = False
        self._wake(stream)

    # --- both ----------------------------------------------------------------------------------------------------

    def _wake(self, stream: StreamCore) -> None:
        if stream.waiting:
            stream.waiting, stream.limit, stream.sink = False, -1, None
            self.readable.append(stream)

    def _retire(self, stream: StreamCore) -> None:
        if stream.end_sent and stream.peer_ended:
            self._over(stream)

    def _over(self, stream: StreamCore) -> None:
        """The stream is closed on the wire: forget its id and wake whoever waits on it."""
        if self.streams.pop(stream.stream_id, None) is None:
            return
        self._pool += stream.window - INITIAL_WINDOW
        stream.assembly = bytearray()
        stream.lending = False
        if self._body is stream:
            self._body = None
        self._ours.discard(stream)
        if stream in self._theirs:
            if not stream.accepted and not stream.inbox:
                # Nobody has seen it, nobody need: so nobody will release it.
                self.opened.remove(stream)
                stream.released = True
            if stream.released:
                self._theirs.discard(stream)
        self._wake(stream)
        self.out.writable.append(stream)

    def _check_known(self, stream_id: int) -> None:
        """Frames of streams that are over are ignored, since they cross our reset; of streams never opened, not."""
        if stream_id % 2 == self._peer_parity:
            known = 0 < stream_id <= self._peer_highest
        else:
            known = 0 < stream_id < self._next_id
        if not known:
            raise ProtocolViolation(f"a frame of stream {stream_id}, which was never opened")

    def _refuse_data(self, stream: StreamCore, length: int) -> None:
        if stream.peer_ended:
            raise ProtocolViolation("data after END")
        if length + FRAME_COST > stream.outstanding:
            raise ProtocolViolation("data beyond the credit")
        raise ProtocolViolation("a message inside a message, or a fragment outside of one")
