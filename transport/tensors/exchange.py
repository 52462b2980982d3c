"""Tensors over a message stream: the header, then the elements, read from and written to where they lie.

Three encodings. ``raw`` is one message, for tensors in the host's memory (or mapped files). ``raw-chunks`` is as many
messages as the sender likes, for tensors that are made, or copied from a device, a part at a time and may be larger
than memory. ``int8-block-64`` is lossy and small, for slow links.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from transport.limits import MAX_TENSOR_HEADER, TENSOR_CHUNK
from transport.tensors.arrays import Tensor, describe, destination, fetch, on_device, place
from transport.tensors.blocks import as_float32, block_chunks, dequantise, of_float32, quantise
from transport.tensors.header import BLOCK, RAW, RAW_CHUNKS, TensorError, TensorHeader

Buffer = bytes | bytearray | memoryview
Take = Callable[[TensorHeader, int, memoryview], Awaitable[None]]
"""Takes a part of a tensor: its header, where the part begins (bytes), and the part, valid until this returns."""


class MessageStream(Protocol):
    """What a tensor travels over: a :class:`transport.tunnel.TunnelStream`, or anything like it."""

    async def send_message(self, data: bytes | memoryview | Sequence[bytes | memoryview]) -> None:
        """Send one message, of any length."""

    async def receive_message(self, max_bytes: int) -> bytes:
        """Receive one message."""

    async def receive_message_into(self, buffer: memoryview) -> int:
        """Receive one message into ``buffer``; its length in bytes."""


async def send_tensor(stream: MessageStream, tensor: Any, *, encoding: str = RAW) -> None:
    """Send a numpy array (memory-mapped ones included), a torch tensor or a :class:`Tensor`.

    ``raw`` reads the elements from where they lie (a copy is made only of what is not contiguous); the tensor must not
    be changed until this returns. A tensor on a device goes as ``raw-chunks``, each copied to the host in turn. Raises
    :class:`TensorError` for what cannot be sent, and what the stream raises.
    """
    header, data = describe(tensor, encoding)
    if encoding == RAW and on_device(data):
        header = replace(header, encoding=RAW_CHUNKS)
    await stream.send_message(header.to_bytes())
    if not header.count:
        return
    if header.encoding == RAW:
        await stream.send_message(data.data)
    elif header.encoding == RAW_CHUNKS:
        for start in range(0, header.nbytes, TENSOR_CHUNK):
            await stream.send_message(fetch(data, start, min(start + TENSOR_CHUNK, header.nbytes)).data)
    else:
        for start, stop in block_chunks(header):
            part = fetch(data, start * header.itemsize, stop * header.itemsize)
            await stream.send_message(quantise(as_float32(header, part)))


async def send_tensor_chunks(
    stream: MessageStream, header: TensorHeader, chunks: Iterable[Buffer] | AsyncIterable[Buffer]
) -> None:
    """Send a tensor that is never in memory as a whole: the bytes of its elements in C order, cut anywhere.

    ``header`` says what it is; its encoding is taken to be ``raw-chunks``. Raises :class:`TensorError` when the chunks
    do not add up to it (the stream is then of no more use), and what the stream raises.
    """
    header = replace(header, encoding=RAW_CHUNKS)
    await stream.send_message(header.to_bytes())
    left = header.nbytes
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            left = await _send_chunk(stream, header, chunk, left)
    else:
        for chunk in chunks:
            left = await _send_chunk(stream, header, chunk, left)
    if left:
        raise TensorError(f"chunks that differ by {left} bytes from a tensor of {header.nbytes}")


async def _send_chunk(stream: MessageStream, header: TensorHeader, chunk: Buffer, left: int) -> int:
    """Send the chunk; the bytes that are left to come after it."""
    view = memoryview(chunk).cast("B")
    if len(view) > left:
        raise TensorError(f"chunks that differ by {len(view) - left} bytes from a tensor of {header.nbytes}")
    for start in range(0, len(view), TENSOR_CHUNK):
        await stream.send_message(view[start : start + TENSOR_CHUNK])
    return left - len(view)


async def receive_tensor(stream: MessageStream, max_bytes: int, out: Any = None) -> Tensor:
    """Receive a tensor of at most ``max_bytes`` decoded bytes, into ``out`` if given.

    ``out`` is a contiguous writable buffer, numpy array (memory-mapped ones included) or torch tensor of exactly the
    tensor's size in bytes, or a function that makes one when it is given the header: so a tensor larger than memory
    goes to a mapped file, as ``lambda header: np.memmap(path, np.uint8, "w+", shape=header.nbytes)``. What it holds
    after an error is undefined. Raises :class:`TensorError`, and what the stream raises.
    """
    header = await _receive_header(stream, max_bytes)
    if callable(out):
        out = out(header)
    data = np.empty(header.nbytes, np.uint8) if out is None else destination(out)
    if len(data) != header.nbytes:
        raise TensorError(f"a tensor of {header.nbytes} bytes does not fit a destination of {len(data)}")
    if not header.count:
        return Tensor(header, data)
    if header.encoding == RAW:
        host = np.empty(header.nbytes, np.uint8) if on_device(data) else data
        size = await stream.receive_message_into(host.data)
        if size != header.nbytes:
            raise TensorError(f"{size} bytes came for a tensor of {header.nbytes}")
        if host is not data:
            place(data, 0, host)
    elif header.encoding == RAW_CHUNKS:
        await _receive_chunks(stream, header, data)
    else:
        await _receive_blocks(stream, header, data)
    return Tensor(header, data)


async def receive_tensor_chunks(stream: MessageStream, max_bytes: int, take: Take) -> TensorHeader:
    """Receive a ``raw-chunks`` tensor part by part, never holding more than ``TENSOR_CHUNK`` bytes (64 MiB) of it.

    Raises :class:`TensorError`, also for other encodings, and what the stream and ``take`` raise.
    """
    header = await _receive_header(stream, max_bytes)
    if header.encoding != RAW_CHUNKS:
        raise TensorError(f"a tensor encoded as {header.encoding} does not come in chunks")
    buffer = memoryview(bytearray(min(TENSOR_CHUNK, header.nbytes)))
    got = 0
    while got < header.nbytes:
        size = await _receive_part(stream, header, buffer[: header.nbytes - got])
        await take(header, got, buffer[:size])
        got += size
    return header


async def _receive_header(stream: MessageStream, max_bytes: int) -> TensorHeader:
    header = TensorHeader.from_bytes(await stream.receive_message(MAX_TENSOR_HEADER))
    if header.nbytes > max_bytes:
        raise TensorError(f"a tensor of {header.nbytes} bytes, where at most {max_bytes} are allowed")
    return header


async def _receive_part(stream: MessageStream, header: TensorHeader, buffer: memoryview) -> int:
    size = await stream.receive_message_into(buffer)
    if not size:
        raise TensorError(f"an empty chunk of a tensor of {header.nbytes} bytes")
    return size


async def _receive_chunks(stream: MessageStream, header: TensorHeader, data: Any) -> None:
    """Straight into host memory; onto a device through a buffer of one chunk."""
    bounce = np.empty(min(TENSOR_CHUNK, header.nbytes), np.uint8) if on_device(data) else None
    got = 0
    while got < header.nbytes:
        room = min(TENSOR_CHUNK, header.nbytes - got)
        if bounce is None:
            got += await _receive_part(stream, header, data[got : got + room].data)
        else:
            size = await _receive_part(stream, header, bounce[:room].data)
            place(data, got, bounce[:size])
            got += size


async def _receive_blocks(stream: MessageStream, header: TensorHeader, data: Any) -> None:
    for start, stop in block_chunks(header):
        expected = -(-(stop - start) // BLOCK) * (BLOCK + 4)
        payload = await stream.receive_message(expected)
        if len(payload) != expected:
            raise TensorError(f"{len(payload)} bytes came for a chunk of {expected}")
        place(data, start * header.itemsize, of_float32(header, dequantise(payload, stop - start)))
