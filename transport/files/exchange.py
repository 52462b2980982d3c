"""Fetching and serving a file over a stream of messages: whole pieces, each checked before it is kept.

::

    fetcher                                         holder
    {"v": 1, "root": 32 bytes}        ---------->
                                      <----------   {"v": 1, "size": bytes}, or {"v": 1, "size": null}: not here
                                      <----------   hashes of all pieces (none for an empty file)
    bitmap of the pieces wanted       ---------->   (none when there are none)
                                      <----------   each of them, in rising order

The fetcher writes to ``NAME.part`` beside the destination and renames that when all is there. What an earlier attempt
left is hashed again and kept as far as it is right, whoever sent it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import trio

from transport.files.limits import MAX_FILE_BYTES, MAX_HEADER, MAX_PIECES, MAX_SHARED, PIECE_BYTES
from transport.files.manifest import HASH_BYTES, FileError, Manifest, manifest_of, read_piece, read_pieces
from transport.tensors import MessageStream

VERSION = 1


@dataclass(frozen=True)
class Fetched:
    """What :func:`fetch_file` did: the file's size, and how much of it came now rather than in an earlier attempt."""

    size: int
    fetched: int


class FileLibrary:
    """Files that we share, by their roots."""

    def __init__(self) -> None:
        self._files: dict[bytes, tuple[Path, Manifest]] = {}

    async def add(self, path: Path) -> bytes:
        """Hash and share a file; its root. Raises ``OSError`` and :class:`FileError`.

        A file that changes later is served wrong, which whoever fetches it notices: share it again.
        """
        if len(self._files) >= MAX_SHARED:
            raise FileError(f"{MAX_SHARED} files are shared already")
        manifest = await manifest_of(path)
        self._files[manifest.root] = (path, manifest)
        return manifest.root

    async def serve(self, stream: MessageStream) -> int:
        """Answer one request on a stream; the number of bytes of the file that were sent.

        Raises :class:`FileError` for a malformed request, and what the stream and the file raise.
        """
        root = _parse(await stream.receive_message(MAX_HEADER), "root")
        if type(root) is not bytes or len(root) != HASH_BYTES:
            raise FileError("a root has 32 bytes")
        shared = self._files.get(root)
        await stream.send_message(_header("size", None if shared is None else shared[1].size))
        if shared is None or not shared[1].pieces:
            return 0
        path, manifest = shared
        await stream.send_message(manifest.hashes)
        bitmap = await stream.receive_message(-(-MAX_PIECES // 8))
        if len(bitmap) != -(-manifest.pieces // 8):
            raise FileError("a bitmap of another file")
        sent = 0
        buffer = memoryview(bytearray(min(PIECE_BYTES, manifest.size)))
        with path.open("rb") as file:
            for piece in _set_bits(bitmap, manifest.pieces):
                size = await trio.to_thread.run_sync(read_piece, file.fileno(), piece, buffer)
                if size < manifest.length(piece):
                    raise FileError(f"{path.name} has become shorter")
                await stream.send_message(buffer[: manifest.length(piece)])
                sent += manifest.length(piece)
        return sent


async def fetch_file(
    stream: MessageStream,
    root: bytes,
    destination: Path,
    *,
    max_bytes: int = MAX_FILE_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Fetched:
    """Fetch the file named by ``root`` to ``destination``, going on from what an earlier attempt left.

    ``progress`` is told (bytes there, bytes in all) after each piece. Raises :class:`FileError` when the other side
    does not have it, sends anything else, or it is longer than ``max_bytes``, and what the stream and the disk raise.
    On an error or cancellation the right pieces stay in ``NAME.part``.
    """
    await stream.send_message(_header("root", root))
    manifest = await _manifest(stream, root, max_bytes)
    part = destination.with_name(destination.name + ".part")
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wanted = await trio.to_thread.run_sync(_missing, fd, manifest)
        fetched = await _pieces(stream, fd, manifest, wanted, progress)
        await trio.to_thread.run_sync(os.fsync, fd)
    finally:
        os.close(fd)
    part.replace(destination)
    return Fetched(manifest.size, fetched)


async def _manifest(stream: MessageStream, root: bytes, max_bytes: int) -> Manifest:
    size = _parse(await stream.receive_message(MAX_HEADER), "size")
    if size is None:
        raise FileError("the other side does not have this file")
    if type(size) is not int or not 0 <= size <= min(max_bytes, MAX_FILE_BYTES):
        raise FileError(f"a file of {size!r} bytes, where at most {max_bytes} are allowed")
    pieces = -(-size // PIECE_BYTES)
    hashes = await stream.receive_message(pieces * HASH_BYTES) if pieces else b""
    manifest = Manifest(size, hashes)
    if manifest.root != root:
        raise FileError("the hashes are not those of the file asked for")
    return manifest


async def _pieces(
    stream: MessageStream,
    fd: int,
    manifest: Manifest,
    wanted: list[int],
    progress: Callable[[int, int], None] | None,
) -> int:
    """Receive, check and write the pieces wanted; how many bytes they have."""
    fetched = 0
    there = manifest.size - sum(map(manifest.length, wanted))
    if manifest.pieces:
        bitmap = bytearray(-(-manifest.pieces // 8))
        for piece in wanted:
            bitmap[piece // 8] |= 1 << piece % 8
        await stream.send_message(bytes(bitmap))
    buffer = memoryview(bytearray(min(PIECE_BYTES, manifest.size)))

    def keep(piece: int, data: memoryview) -> bool:
        if not manifest.holds(piece, data):
            return False
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], piece * PIECE_BYTES + written)
        return True

    for piece in wanted:
        size = await stream.receive_message_into(buffer[: manifest.length(piece)])
        if not await trio.to_thread.run_sync(keep, piece, buffer[:size]):
            raise FileError(f"piece {piece} is not what it should be")
        fetched += size
        if progress is not None:
            progress(there + fetched, manifest.size)
    return fetched


def _missing(fd: int, manifest: Manifest) -> list[int]:
    """Which pieces the partial file does not hold, blocking; the file gets its size."""
    missing: list[int] = []
    if os.fstat(fd).st_size:
        os.ftruncate(fd, manifest.size)
        read_pieces(fd, manifest.size, lambda i, data: None if manifest.holds(i, data) else missing.append(i))
        return missing
    os.ftruncate(fd, manifest.size)
    return list(range(manifest.pieces))


def _set_bits(bitmap: bytes, count: int) -> Iterator[int]:
    return (piece for piece in range(count) if bitmap[piece // 8] >> piece % 8 & 1)


def _header(name: str, value: bytes | int | None) -> bytes:
    return cbor2.dumps({"v": VERSION, name: value}, canonical=True)


def _parse(data: bytes, name: str) -> Any:
    """The value of a header; strict, as :func:`_header` made it."""
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise FileError(f"a header that is not CBOR: {error}") from error
    if type(value) is not dict or value.keys() != {"v", name} or value["v"] != VERSION:
        raise FileError("a header of another version or with other fields")
    if type(value[name]) not in (bytes, int, type(None)) or _header(name, value[name]) != data:
        raise FileError("a header that is not in the deterministic encoding (RFC 8949 §4.2)")
    return value[name]
