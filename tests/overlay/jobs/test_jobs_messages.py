"""Bytes of messages and receipts: what one side writes the other reads, and nothing else is read at all."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.tasks import ChatRequest, Finished, Message, Sampling, Started, TextDelta
from compute.usage import Prices, Unit, Usage
from overlay.jobs import ErrorCode, JobMeter, Receipt, SignedReceipt, countersign, countersigned_by, sign_receipt
from overlay.jobs import messages as m
from overlay.jobs.metering import Plausibility, least, most_it_can_cost
from transport.identity import Identity
from transport.wire import WireError

PROVIDER = Identity(b"p" * 32)
usages = st.dictionaries(st.sampled_from(list(Unit)), st.integers(1, 1 << 30), max_size=4).map(Usage)
b16, b32, b64 = (st.binary(min_size=n, max_size=n) for n in (16, 32, 64))
money = st.integers(0, (1 << 62) - 1)
receipts = st.builds(
    lambda usage, amount, before, job, prev: sign_receipt(
        PROVIDER, Receipt("0:aa", 1, b"a" * 32, b"h" * 32, job, usage, amount, amount + before, 0, prev)
    ),
    usages,
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    b16,
    b32,
)
vouchers = st.builds(m.VoucherSent, money, money, b64)
claims = st.lists(st.builds(m.Claim, b16, b32, usages), max_size=3).map(tuple)
texts = st.text(max_size=30)
events = st.one_of(
    st.builds(Started, usages),
    st.builds(TextDelta, texts, usages, st.booleans()),
    st.builds(Finished, st.sampled_from(["stop", "length"]), usages),
)
messages = st.one_of(
    st.builds(
        m.Open,
        b32,
        st.integers(0, 65535),
        b16,
        money,
        st.dictionaries(texts, texts, max_size=3),
        st.lists(st.tuples(st.text(max_size=9), money), max_size=1).map(tuple),
    ),
    st.just(m.NeedAgreement()),
    st.builds(m.AgreementSent, st.binary(max_size=50)),
    st.just(m.Accepted()),
    st.builds(m.Events, st.lists(events, min_size=1, max_size=4).map(tuple)),
    st.builds(m.Done, receipts),
    st.builds(
        m.Failed, st.sampled_from(list(ErrorCode)), texts, st.none() | st.integers(0, 99), st.none() | texts,
        st.none() | receipts,
    ),
    st.builds(m.Hello, st.integers(0, 99), texts, money, b32, st.none() | vouchers, claims),
    st.builds(m.View, money, b32, st.none() | vouchers),
    st.builds(m.Receipts, st.lists(receipts, max_size=3).map(tuple)),
    st.just(m.Ready()),
    st.builds(m.Pay, st.none() | vouchers, st.just(0), st.none(), claims),
    st.builds(m.Pay, st.none() | vouchers, money, b64, claims),
    st.builds(m.Ack, money, money),
    st.just(m.Due()),
    st.builds(m.Cancel, b16),
    st.builds(m.Dispute, texts),
)  # fmt: skip


def normal(message: m.Message) -> bytes:
    return m.encode(message)


@given(messages)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back(message):
    data = m.encode(message)
    again = m.decode(data, max_bytes=len(data))
    assert type(again) is type(message)
    assert normal(again) == data
    with pytest.raises(WireError):
        m.decode(data, max_bytes=len(data) - 1)
    with pytest.raises(WireError):
        m.decode(data + b"\x00", max_bytes=1 << 20)


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused_and_never_breaks_anything(data):
    with pytest.raises(WireError):
        m.decode(data, max_bytes=1 << 20)


@given(
    message=messages,
    value=st.one_of(
        st.none(), st.integers(-5, 1 << 70), st.binary(max_size=70), texts, st.lists(st.integers(), max_size=3)
    ),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_field_of_another_shape_is_refused_or_means_what_it_says(message, value, data):
    plain = cbor2.loads(m.encode(message))
    plain[data.draw(st.integers(0, len(plain) - 1))] = value
    try:
        again = m.decode(cbor2.dumps(plain), max_bytes=1 << 20)
    except WireError:
        return
    assert m.encode(again) == cbor2.dumps(plain)


@given(receipts, b32)
@settings(max_examples=50, deadline=None)
def test_receipts_bind_both_parties_to_every_byte(signed, other_hash):
    client = Identity(b"c" * 32)
    assert signed.signed_by(PROVIDER.peer_id)
    assert not signed.signed_by(client.peer_id)
    assert Receipt.from_bytes(signed.body) == signed.receipt
    assert SignedReceipt.from_record(signed.to_record()) == signed
    changed = bytearray(signed.body)
    changed[-1] ^= 1
    assert not SignedReceipt(signed.receipt, bytes(changed), signed.hash, signed.signature).signed_by(PROVIDER.peer_id)
    signature = countersign(client, signed.hash)
    assert countersigned_by(client.peer_id, signed.hash, signature)
    assert not countersigned_by(client.peer_id, other_hash, signature) or other_hash == signed.hash


@given(
    st.dictionaries(st.sampled_from(list(Unit)), st.integers(0, 10**9)),
    st.lists(st.lists(st.builds(Started, usages), max_size=4), max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_a_meter_costs_what_the_prices_make_of_the_sum(prices, batches):
    table = Prices(prices)
    meter = JobMeter(table)
    for batch in batches:
        ahead = meter.cost_with(batch)
        assert meter.add(batch) == ahead == table.cost_nanoton(meter.usage())


@given(usages, usages)
def test_the_lesser_of_two_counts_is_unit_by_unit(one, other):
    both = least(one, other)
    assert all(both.get(unit) == min(one.get(unit), other.get(unit)) for unit in Unit)


def test_honest_counts_at_the_edge_pass_and_stay_within_the_reservation():
    request = ChatRequest("m", (Message("user", "héllo"),), Sampling(max_tokens=7, stop=("STOP",)))
    prices = Prices(
        {Unit.PROMPT: 3_000_000, Unit.CACHED: 1_000_000, Unit.COMPLETION: 5_000_000, Unit.REASONING: 9_000_000}
    )
    plausible, meter = Plausibility(request), JobMeter(prices)
    events = [
        Started(Usage({Unit.PROMPT: 4, Unit.CACHED: 2})),
        TextDelta("ab", Usage({Unit.COMPLETION: 2})),
        TextDelta("hm", Usage({Unit.REASONING: 5}), reasoning=True),
        Finished("length"),
    ]
    assert plausible.check(events) is None
    assert meter.add(events) <= most_it_can_cost(request, prices)
    assert plausible.check([TextDelta("c", Usage({Unit.COMPLETION: 1}))]) is not None
