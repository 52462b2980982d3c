"""A tunnel over a stream of the control plane, for peers that have no direct connection: through a relay, at its speed.

The tunnel's bytes are cut into messages of the host stream; an empty message ends a direction. The tunnel inside is the
same, its handshake included, so whoever carries the stream learns nothing but sizes and times.
"""

from __future__ import annotations

import contextlib

import trio

from transport.host import HostStream, StreamError
from transport.tunnel.limits import RELAY_CHUNK
from transport.tunnel.links import WOULD_BLOCK


class HostStreamLink:
    """A :class:`~transport.tunnel.Link` over a host stream. ``relayed`` says whether a third party carries it."""

    paced = False
    pausable = False

    def __init__(self, stream: HostStream, *, relayed: bool = True) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self._ended = False
        self._closed = False
        self.relayed = relayed
        self.remote: str = stream.peer_id

    def send_now(self, data: bytes | memoryview) -> int:
        """Nothing can be sent without waiting."""
        return 0

    async def send(self, data: bytes | memoryview) -> int:
        """See :class:`~transport.tunnel.Link`."""
        part = bytes(data[:RELAY_CHUNK])
        try:
            await self._stream.send(part)
        except StreamError as error:
            raise ConnectionResetError(str(error)) from error
        return len(part)

    def receive_now(self, buffer: memoryview) -> int:
        """What :meth:`wait_receivable` has brought."""
        if not self._rest:
            return 0 if self._ended else WOULD_BLOCK
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    async def wait_receivable(self) -> None:
        """See :class:`~transport.tunnel.Link`."""
        if self._rest or self._ended:
            return
        try:
            self._rest = memoryview(await self._stream.receive(RELAY_CHUNK))
        except StreamError as error:
            raise ConnectionResetError(str(error)) from error
        self._ended = not self._rest

    def wake_receiver(self) -> None:
        """Never needed: the link is not pausable."""

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
