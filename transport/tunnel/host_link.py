"""A tunnel over a stream of the control plane, for peers that have no direct connection: through a relay, at its speed.

The tunnel's bytes are cut into messages of the host stream; an empty message ends a direction. The tunnel inside is the
same, its handshake included, so whoever carries the stream learns nothing but sizes and times.
"""

from __future__ import annotations

import contextlib

import trio

from transport.host import HostStream, StreamError
from transport.tunnel.limits import RELAY_CHUNK
from transport.tunnel.links import WaitingLink


class HostStreamLink(WaitingLink):
    """A :class:`~transport.tunnel.Link` over a host stream. ``relayed`` says whether a third party carries it."""

    def __init__(self, stream: HostStream, *, relayed: bool = True) -> None:
        super().__init__(relayed=relayed, remote=stream.peer_id)
        self._stream = stream
        self._closed = False

    async def send(self, data: bytes | memoryview) -> int:
        """See :class:`~transport.tunnel.Link`."""
        part = bytes(data[:RELAY_CHUNK])
        try:
            await self._stream.send(part)
        except StreamError as error:
            raise ConnectionResetError(str(error)) from error
        return len(part)

    async def _next_piece(self) -> bytes:
        try:
            return await self._stream.receive(RELAY_CHUNK)
        except StreamError as error:
            raise ConnectionResetError(str(error)) from error

    async def send_eof(self) -> None:
        """See :class:`~transport.tunnel.Link`."""
        with contextlib.suppress(StreamError):
            await self._stream.send(b"")

    async def aclose(self) -> None:
        """See :class:`~transport.tunnel.Link`."""
        if not self._closed:
            self._closed = True
            with trio.CancelScope(shield=True):
                await self._stream.reset()
