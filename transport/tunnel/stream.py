"""One stream of a tunnel, as its users see it: whole messages in order, each direction ended by its own side."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from transport.tunnel.errors import MessageTooLarge, StreamEnded, StreamReset
from transport.tunnel.frames import ResetCode
from transport.tunnel.limits import FLUSH_SECONDS, MAX_MESSAGE, MAX_SMALL
from transport.tunnel.streams import Body, Outgoing, StreamCore, flat

if TYPE_CHECKING:
    from transport.tunnel.tunnel import Tunnel

_CHUNK = 64
"""Messages queued between two looks at the queue limits."""


class TunnelStream:
    """A bidirectional stream of messages. Use it as ``async with stream``: leaving ends our side and lets go of it;
    leaving by an exception resets it.

    Any number of tasks may send, one may receive at a time (``trio.BusyResourceError`` otherwise). Every method raises
    :class:`StreamReset` when the stream was abandoned and :class:`TunnelClosed` when the tunnel is gone; messages that
    arrived before either can still be received.
    """

    def __init__(self, tunnel: Tunnel, core: StreamCore) -> None:
        self._tunnel = tunnel
        self._core = core
        self._mux = tunnel._mux
        self._senders = trio.lowlevel.ParkingLot()
        self._reader: trio.lowlevel.Task | None = None
        core.user = self

    def __repr__(self) -> str:
        return f"<TunnelStream {self._core.stream_id} of {self._tunnel!r}>"

    @property
    def stream_id(self) -> int:
        """The id on the wire: odd for streams that the initiator of the tunnel opened."""
        return self._core.stream_id

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel that carries this stream."""
        return self._tunnel

    # --- sending -------------------------------------------------------------------------------------------------

    async def send_message(self, data: Body | Sequence[Body], *, urgent: bool = False) -> None:
        """Send one message: a buffer, or a list of buffers that are sent as one without being joined first.

        A message of up to 4 KiB is copied and this returns when it is queued; a longer one is read from where it lies
        and this returns when it has been sealed, so the memory may be reused. Small messages are corked: they leave
        when the running tasks have had their turn. ``urgent`` sends them (and all that is queued before) at once.

        On cancellation the message was not sent, except that a long one which had partly left resets this stream; the
        tunnel and its other streams are never harmed.
        """
        if type(data) is bytes and len(data) <= MAX_SMALL:
            core, tunnel = self._core, self._tunnel
            await trio.lowlevel.checkpoint_if_cancelled()
            if core.reset is not None or tunnel._closed is not None:
                self._check_sendable()
            if urgent and tunnel.send_single(core, data):
                return
            if not self._mux.out.message(core, data):
                await self.send_messages((data,), urgent=urgent)
            elif urgent:
                tunnel._flush()
            elif tunnel._idle_writer is not None:
                tunnel._wake_writer()
            return
        parts = [flat(data)] if isinstance(data, Body) else [flat(part) for part in data]
        total = sum(map(len, parts))
        if total <= MAX_SMALL:
            await self.send_messages((b"".join(parts),), urgent=urgent)
            return
        if total > MAX_MESSAGE:
            raise ValueError(f"a message has at most {MAX_MESSAGE} bytes, not {total}")
        await self._may_send()
        await self._send_bulk(Outgoing(parts))

    async def send_messages(self, messages: Sequence[bytes], *, urgent: bool = False) -> None:
        """Send many messages of at most 4 KiB each: much cheaper than one by one.

        Longer ones among them are sent as :meth:`send_message` does. On cancellation a prefix of them was queued.
        """
        core, out = self._core, self._mux.out
        for start in range(0, len(messages), _CHUNK):
            await self._may_send()
            chunk = messages[start : start + _CHUNK] if len(messages) > _CHUNK else messages
            if max(map(len, chunk)) > MAX_SMALL:
                for message in chunk:
                    if len(message) > MAX_SMALL:
                        await self._may_send()
                        await self._send_bulk(Outgoing([memoryview(message)]))
                    else:
                        await self.send_messages((message,))
            else:
                out.messages(core, chunk)
        if urgent:
            self._tunnel._flush()
        else:
            self._tunnel._wake_writer()

    async def _may_send(self) -> None:
        """Wait until the queues have room, and be a cancellation point."""
        await trio.lowlevel.checkpoint_if_cancelled()
        out, core, tunnel = self._mux.out, self._core, self._tunnel
        self._check_sendable()
        while not out.may_queue(core):
            tunnel._wake_writer()
            if out.may_queue_stream(core):
                await tunnel._crowd.park()
            else:
                await self._senders.park()
            # When all tasks of a stream are cancelled together, the first resets it and the others must see Cancelled.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()

    async def _send_bulk(self, message: Outgoing) -> None:
        tunnel, core = self._tunnel, self._core
        self._mux.out.bulk(core, message)
        try:
            await tunnel._flush_fairly()
            while not message.done:
                self._check_sendable()
                if not core.in_bulk:  # out of credit
                    tunnel.receive_what_is_here()
                    if core.in_bulk:
                        tunnel._flush()
                    if core.in_bulk or message.done or core.reset is not None or tunnel._closed is not None:
                        continue
                await self._senders.park()
                await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            # Also on cancellation: nothing may refer to the caller's memory after this.
            if not message.done and core.reset is None and not self._mux.out.withdraw(core, message):
                self.reset(ResetCode.CANCELLED, "the sender gave up in the middle of a message")

    def _check_sendable(self) -> None:
        core = self._core
        if core.reset is not None:
            raise StreamReset(*core.reset)
        if self._tunnel._closed is not None:
            raise self._tunnel._closed_error()
        if core.end_queued:
            raise trio.ClosedResourceError("this side of the stream has ended")

    async def send_end(self) -> None:
        """End our side behind all that was sent (half-close); the peer's side goes on. Idempotent."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._core.end_queued:
            self._check_sendable()
            self._mux.end(self._core)
            self._tunnel._wake_writer()

    # --- receiving -----------------------------------------------------------------------------------------------

    async def receive_messages(self, max_bytes: int = MAX_SMALL) -> list[bytes]:
        """All whole messages that are here, waiting for one if there is none; an empty list when the peer has ended.

        Raises :class:`MessageTooLarge` for a message of more than ``max_bytes``, after those before it were returned.
        """
        core = self._core
        await trio.lowlevel.checkpoint_if_cancelled()
        while not core.inbox:
            if not await self._wait(max_bytes, None):
                return []
        messages = self._mux.take_inbox(core)
        if self._mux.out.credit_due:
            self._tunnel._wake_writer()
        if max(map(len, messages)) > max_bytes:
            self._refuse_large(messages, max_bytes)
        return messages

    async def receive_message(self, max_bytes: int) -> bytes:
        """The next message. Raises :class:`StreamEnded` at the end and :class:`MessageTooLarge` for a longer one.

        On cancellation no message is lost, except that giving up in the middle of a long one resets the stream.
        """
        core = self._core
        await trio.lowlevel.checkpoint_if_cancelled()
        while not core.inbox:
            if not await self._wait(max_bytes, None):
                raise StreamEnded("the peer has ended this stream")
        return self._take_one(max_bytes)

    async def receive_message_into(self, buffer: bytearray | memoryview) -> int:
        """Receive the next message into ``buffer`` and return its length in bytes.

        A long message is decrypted right there as it arrives. Errors and cancellation are those of
        :meth:`receive_message`; after one the buffer's content is undefined.
        """
        core, view = self._core, flat(buffer)
        if view.readonly:
            raise TypeError("the buffer is read-only")
        await trio.lowlevel.checkpoint_if_cancelled()
        while not core.inbox:
            if not await self._wait(len(view), view):
                raise StreamEnded("the peer has ended this stream")
            if core.sink_done >= 0:
                size, core.sink_done = core.sink_done, -1
                self._mux.renew(core)
                if self._mux.out.credit_due:
                    self._tunnel._flush()
                return size
        message = self._take_one(len(view))
        view[: len(message)] = message
        return len(message)

    def _take_one(self, max_bytes: int) -> bytes:
        message = self._mux.take_message(self._core)
        if self._mux.out.credit_due:
            self._tunnel._wake_writer()
        if len(message) > max_bytes:
            self._refuse(len(message), max_bytes)
        return message

    async def _wait(self, limit: int, sink: memoryview | None) -> bool:
        """Wait for something to change. False when the peer has ended in good order; errors raise."""
        core, tunnel = self._core, self._tunnel
        if core.too_large >= 0:
            self._refuse(core.too_large, limit)
        if core.peer_ended:
            return False
        if core.reset is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # see _may_send
            raise StreamReset(*core.reset)
        if tunnel._closed is not None:
            raise tunnel._closed_error()
        if self._reader is not None or core.waiting:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if not self._mux.want(core, limit, sink):
            self._refuse(core.too_large, limit)
        if self._mux.out.credit_due:
            tunnel._flush()
        if tunnel.receivable:
            try:
                await tunnel.receive_for(core)
            except BaseException:
                self._give_up_waiting()
                raise
            return True
        self._reader = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            self._give_up_waiting()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return True

    def _give_up_waiting(self) -> None:
        if self._core.waiting:
            self._mux.unwant(self._core)
            self._tunnel._after_core()

    def _refuse_large(self, messages: list[bytes], limit: int) -> None:
        """Cut ``messages`` off at the first that is too long, and remember that for the next call."""
        index = next(i for i, message in enumerate(messages) if len(message) > limit)
        size = len(messages[index])
        if index == 0:
            self._refuse(size, limit)
        del messages[index:]
        self._core.too_large = size

    def _refuse(self, size: int, limit: int) -> None:
        self.reset(ResetCode.TOO_LARGE, f"a message of {size} bytes where {limit} are allowed")
        raise MessageTooLarge(size, limit)

    # --- the end -------------------------------------------------------------------------------------------------

    def reset(self, code: int = ResetCode.CANCELLED, reason: str = "") -> None:
        """Abandon the stream in both directions at once; idempotent, never waits, never raises."""
        self._mux.reset(self._core, code, reason)
        self._mux.release(self._core)
        self._tunnel._after_core()

    async def aclose(self) -> None:
        """End our side, wait until the peer has taken what was sent (at most ``FLUSH_SECONDS``), and let go.

        When the peer has not ended its side it is told, by a reset with code CLOSED, that nobody listens any more.
        """
        core = self._core
        try:
            self._mux.end(core)
            self._tunnel._wake_writer()
            with trio.move_on_after(FLUSH_SECONDS):
                while not (core.end_sent or core.closed) and self._tunnel._closed is None:
                    await self._senders.park()
        finally:
            self._mux.release(core)
            self._tunnel._after_core()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def __aenter__(self) -> TunnelStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.reset(ResetCode.CANCELLED if isinstance(error, trio.Cancelled) else ResetCode.FAILED)

    # --- called by the tunnel ------------------------------------------------------------------------------------

    def _wake_reader(self) -> None:
        if self._reader is not None:
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)
        else:
            self._tunnel.stop_receiving(self._core)

    def _wake_senders(self) -> None:
        if self._senders:
            self._senders.unpark_all()
