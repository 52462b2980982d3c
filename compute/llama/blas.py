"""How many threads numpy's OpenBLAS uses: one, for small models.

Splitting a product of a few hundred columns over threads costs more than it saves, and on a machine whose other cores
are busy a single job became four times slower by it (measured with the demo model on two cores).
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

SMALL_HIDDEN_SIZE = 1024
"""Models narrower than this run on one thread."""

_SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")


def use_one_thread() -> bool:
    """Make the loaded OpenBLAS single-threaded for the process, unless the user set ``OPENBLAS_NUM_THREADS``.

    Returns whether a library was found and told. Other BLAS libraries are left alone.
    """
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return False
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if "openblas" in path:
                library = ctypes.CDLL(path)
                for name in _SETTERS:
                    if hasattr(library, name):
                        getattr(library, name)(1)
                        return True
    return False
