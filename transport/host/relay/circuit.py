"""A relayed stream as the raw connection under a libp2p connection: Noise and yamux run end to end inside it."""

from __future__ import annotations

from collections.abc import Callable

import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from transport.host.interface import StreamError
from transport.host.streams import Libp2pStream
from transport.host.tcp import PipedStream


class _Pipe:
    """What :class:`PipedStream` needs of a byte stream."""

    def __init__(self, stream: Libp2pStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_bytes(data)
        except StreamError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        return await self._stream.receive_bytes(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


class CircuitStream(PipedStream):
    """One circuit. ``addr`` is ``/…/p2p/RELAY/p2p-circuit``; it has no IP address of the other end."""

    def __init__(self, stream: Libp2pStream, addr: Multiaddr, psk: bytes | None, spawn: Callable[..., object]) -> None:
        super().__init__(_Pipe(stream), None, psk)
        self._circuit = stream
        self._addr = addr
        self._spawn = spawn
        spawn(self.run)

    def raw(self, initiator: bool) -> RawConnection:
        """The connection for libp2p to secure and multiplex, marked as relayed."""
        return RawConnection(self, initiator, ConnectionType.RELAYED, [self._addr])

    def abort(self) -> None:
        """End the circuit now, without flushing."""
        self._closing = True
        self._wake.set()
        self._spawn(self._circuit.reset)
