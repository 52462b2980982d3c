"""A channel at the client, while a tunnel carries its payment stream: the shell of :mod:`overlay.jobs.payer`.

One task pays: whenever something is due it takes what all jobs of the channel owe by then, writes the voucher, and
sends it. While it writes, more becomes due; so under load one voucher and one signature answer many jobs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

from overlay.errors import CocoonError, ProviderGone
from overlay.jobs.effects import Effects
from overlay.jobs.errors import ChannelUnusable, Overcharged, ProtocolError, RiskCapReached, error_of
from overlay.jobs.limits import HELLO_S, MAX_CONTROL_BYTES, MAX_RECEIPTS_PER_MESSAGE
from overlay.jobs.link import JobStream
from overlay.jobs.messages import (
    Ack,
    Cancel,
    Dispute,
    Due,
    Failed,
    PaymentMessage,
    Ready,
    Receipts,
    View,
    decode,
    encode,
)
from overlay.jobs.payer import PayerChannel, SignVoucher, VerifyVoucher
from overlay.jobs.receipt import SignedReceipt
from overlay.settlement.ledger import (
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    GroupCommit,
    LedgerError,
    OverLimit,
    Reservation,
    RiskBook,
    Store,
)
from transport.identity import Identity
from transport.tunnel import ResetCode, TunnelError
from transport.wire import WireError


class _Reservations:
    """Reservations that share one lazy write. The ledger's thread takes them all at once; who is taken out before that
    is never written."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Reservation] = {}
        self.taken = False

    def write(self, store: Store) -> None:
        """Runs in the ledger's thread while jobs come and go, perhaps twice. First the flag, then the copy: see
        :meth:`ChannelClient._unreserve`."""
        self.taken = True
        for reservation in list(self.rows.values()):
            store.reserve(reservation)


