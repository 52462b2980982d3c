"""Both machines against each other and against an adversary who controls what arrives and when."""

from __future__ import annotations

import dataclasses
import hashlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.market import (
    Agreement,
    ClientNegotiation,
    Listing,
    Load,
    Payer,
    PaymentTerms,
    QuoteDesk,
    Reason,
    Refusal,
    State,
    Tier,
    Want,
    limits,
    messages,
)
from overlay.market.quoting import holds_ms, last_word
from transport.identity import Identity
from transport.wire import WireError, encode

CLIENT, PROVIDER, STRANGER = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
PAYER = Payer(address="0:" + "a" * 64, key=b"p" * 32)
PRICES = Prices({Unit.PROMPT: 1000, Unit.COMPLETION: 3001})
FLOOR = Prices({Unit.PROMPT: 800, Unit.COMPLETION: 2900})
NOW = 1_800_000_000_000
TERMS = PaymentTerms("0:" + "b" * 64, b"q" * 32, -3, 10**9, 10**6)


def want(**changes):
    base = Want(Task.CHAT, "demo", Usage({Unit.PROMPT: 100, Unit.COMPLETION: 200}), 10**9)
    return dataclasses.replace(base, **changes)


class Shop:
    """A catalog whose answer a test changes."""

    def __init__(self):
        self.answer = Listing(PRICES, FLOOR, 0, 4)

    def __call__(self, task, model, tier):
        if model != "demo":
            return Refusal(Reason.UNKNOWN_MODEL, f"{model} is not served here")
        return self.answer


def parties(subnet="main", network_id=-3):
    shop = Shop()
    desk = QuoteDesk(PROVIDER, subnet, TERMS, shop, Random(1).randbytes)
    client = ClientNegotiation(CLIENT, PROVIDER.peer_id, subnet, network_id, Random(2).randbytes)
    return client, desk, shop


def ask(client, desk, now=NOW, **changes):
    reply = desk.handle(CLIENT.peer_id, client.request(want(**changes), now), now)
    client.receive(reply.data, now)
    return reply


def test_two_honest_machines_end_in_the_same_agreement_signed_by_both():
    client, desk, _ = parties()
    ask(client, desk)
    assert client.state is State.QUOTED
    reply = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW + 50), NOW + 60)
    client.receive(reply.data, NOW + 90)
    assert client.state is State.AGREED
    assert client.agreement == reply.agreement
    assert client.agreement.verify()
    body = client.agreement.body
    assert (body.prices, body.payee_key, body.payer_key) == (PRICES, TERMS.payee_key, PAYER.key)
    assert body.valid_until_ms - body.valid_from_ms == want().duration_ms
    assert client.agreement.id == hashlib.sha256(body.encode()).digest()
    assert Agreement.parse(client.agreement.encode()) == client.agreement


def test_an_award_sent_again_gets_the_same_acknowledgement_and_no_second_agreement():
    client, desk, _ = parties()
    ask(client, desk)
    award = client.award(PAYER, NOW)
    first = desk.handle(CLIENT.peer_id, award, NOW)
    again = desk.handle(CLIENT.peer_id, award, NOW + 500)
    assert first.data == again.data
    assert first.agreement is not None
    assert again.agreement is None


def test_a_provider_without_a_free_slot_gives_way_to_nobody():
    client, desk, shop = parties()
    shop.answer = dataclasses.replace(shop.answer, wait_ms=1)
    ask(client, desk)
    reply = desk.handle(CLIENT.peer_id, client.counter(NOW), NOW)
    client.receive(reply.data, NOW)
    assert client.state is State.QUOTED
    assert client.last_word
    assert client.quote.prices == PRICES


def test_the_provider_gives_way_once_by_a_tenth_and_not_below_its_floor():
    client, desk, _ = parties()
    ask(client, desk)
    reply = desk.handle(CLIENT.peer_id, client.counter(NOW), NOW)
    client.receive(reply.data, NOW)
    assert client.state is State.QUOTED
    assert client.last_word
    assert client.quote.prices == Prices({Unit.PROMPT: 900, Unit.COMPLETION: 2900})
    done = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW)
    client.receive(done.data, NOW)
    assert client.agreement.body.prices == client.quote.prices


