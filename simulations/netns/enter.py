"""Run a command in a network namespace: ``python enter.py NAMESPACE COMMAND…``.

A program of its own, run as a file by the interpreter alone: it becomes the command, so that the process that was
started is the one that is signalled, and nothing runs between fork and exec in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNET = 0x40000000


def main(path: str, *command: str) -> None:
    """Join the network namespace at ``path`` and become ``command``. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    os.execvp(command[0], command)  # noqa: S606 — that is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