class ChannelClient:
    """See the module's docstring. Made by :meth:`overlay.jobs.JobClient.attach`, one a tunnel; the machine lives on."""

    def __init__(self, payer: PayerChannel, ledger: GroupCommit, ref: int, now_s: Callable[[], int]) -> None:
        self.payer = payer
        self.ref = ref
        self.broken: CocoonError | None = None
        self.payments = 0
        self._ledger = ledger
        self._now_s = now_s
        self._wake = trio.Event()
        self._over = trio.Event()
        self._changed = trio.Event()
        self._outbox: deque[PaymentMessage] = deque()
        self._reserving: _Reservations | None = None
        self._reserved: dict[bytes, _Reservations] = {}
        self._stream: JobStream | None = None

    def pay_soon(self) -> None:
        """Something may be due."""
        self._wake.set()

    def ask(self) -> None:
        """Have the provider show that it is there: something comes back on the payment stream."""
        self.payer.ask()
        self._wake.set()

    def cancel_job(self, job_id: bytes) -> None:
        """Ask the provider to stop a job; its stream still ends with a receipt."""
        self._outbox.append(Cancel(job_id))
        self._wake.set()

    def reserve(self, job_id: bytes, maximum_nanoton: int) -> None:
        """Note the reservation in the books, soon; one that is over before that never gets there."""
        if self._reserving is None or self._reserving.taken:
            self._reserving = _Reservations()
            self._ledger.post(self._reserving.write)
        self._reserving.rows[job_id] = Reservation(self.payer.channel, job_id, maximum_nanoton, self._now_s())
        self._reserved[job_id] = self._reserving

    def release(self, job_id: bytes) -> None:
        """The job ended without a receipt."""
        if self._unreserve(job_id):
            channel = self.payer.channel
            self._ledger.post(lambda store: store.release(channel, job_id))

    def receipted(self, job_id: bytes) -> None:
        """The job's receipt is being written and ends the reservation."""
        self._unreserve(job_id)

    def _unreserve(self, job_id: bytes) -> bool:
        """Take a reservation out; whether it may have been written. First it goes, then we look: what the ledger's
        thread takes after that does not have it."""
        batch = self._reserved.pop(job_id, None)
        if batch is None:
            return False
        batch.rows.pop(job_id, None)
        return batch.taken

    def dispute(self, error: Overcharged) -> None:
        """Never pay this provider on this channel again, and tell it and the books so."""
        if self.broken is not None:
            return
        self.broken = error
        channel, at, risk = self.payer.channel, self._now_s(), self.payer.account.unpaid_nanoton
        detail = self.payer.disputed or str(error)

        def note(store: Store) -> None:
            store.set_status(channel, ChannelStatus.DISPUTED, at=at)
            store.add_event(ChannelEvent(channel, at, "disputed", risk, detail))

        self._ledger.post(note)
        self._outbox.append(Dispute(detail))
        self._wake.set()

    async def settled(self) -> None:
        """Wait until no job runs and all that is owed is promised, signed for and acknowledged, or the channel broke.
        Put a deadline around it."""
        self.payer.pay_all()
        self._wake.set()
        while self.broken is None and not self.payer.quiet:
            await self._changed.wait()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- the payment stream ------------------------------------------------------------------------------------------

    async def begin(self, stream: JobStream, handshake_hash: bytes) -> None:
        """Compare the books with the provider. Raises what :func:`~overlay.jobs.errors.error_of` makes of its refusal,
        :class:`ProtocolError`, :class:`Overcharged` and :class:`~overlay.errors.ProviderGone`."""
        try:
            with trio.fail_after(HELLO_S):
                await self._begin(stream, handshake_hash)
        except trio.TooSlowError:
            raise ProviderGone("the provider does not answer on the payment stream") from None
        except TunnelError as error:
            raise ProviderGone(f"the provider let go of the payment stream: {error}") from error
        except WireError as error:
            raise ProtocolError(f"the provider broke the protocol of payments: {error}") from error
        except OverLimit as error:
            raise RiskCapReached(f"nothing was paid: {error}") from error
        except LedgerError as error:
            raise ChannelUnusable(f"the books of this channel cannot be written: {error}") from error
        self._stream = stream

    async def _begin(self, stream: JobStream, handshake_hash: bytes) -> None:
        payer = self.payer
        payer.session = self
        # What was accepted on the last tunnel and not written yet comes first: the hello speaks of what is on the disk.
        await self._write(None)
        await self._write_payment()
        await stream.send_messages([encode(payer.hello(self.ref, handshake_hash))])
        waiting: deque[PaymentMessage] = deque()
        seen = False
        while True:
            while not waiting:
                waiting.extend(await self._receive(stream))
            message = waiting.popleft()
            if isinstance(message, View) and not seen:
                seen = True
                await self._answer_view(stream, message)
            elif isinstance(message, Receipts) and seen:
                for signed in message.receipts:
                    payer.receipt(signed)
            elif isinstance(message, Ready) and seen:
                payer.settled()
                payer.pay_all()
                self._wake.set()
                return
            else:
                raise WireError(f"{type(message).__name__} has no place here")

    async def _answer_view(self, stream: JobStream, view: View) -> None:
        effects = self.payer.view(view)
        await self._write(effects)
        missing = self.payer.head.index - view.head_index
        if missing > 0:
            channel = self.payer.channel

            def read(store: Store) -> list[SignedReceipt]:
                rows = store.receipts(channel, after=view.head_index, limit=MAX_RECEIPTS_PER_MESSAGE)
                return [SignedReceipt.from_record(row) for row in rows]

            await stream.send_messages([encode(Receipts(tuple(await self._ledger.run(read))))])

    async def _receive(self, stream: JobStream) -> list[PaymentMessage]:
        received = await stream.receive_messages(MAX_CONTROL_BYTES)
        if not received:
            raise ProviderGone("the provider ended the payment stream")
        messages: list[PaymentMessage] = []
        for data in received:
            message = decode(data, max_bytes=MAX_CONTROL_BYTES)
            if isinstance(message, Failed):
                raise error_of(
                    message.code, message.message, retry_after_ms=message.retry_after_ms, param=message.param
                )
            if not isinstance(message, View | Receipts | Ready | Ack | Due):
                raise WireError(f"{type(message).__name__} has no place on a payment stream")
            messages.append(message)
        return messages

    async def run(self) -> None:
        """Pay and listen until the tunnel ends or the channel breaks; ``broken`` then says why. Raises only faults."""
        assert self._stream is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, self._stream)
                nursery.start_soon(self._pay_forever, self._stream)
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.broken = self.broken or ProviderGone("the tunnel to the provider is closed")
            self._stream.reset(ResetCode.CLOSED, "the payment stream is over")
            if self.payer.session is self:
                self.payer.lose_all()
                self._release_all()
            self._pulse()

    def _release_all(self) -> None:
        """No job of this channel runs any more, whatever became of its task: nothing stays reserved."""
        channel = self.payer.channel
        for job_id in list(self._reserved):
            self._unreserve(job_id)
        with suppress(LedgerError):  # a ledger that is closed or overwhelmed does the same at its next start
            self._ledger.post(lambda store: store.release_channel(channel))

    def _break(self, error: CocoonError) -> None:
        self.broken = self.broken or error
        self._over.set()

    async def _listen(self, stream: JobStream) -> None:
        try:
            while True:
                for message in await self._receive(stream):
                    if isinstance(message, Receipts):
                        for signed in message.receipts:
                            self.payer.receipt(signed)
                    elif isinstance(message, Ack):
                        self.payer.acknowledged()
                    elif isinstance(message, Due):
                        self.payer.due()
                    else:
                        raise WireError(f"{type(message).__name__} has no place here")
                self._wake.set()
                self._pulse()
        except Overcharged as error:
            self.dispute(error)
        except TunnelError as error:
            self._break(ProviderGone(f"the provider let go of the payment stream: {error}"))
        except WireError as error:
            self._break(ProtocolError(f"the provider broke the protocol of payments: {error}"))
        except CocoonError as error:
            self._break(error)

    async def _pay_forever(self, stream: JobStream) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                messages = await self._write_payment()
                if messages:
                    self.payments += 1
                messages += [encode(message) for message in self._outbox]
                self._outbox.clear()
                if isinstance(self.broken, Overcharged):
                    await self._ledger.flush()  # the dispute is in the books before the provider hears of it
                if messages:
                    await stream.send_messages(messages)
                if isinstance(self.broken, Overcharged):
                    await stream.aclose()
                    self._over.set()
                self._pulse()
        except TunnelError as error:
            self._break(ProviderGone(f"the provider let go of the payment stream: {error}"))
        except OverLimit as error:
            self._break(RiskCapReached(f"no voucher was signed: {error}"))
        except LedgerError as error:
            # A voucher that is not on the disk never leaves; the next tunnel begins with writing it.
            self._break(ChannelUnusable(f"the payment could not be written, so it was not made: {error}"))

    async def _write_payment(self) -> list[bytes]:
        effects = self.payer.payment()
        if effects is None:
            return []
        await self._write(effects)
        return [encode(message) for message in effects.messages]

    async def _write(self, effects: Effects | None) -> None:
        """Put on the disk what the machine has decided: ``effects``, and before them what an earlier session of this
        channel could not write, or did not wait for. The machine outlives its tunnels, and nothing that it signed may
        leave on the next one before it is on the disk."""
        unwritten = self.payer.unwritten
        if effects is not None and effects.writes:
            unwritten.append(effects)
        while unwritten:
            await self._ledger.run(unwritten[0].write)
            del unwritten[0]


async def load_payer_channel(
    ledger: GroupCommit,
    channel: str,
    *,
    identity: Identity,
    sign_voucher: SignVoucher,
    verify_voucher: VerifyVoucher,
    risk: RiskBook | None = None,
) -> PayerChannel:
    """The machine of a channel of ours, from the ledger. One a channel in a process. ``risk`` has the user's caps.

    Raises :class:`ChannelUnusable` when the ledger has no such channel or it is not open."""

    def read(store: Store) -> PayerChannel | ChannelUnusable:
        record: ChannelRecord | None = store.channel(channel)
        if record is None or record.status is not ChannelStatus.OPEN:
            state = "unknown" if record is None else record.status.value
            return ChannelUnusable(f"the channel {channel} is {state}; open another one")
        return PayerChannel(
            record,
            store.head(channel),
            store.voucher(channel),
            identity=identity,
            sign_voucher=sign_voucher,
            verify_voucher=verify_voucher,
            caps=() if risk is None else risk.caps(channel, record.peer),
        )

    found = await ledger.run(read)
    if isinstance(found, ChannelUnusable):
        raise found
    return found
