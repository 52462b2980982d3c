"""Tensors of every usual element type over a message stream, without a copy where the layout allows.

::

    await send_tensor(stream, array)                               # one side
    tensor = await receive_tensor(stream, max_bytes=1 << 30)       # the other
    tensor.numpy()

numpy arrays and torch tensors, in memory, in mapped files or on a device; bfloat16 and the float8 types by their bits.
"""

from transport.tensors.arrays import Tensor
from transport.tensors.exchange import (
    MessageStream,
    receive_tensor,
    receive_tensor_chunks,
    send_tensor,
    send_tensor_chunks,
)
from transport.tensors.header import BLOCK, ENCODINGS, TensorError, TensorHeader

__all__ = [
    "BLOCK",
    "ENCODINGS",
    "MessageStream",
    "Tensor",
    "TensorError",
    "TensorHeader",
    "receive_tensor",
    "receive_tensor_chunks",
    "send_tensor",
    "send_tensor_chunks",
]
