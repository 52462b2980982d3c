"""TCP under libp2p: sockets, the listener and the private-network protector.

This replaces ``libp2p.transport.tcp``, whose faults sit too deep to patch:

- P3 (io/trio.py:41): cancelling a blocked ``write`` leaves half a frame on the wire, and the Noise nonce ahead of it,
  which kills the connection for everyone. Here ``write`` hands the bytes over in one step and a task of the connection
  sends them; cancellation can only interrupt the waiting.
- P10 (security/pnet/psk_conn.py:26): see :mod:`transport.host.pnet`.
- P14 (io/trio.py:104): an IPv6 peer has no remote address, hence escapes every per-address limit.
- P15 (io/utils.py:8): a message that arrives in more than 100 pieces is given up. Here a read fills its buffer.
- P16 (transport/tcp/tcp.py:264): listeners are trio system tasks, which outlive their host; here its nursery has them.
- A listener binds with SO_REUSEPORT (transport/tcp/tcp.py:210): a second node on the same port starts without a word
  and steals half of the connections. Here it is an error.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from transport.host.limits import (
    CLOSE_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_PROBES,
    READ_CHUNK_BYTES,
    WRITE_BUFFER_BYTES,
    WRITE_STALL_S,
)
from transport.host.pnet import NONCE_BYTES, XSalsa20
from transport.host.shared_port import SharedPorts

_HOST_PROTOCOLS = ("ip4", "ip6", "dns4", "dns6", "dns")


class AddressError(ValueError):
    """A multiaddr that TCP cannot serve. The message says why."""


def host_and_port(addr: Multiaddr) -> tuple[str, int]:
    """The host name or IP address and the port of ``/ip4|ip6|dns…/HOST/tcp/PORT``. Raises :class:`AddressError`."""
    names = [protocol.name for protocol in addr.protocols()]
    plain = [name for name in names if name != "p2p"]
    if len(plain) != 2 or plain[0] not in _HOST_PROTOCOLS or plain[1] != "tcp":
        raise AddressError(f"{addr} is not of the form /ip4/…/tcp/…, /ip6/…/tcp/… or /dns/…/tcp/…")
    return str(addr.value_for_protocol(plain[0])), int(addr.value_for_protocol("tcp"))


def _peer_name(stream: trio.SocketStream) -> tuple[str, int] | None:
    try:
        name = stream.socket.getpeername()
    except OSError:
        return None
    host = str(name[0])
    if host.startswith("::ffff:") and "." in host:
        host = host[len("::ffff:") :]
    return host, int(name[1])


def _keep_alive(stream: trio.SocketStream) -> None:
    """Let the kernel notice a peer that vanished without a word (yamux.py:703 pings but draws no conclusion)."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES)),
    ):
        if hasattr(socket, name):  # Linux has them all
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    with suppress(OSError):
        for level, option, value in options:
            stream.setsockopt(level, option, value)


class Pipe(Protocol):
    """Bytes in order, both ways: a socket, or a stream through a relay."""

    async def send_all(self, data: bytes) -> None:
        """Send all of ``data``."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """At least one byte, none at the end."""

    async def aclose(self) -> None:
        """Close it."""


class PipedStream(ReadWriteCloser):  # type: ignore[misc]  # libp2p ships no types
    """A raw connection over a pipe. Reads by one task at a time; writes never leave half a message behind."""

    def __init__(self, pipe: Pipe, remote: tuple[str, int] | None, psk: bytes | None) -> None:
        self._stream = pipe
        self._psk = psk
        self._remote = remote
        self._encrypt: XSalsa20 | None = None
        self._decrypt: XSalsa20 | None = None
        self._in = bytearray()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._closing = False
        self._finished = trio.Event()

    async def run(self) -> None:
        """Send what is written until the stream is closed or breaks. The host runs this in its own nursery."""
        try:
            while True:
                if not self._out:
                    if self._closing:
                        return
                    self._wake = trio.Event()
                    await self._wake.wait()
                    continue
                batch = b"".join(self._out)
                self._out.clear()
                with trio.fail_after(WRITE_STALL_S):
                    await self._stream.send_all(batch)
                self._out_bytes -= len(batch)
                self._let_writers_in()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            return
        finally:
            self._closing = True
            self._let_writers_in()
            with trio.CancelScope(shield=True):
                await self._close_pipe()
            self._finished.set()

    async def _close_pipe(self) -> None:
        await self._stream.aclose()

    def _let_writers_in(self) -> None:
        room, self._room = self._room, trio.Event()
        room.set()

    async def write(self, data: bytes) -> None:
        """Queue ``data`` in one step, then wait while too much is queued. Cancelling the wait loses nothing."""
        if self._closing:
            raise ConnectionClosedError("the connection is closed", transport="tcp")
        if self._psk is not None:
            if self._encrypt is None:
                nonce = os.urandom(NONCE_BYTES)
                self._encrypt = XSalsa20(self._psk, nonce)
                self._queue(nonce)
            data = self._encrypt.process(data)
        self._queue(data)
        while self._out_bytes > WRITE_BUFFER_BYTES and not self._closing:
            await self._room.wait()

    def _queue(self, data: bytes) -> None:
        self._out.append(bytes(data))
        self._out_bytes += len(data)
        self._wake.set()

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, fewer only before the end of the stream; whatever is there for None."""
        wanted = 1 if n is None else n
        while len(self._in) < wanted:
            if not await self._fill():
                if not self._in:
                    raise ConnectionClosedError("the peer closed the connection", transport="tcp")
                break
        take = len(self._in) if n is None else n
        data = bytes(self._in[:take])
        del self._in[:take]
        return data

    async def _fill(self) -> bool:
        try:
            chunk = bytes(await self._stream.receive_some(READ_CHUNK_BYTES))
            if self._psk is not None and self._decrypt is None:
                while chunk and len(chunk) < NONCE_BYTES:
                    more = await self._stream.receive_some(READ_CHUNK_BYTES)
                    chunk = chunk + bytes(more) if more else b""
                if chunk:
                    self._decrypt = XSalsa20(self._psk, chunk[:NONCE_BYTES])
                    chunk = chunk[NONCE_BYTES:]
                    self._in += self._decrypt.process(chunk)
                    return True
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise ConnectionClosedError("the connection broke", transport="tcp") from error
        if self._decrypt is not None:
            chunk = self._decrypt.process(chunk)
        self._in += chunk
        return bool(chunk)

    async def close(self) -> None:
        """Flush for at most :data:`CLOSE_S`, then close the socket. Idempotent."""
        self._closing = True
        self._wake.set()
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
            await self._finished.wait()
        if not self._finished.is_set():
            self.abort()

    @abstractmethod
    def abort(self) -> None:
        """Close the pipe now, without flushing."""

    def raw(self, initiator: bool) -> RawConnection:
        """The connection for libp2p to secure and multiplex."""
        return RawConnection(self, initiator)

    async def wait_closed(self) -> None:
        """Return once the pipe is closed, from whichever side."""
        await self._finished.wait()

    def get_remote_address(self) -> tuple[str, int] | None:
        """IP address and port of the other end; None through a relay."""
        return self._remote


