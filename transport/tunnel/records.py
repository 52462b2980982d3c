"""Records: the encrypted form of a tunnel's byte stream. ``length (u16) | AES-256-GCM ciphertext with tag``.

This is Noise transport encryption (§5.1, §12.4) with the AEAD driven directly: many records are sealed into one
preallocated buffer and leave in one send; arriving bytes land in one ring and are opened from there, small records to
``bytes``, the payload of bulk messages straight into the reader's memory. Nothing here waits or knows a socket.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from struct import Struct
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.tunnel.errors import ProtocolViolation
from transport.tunnel.limits import (
    BATCH_PLAIN,
    DIRECT_BYTES,
    MAX_RECORD_PLAIN,
    REKEY_BYTES,
    REKEY_RECORDS,
    REKEY_SLACK,
    RING_BYTES,
    TAG_BYTES,
)

LENGTH_BYTES = 2
OVERHEAD = LENGTH_BYTES + TAG_BYTES
MAX_RECORD = MAX_RECORD_PLAIN + OVERHEAD

# One partial record for each direct piece and each run of small ones between them, and one to round up.
_MOST_RECORDS = BATCH_PLAIN // MAX_RECORD_PLAIN + 2 * (BATCH_PLAIN // DIRECT_BYTES) + 2
_BUFFER_BYTES = BATCH_PLAIN + _MOST_RECORDS * OVERHEAD

_NONCE_COUNTER = Struct(">Q")
_MAX_NONCE = (1 << 64) - 1

Piece = bytes | memoryview


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

    @property
    def wants_rekey(self) -> bool:
        """Whether the key has carried what one key should (limits.REKEY_*)."""
        return self._key.bytes >= REKEY_BYTES or self._key.records >= REKEY_RECORDS

    def rekey(self) -> None:
        """Change the key; only between batches, after the record that told the peer so has been sealed."""
        self._key.rekey()

    def seal(self, pieces: Sequence[Piece]) -> memoryview:
        """Seal at most ``BATCH_PLAIN`` bytes and return the wire bytes, valid until the next call.

        Runs of small pieces are joined into common records; large pieces are read from where they lie.
        """
        offset = 0
        small: list[Piece] = []
        for piece in pieces:
            if len(piece) < DIRECT_BYTES:
                small.append(piece)
                continue
            if small:
                offset = self._seal(b"".join(small), offset)
                small = []
            offset = self._seal(piece, offset)
        if small:
            offset = self._seal(b"".join(small), offset)
        return self._buffer[:offset]

    def _seal(self, plain: Piece, offset: int) -> int:
        key, buffer = self._key, self._buffer
        encrypt_into = key.aead.encrypt_into
        size = len(plain)
        key.bytes += size
        if size <= MAX_RECORD_PLAIN:
            end = offset + size + OVERHEAD
            buffer[offset : offset + 2] = (size + TAG_BYTES).to_bytes(2, "big")
            encrypt_into(key.next_nonce(), plain, None, buffer[offset + 2 : end])
            return end
        view = memoryview(plain)
        for start in range(0, size, MAX_RECORD_PLAIN):
            part = view[start : start + MAX_RECORD_PLAIN]
            end = offset + len(part) + OVERHEAD
            buffer[offset : offset + 2] = (len(part) + TAG_BYTES).to_bytes(2, "big")
            encrypt_into(key.next_nonce(), part, None, buffer[offset + 2 : end])
            offset = end
        return offset


class PlainSink(Protocol):
    """Who takes opened records: the mux."""

    def direct(self, size: int) -> memoryview | None:
        """Where the next ``size`` plaintext bytes may be written, if all of them belong to one reader's memory."""

    def direct_done(self, size: int) -> bool:
        """The bytes asked for with :meth:`direct` are there. True asks the caller to let readers run first."""

    def feed(self, data: bytes) -> bool:
        """Take the next plaintext bytes, whatever they are. True asks the caller to let readers run first."""

    def take_rekey(self) -> bool:
        """Whether the record just fed ended with REKEY."""


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
            self._start = self._end = end = 0
        elif end >= RING_BYTES:  # an unfinished record remains: move it to the front
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
        start, end = self._start, self._end
        try:
            while end - start >= LENGTH_BYTES:
                length = buffer[start] << 8 | buffer[start + 1]
                if not TAG_BYTES < length <= MAX_RECORD_PLAIN + TAG_BYTES:
                    raise ProtocolViolation(f"a record of {length} bytes")
                stop = start + LENGTH_BYTES + length
                if stop > end:
                    break
                size = length - TAG_BYTES
                key.bytes += size
                target = sink.direct(size)
                if target is None:
                    plain = key.aead.decrypt(key.next_nonce(), view[start + LENGTH_BYTES : stop], None)
                    start = stop
                    pause = sink.feed(plain)
                    if sink.take_rekey():
                        key.rekey()
                    if pause:
                        return True
                    continue
                key.aead.decrypt_into(key.next_nonce(), view[start + LENGTH_BYTES : stop], None, target)
                start = stop
                if sink.direct_done(size):
                    return True
        except InvalidTag:
            raise ProtocolViolation("a record does not authenticate") from None
        finally:
            self._start = start
        if key.bytes > REKEY_SLACK * REKEY_BYTES or key.records > REKEY_SLACK * REKEY_RECORDS:
            raise ProtocolViolation("the peer does not rekey")
        return False
