"""A tunnel between two authenticated peers: the trio shell around the mux core and the records.

Three tasks run a tunnel: one reads, one writes, one (``run``) keeps time. Only the writer waits for the socket, and
nothing but the end of the whole tunnel cancels it, so a cancelled sender can never leave half a record behind. Sealing
and opening happen between two yields, hence no locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal

import trio

from transport.tunnel.errors import ProtocolViolation, TunnelClosed
from transport.tunnel.frames import CLOSE, REKEY, frame, reason_payload
from transport.tunnel.handshake import Features, HandshakeResult, Pattern
from transport.tunnel.limits import (
    BATCH_PLAIN,
    BATCH_SECONDS,
    CLOSE_SECONDS,
    DEAD_SECONDS,
    MAX_PINGS,
    MIN_QUANTUM,
    RING_BYTES,
    STALL_SECONDS,
)
from transport.tunnel.links import WOULD_BLOCK, Link
from transport.tunnel.mux import Mux
from transport.tunnel.opening import IncomingStreams, StreamOpening
from transport.tunnel.padding import pad
from transport.tunnel.records import Piece, RecordOpener, RecordSealer
from transport.tunnel.stats import TunnelStats
from transport.tunnel.stream import TunnelStream
from transport.tunnel.streams import StreamCore
from transport.tunnel.upkeep import Action, Rates, Upkeep

_TURNS = 2
"""Batches sent without waiting before other tasks get a turn."""

_TURN_BYTES = 2 * RING_BYTES
"""Bytes received without waiting before other tasks get a turn: half a millisecond's worth."""

_TURN_COST = 32_768
"""What each piece received counts beside its bytes, so that small ones are bounded too."""


