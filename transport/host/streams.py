"""Message streams over libp2p streams: varint framing, negotiation that nobody waits for, resets that cannot block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from libp2p.exceptions import BaseLibp2pError

from transport.host.interface import ProtocolRefused, StreamError
from transport.host.limits import CLOSE_S, MAX_MESSAGE_BYTES, MAX_PROTOCOL_NAME_BYTES, NEGOTIATE_S, READ_CHUNK_BYTES
from transport.host.negotiation import Answers, Refusal, encode_varint, proposal
from transport.identity import PeerId

_MAX_VARINT_BYTES = 5  # 35 bits: beyond every length that we accept

# What a libp2p stream raises when it or its connection is gone.
_BROKEN = (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError, ValueError)


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
        self._answers: Answers | None = None
        self._answer_by = 0.0

    @property
    def peer_id(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._peer

    @property
    def remote_ip(self) -> str | None:
        """The IP address behind the stream's connection; None through a relay."""
        remote = self._stream.muxed_conn.get_remote_address()
        return str(remote[0]).partition("%")[0] if remote else None

    async def propose(self, protocol: str) -> None:
        """Ask for ``protocol`` as the opener. The answers are read before the first message that is received, and have
        :data:`NEGOTIATE_S` from now."""
        self._stream.set_protocol(protocol)
        self._answers = Answers(protocol)
        self._answer_by = trio.current_time() + NEGOTIATE_S
        await self._write(proposal(protocol))

    async def wait_opened(self) -> None:
        """Wait until the other side has agreed to the protocol; at once if it has, or was the opener. Raises
        :class:`ProtocolRefused`. Counts as receiving: not beside another task that does. Cancellation loses nothing."""
        if (answers := self._answers) is None:
            await trio.lowlevel.checkpoint()
            return
        if self._over:
            raise StreamError(f"the stream to {self._peer} is closed")
        try:
            with trio.fail_after(max(0.0, self._answer_by - trio.current_time())):
                while not answers.complete:
                    answers.take(await self._read_message(MAX_PROTOCOL_NAME_BYTES))
        except Refusal as refusal:
            await self.reset()
            raise ProtocolRefused(f"{self._peer} {refusal}") from None
        except trio.TooSlowError:
            await self.reset()
            what = f"the negotiation of {answers.protocol} in {NEGOTIATE_S:.0f} s"
            raise ProtocolRefused(f"{self._peer} did not answer {what}") from None
        self._answers = None

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
            raise self._error(f"the stream to {self._peer} broke: {error or type(error).__name__}") from error
        except BaseException:
            self._abandon()
            raise

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes without a length: the stream is a pipe from here on."""
        await self._write(data)

    async def receive_bytes(self, max_bytes: int) -> bytes:
        """At least one byte and at most ``max_bytes``; none once the stream has ended, in whichever way."""
        try:
            if self._answers is not None:
                await self.wait_opened()
            await self._fill(1)
        except StreamError:
            return b""
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        return data

    async def receive(self, max_bytes: int) -> bytes:
        """Receive one message of at most ``max_bytes``. Cancellation between messages loses nothing."""
        if self._answers is not None:
            await self.wait_opened()
        return await self._read_message(max_bytes)

    async def _read_message(self, max_bytes: int) -> bytes:
        length, header = await self._read_length()
        if length > max_bytes:
            await self.reset()
            raise self._error(f"{self._peer} sent a message of {length} bytes, where at most {max_bytes} are allowed")
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
        raise self._error(f"{self._peer} sent a length that never ends")

    async def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            if self._over:
                raise StreamError(f"the stream to {self._peer} is closed")
            try:
                chunk = await self._stream.read(READ_CHUNK_BYTES)
            except _BROKEN as error:
                raise self._error(f"the stream to {self._peer} ended: {error or type(error).__name__}") from error
            if not chunk:
                raise self._error(f"the stream to {self._peer} ended")
            self._buffer += chunk

    def _error(self, text: str) -> StreamError:
        """What is raised of a stream that broke: before its protocol was agreed on, that is a refusal of it."""
        if self._answers is None:
            return StreamError(text)
        return ProtocolRefused(f"{text}, before {self._answers.protocol} was agreed on")

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
