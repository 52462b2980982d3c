"""The client's side of one channel, pure: meters jobs, checks receipts, decides when to pay.

::

    start -> running --Done/Failed with a receipt--> receipt waits for its place in the chain -> accepted -> settled
                     --lost (tunnel, reset, silence)--> claimed -> receipt for at most the claim -> settled
                     --refused, nothing delivered--> forgotten

A payment (voucher, countersignature, claims) is made by :meth:`PayerChannel.payment`, written by the shell, and only
then sent. A provider that charges more than was delivered is disputed: from then on there is no payment, ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from compute.tasks import Request
from compute.usage import Prices
from overlay.jobs.effects import Effects
from overlay.jobs.errors import ChannelUnusable, Overcharged, ProtocolError
from overlay.jobs.limits import MAX_CLAIMS, MAX_OUT_OF_ORDER
from overlay.jobs.messages import Claim, Hello, Pay, View, VoucherSent
from overlay.jobs.payer_job import PayerJob
from overlay.jobs.receipt import SignedReceipt, countersign
from overlay.settlement.ledger import (
    Budget,
    Cap,
    ChainHead,
    ChannelAccount,
    ChannelRecord,
    OverLimit,
    VoucherRecord,
)
from transport.identity import Identity

SignVoucher = Callable[[int, int], bytes]
"""(seq, cumulative nanoTON) -> the payer's signature."""

VerifyVoucher = Callable[[int, int, bytes], bool]
"""(seq, cumulative nanoTON, signature) -> whether the payer of this channel made it."""


