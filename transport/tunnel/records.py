"""Records: the encrypted form of a tunnel's byte stream. ``length (u16) | AES-256-GCM ciphertext with tag``.

This is Noise transport encryption (§5.1, §12.4) with the AEAD driven directly: many records are sealed into one
preallocated buffer and leave in one send; arriving bytes land in one ring and are opened from there, small records to
``bytes``, the payload of bulk messages straight into the reader's memory. Nothing here waits or knows a socket.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.tunnel.errors import ProtocolViolation
from transport.tunnel.limits import (
    BATCH_PLAIN,
    BATCH_RECORDS,
    DIRECT_BYTES,
    EARLY_RECORDS,
    MAX_RECORD_PLAIN,
    MAX_SMALL,
    REKEY_BYTES,
    REKEY_RECORDS,
    REKEY_SLACK,
    RING_BYTES,
    TAG_BYTES,
)

LENGTH_BYTES = 2
OVERHEAD = LENGTH_BYTES + TAG_BYTES
MAX_RECORD = MAX_RECORD_PLAIN + OVERHEAD

_FULL_LENGTH = (MAX_RECORD_PLAIN + TAG_BYTES).to_bytes(LENGTH_BYTES, "big")
_LEAD_BYTES = DIRECT_BYTES
"""Room before the slots of a batch for the record with the frame headers."""

# One partial record for each direct piece and each run of small ones between them, and one to round up.
_MOST_RECORDS = BATCH_PLAIN // MAX_RECORD_PLAIN + 2 * (BATCH_PLAIN // DIRECT_BYTES) + 2
_BUFFER_BYTES = _LEAD_BYTES + BATCH_PLAIN + _MOST_RECORDS * OVERHEAD

_LENGTH = Struct(">H")
_NONCE_COUNTER = Struct(">Q")
_MAX_NONCE = (1 << 64) - 1

Piece = bytes | memoryview

_FEW = 4
"""Pieces of a batch that may be one small message: its frame's header and body, and padding."""


def rekey(key: bytes) -> bytes:
    """Noise §4.2 REKEY: the first 32 bytes of encrypting 32 zeros with the highest nonce."""
    return AESGCM(key).encrypt(bytes(4) + b"\xff" * 8, bytes(32), b"")[:32]


