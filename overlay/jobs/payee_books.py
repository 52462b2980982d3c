"""What a provider can prove of one channel: its chain of receipts, and the highest voucher. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from compute.usage import Usage
from overlay.jobs.errors import ErrorCode, Refused
from overlay.jobs.messages import VoucherSent
from overlay.jobs.payer import VerifyVoucher
from overlay.jobs.receipt import Receipt, SignedReceipt, countersigned_by, sign_receipt
from overlay.settlement.ledger import ChainHead, ChannelAccount, ChannelRecord, VoucherRecord
from transport.identity import Identity


class PayeeBooks:
    """``signed_head`` is the last receipt that the client signed, ``unsigned`` those after it, ``voucher`` the highest
    one: what the ledger holds. ``head`` is the end of the chain, signed or not."""

    def __init__(
        self,
        record: ChannelRecord,
        signed_head: ChainHead,
        unsigned: Sequence[SignedReceipt],
        voucher: VoucherRecord | None,
        *,
        identity: Identity,
        verify_voucher: VerifyVoucher,
    ) -> None:
        self.channel = record.channel
        self.client = record.peer
        self.signed_head = signed_head
        self.unsigned = list(unsigned)
        self.head = signed_head if not unsigned else head_of(unsigned[-1])
        self.account = ChannelAccount(
            record.deposit_nanoton,
            owed_nanoton=self.head.cumulative_nanoton,
            promised_nanoton=0 if voucher is None else voucher.amount_nanoton,
        )
        self._identity = identity
        self._verify_voucher = verify_voucher
        self._voucher = voucher
        self._handshake_hash = b""

    def top_up(self, deposit_nanoton: int) -> None:
        """Note a larger deposit; a smaller one is older news."""
        if deposit_nanoton > self.account.deposit_nanoton:
            self.account.top_up(deposit_nanoton)

    def _issue(self, job_id: bytes, agreement_id: bytes, usage: Usage, amount: int) -> SignedReceipt:
        receipt = Receipt(
            self.channel,
            self.head.index + 1,
            agreement_id,
            self._handshake_hash,
            job_id,
            usage,
            amount,
            self.head.cumulative_nanoton + amount,
            0 if self._voucher is None else self._voucher.seq,
            self.head.hash,
        )
        signed = sign_receipt(self._identity, receipt)
        self.head = head_of(signed)
        self.unsigned.append(signed)
        return signed

    def _checked(self, sent: VoucherSent | None) -> VoucherRecord | None:
        """The record of a voucher that is higher than ours, ``None`` for one that is not news."""
        if sent is None:
            return None
        ours = self._voucher
        if ours is not None and sent.seq <= ours.seq:
            if sent.seq == ours.seq and sent.amount_nanoton != ours.amount_nanoton:
                raise Refused(ErrorCode.PROTOCOL, "two sums for one voucher number")
            return None
        if sent.amount_nanoton < self.account.promised_nanoton or sent.amount_nanoton > self.account.deposit_nanoton:
            raise Refused(ErrorCode.PROTOCOL, "a voucher sinks or exceeds the deposit")
        if (
            sent.seq == 0
            or sent.amount_nanoton == 0
            or not self._verify_voucher(sent.seq, sent.amount_nanoton, sent.signature)
        ):
            raise Refused(ErrorCode.PROTOCOL, "a voucher's signature does not verify")
        return VoucherRecord(self.channel, sent.seq, sent.amount_nanoton, sent.signature)

    def _sign_chain(self, index: int, signature: bytes) -> None:
        count = index - self.signed_head.index
        if count > len(self.unsigned):
            raise Refused(ErrorCode.PROTOCOL, f"a signature under receipt {index}, which does not exist")
        last = self.unsigned[count - 1]
        if not countersigned_by(self.client, last.hash, signature):
            raise Refused(ErrorCode.PROTOCOL, "the signature under the receipts does not verify")
        self.signed_head = head_of(last)
        del self.unsigned[:count]

    def _take_back(self, receipts: Sequence[SignedReceipt], head_hash: bytes) -> None:
        """Append receipts that a crash lost and that lead to ``head_hash``. Raises :class:`Refused`."""
        head = self.head
        for signed in receipts:
            receipt = signed.receipt
            if (
                receipt.channel != self.channel
                or receipt.index != head.index + 1
                or receipt.prev_hash != head.hash
                or receipt.cumulative_nanoton != head.cumulative_nanoton + receipt.amount_nanoton
                or receipt.cumulative_nanoton > self.account.deposit_nanoton
                or not signed.signed_by(self._identity.peer_id)
            ):
                raise Refused(ErrorCode.PROTOCOL, f"receipt {receipt.index} is not one that this provider issued")
            head = head_of(signed)
        if head.hash != head_hash:
            raise Refused(ErrorCode.PROTOCOL, "the receipts do not end where the client's chain does")
        self.account.settle(self.account.owed_nanoton + head.cumulative_nanoton - self.head.cumulative_nanoton)
        self.head = head
        self.unsigned += receipts

    def _hash_at(self, index: int) -> bytes:
        if index == self.signed_head.index:
            return self.signed_head.hash
        return self.unsigned[index - self.signed_head.index - 1].hash


def head_of(signed: SignedReceipt) -> ChainHead:
    """Where a chain stands that ends with this receipt."""
    return ChainHead(signed.receipt.index, signed.hash, signed.receipt.cumulative_nanoton)
