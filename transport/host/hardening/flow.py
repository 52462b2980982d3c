"""P6, P7: yamux flow control, in both directions."""

from __future__ import annotations

import struct
from typing import Any

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux

from transport.host.limits import STREAM_WINDOW_BYTES, WRITE_STALL_S

_MAX_FRAME_PAYLOAD = yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE


class WindowOverrun(trio.TooSlowError):
    """A peer sent more than it was allowed. Derived from the one error on which yamux.py:1588 closes the connection."""


class _BoundedBuffer(bytearray):
    def extend(self, data: Any) -> None:
        if len(self) + len(data) > STREAM_WINDOW_BYTES:
            raise WindowOverrun(f"a stream overran its window of {STREAM_WINDOW_BYTES} bytes")
        super().extend(data)


class _StreamBuffers(dict[int, bytearray]):
    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _BoundedBuffer(buffer))


class _Waking:
    """An attribute of a stream whose every change wakes the writers that wait on it."""

    def __init__(self, name: str) -> None:
        self._slot = f"_cocoon_{name}"

    def __get__(self, stream: Any, _owner: type | None = None) -> Any:
        return self if stream is None else stream.__dict__[self._slot]

    def __set__(self, stream: Any, value: Any) -> None:
        stream.__dict__[self._slot] = value
        if (changed := stream.__dict__.pop("_cocoon_changed", None)) is not None:
            changed.set()


async def _return_credit(self: Any, *, bytes_read: int = 0) -> None:
    buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
    credit = STREAM_WINDOW_BYTES - (self.recv_window + buffered)
    if 2 * credit >= STREAM_WINDOW_BYTES:
        self.recv_window += credit
        await self.send_window_update(credit)


async def _write(self: Any, data: bytes) -> None:
    sent = 0
    while sent < len(data):
        await _wait_for_window(self)
        take = min(self.send_window, _MAX_FRAME_PAYLOAD, len(data) - sent)
        self.send_window -= take
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, take)
        await self.conn._write_frame(header + data[sent : sent + take])
        sent += take


async def _wait_for_window(stream: Any) -> None:
    with trio.move_on_after(WRITE_STALL_S):
        while not (stream.closed or stream.send_closed):
            if stream.send_window > 0:
                return
            await stream.__dict__.setdefault("_cocoon_changed", trio.Event()).wait()
        raise MuxedStreamError("the stream is closed for sending")
    raise MuxedStreamError(f"the peer read nothing for {WRITE_STALL_S:.0f} s")


def mend_flow_control() -> None:
    """Close the connection of a peer that overruns a stream's window; return credit in halves of it (P6); wait for the
    peer's window without polling, as long as for a socket (P7).

    stream_muxer/yamux/yamux.py:1313, 1431 and 1544 log the overrun, set the window to zero and buffer the data: 150 MiB
    were taken from one stream. Upstream also answers each one-byte read of a length prefix with a window update of
    its own (yamux.py:395), half of a gossiping node's CPU time, and lets the window grow to 16 MiB. Credit now follows
    the yamux spec's "Flow control" with a fixed window; the buffer never holds more than was granted.

    yamux.py:268-283 looks for credit a hundred times a second and gives up after 5 s, in the middle of a message: a
    link of 200 kbit/s needs longer for half a window, and a peer that reads nothing buys a hundred wake-ups a second
    for each stream it opens.
    """
    if getattr(yamux.Yamux, "_cocoon_window", False):
        return
    construct = yamux.Yamux.__init__

    def bounded(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self.stream_buffers = _StreamBuffers()

    yamux.Yamux.__init__ = bounded
    for name in ("send_window", "closed", "send_closed"):
        setattr(yamux.YamuxStream, name, _Waking(name))
    yamux.YamuxStream.write = _write
    yamux.YamuxStream._auto_tune_and_send_window_update = _return_credit
    yamux.MAX_WINDOW_SIZE = STREAM_WINDOW_BYTES
    yamux.Yamux._cocoon_window = True
