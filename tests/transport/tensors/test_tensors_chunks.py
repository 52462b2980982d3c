"""Tensors that are never in memory as a whole: made, received and stored part by part, and in mapped files."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from transport.limits import TENSOR_CHUNK
from transport.tensors import (
    Tensor,
    TensorError,
    TensorHeader,
    receive_tensor,
    receive_tensor_chunks,
    send_tensor,
    send_tensor_chunks,
)
from transport.tensors.header import RAW_CHUNKS


class Pipe:
    """A message stream in memory that holds few messages, as a tunnel with little credit does."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[bytes](8)

    async def send_message(self, data: object) -> None:
        await self.send.send(bytes(data))  # type: ignore[call-overload]  # tests send buffers only

    async def receive_message(self, max_bytes: int) -> bytes:
        message = await self.receive.receive()
        assert len(message) <= max_bytes
        return message

    async def receive_message_into(self, buffer: memoryview) -> int:
        message = await self.receive.receive()
        if len(message) > len(buffer):
            raise ValueError("too long")
        buffer[: len(message)] = message
        return len(message)


@given(st.lists(st.integers(0, 50), max_size=12), st.booleans())
def test_chunks_cut_anywhere_make_the_tensor_whole_again(cuts: list[int], asynchronous: bool) -> None:
    data = random.Random(1).randbytes(sum(cuts) * 4)
    chunks = [data[sum(cuts[:i]) * 4 : sum(cuts[: i + 1]) * 4] for i in range(len(cuts))]
    header = TensorHeader("float32", (sum(cuts),))
    got: list[Tensor] = []

    async def generate() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def main() -> None:
        pipe = Pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_tensor_chunks, pipe, header, generate() if asynchronous else chunks)
            got.append(await receive_tensor(pipe, 1 << 20))

    trio.run(main)
    assert got[0].data.tobytes() == data
    assert got[0].header.encoding == RAW_CHUNKS


@pytest.mark.parametrize("sizes", [[8, 8, 1], [8, 7], [17], []])
async def test_chunks_that_do_not_add_up_are_an_error_of_their_sender(sizes: list[int]) -> None:
    pipe = Pipe()
    with pytest.raises(TensorError, match="differ"):
        await send_tensor_chunks(pipe, TensorHeader("uint8", (16,)), [bytes(size) for size in sizes])


async def test_a_tensor_comes_part_by_part_with_its_offsets() -> None:
    data = random.Random(2).randbytes(1000)
    pipe, parts = Pipe(), bytearray()

    async def take(header: TensorHeader, offset: int, part: memoryview) -> None:
        assert header.shape == (10, 100)
        assert offset == len(parts)
        parts.extend(part)

    async with trio.open_nursery() as nursery:
        pieces = [data[:1], data[1:500], data[500:]]
        nursery.start_soon(send_tensor_chunks, pipe, TensorHeader("int8", (10, 100)), pieces)
        assert (await receive_tensor_chunks(pipe, 1000, take)).nbytes == 1000
    assert parts == data


async def test_an_empty_chunk_and_one_beyond_the_end_are_refused() -> None:
    for chunk, error in ((b"", TensorError), (bytes(17), ValueError)):
        pipe = Pipe()
        await pipe.send_message(TensorHeader("uint8", (16,), encoding=RAW_CHUNKS).to_bytes())
        await pipe.send_message(chunk)
        with pytest.raises(error):
            await receive_tensor(pipe, 16)


async def test_a_tensor_in_one_message_is_not_taken_part_by_part() -> None:
    async def take(header: TensorHeader, offset: int, part: memoryview) -> None:
        raise AssertionError("taken")

    pipe = Pipe()
    await send_tensor(pipe, np.ones(4, np.uint8))
    with pytest.raises(TensorError, match="chunks"):
        await receive_tensor_chunks(pipe, 100, take)


@pytest.mark.parametrize("encoding", ["raw", "raw-chunks"])
async def test_a_mapped_file_is_sent_and_received_without_being_loaded(tmp_path: Path, encoding: str) -> None:
    count = TENSOR_CHUNK // 4 + 1000 if encoding == "raw-chunks" else 5000
    source = np.memmap(tmp_path / "source", np.float32, "w+", shape=(count,))
    source[:] = np.arange(count, dtype=np.float32)

    def make(header: TensorHeader) -> np.ndarray:
        return np.memmap(tmp_path / "copy", np.uint8, "w+", shape=(header.nbytes,))

    pipe = Pipe()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await send_tensor(pipe, source, encoding=encoding)

        nursery.start_soon(send)
        tensor = await receive_tensor(pipe, source.nbytes, make)
    tensor.data.flush()
    assert np.array_equal(np.fromfile(tmp_path / "copy", np.float32), source)


@pytest.mark.parametrize("element", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu", "bfloat16"])
async def test_types_that_numpy_lacks_travel_by_their_bits(element: str) -> None:
    header = TensorHeader(element, (3, 16))
    bits = np.frombuffer(random.Random(3).randbytes(header.nbytes), np.uint8)
    pipe = Pipe()
    await send_tensor(pipe, Tensor(header, bits))
    got = await receive_tensor(pipe, 1000)
    assert got.header == header
    assert np.array_equal(got.data, bits)


async def test_torch_tensors_travel_from_and_to_their_own_memory() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool):
        source = torch.arange(60).reshape(3, 20).to(dtype)
        target = torch.zeros_like(source)
        pipe = Pipe()
        await send_tensor(pipe, source)
        got = await receive_tensor(pipe, 10_000, target)
        assert torch.equal(target.view(torch.uint8), source.view(torch.uint8))
        assert got.torch().data_ptr() == target.data_ptr()
