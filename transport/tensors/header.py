"""What a tensor is, as it travels: one small message ``{"v": 1, "element": …, "shape": […], "encoding": …}``.

``element`` is an RFC 8746 typed-array tag (type and byte order in one number) or, for the types that the RFC lacks, a
name, little endian. The encoding of the header is deterministic CBOR; the payload never passes through CBOR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO

import cbor2
import numpy as np

from transport.limits import MAX_TENSOR_BYTES, MAX_TENSOR_HEADER, MAX_TENSOR_RANK

VERSION = 1
BLOCK = 64
"""Elements that share one scale in ``int8-block-64``."""

RAW = "raw"
INT8_BLOCK_64 = "int8-block-64"
RAW_CHUNKS = "raw-chunks"
ENCODINGS = (RAW, RAW_CHUNKS, INT8_BLOCK_64)

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
SPECIAL = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
"""Elements that numpy knows only with ml_dtypes; their names are ml_dtypes' and torch's alike."""

_NAMED = {
    "bool": 1,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Elements without a tag and their size in bytes: always little endian."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


class TensorError(ValueError):
    """A tensor that cannot be sent, or bytes that are not the tensor they should be."""


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
        if self.encoding == INT8_BLOCK_64 and (self.element not in FLOATS or self.big_endian):
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
