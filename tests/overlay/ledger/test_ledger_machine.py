"""The ledger file beside a model of plain dicts, under a random walk of everything that may be asked of it: the same
answers, the same refusals, and the same content after it was closed, or killed within a transaction, and reopened."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.settlement.ledger import (
    GENESIS_HASH,
    AgreementRecord,
    ChainHead,
    ChannelRecord,
    ChannelStatus,
    LedgerConflict,
    ReceiptRecord,
    Reservation,
    Role,
    Store,
    VoucherRecord,
)

NAMES = ("0:aa", "0:bb", "0:cc")
names = st.sampled_from((*NAMES[:2], *NAMES[:2], *NAMES))
"""The first two exist from the start."""

sums = st.integers(0, 130)
jobs = st.integers(1, 6).map(lambda n: n.to_bytes(16, "big"))
agreements = st.sampled_from([b"a" * 32, b"b" * 32])
signatures = st.sampled_from([b"1" * 64, b"2" * 64])


@dataclass
class Channel:
    """What the model knows of one channel."""

    deposit: int
    status: ChannelStatus = ChannelStatus.OPEN
    closed_at: int | None = None
    paid: int = 0
    written_off: int = 0
    voucher: tuple[int, int, bytes] | None = None
    receipts: list[ReceiptRecord] = field(default_factory=list)
    reserved: dict[bytes, int] = field(default_factory=dict)

    @property
    def head(self) -> ChainHead:
        if not self.receipts:
            return ChainHead(0, GENESIS_HASH, 0)
        last = self.receipts[-1]
        return ChainHead(last.index, last.hash, last.cumulative_nanoton)

    @property
    def signed(self) -> int:
        return max((r.index for r in self.receipts if r.client_signature is not None), default=0)


class Killed(Exception):
    """The process ends here."""


class LedgerMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.model: dict[str, Channel] = {}
        self.agreements: dict[bytes, int] = {}
        self.killing: str | None = None
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "l.db", fault=self.fault)
        self.store._db.execute("PRAGMA synchronous = OFF")  # nothing here pulls the plug

    def fault(self, point: str) -> None:
        if point == self.killing:
            raise Killed

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def do(self, operation: Callable[[Store], object], allowed: bool) -> bool:
        """Run a write in a transaction of its own, and see that it is refused when the model says so."""
        if allowed:
            with self.store.transaction():
                operation(self.store)
        else:
            with pytest.raises(LedgerConflict), self.store.transaction():
                operation(self.store)
        return allowed

    # -- channels ----------------------------------------------------------------------------------------------------

    @initialize(deposit=st.integers(50, 100))
    def first(self, deposit: int) -> None:
        self.add(NAMES[0], deposit)
        self.add(NAMES[1], deposit)

    @rule(name=names, deposit=sums)
    def add(self, name: str, deposit: int) -> None:
        record = ChannelRecord(name, Role.PAYER, "peer", -3, b"terms", deposit, ChannelStatus.OPEN, 5)
        if self.do(lambda store: store.add_channel(record), name not in self.model):
            self.model[name] = Channel(deposit)

    @rule(name=names, deposit=st.integers(40, 200))
    def top_up(self, name: str, deposit: int) -> None:
        known = self.model.get(name)
        if self.do(lambda store: store.set_deposit(name, deposit), known is not None and deposit >= known.deposit):
            self.model[name].deposit = deposit

    @rule(name=names, paid=sums)
    def pay_on_chain(self, name: str, paid: int) -> None:
        known = self.model.get(name)
        allowed = known is not None and known.paid <= paid <= known.deposit
        if self.do(lambda store: store.set_paid(name, paid), allowed):
            self.model[name].paid = paid

    @rule(name=names, amount=sums)
    def write_off(self, name: str, amount: int) -> None:
        if self.do(lambda store: store.write_off(name, amount), name in self.model):
            self.model[name].written_off += amount

    @rule(name=names, status=st.sampled_from(ChannelStatus), at=st.integers(6, 9))
    def move(self, name: str, status: ChannelStatus, at: int) -> None:
        known = self.model.get(name)
        over = ChannelStatus.CLOSED
        allowed = known is not None and (known.status is not over or status is over)
        if self.do(lambda store: store.set_status(name, status, at=at), allowed):
            assert known is not None
            known.status = status
            if status is over and known.closed_at is None:
                known.closed_at = at

    # -- vouchers ----------------------------------------------------------------------------------------------------

    @rule(name=names, higher=st.integers(-1, 2), more=st.integers(-9, 30), signature=signatures)
    def voucher(self, name: str, higher: int, more: int, signature: bytes) -> None:
        known = self.model.get(name)
        last = known.voucher if known is not None and known.voucher is not None else (0, 0, b"")
        seq, amount = max(0, last[0] + higher), max(0, last[1] + more)
        allowed = known is not None and seq > 0 and amount <= known.deposit
        if allowed and known is not None and known.voucher is not None:
            old_seq, old_amount, _ = known.voucher
            allowed = (seq > old_seq and amount >= old_amount) or (seq, amount) == (old_seq, old_amount)
        if self.do(lambda store: store.put_voucher(VoucherRecord(name, seq, amount, signature)), allowed):
            self.model[name].voucher = (seq, amount, signature)

    # -- receipts ----------------------------------------------------------------------------------------------------

    @rule(
        name=names, job=jobs, agreement=agreements, amount=st.integers(0, 15),
        wrong=st.sampled_from(["", "", "", "index", "taken", "prev", "sum"]),
    )  # fmt: skip
    def receipt(self, name: str, job: bytes, agreement: bytes, amount: int, wrong: str) -> None:
        known = self.model.get(name, Channel(0))
        head = known.head
        index = max(1, head.index + 1 + (wrong == "index") - (wrong == "taken"))
        prev = sha256(b"another").digest() if wrong == "prev" else head.hash
        cumulative = head.cumulative_nanoton + amount + (wrong == "sum")
        body = f"{name}/{index}/{amount}/{cumulative}/{job.hex()}".encode() + prev
        record = ReceiptRecord(
            name, index, job, agreement, amount, cumulative, sha256(body).digest(), prev, body, bytes(64)
        )
        wrong = wrong if wrong != "taken" or head.index else ""
        allowed = name in self.model and not wrong and cumulative <= known.deposit
        if self.do(lambda store: store.append_receipt(record), allowed):
            known.receipts.append(record)
            known.reserved.pop(job, None)

    @precondition(lambda self: any(channel.receipts for channel in self.model.values()))
    @rule(name=names, n=st.integers(0, 30))
    def same_receipt_again(self, name: str, n: int) -> None:
        known = self.model.get(name)
        if known is not None and known.receipts:
            record = known.receipts[n % len(known.receipts)]
            self.do(lambda store: store.append_receipt(record), True)
            known.reserved.pop(record.job_id, None)

    @rule(name=names, back=st.integers(-1, 4), signature=signatures)
    def countersign(self, name: str, back: int, signature: bytes) -> None:
        known = self.model.get(name, Channel(0))
        index = max(1, known.head.index - back)
        at = next((n for n, record in enumerate(known.receipts) if record.index == index), None)
        if self.do(lambda store: store.countersign(name, index, signature), at is not None):
            assert at is not None
            record = known.receipts[at]
            if record.client_signature is None:
                known.receipts[at] = ReceiptRecord(**{**vars(record), "client_signature": signature})

    @rule(name=names, back=st.integers(0, 4))
    def truncate(self, name: str, back: int) -> None:
        known = self.model.get(name)
        after = max(0, known.head.index - back) if known is not None else 0
        if self.do(
            lambda store: store.truncate_receipts(name, after=after), known is not None and known.signed <= after
        ):
            assert known is not None
            known.receipts = [record for record in known.receipts if record.index <= after]

    more_vouchers, more_receipts, more_signatures = voucher, receipt, countersign
    """Three of the twenty rules, and most of what can go wrong: they are drawn twice as often."""

    @rule(name=names, keep=st.integers(0, 2))
    def prune(self, name: str, keep: int) -> None:
        known = self.model.get(name)
        if self.do(lambda store: store.prune_receipts(name, keep=keep), known is not None):
            assert known is not None
            last = min(known.signed - 1, known.head.index - keep)
            known.receipts = [record for record in known.receipts if record.index > last]

    # -- reservations and agreements ---------------------------------------------------------------------------------

    @rule(name=names, job=jobs, maximum=sums)
    def reserve(self, name: str, job: bytes, maximum: int) -> None:
        if self.do(lambda store: store.reserve(Reservation(name, job, maximum, 7)), name in self.model):
            self.model[name].reserved[job] = maximum

    @rule(name=names, job=jobs)
    def release(self, name: str, job: bytes) -> None:
        if self.do(lambda store: store.release(name, job), name in self.model):
            self.model[name].reserved.pop(job, None)

    @rule(name=names)
    def release_channel(self, name: str) -> None:
        if self.do(lambda store: store.release_channel(name), name in self.model):
            self.model[name].reserved.clear()

    @rule()
    def release_all(self) -> None:
        self.do(lambda store: store.release_all(), True)
        for channel in self.model.values():
            channel.reserved.clear()

    @rule(agreement=agreements, valid_until=st.integers(1, 9))
    def agree(self, agreement: bytes, valid_until: int) -> None:
        record = AgreementRecord(agreement, "peer", b"body", valid_until)
        self.do(lambda store: store.put_agreement(record), True)
        self.agreements.setdefault(agreement, valid_until)

    @rule(before=st.integers(1, 9))
    def forget(self, before: int) -> None:
        self.do(lambda store: store.drop_agreements(ended_before=before), True)
        self.agreements = {key: until for key, until in self.agreements.items() if until >= before}

    # -- the process -------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @rule(name=names, job=jobs, amount=sums, point=st.sampled_from(["begin", "written", "committed"]))
    def killed_in_a_transaction(self, name: str, job: bytes, amount: int, point: str) -> None:
        """Two writes in one transaction: both are there afterwards, or neither is."""
        if name not in self.model:
            return
        self.killing = point
        with pytest.raises(Killed), self.store.transaction():
            self.store.reserve(Reservation(name, job, amount, 7))
            self.store.write_off(name, amount)
        self.killing = None
        if point == "committed":
            self.model[name].reserved[job] = amount
            self.model[name].written_off += amount
        self.restart()

    @rule(name=names, job=jobs, amount=sums)
    def one_of_a_group_fails(self, name: str, job: bytes, amount: int) -> None:
        """As group commit does it: the failed one is undone alone."""
        if name not in self.model:
            return
        with self.store.transaction():
            with pytest.raises(KeyError), self.store.savepoint():
                self.store.write_off(name, amount)
                raise KeyError
            with self.store.savepoint():
                self.store.reserve(Reservation(name, job, amount, 7))
        self.model[name].reserved[job] = amount

    @invariant()
    def the_file_says_what_the_model_says(self) -> None:
        store = self.store
        assert sorted(record.channel for record in store.channels()) == sorted(self.model)
        for name, known in self.model.items():
            record = store.channel(name)
            assert record == ChannelRecord(
                name, Role.PAYER, "peer", -3, b"terms", known.deposit, known.status, 5, known.closed_at, known.paid,
                known.written_off,
            )  # fmt: skip
            voucher = store.voucher(name)
            assert (None if voucher is None else (voucher.seq, voucher.amount_nanoton, voucher.signature)) == (
                known.voucher
            )
            assert store.receipts(name) == known.receipts
            assert store.head(name) == known.head
            assert store.signed_index(name) == known.signed
            assert {row.job_id: row.maximum_nanoton for row in store.reservations(name)} == known.reserved
            risk = store.at_risk(name)
            promised = known.voucher[1] if known.voucher else 0
            owed = known.head.cumulative_nanoton
            assert (risk.owed_nanoton, risk.promised_nanoton, risk.paid_nanoton) == (owed, promised, known.paid)
            assert risk.reserved_nanoton == sum(known.reserved.values())
            assert (risk.unpaid_nanoton, risk.prepaid_nanoton) == (max(0, owed - promised), max(0, promised - owed))
            assert risk.unclaimed_nanoton == max(0, promised - known.paid)
            for agreement in (b"a" * 32, b"b" * 32):
                spent = sum(r.amount_nanoton for r in known.receipts if r.agreement_id == agreement)
                assert store.spent_under(agreement, name) == spent
        for agreement in (b"a" * 32, b"b" * 32):
            kept = store.agreement(agreement)
            assert (None if kept is None else kept.valid_until) == self.agreements.get(agreement)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestLedger = LedgerMachine.TestCase
