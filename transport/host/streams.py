"""Message streams over libp2p streams: varint framing, one-round-trip negotiation, resets that cannot block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from libp2p.exceptions import BaseLibp2pError

from transport.host.interface import StreamError
from transport.host.limits import CLOSE_S, MAX_MESSAGE_BYTES, MAX_PROTOCOL_NAME_BYTES, READ_CHUNK_BYTES
from transport.identity import PeerId

_MULTISTREAM = "/multistream/1.0.0"
_MAX_VARINT_BYTES = 5  # 35 bits: beyond every length that we accept

# What a libp2p stream raises when it or its connection is gone.
_BROKEN = (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError, ValueError)


def encode_varint(value: int) -> bytes:
    """An unsigned varint (multiformats unsigned-varint)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return encode_varint(len(data)) + data


class Libp2pStream:
    """A :class:`transport.host.interface.HostStream` over a libp2p stream.

    One task sends and one receives at a time. ``spawn`` starts a task that outlives its caller, for the reset of a
    stream whose writer was cancelled. ``ended`` is called once, after the stream was closed or reset.
    """

    def __init__(
        self, stream: Any, peer: PeerId, spawn: Callable[..., object], ended: Callable[[], None] = lambda: None
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._spawn = spawn
        self._ended = ended
        self._buffer = bytearray()
        self._over = False

    @property
    def peer_id(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._peer

    async def negotiate(self, protocol: str) -> None:
        """Ask for ``protocol`` as the opener, in one round trip (multistream-select, both lines at once)."""
        self._stream.set_protocol(protocol)
        await self._write(_line(_MULTISTREAM) + _line(protocol))
        if (answer := await self._read_line()) != _MULTISTREAM:
            raise StreamError(f"{self._peer} does not speak {_MULTISTREAM} but {answer!r}")
        if await self._read_line() != protocol:
            raise StreamError(f"{self._peer} does not speak {protocol}")

    async def _read_line(self) -> str:
        line = await self.receive(MAX_PROTOCOL_NAME_BYTES)
        try:
            return line.decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise StreamError(f"{self._peer} answered the negotiation with garbage") from None

    async def send(self, message: bytes) -> None:
        """Send one message. Cancellation resets the stream and leaves the connection usable."""
        if len(message) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(message)} bytes, where at most {MAX_MESSAGE_BYTES} are allowed")
        await self._write(encode_varint(len(message)) + message)

    async def _write(self, data: bytes) -> None:
        if self._over:
            raise StreamError(f"the stream to {self._peer} is closed")
        try:
            await self._stream.write(data)
        except _BROKEN as error:
            self._abandon()
            raise StreamError(f"the stream to {self._peer} broke: {error or type(error).__name__}") from error
        except BaseException:
            self._abandon()
            raise

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes without a length: the stream is a pipe from here on."""
        await self._write(data)

    async def receive_bytes(self, max_bytes: int) -> bytes:
        """At least one byte and at most ``max_bytes``; none once the stream has ended, in whichever way."""
        try:
            await self._fill(1)
        except StreamError:
            return b""
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        return data

    async def receive(self, max_bytes: int) -> bytes:
        """Receive one message of at most ``max_bytes``. Cancellation between messages loses nothing."""
        length, header = await self._read_length()
        if length > max_bytes:
            await self.reset()
            raise StreamError(f"{self._peer} sent a message of {length} bytes, where at most {max_bytes} are allowed")
        await self._fill(header + length)
        message = bytes(self._buffer[header : header + length])
        del self._buffer[: header + length]
        return message

    async def _read_length(self) -> tuple[int, int]:
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            await self._fill(index + 1)
            byte = self._buffer[index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, index + 1
        await self.reset()
        raise StreamError(f"{self._peer} sent a length that never ends")

    async def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            if self._over:
                raise StreamError(f"the stream to {self._peer} is closed")
            try:
                chunk = await self._stream.read(READ_CHUNK_BYTES)
            except _BROKEN as error:
                raise StreamError(f"the stream to {self._peer} ended: {error or type(error).__name__}") from error
            if not chunk:
                raise StreamError(f"the stream to {self._peer} ended")
            self._buffer += chunk

    def _abandon(self) -> None:
        """Reset from a task of the host's own: the caller may be cancelled, and half a message may have left."""
        if not self._over:
            self._over = True
            self._spawn(self._reset)

    async def _reset(self) -> None:
        with trio.move_on_after(CLOSE_S):
            with suppress(*_BROKEN):
                await self._stream.reset()
        self._ended()

    async def aclose(self) -> None:
        """Say that nothing more comes and forget the stream. Idempotent; never raises."""
        if self._over:
            return
        self._over = True
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S), suppress(*_BROKEN):
            await self._stream.close()
        self._ended()

    async def reset(self) -> None:
        """Abort in both directions. Idempotent; never raises."""
        if not self._over:
            self._over = True
            with trio.CancelScope(shield=True):
                await self._reset()
