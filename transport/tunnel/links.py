"""What a tunnel runs on: a reliable byte stream, seen through four calls.

:class:`SocketLink` calls the non-blocking socket directly and asks trio only when the kernel would block, which is what
makes the tunnel fast; :class:`StreamLink` wraps any trio stream (memory streams in tests, relayed libp2p streams).
"""

from __future__ import annotations

import contextlib
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import trio

from transport.tunnel.limits import MAX_SPIN_SECONDS

WOULD_BLOCK = -1


class Link(Protocol):
    """A bidirectional byte stream. One task receives, one sends."""

    relayed: bool
    remote: str
    paced: bool
    """Whether the kernel spreads what it is given over time (BBR): then it is given a batch in two parts, and sends
    the first while the second is sealed (limits.EARLY_RECORDS)."""

    pausable: bool
    """Whether :meth:`wait_receivable` can be cancelled without losing a byte."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting: the number of bytes taken, possibly 0. Raises ``OSError``."""

    async def send(self, data: bytes | memoryview) -> int:
        """Wait until something can be sent, send it, and return the number of bytes taken."""

    def receive_now(self, buffer: memoryview) -> int:
        """Receive what is there: the number of bytes, 0 at the end, ``WOULD_BLOCK`` when there is nothing yet."""

    async def wait_receivable(self) -> None:
        """Wait until :meth:`receive_now` may have something to say, or :meth:`wake_receiver` is called.

        Raises ``OSError`` when broken.
        """

    def wake_receiver(self) -> None:
        """Wake the task in :meth:`wait_receivable`, on links that are ``pausable``; the sending task sees nothing."""

    async def send_eof(self) -> None:
        """End our direction; never raises."""

    async def aclose(self) -> None:
        """Close both directions at once, without ceremony; idempotent, never raises, does not wait."""


@dataclass(frozen=True)
class Tuning:
    """TCP settings of a tunnel's socket; None leaves what the system does, which adapts to the path as it goes.

    ``buffer_bytes`` fixes SO_SNDBUF and SO_RCVBUF, which ends the kernel's own growing of them: worth it on a path
    whose rate and delay are known. ``congestion`` names an algorithm that the kernel has (``cubic``, ``bbr``).
    ``spin_seconds`` (at most a millisecond) is how long to look for more before waiting: it spares the time in which a
    sleeping core wakes up, and costs that core, in which no other task runs meanwhile. For token decode on a core of
    its own.
    """

    buffer_bytes: int | None = None
    congestion: str | None = None
    spin_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.spin_seconds <= MAX_SPIN_SECONDS:
            raise ValueError(f"a tunnel spins from 0 to {MAX_SPIN_SECONDS} s, not {self.spin_seconds}")

    def apply(self, sock: socket.socket | trio.socket.SocketType) -> None:
        """Set the options on a socket, listening ones included. Raises ``OSError`` for what the kernel lacks."""
        if self.congestion is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.congestion.encode())
        if self.buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer_bytes)


SYSTEM_TUNING = Tuning()


class SocketLink:
    """A connected TCP socket, non-blocking, with Nagle's algorithm off: we cork ourselves."""

    relayed = False
    pausable = True

    def __init__(self, sock: socket.socket, spin_seconds: float = 0.0) -> None:
        self._spin_s = spin_seconds
        self.paced = _paced(sock)
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self.remote = ""
        name = sock.getpeername()
        if isinstance(name, tuple):
            self.remote = str(name[0])

    @classmethod
    def of_trio(cls, stream: trio.SocketStream, tuning: Tuning = SYSTEM_TUNING) -> SocketLink:
        """Take over a trio stream's socket; the stream is not to be used any more."""
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            tuning.apply(sock)
            return cls(sock, tuning.spin_seconds)
        except OSError:
            sock.close()
            raise

    def send_now(self, data: bytes | memoryview) -> int:
        """See :class:`Link`."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def send(self, data: bytes | memoryview) -> int:
        """See :class:`Link`."""
        while True:
            try:
                await trio.lowlevel.wait_writable(self._sock)
            except (trio.ClosedResourceError, ValueError) as error:
                if self._sock.fileno() < 0:
                    raise ConnectionAbortedError("the socket was closed here") from error
                continue  # it was wake_receiver, meant for the other task
            try:
                return self._sock.send(data)
            except BlockingIOError:
                continue

    def receive_now(self, buffer: memoryview) -> int:
        """See :class:`Link`."""
        try:
            return self._sock.recv_into(buffer)
        except BlockingIOError:
            return self._spin(buffer) if self._spin_s else WOULD_BLOCK

    def _spin(self, buffer: memoryview) -> int:
        end = time.perf_counter() + self._spin_s
        while time.perf_counter() < end:
            try:
                return self._sock.recv_into(buffer)
            except BlockingIOError:
                continue
        return WOULD_BLOCK

    async def wait_receivable(self) -> None:
        """See :class:`Link`."""
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except (trio.ClosedResourceError, ValueError) as error:
            if self._sock.fileno() < 0:
                raise ConnectionAbortedError("the socket was closed here") from error
            # It was wake_receiver.

    def wake_receiver(self) -> None:
        """See :class:`Link`: trio wakes whoever waits for a socket that is said to close, and asks no more."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)

    async def send_eof(self) -> None:
        """See :class:`Link`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """See :class:`Link`."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def _paced(sock: socket.socket) -> bool:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"bbr")
    except OSError:  # no TCP socket
        return False


class WaitingLink(ABC):
    """What links have in common that can neither send nor receive without waiting: of pieces, not of a socket."""

    paced = False
    pausable = False  # trio promises nothing of the kind for streams in general

    def __init__(self, *, relayed: bool, remote: str) -> None:
        self._rest = memoryview(b"")
        self._ended = False
        self.relayed = relayed
        self.remote = remote

    @abstractmethod
    async def _next_piece(self) -> bytes | memoryview:
        """Wait for some bytes, none at the end. Raises ``OSError`` when broken."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Nothing can be sent without waiting."""
        return 0

    def receive_now(self, buffer: memoryview) -> int:
        """What :meth:`wait_receivable` has brought."""
        if not self._rest:
            return 0 if self._ended else WOULD_BLOCK
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    async def wait_receivable(self) -> None:
        """See :class:`Link`."""
        if not (self._rest or self._ended):
            self._rest = memoryview(await self._next_piece())
            self._ended = not self._rest

    def wake_receiver(self) -> None:  # noqa: B027  # nothing to do here, and nothing to be overridden
        """Never needed: only the tunnel's own loop receives from a link that is not pausable."""


class StreamLink(WaitingLink):
    """Any trio stream. ``relayed`` says whether a third party carries it."""

    def __init__(self, stream: trio.abc.Stream, *, relayed: bool = False, remote: str = "") -> None:
        super().__init__(relayed=relayed, remote=remote)
        self._stream = stream

    async def send(self, data: bytes | memoryview) -> int:
        """See :class:`Link`."""
        try:
            await self._stream.send_all(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError("the stream beneath is broken") from error
        return len(data)

    async def _next_piece(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError("the stream beneath is broken") from error

    async def send_eof(self) -> None:
        """See :class:`Link`; a stream that cannot half-close is left open."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await self._stream.send_eof()

    async def aclose(self) -> None:
        """See :class:`Link`."""
        broken = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
        with trio.CancelScope(shield=True), contextlib.suppress(*broken):
            await trio.aclose_forcefully(self._stream)
