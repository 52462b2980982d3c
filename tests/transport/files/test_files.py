"""Files arrive whole or not at all, and an interrupted one goes on from where it broke off."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import cbor2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from transport.files import FileError, FileLibrary, Manifest, fetch_file, manifest_of
from transport.files.exchange import _parse
from transport.files.limits import PIECE_BYTES
from transport.identity import Identity
from transport.tunnel import StreamReset, Tunnel, TunnelEndpoint, TunnelError, TunnelStream, dial, open_tunnel_listener

ALICE, BOB = (TunnelEndpoint.of(Identity(sha256(name).digest())) for name in (b"alice", b"bob"))


class Holder:
    """Serves a library on every stream; can be told to break off, or to send something else."""

    def __init__(self) -> None:
        self.library = FileLibrary()
        self.sent: list[int] = []
        self.spoil: object = None

    async def handler(self, tunnel: Tunnel) -> None:
        async for stream in tunnel.incoming():
            with suppress(TunnelError, FileError):
                await self.answer(stream)

    async def answer(self, stream: TunnelStream) -> None:
        async with stream:
            served: object = self.spoil(stream) if callable(self.spoil) else stream
            self.sent.append(await self.library.serve(served))  # type: ignore[arg-type]  # a stand-in for a stream
            await stream.send_end()
            await stream.receive_messages()


class Spoiler:
    """A stream whose ``n``-th long message is changed."""

    def __init__(self, stream: TunnelStream, n: int, change: object) -> None:
        self.stream, self.n, self.change = stream, n, change

    async def receive_message(self, max_bytes: int) -> bytes:
        return await self.stream.receive_message(max_bytes)

    async def send_message(self, data: bytes | memoryview) -> None:
        self.n -= 1
        await self.stream.send_message(data if self.n else self.change(bytes(data)))  # type: ignore[operator]


@asynccontextmanager
async def holding(path: Path) -> AsyncIterator[tuple[Holder, bytes, Tunnel]]:
    holder = Holder()
    root = await holder.library.add(path)
    async with (
        open_tunnel_listener(BOB, "127.0.0.1", 0, holder.handler) as listener,
        await dial(ALICE, listener.addrs[0], BOB.peer_id, static_key=BOB.static_key.public) as tunnel,
    ):
        yield holder, root, tunnel


def write(path: Path, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("size", [0, 1, 5000, PIECE_BYTES, PIECE_BYTES * 2 + 77])
async def test_a_file_arrives_with_its_bytes(tmp_path: Path, size: int) -> None:
    data = write(tmp_path / "source", size)
    seen: list[tuple[int, int]] = []
    async with holding(tmp_path / "source") as (_, root, tunnel), tunnel.open_stream() as stream:
        done = await fetch_file(stream, root, tmp_path / "copy", progress=lambda *now: seen.append(now))
        assert (done.size, done.fetched) == (size, size)
        assert (tmp_path / "copy").read_bytes() == data
        assert not (tmp_path / "copy.part").exists()
        assert not seen or seen[-1] == (size, size)
        assert await manifest_of(tmp_path / "copy") == await manifest_of(tmp_path / "source")


async def test_an_interrupted_file_goes_on_from_its_right_pieces(tmp_path: Path) -> None:
    data = write(tmp_path / "source", 3 * PIECE_BYTES + 5)
    async with holding(tmp_path / "source") as (holder, root, tunnel):
        with trio.CancelScope() as scope:
            async with tunnel.open_stream() as stream:
                # The first piece is there: break off.
                await fetch_file(stream, root, tmp_path / "copy", progress=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        assert not (tmp_path / "copy").exists()
        async with tunnel.open_stream() as stream:
            done = await fetch_file(stream, root, tmp_path / "copy")
        assert done.fetched == 2 * PIECE_BYTES + 5
        assert holder.sent[-1] == done.fetched
    assert (tmp_path / "copy").read_bytes() == data


async def test_a_partial_file_that_was_tampered_with_is_mended(tmp_path: Path) -> None:
    data = write(tmp_path / "source", 3 * PIECE_BYTES)
    bad = bytearray(data)
    bad[PIECE_BYTES + 9] ^= 1
    (tmp_path / "copy.part").write_bytes(bad + b"and more than the file has")
    async with holding(tmp_path / "source") as (_, root, tunnel), tunnel.open_stream() as stream:
        assert (await fetch_file(stream, root, tmp_path / "copy")).fetched == PIECE_BYTES
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("message", [2, 3, 4])
async def test_a_changed_manifest_or_piece_is_refused(tmp_path: Path, message: int) -> None:
    write(tmp_path / "source", 2 * PIECE_BYTES)
    async with holding(tmp_path / "source") as (holder, root, tunnel):
        holder.spoil = lambda stream: Spoiler(stream, message, lambda data: bytes([data[0] ^ 1]) + data[1:])
        async with tunnel.open_stream() as stream:
            with pytest.raises(FileError, match="not"):
                await fetch_file(stream, root, tmp_path / "copy")
            stream.reset()
        assert not (tmp_path / "copy").exists()


async def test_a_file_that_shrank_is_not_served(tmp_path: Path) -> None:
    write(tmp_path / "source", 5000)
    failed = trio.Event()

    async with holding(tmp_path / "source") as (holder, root, tunnel):
        (tmp_path / "source").write_bytes(b"short")

        def note(stream: TunnelStream) -> TunnelStream:
            failed.set()
            return stream

        holder.spoil = note
        with pytest.raises(StreamReset):
            async with tunnel.open_stream() as stream:
                await fetch_file(stream, root, tmp_path / "copy")
    assert failed.is_set()
    assert not (tmp_path / "copy").exists()


async def test_an_unknown_file_and_one_too_long_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "source", 5000)
    async with holding(tmp_path / "source") as (_, root, tunnel):
        async with tunnel.open_stream() as stream:
            with pytest.raises(FileError, match="does not have"):
                await fetch_file(stream, bytes(32), tmp_path / "copy")
        async with tunnel.open_stream() as stream:
            with pytest.raises(FileError, match="4999"):
                await fetch_file(stream, root, tmp_path / "copy", max_bytes=4999)
            stream.reset()
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.part").exists()


def test_the_root_binds_size_order_and_hashes() -> None:
    one = Manifest(2 * PIECE_BYTES, bytes(32) + b"\1" * 32)
    others = [Manifest(2 * PIECE_BYTES - 1, one.hashes), Manifest(2 * PIECE_BYTES, b"\1" * 32 + bytes(32))]
    assert len({one.root, *(other.root for other in others)}) == 3
    assert one.root.hex() == "4c3b898bf9fa4f6eb9f6cec12a7a187f361515d778ddf368df21fe808a0a0069"
    with pytest.raises(FileError):
        Manifest(2 * PIECE_BYTES, bytes(32))
    with pytest.raises(FileError):
        Manifest(-1, b"")


@given(st.binary(max_size=60) | st.dictionaries(st.text(max_size=4), st.integers() | st.binary()).map(cbor2.dumps))
def test_arbitrary_headers_are_refused_or_deterministic(data: bytes) -> None:
    try:
        value = _parse(data, "size")
    except FileError:
        return
    assert cbor2.dumps({"v": 1, "size": value}, canonical=True) == data
