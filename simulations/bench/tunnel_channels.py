"""The tunnel and its peers behind one interface, each as its users would write it: what `tunnel_peer` drives.

A channel carries whole messages whose sizes both sides know. Blocking peers are driven by the same coroutines as
trio's; their methods just never wait (see :func:`run_blocking`). All use one connection; zmq and gRPC bring threads of
their own, on the same core. Long messages are written to a destination of the caller's where the peer has a call for
that (plain TCP, TLS, the tunnel), in turn over ``DESTINATION_MIB``, as a tensor is.
"""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.tunnel import TunnelStream

MIB = 1 << 20
DESTINATION_MIB = 256
"""What long messages come from and go to: far more than a cache holds, so that memory is read and written as for a
tensor that travels once."""

TUNED_CONGESTION = b"cubic"
TUNED_BUFFER = 2 << 20
"""What "the same tuning on both" is, for the tunnel and for plain TCP."""


class Channel(Protocol):
    """One connection of one kind."""

    async def send(self, message: bytes) -> None:
        """Send one message, which may be corked."""

    async def sink(self, size: int, count: int) -> None:
        """Receive ``count`` messages of ``size`` bytes."""


def run_blocking(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine none of whose parts ever waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking channel waited")


def tune(sock: socket.socket, *, tuned: bool) -> None:
    """What all TCP peers get: no Nagle; and the tuning, where that is what is measured."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tuned:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, TUNED_CONGESTION)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TUNED_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TUNED_BUFFER)


class Destination:
    """Memory that long messages are received into, one after the other, from the start again at its end."""

    def __init__(self, mib: int) -> None:
        self._memory = memoryview(bytearray(b"\1") * (mib * MIB))
        self._next = 0

    def take(self, size: int) -> memoryview:
        """Where the next ``size`` bytes, at most 1 MiB, go; small messages always to the same place."""
        if size < MIB:
            return self._memory[:size]
        start, self._next = self._next, (self._next + MIB) % len(self._memory)
        return self._memory[start : start + size]


class SocketChannel:
    """A blocking socket: plain TCP, or stdlib TLS over it."""

    def __init__(self, sock: socket.socket, destination: Destination) -> None:
        self._sock = sock
        self._destination = destination

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        self._sock.sendall(message)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        receive_into = self._sock.recv_into
        for _ in range(count):
            view = self._destination.take(size)
            while view:
                got = receive_into(view)
                if not got:
                    raise ConnectionError("cut off")
                view = view[got:]


class SealedChannel:
    """A blocking socket with AES-256-GCM over it and nothing else: no handshake, streams, credit, or other tasks.

    What the tunnel's streams, credit and event loop cost shows beside it: the records are the tunnel's, a message of
    1 MiB is sealed into one buffer and sent by one call, and opened in its destination.
    """

    RECORD = 65_518

    def __init__(self, sock: socket.socket, destination: Destination) -> None:
        self._sock = sock
        self._destination = destination
        self._sealer, self._opener = AESGCM(bytes(32)), AESGCM(bytes(32))
        self._sent = self._opened = 0
        wire = 18 * 65_536
        self._out, self._ring = memoryview(bytearray(wire)), memoryview(bytearray(wire))
        self._start = self._end = 0

    @staticmethod
    def _nonce(counter: int) -> bytes:
        return bytes(4) + counter.to_bytes(8, "big")

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        view, out, offset = memoryview(message), self._out, 0
        for start in range(0, len(view), self.RECORD):
            part = view[start : start + self.RECORD]
            end = offset + len(part) + 18
            out[offset : offset + 2] = (len(part) + 16).to_bytes(2, "big")
            self._sealer.encrypt_into(self._nonce(self._sent), part, None, out[offset + 2 : end])
            self._sent += 1
            offset = end
        self._sock.sendall(out[:offset])

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        ring = self._ring
        for _ in range(count):
            view = self._destination.take(size)
            while view:
                if self._end - self._start >= 2:
                    stop = self._start + 2 + int.from_bytes(ring[self._start : self._start + 2], "big")
                    if stop <= self._end:
                        got = stop - self._start - 18
                        self._opener.decrypt_into(
                            self._nonce(self._opened), ring[self._start + 2 : stop], None, view[:got]
                        )
                        self._opened += 1
                        self._start, view = stop, view[got:]
                        continue
                self._receive()

    def _receive(self) -> None:
        rest = self._end - self._start
        if self._start:
            self._ring[:rest] = bytes(self._ring[self._start : self._end])
            self._start, self._end = 0, rest
        got = self._sock.recv_into(self._ring[rest:])
        if not got:
            raise ConnectionError("cut off")
        self._end += got


def tls_context(directory: str, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with the certificate in ``directory``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if server:
        context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
    else:
        context.load_verify_locations(f"{directory}/cert.pem")
    return context


class ZmqChannel:
    """A pyzmq PAIR socket with CURVE; large messages are sent without a copy, as pyzmq offers."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        self._sock.send(message, copy=len(message) < 65_536)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        for _ in range(count):
            assert len(self._sock.recv(copy=False)) == size


class GrpcChannel:
    """One bidirectional gRPC stream of raw bytes. The queue of what is to be sent is short: it is flow control."""

    DEPTH = 8

    def __init__(self, incoming: Iterator[bytes]) -> None:
        self._incoming = incoming
        self._outgoing: queue.Queue[bytes | None] = queue.Queue(self.DEPTH)

    def outgoing(self) -> Iterator[bytes]:
        """What gRPC pulls from."""
        while (message := self._outgoing.get()) is not None:
            yield message

    def connect(self, incoming: Iterator[bytes]) -> None:
        """The client has its incoming half only after it has given its outgoing one."""
        self._incoming = incoming

    def finish(self) -> None:
        """Nothing more will be sent."""
        self._outgoing.put(None)

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        self._outgoing.put(message)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        for _ in range(count):
            assert len(next(self._incoming)) == size


class TrioChannel:
    """Plain TCP through ``trio.SocketStream``."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._rest = 0

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        await self._stream.send_all(message)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        left = size * count - self._rest
        while left > 0:
            got = await self._stream.receive_some(MIB)
            if not got:
                raise ConnectionError("cut off")
            left -= len(got)
        self._rest = -left


class Libp2pChannel:
    """A py-libp2p stream: Noise, then yamux."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = 0

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`."""
        await self._stream.write(message)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        left = size * count - self._rest
        while left > 0:
            got = await self._stream.read(65_536)
            if not got:
                raise ConnectionError("cut off")
            left -= len(got)
        self._rest = -left


class TunnelChannel:
    """One stream of a tunnel. Long messages are opened in the destination; small ones are corked, one call each."""

    LONG = 65_536

    def __init__(self, stream: TunnelStream, destination: Destination) -> None:
        self._stream = stream
        self._destination = destination

    async def send(self, message: bytes) -> None:
        """See :class:`Channel`. What must leave at once (a ping) is small and rare; 4 KiB messages are corked."""
        await self._stream.send_message(message, urgent=len(message) <= 64)

    async def sink(self, size: int, count: int) -> None:
        """See :class:`Channel`."""
        if size >= self.LONG:
            for _ in range(count):
                assert await self._stream.receive_message_into(self._destination.take(size)) == size
            return
        if count == 1:  # what follows may be of another size
            assert len(await self._stream.receive_message(size)) == size
            return
        while count > 0:
            messages = await self._stream.receive_messages(size)
            if not messages:
                raise ConnectionError("the stream has ended")
            assert len(messages[-1]) == size
            count -= len(messages)
        assert count == 0, "more messages than were asked for"
