"""Tensors over a message stream: a CBOR header, then the raw elements, which never pass through CBOR.

The header is one small message ``{"v": 1, "element": …, "shape": […], "encoding": …}`` in deterministic CBOR.
``element`` is an RFC 8746 typed-array tag (type and byte order in one number) or, for the types that the RFC lacks, a
name, little endian. The payload follows in messages of its own, read from the sender's memory and written into the
receiver's. Encoding ``int8-block-64`` sends floating point at about a quarter of float32's size: each block of 64
elements is scaled by its largest magnitude ``m`` to int8, so an element is off by at most ``m / 254`` (and rounding).

CPU tensors of torch are taken as they are; torch and ml_dtypes are used when present and never required.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import cbor2
import numpy as np
from numpy.typing import NDArray

from transport.limits import MAX_TENSOR_BYTES, MAX_TENSOR_HEADER, MAX_TENSOR_RANK, TENSOR_CHUNK

__all__ = [
    "BLOCK",
    "ENCODINGS",
    "MessageStream",
    "Tensor",
    "TensorError",
    "TensorHeader",
    "receive_tensor",
    "send_tensor",
]

VERSION = 1
BLOCK = 64
"""Elements that share one scale in ``int8-block-64``."""

RAW = "raw"
INT8_BLOCK_64 = "int8-block-64"
ENCODINGS = (RAW, INT8_BLOCK_64)

# RFC 8746 §2.1: tag of each little-endian and big-endian array. One-byte types have one tag.
_TAGS_LITTLE = {
    "uint8": 64,
    "uint16": 69,
    "uint32": 70,
    "uint64": 71,
    "int8": 72,
    "int16": 77,
    "int32": 78,
    "int64": 79,
    "float16": 84,
    "float32": 85,
    "float64": 86,
}
_TAGS_BIG = {
    "uint16": 65,
    "uint32": 66,
    "uint64": 67,
    "int16": 73,
    "int32": 74,
    "int64": 75,
    "float16": 80,
    "float32": 81,
    "float64": 82,
}
_OF_TAG = {tag: (name, False) for name, tag in _TAGS_LITTLE.items()} | {
    tag: (name, True) for name, tag in _TAGS_BIG.items()
}
_NAMED = {
    "bool": 1,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Elements without a tag and their size in bytes: always little endian."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")


class TensorError(ValueError):
    """A tensor that cannot be sent, or bytes that are not the tensor they should be."""


class MessageStream(Protocol):
    """What a tensor travels over: a :class:`transport.tunnel.TunnelStream`, or anything like it."""

    async def send_message(self, data: bytes | memoryview | Sequence[bytes | memoryview]) -> None:
        """Send one message, of any length."""

    async def receive_message(self, max_bytes: int) -> bytes:
        """Receive one message."""

    async def receive_message_into(self, buffer: memoryview) -> int:
        """Receive one message into ``buffer``; its length in bytes."""


@dataclass(frozen=True)
class TensorHeader:
    """What a tensor is: element type by numpy's name (``bfloat16`` as in ml_dtypes), shape, byte order, encoding."""

    element: str
    shape: tuple[int, ...]
    big_endian: bool = False
    encoding: str = RAW

    def __post_init__(self) -> None:
        known = self.element in (_TAGS_BIG if self.big_endian else _TAGS_LITTLE.keys() | _NAMED.keys())
        if not known:
            raise TensorError(f"{self.element!r} elements cannot be sent")
        if len(self.shape) > MAX_TENSOR_RANK:
            raise TensorError(f"a tensor of {len(self.shape)} dimensions, where {MAX_TENSOR_RANK} are allowed")
        if any(type(size) is not int or not 0 <= size <= MAX_TENSOR_BYTES for size in self.shape):
            raise TensorError("a dimension is an integer from 0 on")
        if self.nbytes > MAX_TENSOR_BYTES:
            raise TensorError(f"a tensor of {self.nbytes} bytes, where {MAX_TENSOR_BYTES} are allowed")
        if self.encoding not in ENCODINGS:
            raise TensorError(f"unknown encoding {self.encoding!r}")
        if self.encoding == INT8_BLOCK_64 and (self.element not in _FLOATS or self.big_endian):
            raise TensorError("int8-block-64 is for little-endian floating point")

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _NAMED.get(self.element) or np.dtype(self.element).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.count * self.itemsize

    def to_bytes(self) -> bytes:
        """The header as it travels."""
        tags = _TAGS_BIG if self.big_endian else _TAGS_LITTLE
        element = tags.get(self.element, self.element)
        value = {"v": VERSION, "element": element, "shape": list(self.shape), "encoding": self.encoding}
        return cbor2.dumps(value, canonical=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> TensorHeader:
        """Parse :meth:`to_bytes`; raises :class:`TensorError` for anything else, other encodings of it included."""
        if len(data) > MAX_TENSOR_HEADER:
            raise TensorError(f"a tensor header of {len(data)} bytes")
        try:
            value = cbor2.CBORDecoder(BytesIO(data), max_depth=4).decode()
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
            raise TensorError(f"a tensor header that is not CBOR: {error}") from error
        if type(value) is not dict or value.keys() != {"v", "element", "shape", "encoding"}:
            raise TensorError("a tensor header has v, element, shape and encoding")
        element, shape, encoding = value["element"], value["shape"], value["encoding"]
        if value["v"] != VERSION or type(shape) is not list or type(encoding) is not str:
            raise TensorError("a tensor header of another version or with fields of the wrong type")
        if type(element) is int and element in _OF_TAG:
            name, big = _OF_TAG[element]
        elif type(element) is str and element in _NAMED:
            name, big = element, False
        else:
            raise TensorError(f"unknown element type {element!r}")
        header = cls(name, tuple(shape), big, encoding)
        if header.to_bytes() != data:
            raise TensorError("a tensor header that is not in the deterministic encoding (RFC 8949 §4.2)")
        return header


@dataclass(frozen=True)
class Tensor:
    """A received tensor: what it is, and its elements as ``data`` (uint8, one dimension, ``header.nbytes`` long)."""

    header: TensorHeader
    data: NDArray[np.uint8]

    def numpy(self) -> NDArray[Any]:
        """The tensor as a numpy array that shares ``data``.

        Raises :class:`TensorError` when its element type needs ml_dtypes and that is not installed.
        """
        return self.data.view(_numpy_dtype(self.header)).reshape(self.header.shape)

    def torch(self) -> Any:
        """The tensor as a torch tensor that shares ``data``. Raises ``ImportError`` without torch."""
        import torch

        header = self.header
        if header.big_endian:
            raise TensorError("torch has no big-endian tensors")
        return torch.from_numpy(self.data).view(getattr(torch, header.element)).reshape(header.shape)


def _numpy_dtype(header: TensorHeader) -> np.dtype[Any]:
    if header.element in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        try:
            import ml_dtypes  # type: ignore[import-not-found,unused-ignore]  # optional, never installed by us
        except ImportError:
            raise TensorError(f"numpy needs the ml_dtypes package for {header.element}") from None
        special: np.dtype[Any] = np.dtype(getattr(ml_dtypes, header.element))
        return special
    plain: np.dtype[Any] = np.dtype(header.element)
    ordered: np.dtype[Any] = plain.newbyteorder(">" if header.big_endian else "<")
    return ordered


def _is_torch(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _describe(value: Any, encoding: str) -> tuple[TensorHeader, NDArray[np.uint8]]:
    """Header and elements of what :func:`send_tensor` takes, without a copy where it is contiguous."""
    if isinstance(value, Tensor):
        header = TensorHeader(value.header.element, value.header.shape, value.header.big_endian, encoding)
        return header, value.data
    if _is_torch(value):
        torch = sys.modules["torch"]
        if value.device.type != "cpu":
            raise TensorError(f"a tensor on {value.device}: move it to the CPU first")
        header = TensorHeader(str(value.dtype).removeprefix("torch."), tuple(value.shape), encoding=encoding)
        flat = value.detach().contiguous().reshape(-1)
        return header, flat.view(torch.uint8).numpy() if header.count else np.empty(0, np.uint8)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.names is not None:
        raise TensorError(f"{array.dtype} elements cannot be sent")
    order = array.dtype.byteorder
    big = order == ">" or (order == "=" and sys.byteorder == "big" and array.itemsize > 1)
    header = TensorHeader(array.dtype.name, tuple(int(size) for size in array.shape), big, encoding)
    return header, np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _as_float32(header: TensorHeader, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    if header.element == "bfloat16":  # the upper half of a float32
        return (data.view("<u2").astype("<u4") << 16).view(np.float32)
    return data.view(header.element).astype(np.float32, copy=False)


def _of_float32(header: TensorHeader, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if header.element == "bfloat16":  # round to nearest, ties to even
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype("<u2").view(np.uint8)
    return values.astype(header.element, copy=False).view(np.uint8)


def _quantise(values: NDArray[np.float32]) -> bytes:
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


def _dequantise(payload: bytes, count: int) -> NDArray[np.float32]:
    blocks = -(-count // BLOCK)
    scales = np.frombuffer(payload, "<f4", blocks).reshape(-1, 1)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise TensorError("a scale that is negative or not finite")
    quantised = np.frombuffer(payload, np.int8, offset=4 * blocks).reshape(-1, BLOCK)
    values: NDArray[np.float32] = (quantised * scales).reshape(-1)[:count].astype(np.float32, copy=False)
    return values


def _chunks(header: TensorHeader) -> list[tuple[int, int]]:
    """Element ranges that are encoded together: whole blocks, about ``TENSOR_CHUNK`` bytes of float32."""
    step = TENSOR_CHUNK // 4 // BLOCK * BLOCK
    return [(start, min(start + step, header.count)) for start in range(0, header.count, step)]


async def send_tensor(stream: MessageStream, tensor: Any, *, encoding: str = RAW) -> None:
    """Send a numpy array, a torch CPU tensor or a :class:`Tensor`.

    ``raw`` reads the elements from where they lie (a copy is made only of what is not contiguous); the tensor must not
    be changed until this returns. Raises :class:`TensorError` for what cannot be sent, and what the stream raises.
    """
    header, data = _describe(tensor, encoding)
    await stream.send_message(header.to_bytes())
    if not header.count:
        return
    if encoding == RAW:
        await stream.send_message(data.data)
        return
    for start, stop in _chunks(header):
        part = data[start * header.itemsize : stop * header.itemsize]
        await stream.send_message(_quantise(_as_float32(header, part)))


async def receive_tensor(stream: MessageStream, max_bytes: int, out: Any = None) -> Tensor:
    """Receive a tensor of at most ``max_bytes`` decoded bytes, into ``out`` if given.

    ``out`` is a contiguous writable buffer, numpy array or torch CPU tensor of exactly the tensor's size in bytes; what
    it holds after an error is undefined. Raises :class:`TensorError`, and what the stream raises.
    """
    header = TensorHeader.from_bytes(await stream.receive_message(MAX_TENSOR_HEADER))
    if header.nbytes > max_bytes:
        raise TensorError(f"a tensor of {header.nbytes} bytes, where at most {max_bytes} are allowed")
    data = np.empty(header.nbytes, np.uint8) if out is None else _destination(out)
    if data.size != header.nbytes:
        raise TensorError(f"a tensor of {header.nbytes} bytes does not fit a destination of {data.size}")
    if not header.count:
        return Tensor(header, data)
    if header.encoding == RAW:
        size = await stream.receive_message_into(data.data)
        if size != header.nbytes:
            raise TensorError(f"{size} bytes came for a tensor of {header.nbytes}")
        return Tensor(header, data)
    for start, stop in _chunks(header):
        expected = -(-(stop - start) // BLOCK) * (BLOCK + 4)
        payload = await stream.receive_message(expected)
        if len(payload) != expected:
            raise TensorError(f"{len(payload)} bytes came for a chunk of {expected}")
        part = _of_float32(header, _dequantise(payload, stop - start))
        data[start * header.itemsize : stop * header.itemsize] = part
    return Tensor(header, data)


def _destination(out: Any) -> NDArray[np.uint8]:
    if _is_torch(out):
        torch = sys.modules["torch"]
        if not out.is_contiguous() or out.device.type != "cpu":
            raise TensorError("a destination is contiguous and on the CPU")
        return out.detach().reshape(-1).view(torch.uint8).numpy()  # type: ignore[no-any-return]  # torch is untyped here
    if isinstance(out, np.ndarray):
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise TensorError("a destination is contiguous and writable")
        return out.reshape(-1).view(np.uint8)
    view = memoryview(out)
    if view.readonly or not view.contiguous:
        raise TensorError("a destination is contiguous and writable")
    return np.frombuffer(view.cast("B"), np.uint8)