class Tunnel:
    """An authenticated, encrypted connection that carries many streams.

    Made by :func:`transport.tunnel.dial` or a listener. It works while ``run`` runs: ``async with tunnel`` does that,
    as does ``await nursery.start(tunnel.run)``.
    """

    def __init__(self, link: Link, result: HandshakeResult) -> None:
        self.peer_id = result.peer_id
        self.pattern: Pattern = result.pattern
        self.handshake_hash = result.handshake_hash
        self.initiator = result.initiator
        self._link = link
        self._sealer = RecordSealer(result.send_key)
        self._opener = RecordOpener(result.receive_key)
        self._mux = Mux(initiator=result.initiator)
        self._padded = bool(result.features & Features.PADDING)
        self._closed: TunnelClosed | None = None
        self._over = trio.Event()
        self._running = False
        self._nursery: AbstractAsyncContextManager[trio.Nursery, bool | None]
        # Sending: wire bytes of the batch that is under way, and the writer when it is idle.
        self._unsent: Piece | None = None
        self._early = 0
        self._idle_writer: trio.lowlevel.Task | None = None
        self._timed = False
        self._filled_at = 0.0
        self._turns = 0
        self._crowd = trio.lowlevel.ParkingLot()
        self._rekey_due = False
        self._farewell: bytes | None = None
        self._leaving = False
        self._farewell_sent = trio.Event()
        # Receiving: whose reader does it, and the read loop when it rests.
        self._receiver: StreamCore | None = None
        self._resting: trio.lowlevel.Task | None = None
        self._standing_back = False
        self._delivered = False
        self._listening = False
        self._unopened = False
        self._turn_in = _TURN_BYTES
        self._acceptors = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        # Observations.
        self._heard_at = trio.current_time()
        self._stuck_at: float | None = None  # since when the batch under way waits for the link
        self._bytes_sent = 0
        self._bytes_received = 0
        self._rates = Rates(self._heard_at)
        self._rtt_s: float | None = None
        self._pings: dict[int, float] = {}
        self._next_ping = 0

    def __repr__(self) -> str:
        state = "open" if self._closed is None else f"closed: {self._closed.reason}"
        return f"<Tunnel to {self.peer_id} ({self.pattern.name}, {state})>"

    @property
    def closed(self) -> TunnelClosed | None:
        """Why the tunnel is gone; None while it works."""
        return self._closed

    @property
    def relayed(self) -> bool:
        """Whether a third party carries the (encrypted) bytes."""
        return self._link.relayed

    def stats(self) -> TunnelStats:
        """What the tunnel has done so far."""
        rates = self._rates.look(trio.current_time(), self._bytes_sent, self._bytes_received)
        return TunnelStats(
            peer_id=self.peer_id,
            pattern=self.pattern.noise_name,
            handshake_hash=self.handshake_hash,
            initiator=self.initiator,
            relayed=self._link.relayed,
            remote=self._link.remote,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            rtt_ms=None if self._rtt_s is None else self._rtt_s * 1000,
            sent_bytes_per_s=rates[0],
            received_bytes_per_s=rates[1],
            streams=len(self._mux.streams),
            padded=self._padded,
        )

    # --- streams -------------------------------------------------------------------------------------------------

    def open_stream(self) -> StreamOpening:
        """Open a stream: ``async with tunnel.open_stream() as stream``, or ``stream = await tunnel.open_stream()``.

        Waits while ``MAX_OPEN`` of ours are open. Raises :class:`TunnelClosed`, also when the peer is going away.
        """
        return StreamOpening(self)

    async def _new_stream(self) -> TunnelStream:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._closed is not None:
                raise self._closed_error()
            if self._mux.peer_goaway is not None:
                raise TunnelClosed(f"the peer takes no more streams: {self._mux.peer_goaway[1]}", clean=True)
            if self._mux.can_open:
                break
            await self._openers.park()
        stream = TunnelStream(self, self._mux.open())
        self._wake_writer()
        return stream

    async def accept(self) -> TunnelStream:
        """The next stream that the peer opened. Raises :class:`TunnelClosed` when there will be none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._mux.opened:
            if self._closed is not None:
                raise self._closed_error()
            await self._acceptors.park()
        core = self._mux.opened.popleft()
        core.accepted = True
        return TunnelStream(self, core)

    def incoming(self) -> AsyncIterator[TunnelStream]:
        """The streams that the peer opens, until the tunnel closes (``closed`` then tells why)."""
        return IncomingStreams(self)

    def drain(self, reason: str = "going away") -> None:
        """Refuse new streams of the peer from now on and tell it so; those open go on."""
        if self._closed is None:
            self._mux.go_away(0, reason)
            self._wake_writer()

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the tunnel until it is closed by either side, dies, or this is cancelled. Raises nothing of its own."""
        assert not self._running, "a tunnel runs once"
        self._running = True
        await self._drive(task_status)

    async def _drive(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if not self.initiator:  # the initiator's first record was its ping
            self._ping()
        try:
            self._after_core()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_loop)
                nursery.start_soon(self._write_loop)
                task_status.started()
                await self._keep_time()
                nursery.cancel_scope.cancel()
        finally:
            self._shut(TunnelClosed("the task that ran the tunnel was cancelled"))
            await self._link.aclose()

    async def aclose(self, reason: str = "") -> None:
        """Say farewell, wait briefly for it to leave and be answered, then close; idempotent.

        Small messages queued before are sent first; long ones under way and open streams are abandoned.
        """
        if not self._running:
            self._shut(TunnelClosed("closed by us", clean=True))
            await self._link.aclose()
        if self._closed is None and self._farewell is None and not self._leaving:
            self._farewell = frame(0, CLOSE, reason_payload(0, reason))
            self._mux.out.drop_bulk()
            self._wake_writer()
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
            await self._farewell_sent.wait()
            if self._closed is None:
                await self._link.send_eof()
                await self._over.wait()
        self._shut(TunnelClosed("closed by us", clean=True))
        await trio.lowlevel.checkpoint_if_cancelled()

    async def __aenter__(self) -> Tunnel:
        self._nursery = trio.open_nursery()
        nursery = await self._nursery.__aenter__()
        assert not self._running, "a tunnel runs once"
        self._running = True
        nursery.start_soon(self._drive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        raised = error
        try:
            if error is None:
                await self.aclose()
        except BaseException as closing:  # cancelled while closing: the nursery must be left all the same
            raised = closing
        self._shut(TunnelClosed("closed by us", clean=True))
        await self._link.aclose()  # what drives the tunnel does so too, but may never have started
        at = None if raised is None else raised.__traceback__
        try:
            await self._nursery.__aexit__(None if raised is None else type(raised), raised, at)
        except BaseExceptionGroup as group:
            # The nursery is ours, not the user's: his exception comes out as it went in.
            if raised is None or group.exceptions != (raised,):
                raise
        if raised is not error:
            assert raised is not None
            raise raised
        return False

    def _closed_error(self) -> TunnelClosed:
        """A fresh exception for one caller: raising a shared one would pile up its tracebacks."""
        assert self._closed is not None
        return TunnelClosed(self._closed.reason, clean=self._closed.clean)

    def _shut(self, why: TunnelClosed) -> None:
        """Mark the tunnel closed and wake everybody; the first reason counts."""
        if self._closed is not None:
            return
        # After our farewell the peer just closes: that is no loss.
        self._closed = TunnelClosed("closed by us", clean=True) if self._leaving else why
        self._over.set()
        self._farewell_sent.set()
        for core in list(self._mux.streams.values()):
            self._mux.out.forget(core)
            if core.user is not None:
                core.user._wake_reader()
                core.user._wake_senders()
        self._after_core()
        for lot in (self._acceptors, self._openers, self._crowd):
            lot.unpark_all()
        if self._listening:
            self._link.wake_receiver()
        self._resume_loop()

    # --- writing -------------------------------------------------------------------------------------------------

    def _wake_writer(self) -> None:
        if self._idle_writer is not None:
            task, self._idle_writer = self._idle_writer, None
            trio.lowlevel.reschedule(task)

    def _fill(self) -> bool:
        """Seal the next batch. False when there is nothing to send."""
        assert self._unsent is None
        if self._leaving:
            return False
        out = self._mux.out
        if self._rekey_due:
            self._rekey_due = False
            self._unsent = self._sealer.seal([frame(0, REKEY)])
            self._sealer.rekey()
        elif pieces := out.take():
            if self._padded:
                pad(pieces)
            self._early = 0
            wire = self._sealer.seal(pieces, self._send_early if self._link.paced else None)
            self._unsent = wire[self._early :] if self._early else wire
            self._bytes_sent += self._early
            if out.writable:
                self._after_core()
            if self._crowd:
                self._crowd.unpark_all()
        elif self._farewell is not None:
            self._unsent = self._sealer.seal([self._farewell])
            self._farewell, self._leaving = None, True
        else:
            self._after_core()
            return False
        self._bytes_sent += len(self._unsent)
        self._timed = len(self._unsent) >= MIN_QUANTUM
        if self._timed:
            self._filled_at = trio.current_time()
        return True

    def _send_early(self, data: memoryview) -> None:
        """The first part of a batch, as far as the socket takes it, before the second is sealed. Raises ``OSError``."""
        self._early = self._link.send_now(data)

    def send_single(self, core: StreamCore, body: bytes) -> bool:
        """Send one small message at once if nothing else waits to leave: nearly every token. False: nothing done."""
        out = self._mux.out
        busy = self._idle_writer is None or out.pending or self._rekey_due or self._farewell is not None
        if busy or self._leaving or self._padded:
            return False
        plain = out.single(core, body)
        if plain is None:
            return False
        self._unsent = wire = self._sealer.seal((plain,))
        self._bytes_sent += len(wire)
        self._timed = False
        try:
            self._sent(self._link.send_now(wire))
        except OSError as error:
            self._shut(TunnelClosed(f"the connection broke: {error}"))
        if self._unsent is not None:
            self._wake_writer()
        return True

    def _sent(self, size: int) -> None:
        assert self._unsent is not None
        self._unsent = self._unsent[size:] if size < len(self._unsent) else None
        if self._unsent is None:
            self._stuck_at = None
            if self._timed:
                self._adapt(trio.current_time() - self._filled_at)
            if self._sealer.wants_rekey:
                self._rekey_due = True
            if self._leaving:
                self._farewell_sent.set()

    def _adapt(self, batch_s: float) -> None:
        """Size the bulk in a batch to the link: on a slow one a token would wait too long behind a full batch."""
        out = self._mux.out
        if batch_s > BATCH_SECONDS:
            out.quantum = max(out.quantum // 2, MIN_QUANTUM)
        elif batch_s < BATCH_SECONDS / 4:
            out.quantum = min(out.quantum * 2, BATCH_PLAIN)

    def _flush(self) -> None:
        """Send what is queued right now, as far as the socket takes it; the writer does the rest."""
        if self._idle_writer is None or self._closed is not None:
            return  # the writer is at it, and takes what is queued when the batch under way has left
        try:
            if self._fill():
                assert self._unsent is not None
                self._sent(self._link.send_now(self._unsent))
        except OSError as error:
            self._shut(TunnelClosed(f"the connection broke: {error}"))
        if self._unsent is not None or self._mux.out.pending:
            self._wake_writer()

    async def _flush_fairly(self) -> None:
        """:meth:`_flush` for bulk senders: others get a turn every few batches."""
        self._flush()
        self._turns += 1
        if self._turns >= _TURNS:
            self._turns = 0
            await trio.lowlevel.checkpoint()

    async def _write_loop(self) -> None:
        turns = 0
        try:
            while True:
                if self._unsent is None and not self._fill():
                    turns = 0
                    await self._idle()
                    continue
                assert self._unsent is not None
                size = self._link.send_now(self._unsent)
                if not size:
                    turns = 0
                    if self._stuck_at is None:
                        self._stuck_at = trio.current_time()
                    size = await self._link.send(self._unsent)
                self._sent(size)
                turns += 1
                if turns >= _TURNS:
                    turns = 0
                    await trio.lowlevel.checkpoint()
        except OSError as error:
            self._shut(TunnelClosed(f"the connection broke: {error}"))

    async def _idle(self) -> None:
        self._idle_writer = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle_writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    # --- reading -------------------------------------------------------------------------------------------------

    def _after_core(self) -> None:
        """Act on what the core has noted: wake readers, senders, acceptors and the writer."""
        mux = self._mux
        if mux.readable:
            for core in mux.readable:
                # Whose reader receives at this moment sees for itself that it need not wait any more.
                if core.user is not None and (core is not self._receiver or self._listening):
                    core.user._wake_reader()
            mux.readable.clear()
            self._delivered = True
        if mux.out.writable:
            for core in mux.out.writable:
                if core.user is not None:
                    core.user._wake_senders()
            mux.out.writable.clear()
            if self._openers and mux.can_open:
                self._openers.unpark_all()
        if mux.opened and self._acceptors:
            self._acceptors.unpark(count=len(mux.opened))
        if mux.pongs:
            now = trio.current_time()
            for token in mux.pongs:
                sent = self._pings.pop(token, None)
                if sent is not None:
                    self._rtt_s = now - sent
            mux.pongs.clear()
        if self._idle_writer is not None and mux.out.pending:
            self._wake_writer()

    # The turn to receive belongs to one task at a time: to a stream's reader while it waits, so that its message does
    # not have to pass through another task, else to the read loop, which stands back while readers take turns.

    @property
    def receivable(self) -> bool:
        """Whether a stream's reader may take the turn to receive."""
        return self._standing_back and self._receiver is None and self._closed is None and self._link.pausable

    async def receive_for(self, core: StreamCore) -> None:
        """Receive for everybody until ``core`` no longer waits or the tunnel is closed; only when :attr:`receivable`.

        Raises nothing but what cancels it: then ``core`` still waits, and nothing that has come is lost.
        """
        assert self.receivable
        self._receiver = core
        try:
            await self._receive_while(core)
        finally:
            self._receiver = None
            self._resume_loop()

    def stop_receiving(self, core: StreamCore) -> None:
        """Wake the reader of ``core`` if it is the one that receives and it waits for the link."""
        if self._receiver is core and self._listening:
            self._link.wake_receiver()

    def _resume_loop(self) -> None:
        if self._resting is not None:
            task, self._resting = self._resting, None
            trio.lowlevel.reschedule(task)

    async def _read_loop(self) -> None:
        """Receive whenever no reader does."""
        while self._closed is None:
            if self._receiver is not None:
                await self._rest()
                continue
            self._standing_back = False
            await self._receive_while(None)
            if self._link.pausable:
                self._standing_back = True
                await trio.lowlevel.checkpoint()  # whoever got something may take the turn
            elif self._turn_in < 0:
                self._turn_in = _TURN_BYTES
                await trio.lowlevel.checkpoint()

    async def _rest(self) -> None:
        self._resting = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._resting = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _receive_while(self, reader: StreamCore | None) -> None:
        """Receive and open records until ``reader`` has something, or without one until any reader has.

        Returns when the tunnel is closed too; what is wrong with the records closes it.
        """
        opener, link, mux = self._opener, self._link, self._mux
        self._delivered = False
        try:
            while self._closed is None:
                if not self._unopened:
                    size = link.receive_now(opener.space())
                    if size == 0:
                        raise ConnectionResetError("cut off without a farewell")
                    if size == WOULD_BLOCK:
                        self._turn_in = _TURN_BYTES
                        mux.keeps_up(reader_waits=True)
                        self._listening = True
                        try:
                            await link.wait_receivable()
                        finally:
                            self._listening = False
                    else:
                        self._took(size)
                        self._turn_in -= size + _TURN_COST
                        if reader is not None and self._open_single(reader, size):
                            return
                if self._unopened:
                    self._open()
                if not (reader.waiting if reader is not None else not self._delivered):
                    return  # before any checkpoint: a reader that has its message must not be cancelled
                if self._unopened:
                    # A long message is whole: let its reader ask for the next, so that that is opened in place too.
                    # Twice, for trio shuffles the tasks that are ready: after the second it has had its turn.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                elif self._turn_in < 0:
                    self._turn_in = _TURN_BYTES
                    mux.keeps_up(reader_waits=False)
                    await trio.lowlevel.checkpoint()
                elif self._delivered:
                    self._delivered = False
                    await trio.lowlevel.checkpoint()
        except OSError as error:
            self._shut(TunnelClosed(f"the connection broke: {error}"))
        except ProtocolViolation as error:
            self._shut_for(error)

    def receive_what_is_here(self) -> None:
        """Take in what has come, without waiting: for a sender out of credit, which may be in the kernel already."""
        if self._closed is not None or self._unopened or not self._link.pausable:
            return
        if self._receiver is not None and not self._listening:
            return  # it is between two looks, where it can be cancelled: a message given to it then would be lost
        try:
            size = self._link.receive_now(self._opener.space())
            if size <= 0:
                return  # nothing, or the end, which whoever has the turn to receive will see too
            self._took(size)
            self._open()
        except OSError as error:
            self._shut(TunnelClosed(f"the connection broke: {error}"))
        except ProtocolViolation as error:
            self._shut_for(error)
        if self._unopened and self._listening:
            self._link.wake_receiver()  # there is more to open, and the kernel has nothing to wake it with

    def _shut_for(self, violation: ProtocolViolation) -> None:
        why = TunnelClosed(f"the peer broke the protocol: {violation}")
        why.__cause__ = violation
        self._shut(why)

    def _took(self, size: int) -> None:
        """``size`` new bytes are in the opener's ring."""
        self._opener.received(size)
        self._unopened = True
        self._heard_at = trio.current_time()
        self._bytes_received += size

    def _open_single(self, reader: StreamCore, size: int) -> bool:
        """Open what has just come if it is one short record, and say whether it was just a message for ``reader``.

        So is nearly every token, and what runs between its arrival and its reader is felt. Raises
        :class:`ProtocolViolation`.
        """
        plain = self._opener.open_single(size)
        if plain is None:
            return False
        self._unopened = False
        if self._mux.feed_single(reader, plain):
            return True
        self._unopened = self._opener.feed(self._mux, plain)
        self._opened()
        return not reader.waiting

    def _open(self) -> None:
        """Open the records that have come, up to the end of a message in its reader's own memory.

        Raises :class:`ProtocolViolation`.
        """
        self._unopened = self._opener.open_into(self._mux)
        self._opened()

    def _opened(self) -> None:
        mux = self._mux
        if mux.out.credit_due:  # at once: the sender may have none left
            self._flush()
        self._after_core()
        if mux.peer_closed is not None:
            code, reason = mux.peer_closed
            why = f"closed by the peer: {reason}" if reason else "closed by the peer"
            self._shut(TunnelClosed(why, clean=code == 0))

    async def send_first_record(self) -> None:
        """Send the record, a ping, with which an initiator proves that it is live; before :meth:`run`.

        Raises ``OSError``.
        """
        self._ping()
        filled = self._fill()
        assert filled
        while self._unsent is not None:
            self._sent(self._link.send_now(self._unsent) or await self._link.send(self._unsent))

    async def first_record(self) -> None:
        """Wait for the peer's first record, which proves that the initiator is live; before :meth:`run`.

        Raises :class:`ProtocolViolation` or ``OSError``.
        """
        while not self._opener.opened:
            size = self._link.receive_now(self._opener.space())
            if size == 0:
                raise ConnectionResetError("cut off before its first record")
            if size == WOULD_BLOCK:
                await self._link.wait_receivable()
                continue
            self._took(size)
            while self._unopened:
                self._open()

    # --- time ----------------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        self._next_ping += 1
        if len(self._pings) > MAX_PINGS:
            self._pings.clear()
        self._pings[self._next_ping] = trio.current_time()
        self._mux.ping(self._next_ping)

    async def _keep_time(self) -> None:
        """Until the tunnel is over: ping a quiet peer, notice a dead one and one that does not read, rekey at times.

        It sleeps until the first of these can be due, so an idle tunnel costs two wakes a minute."""
        upkeep = Upkeep(trio.current_time(), initiator=self.initiator)
        while self._closed is None:
            with trio.move_on_at(upkeep.due_at(self._heard_at, self._stuck_at)):
                await self._over.wait()
                return
            now = trio.current_time()
            self._rates.look(now, self._bytes_sent, self._bytes_received)
            actions = upkeep.act(now, self._heard_at, self._stuck_at)
            if Action.DEAD in actions:
                self._shut(TunnelClosed(f"the peer has been silent for {DEAD_SECONDS:.0f} s"))
            elif Action.STALLED in actions:
                self._shut(TunnelClosed(f"the peer has read too little for {STALL_SECONDS:.0f} s"))
            if Action.REKEY in actions:
                self._rekey_due = True
            if Action.PING in actions:
                try:
                    self._ping()
                except ProtocolViolation as error:
                    self._shut(TunnelClosed(str(error)))
            if actions:
                self._wake_writer()