class _Key:
    """One direction's key, its nonce counter and what it has carried since the last rekey."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.aead = AESGCM(key)
        self.nonce = bytearray(12)
        self.counter = 0
        self.records = 0
        self.bytes = 0

    def next_nonce(self) -> bytearray:
        """Set the nonce for the next record; the same bytearray is reused for all."""
        assert self.counter < _MAX_NONCE
        _NONCE_COUNTER.pack_into(self.nonce, 4, self.counter)
        self.counter += 1
        self.records += 1
        return self.nonce

    def used(self, records: int, size: int) -> None:
        """Account for ``records`` of ``size`` bytes in all, whose nonces the caller counted on from ``counter``."""
        self.counter += records
        self.records += records
        self.bytes += size
        assert self.counter < _MAX_NONCE

    def rekey(self) -> None:
        """Replace the key; the nonce counter goes on (Noise §11.3)."""
        self._key = rekey(self._key)
        self.aead = AESGCM(self._key)
        self.records = self.bytes = 0


class RecordSealer:
    """Seals batches of plaintext pieces into records in one reused buffer."""

    def __init__(self, key: bytes) -> None:
        self._key = _Key(key)
        # Anonymous memory costs nothing until it is touched: a tunnel of small messages uses a few pages of it.
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        # Where the full records of a large piece go when it comes first, or behind one run of small pieces that fits in
        # the lead: nearly always. Cut once, at the first, for cutting them costs a tenth of the encryption.
        self._slots: list[memoryview] = []
        self._marked = 0  # how many of them, from the first on, have their length before them

    @property
    def wants_rekey(self) -> bool:
        """Whether the key has carried what one key should (limits.REKEY_*)."""
        return self._key.bytes >= REKEY_BYTES or self._key.records >= REKEY_RECORDS

    def rekey(self) -> None:
        """Change the key; only between batches, after the record that told the peer so has been sealed."""
        self._key.rekey()

    def seal(self, pieces: Sequence[Piece], early: Callable[[memoryview], None] | None = None) -> Piece:
        """Seal at most ``BATCH_PLAIN`` bytes and return the wire bytes, valid until the next call.

        Runs of small pieces are joined into common records; large pieces are read from where they lie. ``early`` is
        called with the first part of a full batch as soon as that is sealed.
        """
        if len(pieces) <= _FEW and (size := sum(map(len, pieces))) <= MAX_SMALL:
            key = self._key
            key.bytes += size
            return _LENGTH.pack(size + TAG_BYTES) + key.aead.encrypt(key.next_nonce(), b"".join(pieces), None)
        first = offset = _LEAD_BYTES
        small: list[Piece] = []
        for piece in pieces:
            if len(piece) < DIRECT_BYTES:
                small.append(piece)
                continue
            if small:
                joined = b"".join(small)
                small = []
                if offset == _LEAD_BYTES == first and len(joined) + OVERHEAD <= _LEAD_BYTES:
                    first = _LEAD_BYTES - len(joined) - OVERHEAD
                    self._seal(joined, first)
                else:
                    offset = self._seal(joined, offset)
            offset = self._seal_slots(piece, first, early) if offset == _LEAD_BYTES else self._seal(piece, offset)
        if small:
            offset = self._seal(b"".join(small), offset)
        return self._buffer[first:offset]

    def _seal_slots(self, plain: Piece, first: int, early: Callable[[memoryview], None] | None) -> int:
        """:meth:`_seal` at the end of the lead."""
        key, view = self._key, memoryview(plain)
        encrypt_into, nonce, counter, pack = key.aead.encrypt_into, key.nonce, key.counter, _NONCE_COUNTER.pack_into
        full = len(view) // MAX_RECORD_PLAIN
        if not self._slots:
            starts = range(_LEAD_BYTES, _LEAD_BYTES + BATCH_RECORDS * MAX_RECORD, MAX_RECORD)
            self._slots = [self._buffer[at + LENGTH_BYTES : at + MAX_RECORD] for at in starts]
        for index in range(self._marked, full):
            mark = _LEAD_BYTES + index * MAX_RECORD
            self._buffer[mark : mark + LENGTH_BYTES] = _FULL_LENGTH
        self._marked = max(self._marked, full)
        head = EARLY_RECORDS if early is not None and full >= BATCH_RECORDS - 2 else 0
        start = 0
        for slots in (self._slots[:head], self._slots[head:full]):
            for slot in slots:
                pack(nonce, 4, counter)
                stop = start + MAX_RECORD_PLAIN
                encrypt_into(nonce, view[start:stop], None, slot)
                counter += 1
                start = stop
            if head and early is not None:
                early(self._buffer[first : _LEAD_BYTES + head * MAX_RECORD])
                head = 0
        key.used(full, start)
        offset = _LEAD_BYTES + full * MAX_RECORD
        return self._seal(view[start:], offset) if start < len(view) else offset

    def _seal(self, plain: Piece, offset: int) -> int:
        key, buffer = self._key, self._buffer
        encrypt_into = key.aead.encrypt_into
        if offset >= _LEAD_BYTES:
            self._marked = min(self._marked, (offset - _LEAD_BYTES) // MAX_RECORD)
        view = plain if len(plain) <= MAX_RECORD_PLAIN else memoryview(plain)
        for start in range(0, len(view), MAX_RECORD_PLAIN):
            part = view[start : start + MAX_RECORD_PLAIN]
            size = len(part)
            end = offset + size + OVERHEAD
            buffer[offset : offset + LENGTH_BYTES] = (size + TAG_BYTES).to_bytes(LENGTH_BYTES, "big")
            encrypt_into(key.next_nonce(), part, None, buffer[offset + LENGTH_BYTES : end])
            key.bytes += size
            offset = end
        return offset


class PlainSink(Protocol):
    """Who takes opened records: the mux."""

    body_left: int
    """Bytes still to come of the frame that is passing through; :meth:`direct` is worth asking only then."""

    rekey: bool
    """Set when the record just fed ended with REKEY: the next comes under the next key. The opener clears it."""

    def direct(self) -> memoryview | None:
        """Where the next plaintext bytes may be written: the part of one reader's memory that they belong to, if so."""

    def direct_done(self, size: int) -> bool:
        """The first ``size`` bytes of :meth:`direct` are there. True asks the caller to let readers run first."""

    def feed(self, data: bytes) -> bool:
        """Take the next plaintext bytes, whatever they are. True asks the caller to let readers run first."""


