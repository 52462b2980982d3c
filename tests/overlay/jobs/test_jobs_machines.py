"""Payer and payee machines against each other, with lost messages, broken tunnels and crashes on either side, and
against adversaries. No voucher sinks or exceeds what was delivered, and in the end both books say the same."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compute.tasks import ChatRequest, Message, Sampling, Started, TextDelta
from compute.usage import Prices, Unit, Usage
from overlay.jobs import Overcharged, PayerChannel, Refused, SignedReceipt, sign_receipt
from overlay.jobs.effects import Effects
from overlay.jobs.messages import Ack, Claim, Pay, Ready, Receipts, View, VoucherSent, decode, encode
from overlay.jobs.payee import PayeeChannel
from overlay.settlement.ledger import (
    GENESIS_HASH,
    Budget,
    ChainHead,
    ChannelRecord,
    ChannelStatus,
    RiskBook,
    RiskLimits,
    Role,
    Store,
)
from transport.identity import Identity

CLIENT, PROVIDER = Identity(b"c" * 32), Identity(b"p" * 32)
CHANNEL = "0:" + "ab" * 32
AGREEMENT = b"a" * 32
PRICES = Prices({Unit.PROMPT: 1_000_000, Unit.COMPLETION: 5_000_000})
DEPOSIT, WINDOW = 4000, 60
REQUEST = ChatRequest("m", (Message("user", "hello there"),), Sampling(max_tokens=40))


def sign(seq: int, amount: int) -> bytes:
    return CLIENT.sign("test-voucher", f"{seq}/{amount}".encode())


def check(seq: int, amount: int, signature: bytes) -> bool:
    return sign(seq, amount) == signature


def record(role: Role) -> ChannelRecord:
    peer = PROVIDER.peer_id if role is Role.PAYER else CLIENT.peer_id
    return ChannelRecord(CHANNEL, role, peer, -3, b"t", DEPOSIT, ChannelStatus.OPEN, 0)


def caps() -> RiskBook:
    """Wide enough never to bind; what counts against them must be gone when all is over."""
    return RiskBook(RiskLimits(10**6, 10**6, 10**6), ("channel", "peer", "all"))


def load_payer(store: Store) -> PayerChannel:
    found = store.channel(CHANNEL)
    assert found is not None
    return PayerChannel(
        found, store.head(CHANNEL), store.voucher(CHANNEL), identity=CLIENT, sign_voucher=sign, verify_voucher=check,
        caps=caps().caps(CHANNEL, PROVIDER.peer_id),
    )  # fmt: skip


def load_payee(store: Store, ids: itertools.count[int]) -> PayeeChannel:
    found = store.channel(CHANNEL)
    assert found is not None
    index = store.signed_index(CHANNEL)
    head = ChainHead(0, GENESIS_HASH, 0)
    if index:
        (row,) = store.receipts(CHANNEL, after=index - 1, upto=index)
        head = ChainHead(row.index, row.hash, row.cumulative_nanoton)
    return PayeeChannel(
        found,
        head,
        [SignedReceipt.from_record(row) for row in store.receipts(CHANNEL, after=index)],
        store.voucher(CHANNEL),
        identity=PROVIDER,
        verify_voucher=check,
        prices_of=lambda agreement_id: PRICES if agreement_id == AGREEMENT else None,
        fresh_job_id=lambda: (1 << 100 | next(ids)).to_bytes(16, "big"),
        credit=caps().credit(CHANNEL, CLIENT.peer_id),
    )


def token(count: int) -> list[TextDelta]:
    return [TextDelta(" tok", Usage.of(Unit.COMPLETION, 1)) for _ in range(count)]


class Pair:
    """Both machines with their stores, and a wire that the test may cut."""

    def __init__(self) -> None:
        self.stores = Store(":memory:"), Store(":memory:")
        self.stores[0].add_channel(record(Role.PAYER))
        self.stores[1].add_channel(record(Role.PAYEE))
        self.ids = itertools.count(1)
        self.payer, self.payee = load_payer(self.stores[0]), load_payee(self.stores[1], self.ids)
        self.lazy: list[SignedReceipt] = []
        self.jobs: dict[bytes, tuple[object, object]] = {}
        self.hashes = itertools.count(1)
        self.delivered = 0
        self.budgets = Budget("a", 10**9), Budget("a", 10**9)
        self.connect()

    def flush(self) -> None:
        for signed in self.lazy:
            self.stores[1].append_receipt(signed.to_record())
        self.lazy.clear()

    def connect(self) -> None:
        self.jobs.clear()
        handshake = bytes([next(self.hashes) % 256]) * 32
        effects = self.payer.payment()
        if effects is not None:
            effects.write(self.stores[0])  # written, and lost with the old tunnel
        hello = decode(encode(self.payer.hello(1, handshake)), max_bytes=1 << 20)
        self.flush()
        effects = self.payee.hello(hello, handshake)
        effects.write(self.stores[1])
        self.payee.paid(effects)
        (view,) = effects.messages
        assert isinstance(view, View)
        known = self.payer.view(view)
        if known is not None:
            known.write(self.stores[0])
        if self.payee.behind:
            rows = self.stores[0].receipts(CHANNEL, after=view.head_index)
            self.payee.adopt([SignedReceipt.from_record(row) for row in rows]).write(self.stores[1])
        effects = self.payee.reconcile()
        effects.write(self.stores[1])
        for message in effects.messages:
            if isinstance(message, Receipts):
                for signed in message.receipts:
                    self.payer.receipt(signed)
            else:
                assert isinstance(message, Ready)
                self.payer.settled()
        self.payer.due()

    def start(self) -> None:
        job_id = next(self.ids).to_bytes(16, "big")
        try:
            theirs = self.payee.start(job_id, AGREEMENT, PRICES, WINDOW, 250, self.budgets[1])
        except Refused:
            return
        ours = self.payer.start(job_id, AGREEMENT, PRICES, WINDOW, REQUEST, 250, self.budgets[0])
        self.jobs[job_id] = (ours, theirs)
        self.events(job_id, [Started(Usage.of(Unit.PROMPT, 2))], arrive=True)

    def events(self, job_id: bytes, events: list[object], *, arrive: bool) -> int:
        ours, theirs = self.jobs[job_id]
        try:
            count = self.payee.charge(theirs, events)
        except Refused:
            return 0
        if arrive and count:
            before = ours.hold.applied_nanoton
            ours.take(events[:count])
            self.delivered += ours.hold.applied_nanoton - before
        return count

    def finish(self, job_id: bytes, *, arrive: bool) -> None:
        ours, theirs = self.jobs.pop(job_id)
        signed = self.payee.finish(theirs)
        if signed is None:
            # Credit allowed nothing to leave: the provider refuses the job, and nobody owes anything for it.
            assert not theirs.meter.usage()
            if arrive:
                self.payer.refused(ours)
            return
        self.lazy.append(signed)
        if arrive:
            self.payer.job_receipt(ours, signed)

    def pay(self, *, arrive: bool) -> None:
        effects = self.payer.payment()
        if effects is None:
            return
        effects.write(self.stores[0])
        if not arrive:
            return
        (message,) = effects.messages
        sent = decode(encode(message), max_bytes=1 << 20)
        assert isinstance(sent, Pay)
        answer = self.payee.pay(sent)
        self.flush()
        answer.write(self.stores[1])
        self.payee.paid(answer)
        for reply in answer.messages:
            if isinstance(reply, Receipts):
                for signed in reply.receipts:
                    self.payer.receipt(signed)
            else:
                assert isinstance(reply, Ack)
                self.payer.acknowledged()


class MoneyMachine(RuleBasedStateMachine):
    """Honest parties in a bad world."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.highest = (0, 0)
        # Messages lost without the tunnel breaking cannot be: after a loss only a new tunnel goes on.
        self.broken = False

    def pick(self, n: int) -> bytes:
        jobs = list(self.pair.jobs)
        return jobs[n % len(jobs)]

    @precondition(lambda self: not self.broken)
    @rule()
    def start(self) -> None:
        self.pair.start()

    @precondition(lambda self: not self.broken and self.pair.jobs)
    @rule(n=st.integers(0, 20), count=st.integers(1, 12))
    def deliver(self, n: int, count: int) -> None:
        self.pair.events(self.pick(n), list(token(count)), arrive=True)

    @precondition(lambda self: not self.broken and self.pair.jobs)
    @rule(n=st.integers(0, 20))
    def finish(self, n: int) -> None:
        self.pair.finish(self.pick(n), arrive=True)

    @precondition(lambda self: not self.broken and self.pair.jobs)
    @rule(n=st.integers(0, 20), count=st.integers(1, 12), end=st.booleans())
    def lose_in_flight(self, n: int, count: int, end: bool) -> None:
        job = self.pick(n)
        self.pair.events(job, list(token(count)), arrive=False)
        if end:
            self.pair.finish(job, arrive=False)
        self.broken = True

    @precondition(lambda self: not self.broken and self.pair.jobs)
    @rule(n=st.integers(0, 20))
    def reset_one(self, n: int) -> None:
        job = self.pick(n)
        ours, theirs = self.pair.jobs.pop(job)
        self.pair.payer.lost(ours)
        if n % 2:
            self.pair.payee.lose(theirs)

    @precondition(lambda self: not self.broken)
    @rule(arrive=st.booleans())
    def pay(self, arrive: bool) -> None:
        self.pair.pay(arrive=arrive)
        self.broken = not arrive

    @rule()
    def flush(self) -> None:
        self.pair.flush()

    @rule()
    def reconnect(self) -> None:
        self.pair.connect()
        self.broken = False

    @rule()
    def client_is_killed(self) -> None:
        self.pair.payer = load_payer(self.pair.stores[0])
        self.pair.connect()
        self.broken = False

    @rule()
    def provider_is_killed(self) -> None:
        self.pair.lazy.clear()
        self.pair.payee = load_payee(self.pair.stores[1], self.pair.ids)
        self.pair.connect()
        self.broken = False

    @invariant()
    def money_holds(self) -> None:
        pair = self.pair
        assert pair.payer.disputed is None
        for store in pair.stores:
            voucher = store.voucher(CHANNEL)
            if voucher is not None:
                assert voucher.amount_nanoton <= DEPOSIT
        ours = pair.stores[0].voucher(CHANNEL)
        if ours is not None:
            assert (ours.seq, ours.amount_nanoton) >= self.highest
            self.highest = (ours.seq, ours.amount_nanoton)
            assert ours.amount_nanoton <= pair.delivered, "no payment for what never came"
        assert pair.payee._credit._held[0] >= (pair.payee.account.unpaid_nanoton if pair.payee.running else 0)
        # At most a window is at risk; a single event of 5 may top it when nothing was unpaid.
        assert pair.payee.account.unpaid_nanoton <= WINDOW + 5

    def teardown(self) -> None:
        pair = self.pair
        if self.broken:
            pair.connect()
        for job in list(pair.jobs):
            pair.finish(job, arrive=True)
        for _ in range(4):
            pair.pay(arrive=True)
        pair.flush()
        assert pair.payer.quiet
        ends = []
        for store in pair.stores:
            voucher = store.voucher(CHANNEL)
            ends.append((store.head(CHANNEL), 0 if voucher is None else voucher.amount_nanoton))
        assert ends[0] == ends[1]
        assert ends[0][0].cumulative_nanoton == ends[0][1], "the vouchers pay exactly what the receipts say"
        assert pair.payee.account.reserved_nanoton == pair.payer.account.reserved_nanoton == 0
        assert {cap.open_nanoton for cap in pair.payer.caps} == {0}
        assert pair.payee._credit._held == [0, 0, 0]
        for store in pair.stores:
            store.close()


MoneyMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
TestMoney = MoneyMachine.TestCase


# -- adversaries -------------------------------------------------------------------------------------------------------


def finished_job(pair: Pair, tokens: int = 4):
    pair.start()
    (job_id,) = pair.jobs
    pair.events(job_id, list(token(tokens)), arrive=True)
    ours, theirs = pair.jobs.pop(job_id)
    signed = pair.payee.finish(theirs)
    assert signed is not None
    return ours, signed


@given(
    change=st.one_of(
        st.integers(1, 50).map(lambda more: {"amount_nanoton": 22 + more, "cumulative_nanoton": 22 + more}),
        st.integers(1, 50).map(lambda more: {"cumulative_nanoton": 22 + more}),
        st.integers(1, 9).map(lambda n: {"usage": Usage({Unit.PROMPT: 2, Unit.COMPLETION: 4 + n})}),
        st.sampled_from(
            [
                {"index": 600},
                {"prev_hash": b"x" * 32},
                {"agreement_id": b"x" * 32},
                {"handshake_hash": b"x" * 32},
                {"channel": "0:" + "00" * 32},
                {"usage": Usage({Unit.AUDIO_MS: 1})},
                {"job_id": bytes(16)},
            ]
        ),
    )
)
@settings(max_examples=40, deadline=None)
def test_a_receipt_that_says_other_than_what_came_ends_all_payment(change):
    pair = Pair()
    ours, signed = finished_job(pair)
    forged = sign_receipt(PROVIDER, replace(signed.receipt, **change))
    with pytest.raises(Overcharged):
        pair.payer.job_receipt(ours, forged)
    assert pair.payer.payment() is None
    pair.payer.due()
    assert pair.payer.payment() is None