class TcpStream(PipedStream):
    """One socket."""

    def __init__(self, stream: trio.SocketStream, psk: bytes | None) -> None:
        super().__init__(stream, _peer_name(stream), psk)
        self._socket_stream = stream
        _keep_alive(stream)

    async def _close_pipe(self) -> None:
        await trio.aclose_forcefully(self._socket_stream)

    def abort(self) -> None:
        """Close the socket now, without flushing."""
        self._closing = True
        self._socket_stream.socket.close()
        self._wake.set()


class TcpTransport(ITransport):  # type: ignore[misc]  # libp2p ships no types
    """Dials and listens on TCP, inside a private network when there is a pre-shared key."""

    def __init__(self, nursery: trio.Nursery, psk: bytes | None) -> None:
        self._nursery = nursery
        self._psk = psk
        self._ports = SharedPorts()

    def _start(self, stream: trio.SocketStream) -> TcpStream:
        wrapped = TcpStream(stream, self._psk)
        self._nursery.start_soon(wrapped.run)
        return wrapped

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Open a connection. Raises ``OpenConnectionError`` with the reason."""
        try:
            host, port = host_and_port(maddr)
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, AddressError) as error:
            raise OpenConnectionError(str(error)) from error
        return self._start(stream).raw(True)

    async def dial_from_port(self, maddr: Multiaddr) -> TcpStream:
        """The same from the port that we listen on, for either role. Raises ``OSError``."""
        host, port = host_and_port(maddr)
        return self._start(await self._ports.connect(host, port))

    def create_listener(self, handler_function: Callable[[Any], Awaitable[None]]) -> TcpListener:
        """A listener that gives each accepted connection to ``handler_function``."""
        return TcpListener(self._nursery, self._start, handler_function, self._ports)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Whether this is a plain TCP address."""
        try:
            host_and_port(maddr)
        except ValueError:
            return False
        return True

    def can_listen(self, maddr: Multiaddr) -> bool:
        """Whether this is a plain TCP address."""
        return self.can_dial(maddr)

    def protocols(self) -> list[str]:
        """The multiaddr protocol that marks addresses of this transport."""
        return ["tcp"]


class TcpListener(IListener):  # type: ignore[misc]  # libp2p ships no types
    """Listening sockets that live in the host's nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        start: Callable[[trio.SocketStream], TcpStream],
        handler: Callable[[Any], Awaitable[None]],
        ports: SharedPorts,
    ) -> None:
        self._ports = ports
        self._nursery = nursery
        self._start = start
        self._handler = handler
        self._addrs: list[Multiaddr] = []
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Bind and accept. Raises ``OSError`` when the address cannot be bound, :class:`AddressError` if malformed."""
        host, port = host_and_port(maddr)
        listeners = await trio.open_tcp_listeners(port, host=host)
        for listener in listeners:
            self._ports.listened_on(listener)
            name = listener.socket.getsockname()
            self._addrs.append(Multiaddr(f"/{'ip6' if ':' in name[0] else 'ip4'}/{name[0]}/tcp/{name[1]}"))
        self._nursery.start_soon(self._serve, listeners)

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        with self._scope:
            await trio.serve_listeners(self._accept, listeners)

    async def _accept(self, stream: trio.SocketStream) -> None:
        wrapped = self._start(stream)
        await self._handler(wrapped)
        await wrapped.wait_closed()  # serve_listeners closes the socket when this returns

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """What is bound, with the real ports."""
        return tuple(self._addrs)

    async def close(self) -> None:
        """Stop accepting; connections live on."""
        self._scope.cancel()
        await trio.lowlevel.checkpoint()