@given(quoted=st.integers(0, 10**12), proposed=st.integers(0, 10**12), floor=st.integers(0, 10**12))
def test_the_last_word_is_between_nine_tenths_of_the_quote_and_the_quote(quoted, proposed, floor):
    u = Unit.COMPLETION
    answer = last_word(Prices({u: quoted}), Prices({u: proposed}), Prices({u: floor})).per_million[u]
    assert -(-quoted * 9 // 10) <= answer <= quoted
    assert answer >= min(floor, quoted)


def test_a_quote_replaced_by_the_last_word_can_no_longer_be_awarded():
    client, desk, _ = parties()
    ask(client, desk)
    other = dataclasses.replace(client)
    desk.handle(CLIENT.peer_id, client.counter(NOW), NOW)
    reply = desk.handle(CLIENT.peer_id, other.award(PAYER, NOW), NOW)
    other.receive(reply.data, NOW)
    assert reply.agreement is None
    assert other.failure.reason is Reason.QUOTE_EXPIRED


def test_a_quote_binds_when_the_price_has_moved_since():
    client, desk, shop = parties()
    ask(client, desk)
    shop.answer = Listing(PRICES.scaled(5, 1), FLOOR, 0, 4)
    reply = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW + 5000), NOW + 5000)
    assert reply.agreement.body.prices == PRICES


def test_a_provider_that_is_nearly_full_holds_its_price_for_seconds_and_an_idle_one_as_long_as_asked():
    assert holds_ms(Load(3, 4, 0.0)) == limits.BUSY_AGREEMENT_MS
    assert holds_ms(Load(2, 4, 0.0)) == limits.MAX_AGREEMENT_MS
    client, desk, shop = parties()
    shop.answer = Listing(PRICES, FLOOR, 0, 4, holds_ms(Load(4, 4, 1.0)))
    ask(client, desk)
    reply = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW)
    body = reply.agreement.body
    assert body.valid_until_ms - body.valid_from_ms == limits.BUSY_AGREEMENT_MS


def test_a_quote_no_longer_binds_after_its_time():
    client, desk, _ = parties()
    ask(client, desk)
    late = NOW + limits.QUOTE_TTL_MS
    assert not client.quote_holds(late)
    client.receive(desk.handle(CLIENT.peer_id, client.award(PAYER, late), late).data, late)
    assert client.failure.reason is Reason.QUOTE_EXPIRED
    assert desk.open_quotes == 0


def test_an_award_is_declined_when_the_start_slipped():
    client, desk, shop = parties()
    ask(client, desk)
    shop.answer = Listing(PRICES, FLOOR, limits.SLIP_TOLERANCE_MS + 1, 4)
    client.receive(desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW).data, NOW)
    assert client.failure.reason is Reason.START_SLIPPED


@pytest.mark.parametrize(
    ("listing", "changes", "reason"),
    [
        (Listing(PRICES, FLOOR, 10_001, 4), {}, Reason.BUSY),
        (Refusal(Reason.UNKNOWN_TIER, "no such tier"), {"tier": Tier.ATTESTED_GPU}, Reason.UNKNOWN_TIER),
        (Listing(PRICES, FLOOR, 0, 4), {"model": "gpt-99"}, Reason.UNKNOWN_MODEL),
    ],
)
def test_what_is_not_on_offer_is_declined_with_its_reason(listing, changes, reason):
    client, desk, shop = parties()
    shop.answer = listing
    ask(client, desk, **changes)
    assert client.state is State.FAILED
    assert client.failure.reason is reason
    assert desk.open_quotes == 0


def test_a_client_that_asks_too_often_is_told_to_wait_and_may_ask_again_later():
    _, desk, _ = parties()
    rng = Random(3)

    def one(now):
        client = ClientNegotiation(CLIENT, PROVIDER.peer_id, "main", -3, rng.randbytes)
        ask(client, desk, now)
        return client

    assert all(one(NOW).state is State.QUOTED for _ in range(limits.REQUEST_BURST))
    assert one(NOW).failure.reason is Reason.RATE_LIMITED
    assert one(NOW + 1000).state is State.QUOTED


def test_open_quotes_of_one_client_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_BURST", 1000)
    _, desk, _ = parties()
    rng = Random(3)
    states = []
    for _ in range(limits.MAX_OPEN_QUOTES_PER_CLIENT + 5):
        client = ClientNegotiation(CLIENT, PROVIDER.peer_id, "main", -3, rng.randbytes)
        ask(client, desk)
        states.append(client.state)
    assert states.count(State.QUOTED) == desk.open_quotes == limits.MAX_OPEN_QUOTES_PER_CLIENT


