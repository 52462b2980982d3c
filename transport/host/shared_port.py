"""Connections that leave from the port that we listen on, so that a router's one mapping serves both ways.

A socket may be bound beside a listening one only where both have SO_REUSEPORT. A listener that is bound with it would
let a second node onto its port, which took half of the connections unnoticed; so it gets the option once it listens:
the kernel asks for it when the other socket is bound, and a second listener without it is refused as ever.
"""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

_WILDCARDS = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104  # to dial from, not to listen on
_SHARE = getattr(socket, "SO_REUSEPORT", None)


class SharedPorts:
    """The port that is shared, for each family: the one listened on, else any that the first connection got."""

    def __init__(self) -> None:
        self._local: dict[int, tuple[str, int]] = {}

    def listened_on(self, listener: trio.SocketListener) -> None:
        """Connections may leave from the port of this listener. Of several the first is taken."""
        if _SHARE is None:
            return
        with suppress(OSError):  # a system that refuses has no shared port
            listener.socket.setsockopt(socket.SOL_SOCKET, _SHARE, 1)
            name = listener.socket.getsockname()
            self._local.setdefault(listener.socket.family, (str(name[0]), int(name[1])))

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """A connection from the shared port. Raises ``OSError``: also when the two ends are connected so already."""
        if _SHARE is None:
            raise OSError("this system cannot share a port")
        family, _, _, _, target = (await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SHARE, 1)
            await sock.bind(self._local.get(family, (_WILDCARDS[family], 0)))
            name = sock.getsockname()
            self._local.setdefault(family, (_WILDCARDS[family], int(name[1])))
            await sock.connect(target)
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)


__all__ = ["SharedPorts"]
