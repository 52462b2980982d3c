"""Bounds of the parts of ``transport`` that have no package of their own; see also ``transport/*/limits.py``."""

from __future__ import annotations

MAX_TENSOR_HEADER = 512
"""A tensor header: a few short fields and 16 dimensions of nine bytes each fit twice."""

MAX_TENSOR_RANK = 16
"""Dimensions of a tensor; models use up to six."""

MAX_TENSOR_BYTES = 1 << 40
"""Bytes of one tensor: a terabyte is a mistake or an attack. Readers set their own, lower limit."""

TENSOR_CHUNK = 64 << 20
"""Encoded tensors are made and decoded this many bytes at a time, so that a copy never is as large as the tensor."""