def test_a_request_is_answered_once():
    client, desk, _ = parties()
    request = client.request(want(), NOW)
    desk.handle(CLIENT.peer_id, request, NOW)
    with pytest.raises(WireError, match="answered before"):
        desk.handle(CLIENT.peer_id, request, NOW + 1)


def test_a_message_is_refused_over_a_connection_of_somebody_else():
    client, desk, _ = parties()
    with pytest.raises(WireError):
        desk.handle(STRANGER.peer_id, client.request(want(), NOW), NOW)


@pytest.mark.parametrize("offset", [-120_000, 120_000])
def test_a_message_of_another_time_is_refused(offset):
    client, desk, _ = parties()
    with pytest.raises(WireError, match="another time"):
        desk.handle(CLIENT.peer_id, client.request(want(), NOW + offset), NOW)


def test_clocks_may_differ_by_some_seconds_either_way():
    for offset in (-20_000, 20_000):
        client, desk, _ = parties()
        reply = desk.handle(CLIENT.peer_id, client.request(want(), NOW), NOW + offset)
        client.receive(reply.data, NOW)
        assert client.quote_holds(NOW + 1000)
        reply = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW + 1000), NOW + offset + 1000)
        client.receive(reply.data, NOW + 1000)
        assert client.state is State.AGREED


def test_payment_on_another_network_is_no_agreement():
    client, desk, _ = parties(network_id=-239)
    ask(client, desk)
    assert client.failure.reason is Reason.WRONG_NETWORK


def test_terms_that_were_not_quoted_are_declined():
    client, desk, _ = parties()
    ask(client, desk)
    quote = client.quote
    client.quote = dataclasses.replace(quote, prices=Prices({Unit.PROMPT: 1, Unit.COMPLETION: 1}))
    reply = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW)
    client.receive(reply.data, NOW)
    assert reply.agreement is None
    assert client.failure.reason is Reason.TERMS_DIFFER


def reseal(data, signer, **changes):
    """The same message with fields changed, signed by ``signer`` under the message's own name."""
    payload = messages.unseal(data).message
    changed = dataclasses.replace(payload, **changes)
    raw = encode({"kind": changed.kind, "version": 1, **changed.to_map()})
    return messages.sign_envelope(signer, f"market/{changed.kind}/1", raw).to_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": bytes(32)},
        {"subnet": "other"},
        {"client": STRANGER.peer_id},
        {"max_amount_nanoton": 10**10},
        {"duration_ms": 90_000},
        {"issued_ms": NOW - 40_000},
    ],
)
def test_a_quote_that_does_not_fit_the_request_is_a_broken_protocol(changes):
    client, desk, _ = parties()
    data = desk.handle(CLIENT.peer_id, client.request(want(), NOW), NOW).data
    client.receive(reseal(data, PROVIDER, **changes), NOW)
    assert client.state is State.FAILED
    assert client.failure.reason is Reason.BROKE_PROTOCOL


def test_a_quote_signed_by_another_is_a_broken_protocol():
    client, desk, _ = parties()
    data = desk.handle(CLIENT.peer_id, client.request(want(), NOW), NOW).data
    client.receive(reseal(data, STRANGER), NOW)
    assert client.failure.reason is Reason.BROKE_PROTOCOL


def test_a_last_word_above_the_quote_is_a_broken_protocol():
    client, desk, _ = parties()
    ask(client, desk)
    data = desk.handle(CLIENT.peer_id, client.counter(NOW), NOW).data
    client.receive(reseal(data, PROVIDER, prices=PRICES.scaled(2, 1)), NOW)
    assert client.failure.reason is Reason.BROKE_PROTOCOL


def test_an_acknowledgement_signed_by_another_makes_no_agreement():
    client, desk, _ = parties()
    ask(client, desk)
    data = desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW).data
    body = client._body
    forged = STRANGER.sign("market/agreement/1", body.encode())
    client.receive(reseal(data, PROVIDER, signature=forged), NOW)
    assert client.agreement is None
    assert client.failure.reason is Reason.BROKE_PROTOCOL


def test_no_message_reveals_what_the_client_would_pay():
    # The proposal of a counter is a function of the quote alone.
    client, desk, _ = parties()
    ask(client, desk)
    counter = messages.unseal(client.counter(NOW)).message
    assert counter.prices == Prices({Unit.PROMPT: 900, Unit.COMPLETION: 2701})


@given(st.binary(max_size=300))
def test_garbage_is_a_wire_error_for_the_desk_and_a_failure_for_the_client(data):
    client, desk, _ = parties()
    client.request(want(), NOW)
    client.receive(data, NOW)
    assert client.failure.reason is Reason.BROKE_PROTOCOL
    with pytest.raises(WireError):
        desk.handle(CLIENT.peer_id, data, NOW)


