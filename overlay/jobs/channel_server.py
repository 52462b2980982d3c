"""A channel at the provider, while a tunnel carries its payment stream: the shell of :mod:`overlay.jobs.payee`.

Whatever the machine wants written is on the disk before the message that depends on it leaves. Receipts alone go to the
client first: it hands them back should a crash lose ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from overlay.jobs.book import AgreementBook
from overlay.jobs.effects import Effects
from overlay.jobs.errors import ErrorCode, Refused
from overlay.jobs.limits import HELLO_S, MAX_CONTROL_BYTES
from overlay.jobs.link import JobStream
from overlay.jobs.messages import (
    Cancel,
    Dispute,
    Due,
    Failed,
    Hello,
    Pay,
    PaymentMessage,
    Receipts,
    decode,
    encode,
)
from overlay.jobs.patience import Patience
from overlay.jobs.payee import PayeeChannel, PayeeJob
from overlay.jobs.payer import VerifyVoucher
from overlay.jobs.receipt import SignedReceipt
from overlay.settlement.ledger import (
    GENESIS_HASH,
    ChainHead,
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    GroupCommit,
    LedgerError,
    Reservation,
    RiskBook,
    Store,
)
from transport.identity import Identity
from transport.tunnel import TunnelError
from transport.wire import WireError


class RunningJob:
    """A job's task, as the channel sees it: how to stop it, and why it was stopped."""

    def __init__(self, job: PayeeJob, scope: trio.CancelScope) -> None:
        self.job = job
        self.scope = scope
        self.stopped: ErrorCode | None = None
        self.finished = False

    def stop(self, code: ErrorCode) -> None:
        """Stop the task; what it has delivered stays charged. A job that has its receipt is only saying so: let it."""
        if self.stopped is None and not self.finished:
            self.stopped = code
            self.scope.cancel()


class ChannelServer:
    """See the module's docstring. Lives as long as the server, from tunnel to tunnel; :func:`load_payee_channel` makes
    the machine."""

    def __init__(self, payee: PayeeChannel, ledger: GroupCommit, book: AgreementBook, now_s: Callable[[], int]) -> None:
        self.payee = payee
        self.jobs: dict[bytes, RunningJob] = {}
        self._ledger = ledger
        self._book = book
        self._now_s = now_s
        self._stream: JobStream | None = None
        self._sending = trio.Lock()
        self._credit = trio.Event()
        self._asked = False
        self._patience = Patience()
        self._window_nanoton = 0
        self._session: trio.CancelScope | None = None
        self._turn = trio.Lock()

    # -- jobs --------------------------------------------------------------------------------------------------------

    def reserve(self, job: PayeeJob) -> None:
        """Note the reservation in the books, soon."""
        reservation = Reservation(self.payee.channel, job.job_id, job.hold.maximum_nanoton, self._now_s())
        self._ledger.post(lambda store: store.reserve(reservation))

    def finish(self, job: PayeeJob) -> SignedReceipt | None:
        """End a job in good order; the receipt is written soon, with whatever is written next."""
        signed = self.payee.finish(job)
        channel, job_id = self.payee.channel, job.job_id
        if signed is None:
            self._ledger.post(lambda store: store.release(channel, job_id))
        else:
            record = signed.to_record()
            self._ledger.post(lambda store: store.append_receipt(record))
        return signed

    def lose(self, job: PayeeJob) -> None:
        """End a job whose stream broke."""
        self.payee.lose(job)
        channel, job_id = self.payee.channel, job.job_id
        self._ledger.post(lambda store: store.release(channel, job_id))

    async def settled(self) -> None:
        """Wait until the client has paid for everything, or is not connected any more."""
        while self._stream is not None and self.payee.account.unpaid_nanoton:
            await self._credit.wait()

    async def wait_for_credit(self, job: PayeeJob) -> None:
        """Ask the client to pay, and wait until a higher voucher came. Stops every job of the channel, and with it the
        caller, when the channel's :class:`Patience` is at its end."""
        if not self._asked:
            self._asked = True
            await self._send(Due())
        self._window_nanoton = job.window_nanoton
        until_s = self._patience.begin(trio.current_time())
        try:
            with trio.move_on_at(until_s):
                await self._credit.wait()
                return
        finally:
            self._patience.end(trio.current_time())
        if not self.payee.is_running(job):
            return
        self.payee.stop()
        for running in list(self.jobs.values()):
            running.stop(ErrorCode.PAYMENT_REQUIRED)
        self._note("payment_stalled", self.payee.account.unpaid_nanoton, "no voucher came in time")
        await trio.lowlevel.checkpoint_if_cancelled()

    # -- the payment stream ------------------------------------------------------------------------------------------

    async def serve(self, stream: JobStream, hello: Hello, handshake_hash: bytes, ready: Callable[[], None]) -> None:
        """Serve a payment stream until it ends; ``ready`` is called once jobs may start. An older stream of the same
        channel, from a tunnel that broke, is cut off first. Raises :class:`Refused` and
        :class:`~transport.wire.WireError`; the jobs of the channel are over when this returns."""
        if self._session is not None:
            self._session.cancel()
        async with self._turn:
            with trio.CancelScope() as self._session:
                try:
                    await self._begin(stream, hello, handshake_hash)
                    self._stream = stream
                    ready()
                    await self._read(stream)
                finally:
                    self._stream = None
                    self._end_jobs()

    def _end_jobs(self) -> None:
        for running in list(self.jobs.values()):
            self.payee.lose(running.job)
            running.stop(ErrorCode.CHANNEL_REFUSED)
        self.payee.lose_all()
        self.payee.parted()
        self.payee.stop()
        channel = self.payee.channel
        with suppress(LedgerError):  # a ledger that is closed or overwhelmed does the same at its next start
            self._ledger.post(lambda store: store.release_channel(channel))
        self._grant()

    async def _begin(self, stream: JobStream, hello: Hello, handshake_hash: bytes) -> None:
        for claim in hello.claims:
            await self._book.get(claim.agreement_id)
        effects = self.payee.hello(hello, handshake_hash)
        await self._take(effects)
        await stream.send_messages([encode(message) for message in effects.messages])
        if self.payee.behind:
            with trio.fail_after(HELLO_S):
                answers = await stream.receive_messages(MAX_CONTROL_BYTES)
            answer = decode(answers[0], max_bytes=MAX_CONTROL_BYTES) if len(answers) == 1 else None
            if not isinstance(answer, Receipts):
                raise Refused(ErrorCode.PROTOCOL, "receipts were to come here")
            await self._write(self.payee.adopt(answer.receipts))
        effects = self.payee.reconcile()
        await self._write(effects)
        if effects.written_off_nanoton:
            self._note("written_off", effects.written_off_nanoton, "could not be proved when the books were compared")
        await stream.send_messages([encode(message) for message in effects.messages])

    async def _read(self, stream: JobStream) -> None:
        while True:
            received = await stream.receive_messages(MAX_CONTROL_BYTES)
            if not received:
                return
            payments: list[Effects] = []
            for data in received:
                message = decode(data, max_bytes=MAX_CONTROL_BYTES)
                if isinstance(message, Pay):
                    for claim in message.claims:
                        if (running := self.jobs.get(claim.job_id)) is not None:
                            running.stop(ErrorCode.CANCELLED)
                    effects = self.payee.pay(message)
                    # The next message of the batch is checked against the state after this one.
                    payments.append(effects)
                    await self._take(effects)
                elif isinstance(message, Cancel):
                    if (running := self.jobs.get(message.job_id)) is not None:
                        running.stop(ErrorCode.CANCELLED)
                elif isinstance(message, Dispute):
                    self._note("disputed", self.payee.account.unpaid_nanoton, message.reason)
                    return
                else:
                    raise WireError(f"{type(message).__name__} has no place here")
            if payments:
                await stream.send_messages([encode(m) for effects in payments for m in effects.messages])

    async def _take(self, effects: Effects) -> None:
        await self._write(effects)
        self.payee.paid(effects)
        if effects.voucher is not None:
            account = self.payee.account
            self._patience.paid(
                account.promised_nanoton, account.unpaid_nanoton, self._window_nanoton, trio.current_time()
            )
            self._grant()

    def _grant(self) -> None:
        self._asked = False
        self._credit.set()
        self._credit = trio.Event()

    async def _write(self, effects: Effects) -> None:
        if effects.writes:
            await self._ledger.run(effects.write)

    async def _send(self, message: PaymentMessage) -> None:
        if self._stream is not None:
            try:
                await self._stream.send_messages([encode(message)])
            except TunnelError:
                return  # whoever reads this stream ends the channel's jobs

    def _note(self, kind: str, amount: int, detail: str) -> None:
        event = ChannelEvent(self.payee.channel, self._now_s(), kind, amount, detail)
        self._ledger.post(lambda store: store.add_event(event))