def test_a_receipt_that_another_signed_is_no_receipt():
    pair = Pair()
    ours, signed = finished_job(pair)
    with pytest.raises(Overcharged, match="did not sign"):
        pair.payer.job_receipt(ours, sign_receipt(CLIENT, signed.receipt))


def test_more_tokens_than_text_or_than_asked_for_end_the_job():
    for events in (
        [TextDelta("x", Usage.of(Unit.COMPLETION, 41))],
        [Started(Usage.of(Unit.PROMPT, 5000))],
        [Started(Usage({Unit.AUDIO_MS: 1}))],
    ):
        pair = Pair()
        pair.start()
        ((ours, _),) = pair.jobs.values()
        with pytest.raises(Overcharged):
            ours.take(events)


@given(
    seq=st.integers(0, 5),
    amount=st.integers(0, 5000),
    honest=st.booleans(),
    index=st.integers(0, 5),
    signature=st.binary(min_size=64, max_size=64),
)
@settings(max_examples=80, deadline=None)
def test_no_payment_but_a_true_one_gives_credit(seq, amount, honest, index, signature):
    pair = Pair()
    finished_job(pair)
    before = pair.payee.account.promised_nanoton
    voucher = VoucherSent(seq, amount, sign(seq, amount) if honest else signature)
    try:
        effects = pair.payee.pay(
            Pay(voucher, index, signature if index else None, (Claim(bytes(16), AGREEMENT, Usage()),))
        )
    except Refused:
        assert pair.payee.account.promised_nanoton == before
        return
    assert index == 0
    pair.payee.paid(effects)
    assert pair.payee.account.promised_nanoton == (amount if honest and seq else before)


def test_a_client_that_forgets_what_it_owes_gets_one_window_in_all():
    pair = Pair()
    got = 0
    for _ in range(50):
        pair.payer = load_payer(pair.stores[0])  # never writes a payment
        pair.connect()
        pair.start()
        for job_id in list(pair.jobs):
            while count := pair.events(job_id, list(token(3)), arrive=False):
                got += 5 * count
    assert got <= WINDOW + 5


def test_a_ledger_restored_from_an_old_copy_is_not_served():
    pair = Pair()
    old = load_payer(pair.stores[0])
    ours, signed = finished_job(pair)
    pair.lazy.append(signed)
    pair.payer.job_receipt(ours, signed)
    pair.pay(arrive=True)
    with pytest.raises(Refused, match="older than your"):
        pair.payee.hello(old.hello(1, bytes(32)), bytes(32))


def test_nothing_to_write_means_no_effects():
    assert not Effects(CHANNEL).writes
