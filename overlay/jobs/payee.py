"""The provider's side of one channel, pure: admits jobs, extends credit, issues receipts, takes vouchers.

::

    new --hello--> [adopt receipts] --> reconcile --> ready --stall, dispute, protocol error--> stopped
                                                        ^---- hello on a new tunnel ----|

Credit: events leave while what is owed on the channel beyond the vouchers stays within the credit window; a batch that
would exceed it is cut, and a single event larger than the window leaves only when nothing is unpaid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from compute.tasks import Event
from compute.usage import NO_USAGE, Prices
from overlay.jobs.effects import Effects
from overlay.jobs.errors import ErrorCode, Refused
from overlay.jobs.limits import (
    CREDIT_RETRY_MS,
    MAX_CLAIMS,
    MAX_RECEIPTS_PER_MESSAGE,
    MAX_UNSIGNED_RECEIPTS,
    WRITTEN_OFF_PAID_DIVISOR,
)
from overlay.jobs.messages import Ack, Claim, Hello, Pay, PaymentMessage, Ready, Receipts, View, VoucherSent
from overlay.jobs.metering import JobMeter, least
from overlay.jobs.payee_books import PayeeBooks, head_of
from overlay.jobs.payer import VerifyVoucher
from overlay.jobs.receipt import SignedReceipt
from overlay.settlement.ledger import (
    Budget,
    ChainHead,
    ChannelRecord,
    CreditLine,
    Hold,
    OverLimit,
    VoucherRecord,
)
from transport.identity import Identity

PricesOf = Callable[[bytes], Prices | None]
"""The prices of an agreement, if it is known."""

NO_AGREEMENT = bytes(32)
"""What a receipt names that settles money promised before a crash, for work whose agreement is no longer known."""


class ChannelState(StrEnum):
    """Where a channel stands within a tunnel."""

    NEW = "new"
    READY = "ready"
    STOPPED = "stopped"


class PayeeJob:
    """One job as the provider counts it. ``maximum_nanoton`` is the client's bound for it."""

    def __init__(self, job_id: bytes, agreement_id: bytes, prices: Prices, window_nanoton: int, hold: Hold) -> None:
        self.job_id = job_id
        self.agreement_id = agreement_id
        self.meter = JobMeter(prices)
        self.window_nanoton = window_nanoton
        self.hold = hold


