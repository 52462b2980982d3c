"""``int8-block-64``: floating point at about a quarter of float32's size, for slow links.

Each block of 64 elements is scaled by its largest magnitude ``m`` to int8, so an element is off by at most ``m / 254``
(and rounding).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transport.limits import TENSOR_CHUNK
from transport.tensors.header import BLOCK, TensorError, TensorHeader


def as_float32(header: TensorHeader, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The elements as float32; a view where they are that already."""
    if header.element == "bfloat16":  # the upper half of a float32
        return (data.view("<u2").astype("<u4") << 16).view(np.float32)
    return data.view(header.element).astype(np.float32, copy=False)


def of_float32(header: TensorHeader, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Float32 values as the header's elements."""
    if header.element == "bfloat16":  # round to nearest, ties to even
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype("<u2").view(np.uint8)
    return values.astype(header.element, copy=False).view(np.uint8)


def quantise(values: NDArray[np.float32]) -> bytes:
    """One chunk as ``int8-block-64``: all scales (float32), then all int8; the last block is filled with zeros."""
    padded = np.zeros(-(-values.size // BLOCK) * BLOCK, np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    if not np.isfinite(scales).all():
        raise TensorError("int8-block-64 has no infinities and no NaN")
    # A block of zeros (or of magnitudes so small that their scale vanishes) has scale 0 and stays zeros.
    divisor = np.where(scales > 0, scales, np.float32(1))
    quantised = np.clip(np.rint(blocks / divisor), -127, 127).astype(np.int8)
    return bytes(scales.astype("<f4").tobytes() + quantised.tobytes())


def dequantise(payload: bytes, count: int) -> NDArray[np.float32]:
    """Undo :func:`quantise` for ``count`` elements. Raises :class:`TensorError` for scales that cannot be."""
    blocks = -(-count // BLOCK)
    scales = np.frombuffer(payload, "<f4", blocks).reshape(-1, 1)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise TensorError("a scale that is negative or not finite")
    quantised = np.frombuffer(payload, np.int8, offset=4 * blocks).reshape(-1, BLOCK)
    values: NDArray[np.float32] = (quantised * scales).reshape(-1)[:count].astype(np.float32, copy=False)
    return values


def block_chunks(header: TensorHeader) -> list[tuple[int, int]]:
    """Element ranges that are encoded together: whole blocks, about ``TENSOR_CHUNK`` bytes of float32."""
    step = TENSOR_CHUNK // 4 // BLOCK * BLOCK
    return [(start, min(start + step, header.count)) for start in range(0, header.count, step)]