class Adversary(RuleBasedStateMachine):
    """Replays, reorders, alters, delays and forges messages between one client and one desk."""

    @initialize()
    def begin(self):
        self.client, self.desk, self.shop = parties()
        self.now = NOW
        self.to_desk = [self.client.request(want(), self.now)]
        self.to_client = []
        self.agreements = []

    def to(self, data):
        try:
            reply = self.desk.handle(CLIENT.peer_id, data, self.now)
        except WireError:
            return
        self.to_client.append(reply.data)
        if reply.agreement is not None:
            self.agreements.append(reply.agreement)

    @rule(index=st.integers(0, 50))
    def deliver_to_desk(self, index):
        self.to(self.to_desk[index % len(self.to_desk)])

    @precondition(lambda self: self.to_client)
    @rule(index=st.integers(0, 50))
    def deliver_to_client(self, index):
        self.client.receive(self.to_client[index % len(self.to_client)], self.now)

    @precondition(lambda self: self.client.state is State.QUOTED and not self.client.last_word)
    @rule()
    def counter(self):
        self.to_desk.append(self.client.counter(self.now))

    @precondition(lambda self: self.client.state is State.QUOTED)
    @rule()
    def award(self):
        self.to_desk.append(self.client.award(PAYER, self.now))

    @precondition(lambda self: self.to_client)
    @rule(index=st.integers(0, 50), signer=st.sampled_from([CLIENT, STRANGER]), price=st.integers(0, 5000))
    def forge_to_client(self, index, signer, price):
        data = self.to_client[index % len(self.to_client)]
        message = messages.unseal(data).message
        changes = {"prices": Prices({Unit.PROMPT: price})} if isinstance(message, messages.Quote) else {}
        self.client.receive(reseal(data, signer, **changes), self.now)

    @rule(index=st.integers(0, 50), position=st.integers(0, 10_000), bit=st.integers(0, 7), to_desk=st.booleans())
    def flip_a_bit(self, index, position, bit, to_desk):
        pool = self.to_desk if to_desk else self.to_client
        if not pool:
            return
        data = bytearray(pool[index % len(pool)])
        data[position % len(data)] ^= 1 << bit
        if to_desk:
            with pytest.raises(WireError):
                self.desk.handle(CLIENT.peer_id, bytes(data), self.now)
        else:
            self.client.receive(bytes(data), self.now)
            assert self.client.agreement is None or self.client.state is State.AGREED

    @rule(ms=st.integers(1, 6000))
    def time_passes(self, ms):
        self.now += ms

    @rule(wait_ms=st.integers(0, 12_000), factor=st.integers(5, 20))
    def the_market_moves(self, wait_ms, factor):
        self.shop.answer = Listing(PRICES.scaled(factor, 10), FLOOR, wait_ms, 4)

    @invariant()
    def at_most_one_agreement_and_only_with_both_signatures(self):
        if not hasattr(self, "client"):
            return
        assert len(self.agreements) <= 1
        assert all(agreement.verify() for agreement in self.agreements)
        if self.client.agreement is not None:
            assert self.client.state is State.AGREED
            assert [self.client.agreement] == self.agreements
        if self.client.state is State.FAILED:
            assert self.client.failure.explanation


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    factor=st.integers(1, 40),
    wait_ms=st.integers(0, 12_000),
    duration_ms=st.integers(1, limits.MAX_AGREEMENT_MS),
    amount=st.integers(1, 10**12),
    counter=st.booleans(),
)
def test_two_honest_machines_always_end_in_agreement_or_a_typed_reason(factor, wait_ms, duration_ms, amount, counter):
    client, desk, shop = parties()
    shop.answer = Listing(PRICES.scaled(factor, 10), FLOOR, wait_ms, 4)
    ask(client, desk, duration_ms=duration_ms, max_amount_nanoton=amount)
    if client.state is State.QUOTED and counter:
        client.receive(desk.handle(CLIENT.peer_id, client.counter(NOW), NOW).data, NOW)
    if client.state is State.QUOTED:
        client.receive(desk.handle(CLIENT.peer_id, client.award(PAYER, NOW), NOW).data, NOW)
    if wait_ms > limits.MAX_WAIT_MS:
        assert client.failure.reason is Reason.BUSY
    else:
        assert client.agreement.verify()