class PayeeChannel(PayeeBooks):
    """See the module's docstring. The books are as the ledger has them."""

    def __init__(
        self,
        record: ChannelRecord,
        signed_head: ChainHead,
        unsigned: Sequence[SignedReceipt],
        voucher: VoucherRecord | None,
        *,
        identity: Identity,
        verify_voucher: VerifyVoucher,
        prices_of: PricesOf,
        fresh_job_id: Callable[[], bytes],
        credit: CreditLine | None = None,
    ) -> None:
        super().__init__(record, signed_head, unsigned, voucher, identity=identity, verify_voucher=verify_voucher)
        self._credit = credit or CreditLine()
        self.state = ChannelState.NEW
        self.written_off_nanoton = record.written_off_nanoton
        self._prices_of = prices_of
        self._fresh_job_id = fresh_job_id
        self._running: dict[bytes, PayeeJob] = {}
        self._lost: dict[bytes, PayeeJob] = {}
        self._hello: Hello | None = None

    # -- jobs --------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Jobs being served."""
        return len(self._running)

    def start(
        self,
        job_id: bytes,
        agreement_id: bytes,
        prices: Prices,
        window_nanoton: int,
        maximum_nanoton: int,
        budget: Budget,
    ) -> PayeeJob:
        """Admit a job, with ``maximum_nanoton`` set aside in the channel and in the agreement's ``budget``.

        Raises :class:`Refused` when the channel is not ready, cannot pay for it, or its client does not sign, pay or
        settle what it should."""
        if self.state is not ChannelState.READY:
            raise Refused(ErrorCode.CHANNEL_REFUSED, "this channel is not served now; begin its payment stream anew")
        if job_id in self._running or job_id in self._lost:
            raise Refused(ErrorCode.BAD_REQUEST, "a job with this id exists", param="job_id")
        if len(self.unsigned) >= MAX_UNSIGNED_RECEIPTS or len(self._lost) >= MAX_CLAIMS:
            raise Refused(ErrorCode.PAYMENT_REQUIRED, "sign the receipts and settle the jobs of this channel first")
        if self.credit_nanoton(window_nanoton) <= 0:
            raise Refused(ErrorCode.PAYMENT_REQUIRED, "too much work on this channel could not be proved; open another")
        try:
            hold = self.account.reserve(maximum_nanoton, budget)
        except OverLimit as error:
            code = ErrorCode.AGREEMENT_EXHAUSTED if error.what == budget.what else ErrorCode.CHANNEL_EXHAUSTED
            raise Refused(code, str(error)) from error
        limit = self._credit.limit_nanoton
        if not self._take_credit(window_nanoton if limit is None else min(limit, window_nanoton)):
            hold.close()
            raise Refused(
                ErrorCode.BUSY, "this provider gives no more credit now: others, or other channels of yours, have it",
                retry_after_ms=CREDIT_RETRY_MS,
            )  # fmt: skip
        job = self._running[job_id] = PayeeJob(job_id, agreement_id, prices, window_nanoton, hold)
        return job

    def credit_nanoton(self, window_nanoton: int) -> int:
        """The credit window less what had to be written off, of which a share of what was paid is forgiven: whoever
        does not pay gets one window in all, however often he forgets what he owes."""
        forgiven = self.account.promised_nanoton // WRITTEN_OFF_PAID_DIVISOR
        if self._credit.limit_nanoton is not None:
            window_nanoton = min(window_nanoton, self._credit.limit_nanoton)
        return window_nanoton - max(0, self.written_off_nanoton - forgiven)

    def covered(self, job: PayeeJob) -> bool:
        """Whether what is unpaid leaves any credit to start working on ``job``."""
        unpaid = self.account.unpaid_nanoton
        return unpaid == 0 or unpaid < self.credit_nanoton(job.window_nanoton)

    def charge(self, job: PayeeJob, events: Sequence[Event]) -> int:
        """Charge as many of ``events``, from the first on, as credit allows, and return how many: those may be sent.

        Raises :class:`Refused` (``max_amount``) when the next event would cost more than the job's maximum; what was
        charged before stands."""
        if not self.is_running(job):
            raise Refused(ErrorCode.CHANNEL_REFUSED, "the job was given up")
        if self._within_credit(job, job.meter.cost_with(events)):
            job.hold.apply(job.meter.add(events))
            return len(events)
        for number, event in enumerate(events):
            cost = job.meter.cost_with((event,))
            if cost > job.hold.maximum_nanoton:
                if number:
                    return number
                raise Refused(ErrorCode.MAX_AMOUNT, "the job reached the most that it may cost")
            if not self._within_credit(job, cost):
                if self.account.unpaid_nanoton or number:
                    return number
                # Dearer than the window, and nothing is unpaid: it may go if the user's caps have room for it.
                if not self._take_credit(cost - job.hold.applied_nanoton):
                    raise Refused(ErrorCode.MAX_AMOUNT, "one result costs more than this provider gives credit for now")
            job.hold.apply(job.meter.add((event,)))
        return len(events)

    def _within_credit(self, job: PayeeJob, cost: int) -> bool:
        added = cost - job.hold.applied_nanoton
        unpaid_after = self.account.owed_nanoton + added - self.account.promised_nanoton
        return cost <= job.hold.maximum_nanoton and (
            added == 0 or unpaid_after <= self.credit_nanoton(job.window_nanoton)
        )

    def finish(self, job: PayeeJob) -> SignedReceipt | None:
        """End a running job whose client got all that was charged; returns its receipt, ``None`` if nothing came.

        The receipt goes to the client at once and to the ledger soon: a client that has it can restore it."""
        del self._running[job.job_id]
        usage = job.meter.usage()
        job.hold.close()
        self._count_credit()
        if not usage:
            return None
        return self._issue(job.job_id, job.agreement_id, usage, job.hold.applied_nanoton)

    def is_running(self, job: PayeeJob) -> bool:
        """Whether ``job`` has neither ended nor been given up."""
        return self._running.get(job.job_id) is job

    def lose(self, job: PayeeJob) -> None:
        """End a job whose stream broke: what reached the client is for the client to claim. Until it does, what was
        sent stays owed and counts against the credit window. Losing a job that has ended changes nothing."""
        if not self.is_running(job):
            return
        del self._running[job.job_id]
        if job.hold.applied_nanoton:
            job.hold.give_back()
            self._lost[job.job_id] = job
        else:
            job.hold.close()
        self._count_credit()

    def lose_all(self) -> None:
        """The tunnel is gone, and every running job with it."""
        for job in list(self._running.values()):
            self.lose(job)

    def stop(self) -> None:
        """Serve nothing more on this channel until all is paid, or until the next hello."""
        self.state = ChannelState.STOPPED

    def parted(self) -> None:
        """The client is not connected any more, and its jobs are over."""
        self._credit.keep(self.account.unpaid_nanoton, connected=False)

    def _take_credit(self, nanoton: int) -> bool:
        try:
            self._credit.want(nanoton)
        except OverLimit:
            return False
        return True

    def _count_credit(self) -> None:
        """Count against the caps what is unpaid, once no job runs that may add to it."""
        if not self._running:
            self._credit.keep(self.account.unpaid_nanoton, connected=True)

    # -- payments ----------------------------------------------------------------------------------------------------

    def pay(self, message: Pay) -> Effects:
        """Check a payment; returns what to write and then to send. :meth:`paid` must follow once it is written.

        Raises :class:`Refused` (``protocol``) for a signature that does not verify and a sum that sinks or exceeds the
        deposit."""
        voucher = self._checked(message.voucher)
        signed = None
        if message.signature is not None and message.signed_index > self.signed_head.index:
            self._sign_chain(message.signed_index, message.signature)
            signed = (message.signed_index, message.signature)
        settled = self._settled(message.claims)
        seq = voucher.seq if voucher else 0 if self._voucher is None else self._voucher.seq
        messages = (*settled.messages, Ack(seq, self.signed_head.index))
        return Effects(
            self.channel,
            voucher=voucher,
            receipts=settled.receipts,
            signed=signed,
            written_off_nanoton=settled.written_off_nanoton,
            messages=messages,
        )

    def paid(self, effects: Effects) -> None:
        """The voucher of ``effects`` is on the disk: credit grows."""
        if effects.voucher is not None:
            self.account.promise(effects.voucher.amount_nanoton)
            self._voucher = effects.voucher
            if self.state is ChannelState.STOPPED and not self.account.unpaid_nanoton:
                self.state = ChannelState.READY
            self._count_credit()

    def _settled(self, claims: Sequence[Claim]) -> Effects:
        """Receipts for lost jobs, each for no more than was sent and no more than is claimed. A claim for a job that
        still runs ends it."""
        receipts = []
        written_off = 0
        again = []
        for claim in claims:
            running = self._running.get(claim.job_id)
            if running is not None:
                self.lose(running)
            job = self._lost.pop(claim.job_id, None)
            if job is None:
                again += [old for old in self.unsigned if old.receipt.job_id == claim.job_id]
                continue
            usage = least(job.meter.usage(), claim.usage)
            amount = job.meter.prices.cost_nanoton(usage)
            written_off += job.hold.applied_nanoton - amount
            job.hold.close(amount)
            receipts.append(self._issue(job.job_id, job.agreement_id, usage, amount))
        self.written_off_nanoton += written_off
        messages = (Receipts((*again, *receipts)),) if again or receipts else ()
        return Effects(self.channel, receipts=tuple(receipts), written_off_nanoton=written_off, messages=messages)

    # -- the start of a payment stream -------------------------------------------------------------------------------

    def hello(self, hello: Hello, handshake_hash: bytes) -> Effects:
        """Compare the books. The answer is a :class:`View`; :meth:`reconcile` follows once our chain is no shorter than
        the client's (:attr:`behind`), after :meth:`adopt` if need be.

        Raises :class:`Refused` when the two chains differ beyond repair."""
        self.lose_all()
        self.state = ChannelState.NEW
        self._handshake_hash = handshake_hash
        self._hello = hello
        if hello.head_index < self.signed_head.index:
            raise Refused(
                ErrorCode.CHANNEL_REFUSED,
                "your ledger is older than your signatures (a restored copy?); settle this channel, open another",
            )
        if hello.head_index <= self.head.index and self._hash_at(hello.head_index) != hello.head_hash:
            raise Refused(ErrorCode.CHANNEL_REFUSED, "the receipt chains differ; settle this channel and open another")
        shown = None
        ours = self._voucher
        if ours is not None and (hello.voucher is None or hello.voucher.seq < ours.seq):
            shown = VoucherSent(ours.seq, ours.amount_nanoton, ours.signature)
        voucher = self._checked(hello.voucher)
        view = View(self.head.index, self.head.hash, shown)
        return Effects(self.channel, voucher=voucher, messages=(view,))

    @property
    def behind(self) -> int:
        """How many receipts the client must send back to us first."""
        return max(0, self._hello.head_index - self.head.index) if self._hello is not None else 0

    def adopt(self, receipts: Sequence[SignedReceipt]) -> Effects:
        """Take back receipts of ours that a crash lost. Raises :class:`Refused` when they are not ours, do not continue
        the chain, or do not end where the client said."""
        assert self._hello is not None
        if not 0 < len(receipts) == self.behind <= MAX_RECEIPTS_PER_MESSAGE:
            raise Refused(ErrorCode.PROTOCOL, f"{self.behind} receipts are missing here, {len(receipts)} came")
        self._take_back(receipts, self._hello.head_hash)
        return Effects(self.channel, receipts=tuple(receipts))

    def reconcile(self) -> Effects:
        """Make both chains one, and settle what was lost on the way (docs/protocols/jobs.md, "When the books differ").

        Receipts that the client does not have are void, since it never signed them. Their jobs, and those whose stream
        broke, get a receipt for the lesser of both counts, if the client claims them. What its voucher promises beyond
        is earned and gets a receipt too. The rest cannot be proved and is written off."""
        assert self._hello is not None
        hello, owed = self._hello, self.account.owed_nanoton
        kept = hello.head_index - self.signed_head.index
        void = self.unsigned[kept:]
        del self.unsigned[kept:]
        self.head = head_of(self.unsigned[-1]) if self.unsigned else self.signed_head
        counted = {old.receipt.job_id: old.receipt.usage for old in void}
        for job in self._lost.values():
            counted[job.job_id] = job.meter.usage()
            job.hold.close(0)
        self._lost.clear()
        issued: list[SignedReceipt] = []
        for claim in hello.claims:
            prices = self._prices_of(claim.agreement_id)
            if prices is None or len(issued) >= MAX_RECEIPTS_PER_MESSAGE - 1:
                continue
            usage = least(claim.usage, counted.get(claim.job_id, claim.usage))
            amount = prices.cost_nanoton(usage)
            if usage and self.head.cumulative_nanoton + amount <= self.account.deposit_nanoton:
                issued.append(self._issue(claim.job_id, claim.agreement_id, usage, amount))
        promised = self.account.promised_nanoton
        if promised > self.head.cumulative_nanoton:
            rest = promised - self.head.cumulative_nanoton
            issued.append(self._issue(self._fresh_job_id(), NO_AGREEMENT, NO_USAGE, rest))
        self.account.settle(self.head.cumulative_nanoton)
        self._count_credit()
        written_off = max(0, owed - self.account.owed_nanoton)
        self.written_off_nanoton += written_off
        self.state = ChannelState.READY
        messages: tuple[PaymentMessage, ...] = (Receipts(tuple(issued)),) if issued else ()
        return Effects(
            self.channel,
            truncate_after=hello.head_index if void else None,
            receipts=tuple(issued),
            written_off_nanoton=written_off,
            messages=(*messages, Ready()),
        )
