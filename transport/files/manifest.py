"""What a file is: its size and the BLAKE3 hash of each piece, named by one root.

The root is BLAKE3 in key derivation mode (context ``cocoon file manifest v1``) of the size (u64) and the hashes of the
pieces in order: a tree of two levels over BLAKE3's own, so that a piece can be checked as soon as it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio
from blake3 import blake3

from transport.files.limits import MAX_FILE_BYTES, PIECE_BYTES

HASH_BYTES = 32
ROOT_CONTEXT = "cocoon file manifest v1"


class FileError(ValueError):
    """A file that cannot be shared, or bytes that are not the file they should be."""


@dataclass(frozen=True)
class Manifest:
    """Size in bytes and the hashes of all pieces, one after the other; only the last piece may be shorter."""

    size: int
    hashes: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise FileError(f"a file of {self.size} bytes, where {MAX_FILE_BYTES} are allowed")
        if len(self.hashes) != self.pieces * HASH_BYTES:
            raise FileError(f"{len(self.hashes)} bytes of hashes for {self.pieces} pieces")

    @property
    def pieces(self) -> int:
        """How many pieces there are: none of an empty file."""
        return -(-self.size // PIECE_BYTES)

    @property
    def root(self) -> bytes:
        """The file's name: 32 bytes."""
        return blake3(self.size.to_bytes(8, "big") + self.hashes, derive_key_context=ROOT_CONTEXT).digest()

    def length(self, piece: int) -> int:
        """Bytes of a piece."""
        assert 0 <= piece < self.pieces
        return min(PIECE_BYTES, self.size - piece * PIECE_BYTES)

    def holds(self, piece: int, data: bytes | bytearray | memoryview) -> bool:
        """Whether ``data`` is that piece."""
        wanted = self.hashes[piece * HASH_BYTES : (piece + 1) * HASH_BYTES]
        return len(data) == self.length(piece) and blake3(data).digest() == wanted


def read_pieces(fd: int, size: int, take: Callable[[int, memoryview], None]) -> None:
    """Read a file of ``size`` bytes piece by piece, blocking; a file that is shorter ends with a short piece."""
    buffer = memoryview(bytearray(min(PIECE_BYTES, size)))
    for piece in range(-(-size // PIECE_BYTES)):
        take(piece, buffer[: read_piece(fd, piece, buffer)])


def read_piece(fd: int, piece: int, buffer: memoryview) -> int:
    """Read one piece into ``buffer``, blocking; the number of bytes that there are."""
    got = 0
    while got < min(PIECE_BYTES, len(buffer)):
        more = os.preadv(fd, [buffer[got:PIECE_BYTES]], piece * PIECE_BYTES + got)
        if not more:
            break
        got += more
    return got


def hash_file(path: Path) -> Manifest:
    """The manifest of a file, blocking. Raises ``OSError`` and :class:`FileError`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashes = bytearray()
        read_pieces(file.fileno(), size, lambda _, data: hashes.extend(blake3(data).digest()))
        return Manifest(size, bytes(hashes))


async def manifest_of(path: Path) -> Manifest:
    """The manifest of a file, hashed in a worker thread. On cancellation the thread ends by itself, later."""
    return await trio.to_thread.run_sync(hash_file, path, abandon_on_cancel=True)
