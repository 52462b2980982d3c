"""TUN devices: network interfaces whose packets a process carries."""

from __future__ import annotations

import fcntl
import os
import struct

DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_NAME_BYTES = 16


def open_tun(name: str) -> int:
    """Make the interface ``name`` and return its descriptor, not blocking: one read is one packet, and one write.

    The interface lives as long as the descriptor, wherever it is moved to. Raises ``OSError``.
    """
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack(f"{_NAME_BYTES}sH22x", name.encode("ascii"), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
