"""P1, P3, P8, P18: streams that fail, are cancelled, are too many, or are never closed by the other side."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio
from libp2p.network.swarm import Swarm

from transport.host.hardening.quiet import log
from transport.host.limits import CLOSE_S, MAX_INBOUND_STREAMS, NEGOTIATE_S


def guard_streams(swarm: Swarm) -> None:
    """Reset the stream, and nothing else, when its handler fails (P1); refuse a connection's 65th stream (P8); forget
    a stream whose handler has returned (P18).

    host/basic_host.py:1554 lets everything but ``MultiselectError`` out of the handler, and
    network/connection/swarm_connection.py:309 passes it on to the host's nursery. A protocol name that is not UTF-8
    (protocol_muxer/multiselect_communicator.py:58) or a malformed gossip frame (pubsub/pubsub.py:562) suffices.
    The muxer's queue of ten unaccepted streams is awaited in its read loop (stream_muxer/yamux/yamux.py:685, 1383),
    so streams are taken from it at once and the surplus is reset.
    """
    inner = swarm.common_stream_handler
    open_streams: Counter[int] = Counter()

    async def guarded(stream: Any) -> None:
        connection = id(stream.muxed_conn)
        open_streams[connection] += 1
        try:
            if open_streams[connection] <= MAX_INBOUND_STREAMS:
                await inner(stream)
        except Exception as error:
            log.debug("a stream of %s was reset: %r", stream.muxed_conn.peer_id, error)
            await _reset(stream)
        finally:
            open_streams[connection] -= 1
            if not open_streams[connection]:
                del open_streams[connection]
            await retire(stream)

    swarm.set_stream_handler(guarded)


async def _reset(stream: Any) -> None:
    with trio.move_on_after(CLOSE_S):
        try:
            await stream.reset()
        except Exception as error:
            log.debug("a reset failed: %r", error)


async def retire(stream: Any) -> None:
    """Forget an inbound stream whose handler is done, whatever the other side does with its half (P18).

    The muxer keeps a stream until both sides have closed it (stream_muxer/yamux/yamux.py:955), and one that was
    closed with bytes unread for 60 to 90 s more (yamux.py:1010): a peer that opens identify streams and never closes
    them, or sends a window's worth of garbage on each, makes it grow without end.
    """
    muxed = stream.muxed_stream
    if not muxed.send_closed:
        await _reset(stream)
    forget(muxed)


def forget(muxed: Any) -> None:
    """Drop a muxed stream's books and what is buffered for it; frames for it are ignored from now on. Synchronous, so
    that cancellation cannot leave half of it done: only this task's peer frames touch the same entries."""
    muxed.recv_closed = muxed.send_closed = muxed.closed = True
    connection = muxed.conn
    if not muxed._backlog_slot_released:
        muxed._backlog_slot_released = True
        if muxed._owns_backlog_slot:
            connection.stream_backlog_semaphore.release()
    if connection.streams.get(muxed.stream_id) is muxed:
        del connection.streams[muxed.stream_id]
        connection.stream_buffers.pop(muxed.stream_id, None)
        if (event := connection.stream_events.pop(muxed.stream_id, None)) is not None:
            event.set()


async def open_muxed_stream(connection: Any) -> Any:
    """Open a stream; cancellation waits until the muxer's books are straight (P3, P8).

    ``Yamux.open_stream`` cancelled between taking a slot and sending its SYN keeps the slot for good
    (stream_muxer/yamux/yamux.py:872-915 cleans up after ``Exception`` only); after 256 of them it blocks for ever.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True), trio.fail_after(NEGOTIATE_S):
        return await connection.new_stream()