class RecordOpener:
    """A ring of received bytes and the key that opens the records in it."""

    def __init__(self, key: bytes) -> None:
        self._key = _Key(key)
        # One record beyond the ring, so that a record that begins inside it always fits without wrapping.
        self._buffer = mmap.mmap(-1, RING_BYTES + MAX_RECORD)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def space(self) -> memoryview:
        """Where to receive into; never empty."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._view
        if end >= RING_BYTES:  # an unfinished record remains: move it to the front
            rest = end - start
            self._view[:rest] = bytes(self._view[start:end])
            self._start, self._end = 0, rest
            end = rest
        return self._view[end:]

    def received(self, size: int) -> None:
        """``size`` bytes were written into :meth:`space`."""
        self._end += size

    @property
    def at_boundary(self) -> bool:
        """Whether no part of a record is waiting."""
        return self._start == self._end

    @property
    def opened(self) -> int:
        """How many records have been opened so far."""
        return self._key.counter

    def open_into(self, sink: PlainSink) -> bool:
        """Open every whole record and hand it to ``sink``. True: stopped early, call again after readers have run.

        Raises :class:`ProtocolViolation` for a record that does not authenticate; nothing of it was delivered, though
        the memory that :meth:`PlainSink.direct` offered may hold its garbage.
        """
        buffer, view, key = self._buffer, self._view, self._key
        end = self._end
        try:
            while end - (start := self._start) >= LENGTH_BYTES:
                if sink.body_left and (target := sink.direct()) is not None and (size := self._open_direct(target)):
                    if sink.direct_done(size):
                        return True
                    continue
                length = buffer[start] << 8 | buffer[start + 1]
                if not TAG_BYTES < length <= MAX_RECORD_PLAIN + TAG_BYTES:
                    raise ProtocolViolation(f"a record of {length} bytes")
                stop = start + LENGTH_BYTES + length
                if stop > end:
                    break
                body = slice(start + LENGTH_BYTES, stop)
                sealed = buffer[body] if length <= MAX_SMALL else view[body]
                plain = key.aead.decrypt(key.next_nonce(), sealed, None)
                key.bytes += length
                self._start = stop
                if self.feed(sink, plain):
                    return True
        except InvalidTag:
            raise ProtocolViolation("a record does not authenticate") from None
        if key.bytes > REKEY_SLACK * REKEY_BYTES or key.records > REKEY_SLACK * REKEY_RECORDS:
            raise ProtocolViolation("the peer does not rekey")
        return False

    def feed(self, sink: PlainSink, plain: bytes) -> bool:
        """Hand an opened record to ``sink``, change the key behind a REKEY; says what :meth:`PlainSink.feed` does."""
        pause = sink.feed(plain)
        if sink.rekey:
            sink.rekey = False
            self._key.rekey()
        return pause

    def open_single(self, size: int) -> bytes | None:
        """Open the record that the last ``size`` received bytes are, if they are one, short and alone in the ring."""
        buffer = self._buffer
        if self._start or self._end != size or size > MAX_SMALL or buffer[0] << 8 | buffer[1] != size - LENGTH_BYTES:
            return None
        if size <= OVERHEAD:
            return None
        key = self._key
        try:
            plain = key.aead.decrypt(key.next_nonce(), buffer[LENGTH_BYTES:size], None)
        except InvalidTag:
            raise ProtocolViolation("a record does not authenticate") from None
        key.bytes += size
        self._end = 0
        return plain

    def _open_direct(self, target: memoryview) -> int:
        """Open the whole records whose plaintext fits into ``target``, one after the other; returns its bytes."""
        buffer, view, key = self._buffer, self._view, self._key
        decrypt_into, nonce, counter, pack = key.aead.decrypt_into, key.nonce, key.counter, _NONCE_COUNTER.pack_into
        start, end, room, got = self._start, self._end, len(target), 0
        while end - start >= OVERHEAD:
            length = buffer[start] << 8 | buffer[start + 1]
            stop = start + LENGTH_BYTES + length
            size = length - TAG_BYTES
            if stop > end or not 0 < size <= room - got:
                break
            pack(nonce, 4, counter)
            decrypt_into(nonce, view[start + LENGTH_BYTES : stop], None, target[got : got + size])
            counter += 1
            got += size
            start = stop
        key.used(counter - key.counter, got)
        self._start = start
        return got
