"""Message streams between virtual hosts: the rules of `transport.host.streams` without bytes in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from simulations.network.links import END, MESSAGE, OPEN, RESET
from transport.host.interface import ProtocolRefused, StreamError
from transport.host.limits import MAX_MESSAGE_BYTES, NEGOTIATE_S, STREAM_WINDOW_BYTES
from transport.identity import PeerId

if TYPE_CHECKING:
    from simulations.network.links import Link


Entry = tuple[int, int, bytes | None]
"""What arrives at once: the length of the whole message, how many bytes of it these are, the message with its last."""


class VirtualStream:
    """One end of a stream. One task sends and one receives at a time.

    A message that fits the window costs no switch of tasks to send, and none to receive when it is there. What is sent
    as soon as a stream is opened travels with its opening, as in one packet.
    """

    __slots__ = (
        "_acknowledged",
        "_carried",
        "_end",
        "_inbox",
        "_opened",
        "_over",
        "_peer",
        "_protocol",
        "_reader",
        "_unread",
        "_writer",
        "link",
        "other",
        "prompt",
    )

    def __init__(self, link: Link, peer: PeerId, protocol: str, *, opened: bool = False) -> None:
        self.link = link
        """Our end of the connection."""
        self.other: VirtualStream | None = None
        """The other end of the stream, once that side has it."""
        self.prompt: Callable[[VirtualStream, Entry | None], bool] | None = None
        """Who takes what arrives while the handler has no task (None: the end); False if it is to be read after all."""
        self._peer = peer
        self._protocol: str | None = None if opened else protocol
        """What to say first; None when it was said."""
        self._carried = link.network.carried[protocol]
        self._opened = opened
        self._inbox: list[Entry] = []  # rarely more than one; a deque takes 600 bytes
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._unread = 0  # bytes sent that the other side has not said it read
        self._acknowledged = 0  # bytes read that we have not said we read
        self._over = False
        self._end = ""
        link.streams[self] = None

    @property
    def peer_id(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._peer

    # --- opening ------------------------------------------------------------------------------------------------------

    def begin(self, entry: Entry | None = None) -> None:
        """Say which protocol it is, and what was sent at once, unless that was said."""
        if self._protocol is None or not self.link.is_open:
            return
        protocol, self._protocol = self._protocol, None
        name = protocol.encode()
        size, message = (0, None) if entry is None else entry[1:]
        served = self.link.remote.host.serve_open
        said = name + message if message else name
        self.link.send(OPEN, said, 2 * len(name) + size, served, (self, protocol, entry))

    async def wait_opened(self) -> None:
        """Wait for the answer to the negotiation. Raises :class:`ProtocolRefused` when it is no, or does not come."""
        self.begin()
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._opened:
            if self._over:
                raise StreamError(f"the stream to {self._peer} is closed")
            if self._end:
                raise ProtocolRefused(self._end)
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_read)

    def answered(self, refusal: str) -> None:
        """The other side's answer: empty, or why not."""
        if self._over or self._end:
            return
        if refusal:
            self.fail(refusal)
        else:
            self._opened = True
            self._wake_reader()

    def give_up(self) -> None:
        """The time for an answer is over."""
        self.fail(f"{self._peer} did not answer the negotiation in {NEGOTIATE_S:.0f} s")

    # --- sending ------------------------------------------------------------------------------------------------------

    async def send(self, message: bytes) -> None:
        """Send one message. Raises :class:`StreamError`. Cancellation resets the stream."""
        size = len(message)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {size} bytes, where at most {MAX_MESSAGE_BYTES} are allowed")
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_writable()
            left = size
            while self._unread + left > STREAM_WINDOW_BYTES:
                if room := STREAM_WINDOW_BYTES - self._unread:
                    left -= room
                    self._pass_on(size, room, None)
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_write)
                self._check_writable()
        except trio.Cancelled:
            self._break()
            raise
        self._pass_on(size, left, bytes(message))

    def _check_writable(self) -> None:
        if self._over:
            raise StreamError(f"the stream to {self._peer} is closed")
        if self._end and self._end != _ENDED:
            if not self._opened:
                raise ProtocolRefused(self._end)
            raise StreamError(f"the stream to {self._peer} broke: {self._end}")

    def reply(self, request_bytes: int, message: bytes, protocol: str) -> bool:
        """Answer a request at once, and with it the opening if that asks for a ``protocol`` still; False if there is no
        room."""
        size = len(message)
        if self._over or self._unread + size > STREAM_WINDOW_BYTES:
            return False
        self._read(request_bytes)
        self._unread += size
        self._carried.messages += 1
        self._carried.bytes += size
        entry = (size, size, message)
        if protocol:
            answered = self.link.remote.host.answered
            self.link.send(MESSAGE, message, len(protocol) + size, answered, (self.other, "", entry))
        else:
            self._send_on(message, size, entry)
        return True

    def _pass_on(self, total: int, size: int, message: bytes | None) -> None:
        self._unread += size
        self._carried.messages += message is not None
        self._carried.bytes += size
        if self._protocol is not None:
            self.begin((total, size, message))
        else:
            self._send_on(message, size, (total, size, message))

    def _send_on(self, message: bytes | None, size: int, entry: Entry) -> None:
        take = self._reach if self.other is None else self.other.take
        self.link.send(MESSAGE, message or b"", size, take, entry)

    def _reach(self, entry: Entry) -> None:
        """What was sent before the other side had the stream arrives there, behind the opening."""
        if self.other is not None:
            self.other.take(entry)

    def _abort_write(self, _: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _credit(self, size: int) -> None:
        self._unread -= size
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int) -> bytes:
        """Receive one message of at most ``max_bytes``. Raises :class:`StreamError` at the end of the stream, on reset
        and on a longer message (the stream is then reset). Cancellation loses nothing."""
        self.begin()
        inbox = self._inbox
        while True:
            if self._over:
                raise StreamError(f"the stream to {self._peer} is closed")
            if inbox:
                total, size, message = inbox[0]
                if total > max_bytes:
                    self._break()
                    raise StreamError(
                        f"{self._peer} sent a message of {total} bytes, where at most {max_bytes} are allowed"
                    )
                del inbox[0]
                self._read(size)
                if message is not None:
                    return message
                continue
            if self._end:
                if not self._opened:
                    raise ProtocolRefused(self._end)
                raise StreamError(f"the stream to {self._peer} ended: {self._end}")
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_read)

    def _abort_read(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _wake_reader(self) -> None:
        if self._reader is not None:
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)

    def take(self, entry: Entry) -> None:
        """What the other side sent arrives."""
        if self._over:
            self._read(entry[1])  # nobody will; the window must not fill up with it
        elif not self._end:
            if self.prompt is not None and self.prompt(self, entry):
                return
            self._inbox.append(entry)
            self._wake_reader()

    def _read(self, size: int) -> None:
        """Return credit in halves of the window, as the real host does."""
        self._acknowledged += size
        if 2 * self._acknowledged >= STREAM_WINDOW_BYTES:
            credit, self._acknowledged = self._acknowledged, 0
            if self.link.is_open and self.other is not None:
                self.link.send(MESSAGE, b"", 0, self.other._credit, credit)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close cleanly; idempotent; never raises."""
        if self.retire():
            self.link.send(END, b"", 0, _end_other_end, self)

    async def reset(self) -> None:
        """Abort in both directions; idempotent; never raises."""
        self._break()

    def _break(self) -> None:
        if self.retire():
            self.link.send(RESET, b"", 0, _reset_other_end, self)

    def retire(self) -> bool:
        """Be done with the stream here; whether the other side does not know yet."""
        if self._over:
            return False
        self.begin()
        self._over = True
        self._inbox.clear()
        self.link.streams.pop(self, None)
        self._wake_reader()
        self._credit(0)
        return self.link.is_open and not self._end

    def _finish(self, reason: str) -> None:
        """The other side says nothing more: what is here can still be read."""
        if not self._over and not self._end:
            self._end = reason
            self._wake_reader()
            if self.prompt is not None:
                self.prompt(self, None)

    def fail(self, reason: str) -> None:
        """The stream broke: what was not read is lost."""
        if not self._over:
            self._end = reason
            self._inbox.clear()
            self._wake_reader()
            self._credit(0)
            if self.prompt is not None:
                self.prompt(self, None)


def _end_other_end(stream: VirtualStream) -> None:
    if stream.other is not None:  # None: it was refused
        stream.other._finish(_ENDED)
        stream.other = None  # else each would keep the other for the garbage collector to find


def _reset_other_end(stream: VirtualStream) -> None:
    if stream.other is not None:
        stream.other.fail(_RESET)
        stream.other = None


_ENDED = "the other side closed it"
_RESET = "the other side reset it"
