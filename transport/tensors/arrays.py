"""Tensors in memory: numpy arrays and torch tensors as flat bytes and back, without a copy where the layout allows.

torch and ml_dtypes are used when present and never required; torch is never imported here unless it already is, or a
torch tensor is asked for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transport.tensors.header import SPECIAL, TensorError, TensorHeader


@dataclass(frozen=True)
class Tensor:
    """A received tensor: what it is, and its elements as ``data``: uint8, one dimension, ``header.nbytes`` long.

    ``data`` is a numpy array, or a torch tensor where the tensor was received onto a device.
    """

    header: TensorHeader
    data: Any

    def numpy(self) -> NDArray[Any]:
        """The tensor as a numpy array that shares ``data``; from a device it is copied.

        Raises :class:`TensorError` when its element type needs ml_dtypes and that is not installed.
        """
        data: NDArray[np.uint8] = self.data.cpu().numpy() if is_torch(self.data) else self.data
        return data.view(_numpy_dtype(self.header)).reshape(self.header.shape)

    def torch(self) -> Any:
        """The tensor as a torch tensor that shares ``data``. Raises ``ImportError`` without torch."""
        import torch

        header = self.header
        if header.big_endian:
            raise TensorError("torch has no big-endian tensors")
        data = self.data if is_torch(self.data) else torch.from_numpy(self.data)
        return data.view(getattr(torch, header.element)).reshape(header.shape)


def _numpy_dtype(header: TensorHeader) -> np.dtype[Any]:
    if header.element in SPECIAL:
        try:
            import ml_dtypes  # type: ignore[import-not-found,unused-ignore]  # optional, never installed by us
        except ImportError:
            raise TensorError(f"numpy needs the ml_dtypes package for {header.element}") from None
        special: np.dtype[Any] = np.dtype(getattr(ml_dtypes, header.element))
        return special
    plain: np.dtype[Any] = np.dtype(header.element)
    ordered: np.dtype[Any] = plain.newbyteorder(">" if header.big_endian else "<")
    return ordered


def is_torch(value: object) -> bool:
    """Whether ``value`` is a torch tensor; False where torch was never imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def on_device(data: object) -> bool:
    """Whether flat bytes are a torch tensor that is not in the host's memory."""
    return not isinstance(data, np.ndarray)


def describe(value: Any, encoding: str) -> tuple[TensorHeader, Any]:
    """Header and flat bytes of what can be sent, without a copy where it is contiguous.

    The bytes are a numpy array, or a torch tensor where they are on a device. Raises :class:`TensorError`.
    """
    if isinstance(value, Tensor):
        header = TensorHeader(value.header.element, value.header.shape, value.header.big_endian, encoding)
        return header, value.data
    if is_torch(value):
        header = TensorHeader(str(value.dtype).removeprefix("torch."), tuple(value.shape), encoding=encoding)
        return header, _flat(value.contiguous()) if header.count else np.empty(0, np.uint8)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.names is not None:
        raise TensorError(f"{array.dtype} elements cannot be sent")
    order = array.dtype.byteorder
    big = order == ">" or (order == "=" and sys.byteorder == "big" and array.itemsize > 1)
    header = TensorHeader(array.dtype.name, tuple(int(size) for size in array.shape), big, encoding)
    return header, np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def destination(out: Any) -> Any:
    """The flat bytes of memory to receive into, as :func:`describe` gives them. Raises :class:`TensorError`."""
    if is_torch(out):
        if not out.is_contiguous():
            raise TensorError("a destination is contiguous")
        return _flat(out)
    if isinstance(out, np.ndarray):
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise TensorError("a destination is contiguous and writable")
        return out.reshape(-1).view(np.uint8)
    view = memoryview(out)
    if view.readonly or not view.contiguous:
        raise TensorError("a destination is contiguous and writable")
    return np.frombuffer(view.cast("B"), np.uint8)


def _flat(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    return flat.numpy() if tensor.device.type == "cpu" else flat


def fetch(data: Any, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes ``start`` to ``stop`` in the host's memory: a view where they are there, a copy from a device."""
    part = data[start:stop]
    host: NDArray[np.uint8] = part.cpu().numpy() if on_device(data) else part
    return host


def place(data: Any, start: int, part: NDArray[np.uint8]) -> None:
    """Copy ``part`` to where it belongs, onto a device if need be."""
    if on_device(data):
        part = sys.modules["torch"].from_numpy(part)
    data[start : start + len(part)] = part