async def load_payee_channel(
    ledger: GroupCommit,
    record: ChannelRecord,
    *,
    identity: Identity,
    verify_voucher: VerifyVoucher,
    book: AgreementBook,
    fresh_job_id: Callable[[], bytes],
    risk: RiskBook | None = None,
) -> PayeeChannel:
    """The machine of a channel, from the ledger. ``risk`` has the user's caps."""

    def read(store: Store) -> PayeeChannel:
        index = store.signed_index(record.channel)
        head = ChainHead(0, GENESIS_HASH, 0)
        if index:
            (signed,) = store.receipts(record.channel, after=index - 1, upto=index)
            head = ChainHead(signed.index, signed.hash, signed.cumulative_nanoton)
        unsigned = []
        after = index
        while rows := store.receipts(record.channel, after=after):
            unsigned += [SignedReceipt.from_record(row) for row in rows]
            after = rows[-1].index

        return PayeeChannel(
            store.channel(record.channel) or record,
            head,
            unsigned,
            store.voucher(record.channel),
            identity=identity,
            verify_voucher=verify_voucher,
            prices_of=book.prices_of,
            fresh_job_id=fresh_job_id,
            credit=None if risk is None else risk.credit(record.channel, record.peer),
        )

    return await ledger.run(read)


def refusal(error: Refused, receipt: SignedReceipt | None = None) -> Failed:
    """The message for a refusal."""
    return Failed(error.code, error.message, error.retry_after_ms, error.param, receipt)


def served(record: ChannelRecord | None, client: str) -> ChannelRecord:
    """The channel, if this client may use it now. Raises :class:`Refused`."""
    if record is None or record.peer != client:
        raise Refused(ErrorCode.CHANNEL_UNKNOWN, "this provider knows no such channel of yours")
    if record.status is not ChannelStatus.OPEN:
        raise Refused(ErrorCode.CHANNEL_REFUSED, f"this channel is {record.status}; open another one")
    return record