class PayerChannel:
    """See the module's docstring. ``head`` and ``voucher`` are what the ledger holds."""

    def __init__(
        self,
        record: ChannelRecord,
        head: ChainHead,
        voucher: VoucherRecord | None,
        *,
        identity: Identity,
        sign_voucher: SignVoucher,
        verify_voucher: VerifyVoucher,
        caps: Sequence[Cap] = (),
    ) -> None:
        self.channel = record.channel
        self.caps = tuple(caps)
        self.provider = record.peer
        self.record = record
        self.account = ChannelAccount(
            record.deposit_nanoton,
            owed_nanoton=head.cumulative_nanoton,
            promised_nanoton=0 if voucher is None else voucher.amount_nanoton,
        )
        self.head = head
        self.disputed: str | None = None
        self.session: object = None
        """The payment stream that this machine runs on now."""
        self.unwritten: list[Effects] = []
        """What was decided and is not known to be on the disk; writing it twice does no harm."""
        self._identity = identity
        self._sign_voucher = sign_voucher
        self._verify_voucher = verify_voucher
        self._voucher = voucher
        self._seq = 0 if voucher is None else voucher.seq
        self.handshake_hash = b""
        """Names the tunnel that the channel was begun on last."""
        self._jobs: dict[bytes, PayerJob] = {}
        self._arrived: dict[int, SignedReceipt] = {}
        self._accepted: list[SignedReceipt] = []
        self._claims: dict[bytes, Claim] = {}
        self._claimed: set[bytes] = set()
        self._unanswered: deque[tuple[bytes, ...]] = deque()
        self._due = False
        self._asked = False
        self._asking = False

    # -- jobs --------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Jobs without a receipt, lost ones included."""
        return len(self._jobs)

    @property
    def quiet(self) -> bool:
        """Whether nothing runs, is owed, or waits for the provider's word."""
        return not (self._jobs or self._accepted or self._unanswered or self.account.unpaid_nanoton)

    def start(
        self,
        job_id: bytes,
        agreement_id: bytes,
        prices: Prices,
        window_nanoton: int,
        request: Request,
        maximum_nanoton: int,
        budget: Budget,
    ) -> PayerJob:
        """Set ``maximum_nanoton`` aside, in the channel and in the agreement's ``budget``, and begin to count a job.

        Raises :class:`~overlay.settlement.ledger.OverLimit` when it does not fit there or exceeds a cap of the user's,
        :class:`ChannelUnusable` when the channel is disputed or has too many jobs that were lost."""
        if self.disputed is not None:
            raise ChannelUnusable(f"this channel is in dispute with its provider ({self.disputed}); open another one")
        if len(self._claims) >= MAX_CLAIMS:
            raise ChannelUnusable("too many jobs of this channel were lost and not settled by the provider yet")
        if job_id in self._jobs:
            raise ValueError("two jobs of one channel have the same id")
        stake = self.caps[0].reserve(maximum_nanoton, *self.caps[1:]) if self.caps else None
        try:
            hold = self.account.reserve(maximum_nanoton, budget)
        except OverLimit:
            if stake is not None:
                stake.close()
            raise
        job = PayerJob(self, job_id, agreement_id, prices, window_nanoton, request, hold, stake)
        self._jobs[job_id] = job
        return job

    def refused(self, job: PayerJob) -> None:
        """The provider refused the job and delivered nothing."""
        if job.meter.usage():
            self.lost(job)
        elif self._jobs.pop(job.job_id, None) is not None:
            self._claims.pop(job.job_id, None)  # the tunnel may have broken before the refusal was read
            job.close(0)

    def lost(self, job: PayerJob) -> None:
        """The job ended without a receipt, and nobody reads its stream any more: claim what came of it. Calling it
        again changes nothing."""
        self._lose(job)
        job.over()

    def lose_all(self) -> None:
        """The tunnel is gone, and every running job with it; whoever reads one may still find its receipt."""
        for job in list(self._jobs.values()):
            if job.ended:
                job.over()  # its receipt came, and waited for an earlier one that now comes no more
            else:
                self._lose(job)

    def _lose(self, job: PayerJob) -> None:
        if job.ended or job.job_id not in self._jobs:
            return
        job.ended = True
        self._claims[job.job_id] = Claim(job.job_id, job.agreement_id, job.meter.usage())
        self._due = True

    def pay_beyond(self, nanoton: int) -> bool:
        """Note, and return, whether more than ``nanoton`` is unpaid."""
        if self.account.unpaid_nanoton > (0 if self._asked else nanoton):
            self._due = True
        return self._due

    def ask(self) -> None:
        """Have the provider answer on the payment stream, by a payment of nothing if there is nothing to pay."""
        if not self._unanswered:
            self._asking = True

    def pay_all(self) -> None:
        """Whatever is owed now is due, however little."""
        self._due = True

    def due(self) -> None:
        """The provider asks for what is owed. It may ask before the events that it means have arrived, since they come
        on another stream: then the next ones are paid at once."""
        self._due = self._asked = True

    # -- receipts ----------------------------------------------------------------------------------------------------

    def job_receipt(self, job: PayerJob, signed: SignedReceipt) -> None:
        """The receipt that ended a job's stream; void when the channel has begun anew since. Raises
        :class:`Overcharged`."""
        if signed.receipt.job_id != job.job_id:
            raise self.overcharged("a job's stream ended with the receipt of another")
        if job.void:
            return
        job.ended = True
        self._claims.pop(job.job_id, None)
        self.receipt(signed)

    def receipt(self, signed: SignedReceipt) -> None:
        """A receipt arrived; accept it and those that waited for it, or keep it until its turn.

        Raises :class:`Overcharged` when one does not stand up to what this side counted."""
        index = signed.receipt.index
        if index <= self.head.index:
            return
        known = self._arrived.get(index)
        if known is not None and known.body != signed.body:
            raise self.overcharged(f"two different receipts have the number {index}")
        if index - self.head.index > MAX_OUT_OF_ORDER:
            raise self.overcharged(f"receipt {index} comes long before receipt {self.head.index + 1}")
        self._arrived[index] = signed
        while (ready := self._arrived.pop(self.head.index + 1, None)) is not None:
            self._accept(ready)

    def _accept(self, signed: SignedReceipt) -> None:
        receipt = signed.receipt
        job = self._jobs.get(receipt.job_id)
        wrong = self._wrong(signed, job)
        if wrong is not None:
            raise self.overcharged(f"receipt {receipt.index}: {wrong}")
        if job is None:
            # A job of before a restart, within what our own voucher already covers: it documents, it does not charge.
            with self.account.reserve(receipt.amount_nanoton) as hold:
                hold.apply(receipt.amount_nanoton)
        else:
            del self._jobs[receipt.job_id]
            self._claims.pop(receipt.job_id, None)
            job.close(receipt.amount_nanoton)
        self.head = ChainHead(receipt.index, signed.hash, receipt.cumulative_nanoton)
        self._accepted.append(signed)
        self._due = True

    def _wrong(self, signed: SignedReceipt, job: PayerJob | None) -> str | None:
        receipt = signed.receipt
        if receipt.channel != self.channel or receipt.prev_hash != self.head.hash:
            return "it does not continue this channel's chain"
        if receipt.cumulative_nanoton != self.head.cumulative_nanoton + receipt.amount_nanoton:
            return "its sum is not the sum of the receipts"
        if receipt.handshake_hash != self.handshake_hash:
            return "it names another tunnel"
        if not signed.signed_by(self.provider):
            return "the provider did not sign it"
        if job is None:
            if receipt.cumulative_nanoton > self.account.promised_nanoton:
                return "it charges for a job that this node knows nothing of"
            return None
        if not job.ended:
            return "it is for a job that still runs"
        if receipt.agreement_id != job.agreement_id:
            return "it names another agreement"
        counted = job.meter.usage()
        for unit, count in receipt.usage.counts.items():
            if count > counted.get(unit):
                return f"{count} {unit} units charged, {counted.get(unit)} delivered"
        if receipt.amount_nanoton != job.meter.prices.cost_nanoton(receipt.usage):
            return "its amount is not what the agreed prices make of its usage"
        return None

    def overcharged(self, reason: str) -> Overcharged:
        """Put the channel into dispute, for good; returns the exception that says so."""
        if self.disputed is None:
            self.disputed = reason
        return Overcharged(
            f"the provider {self.provider} charges what it did not deliver: {reason}; it is paid no more"
        )

    # -- payments ----------------------------------------------------------------------------------------------------

    def payment(self) -> Effects | None:
        """The payment that is due now, or ``None``: what to write, then to send. A higher voucher covers everything
        counted so far; one signature accepts the receipts that are new.

        Raises :class:`~overlay.settlement.ledger.OverLimit`, and nothing is signed, should more be open than a cap of
        the user's allows: jobs are held to it when they start, so only a cap that sank since can make that so."""
        if self.disputed is not None:
            return None
        asking, self._asking = self._asking, False
        if not (self._due or self._accepted):
            return self._pay(None, None, ()) if asking else None
        for cap in self.caps:
            cap.check()
        self._due = False
        record = None
        owed = self.account.owed_nanoton
        if owed > self.account.promised_nanoton:
            self._asked = False
            self._seq += 1
            self.account.promise(owed)
            record = VoucherRecord(self.channel, self._seq, owed, self._sign_voucher(self._seq, owed))
            self._voucher = record
        receipts = tuple(self._accepted)
        self._accepted.clear()
        signed = (self.head.index, countersign(self._identity, self.head.hash)) if receipts else None
        claims = tuple(claim for claim in self._claims.values() if claim.job_id not in self._claimed)
        self._claimed.update(claim.job_id for claim in claims)
        if record is None and signed is None and not claims and not asking:
            return None
        return self._pay(record, signed, claims, receipts)

    def _pay(
        self,
        record: VoucherRecord | None,
        signed: tuple[int, bytes] | None,
        claims: Sequence[Claim],
        receipts: tuple[SignedReceipt, ...] = (),
    ) -> Effects:
        index, signature = signed or (0, None)
        message = Pay(_sent(record), index, signature, tuple(claims))
        self._unanswered.append(tuple(claim.job_id for claim in claims))
        return Effects(self.channel, voucher=record, receipts=receipts, signed=signed, messages=(message,))

    def acknowledged(self) -> None:
        """The provider answered the oldest payment: claims in it that brought no receipt are given up by both.

        Raises :class:`ProtocolError` when there was none."""
        if not self._unanswered:
            raise ProtocolError("the provider acknowledges a payment that was not made")
        for job_id in self._unanswered.popleft():
            self._forget(job_id)

    def _forget(self, job_id: bytes) -> None:
        self._claimed.discard(job_id)
        if self._claims.pop(job_id, None) is not None:
            self._jobs.pop(job_id).close(0)

    # -- the start of a payment stream -------------------------------------------------------------------------------

    def hello(self, channel_ref: int, handshake_hash: bytes) -> Hello:
        """Begin on a new tunnel. Jobs of an older one are lost, receipts that wait for others void: the provider
        issues them again."""
        self._arrived.clear()
        self.lose_all()
        for job in self._jobs.values():
            # Also those whose receipt had come and waited for another: it is void, the claim takes its place.
            claim = Claim(job.job_id, job.agreement_id, job.meter.usage())
            self._claims.setdefault(job.job_id, claim)
            job.over()
        self._claimed.clear()
        self._unanswered.clear()
        self._asking = False
        self.handshake_hash = handshake_hash
        return Hello(
            channel_ref,
            self.channel,
            self.head.index,
            self.head.hash,
            _sent(self._voucher),
            tuple(self._claims.values()),
        )

    def view(self, view: View) -> Effects | None:
        """The provider's books. Returns a voucher of ours that only the provider still had, to be written.

        Raises :class:`ProtocolError` when it shows a voucher that we did not sign."""
        sent = view.voucher
        if sent is None or sent.seq <= self._seq:
            return None
        if (
            not self._verify_voucher(sent.seq, sent.amount_nanoton, sent.signature)
            or sent.amount_nanoton < self.account.promised_nanoton
        ):
            raise ProtocolError("the provider shows a voucher that this node did not sign")
        try:
            self.account.promise(sent.amount_nanoton)
        except OverLimit as error:
            raise ProtocolError(f"the provider's voucher exceeds the deposit known here: {error}") from error
        self._seq = sent.seq
        self._voucher = VoucherRecord(self.channel, sent.seq, sent.amount_nanoton, sent.signature)
        return Effects(self.channel, voucher=self._voucher)

    def settled(self) -> None:
        """The provider is ready: claims that it did not answer with a receipt are given up by both."""
        for job_id in list(self._claims):
            self._forget(job_id)


def _sent(record: VoucherRecord | None) -> VoucherSent | None:
    return None if record is None else VoucherSent(record.seq, record.amount_nanoton, record.signature)
