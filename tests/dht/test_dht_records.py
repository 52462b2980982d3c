"""Capacity records: one encoding, strict bounds, self-certifying, judged against a given time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import CapacityRecord, Offer, RecordError, parse_record, sign_record
from dht.limits import CLOCK_SKEW_S, MAX_OFFERS, MAX_RECORD_BYTES, MAX_TTL_S
from dht.records import DOMAIN, check_time
from transport.identity import Identity
from transport.wire import encode, sign_envelope

IDENTITY = Identity(b"\x05" * 32)

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
models = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
counts = st.integers(0, 1 << 32)
offers = st.builds(
    lambda slots, busy, **rest: Offer(slots=slots, busy=min(busy, slots), **rest),
    task=names,
    model=models,
    tier=names,
    prices=st.dictionaries(st.sampled_from(["prompt", "completion", "audio_ms"]), st.integers(0, 1 << 60)),
    slots=st.integers(1, 1 << 32),
    busy=counts,
    queue_wait_ms=counts,
    units_per_s=counts,
    context=counts,
)
addrs = st.lists(st.from_regex(r"/ip4/[0-9]{1,3}(\.[0-9]{1,3}){3}/tcp/[0-9]{1,5}", fullmatch=True), max_size=2)
records = st.builds(
    CapacityRecord,
    subnet=names,
    host_addrs=addrs.map(tuple),
    tunnel_addrs=addrs.map(tuple),
    noise_key=st.binary(min_size=32, max_size=32),
    offers=st.lists(offers, max_size=3, unique_by=lambda o: (o.task, o.model, o.tier)).map(tuple),
    seq=st.integers(0, (1 << 53) - 1),
    issued_at=counts,
    ttl_s=st.integers(10, 600),
    software=st.sampled_from(["", "cocoon/0.1.0"]),
)


def offer(**changes: Any) -> Offer:
    return Offer(**{"task": "chat", "model": "demo", "tier": "plain", "prices": {"prompt": 1000}, **changes})


def record(**changes: Any) -> CapacityRecord:
    return CapacityRecord(**{"subnet": "main", "offers": (offer(),), "issued_at": 1000, "seq": 1, **changes})


@given(records)
def test_a_record_is_read_as_it_was_signed(original: CapacityRecord) -> None:
    signed = sign_record(IDENTITY, original)
    parsed = parse_record(signed.envelope)
    assert parsed == signed
    assert parsed.record == original
    assert parsed.peer_id == IDENTITY.peer_id
    assert sign_record(IDENTITY, parsed.record).envelope == signed.envelope


@given(st.binary(max_size=1200))
def test_garbage_is_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        parse_record(data)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 62) | st.text(max_size=8) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=25,
)


@given(json_like)
def test_a_well_signed_payload_of_any_shape_is_a_record_or_a_record_error(payload: Any) -> None:
    data = sign_envelope(IDENTITY, DOMAIN, encode(payload)).to_bytes()
    with pytest.raises(RecordError):
        parse_record(data)


@given(st.integers(0, 9), json_like)
def test_no_field_takes_a_value_of_another_shape_unchecked(position: int, value: Any) -> None:
    good = [1, "main", 1, 1000, 120, [], [], bytes(32), [["chat", "m", "plain", {"prompt": 1}, 1, 0, 0, 0, 0]], ""]
    data = sign_envelope(IDENTITY, DOMAIN, encode([*good[:position], value, *good[position + 1 :]])).to_bytes()
    try:
        parsed = parse_record(data)
    except RecordError:
        return
    assert sign_record(IDENTITY, parsed.record).envelope == data


@given(st.integers(0, 8), json_like)
def test_no_field_of_an_offer_takes_a_value_of_another_shape_unchecked(position: int, value: Any) -> None:
    good = ["chat", "m", "plain", {"prompt": 1}, 1, 0, 0, 0, 0]
    sold = [*good[:position], value, *good[position + 1 :]]
    payload = [1, "main", 1, 1000, 120, [], [], bytes(32), [sold], ""]
    data = sign_envelope(IDENTITY, DOMAIN, encode(payload)).to_bytes()
    try:
        parsed = parse_record(data)
    except RecordError:
        return
    assert sign_record(IDENTITY, parsed.record).envelope == data


def test_a_signature_of_another_domain_or_key_does_not_count() -> None:
    signed = sign_record(IDENTITY, record())
    payload = encode([1, "main", 1, 1000, 120, [], [], bytes(32), [], ""])
    with pytest.raises(RecordError, match="signature"):
        parse_record(sign_envelope(IDENTITY, "quote/1", payload).to_bytes())
    other = Identity(b"\x06" * 32)
    with pytest.raises(RecordError, match="signature"):
        parse_record(signed.envelope.replace(IDENTITY.public_key, other.public_key))


@pytest.mark.parametrize(
    "changes",
    [
        {"task": ""},
        {"task": "Chat"},
        {"task": "x" * 25},
        {"model": ""},
        {"model": " m"},
        {"model": "evil\x1b[2Jmodel"},
        {"model": "new\nline"},
        {"model": "ünïcode"},
        {"model": "m" * 97},
        {"tier": "plain tier"},
        {"prices": {"prompt": -1}},
        {"prices": {"prompt": 1.5}},
        {"prices": {"prompt": True}},
        {"prices": {"prompt": (1 << 60) + 1}},
        {"prices": {"PROMPT": 1}},
        {"prices": {f"u{n}": 1 for n in range(7)}},
        {"slots": 0},
        {"busy": 2},
        {"queue_wait_ms": -1},
        {"context": 1 << 33},
    ],
)
def test_an_offer_out_of_bounds_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        offer(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"subnet": ""},
        {"subnet": "a/b"},
        {"host_addrs": ("/a",) * 5},
        {"host_addrs": ("with space",)},
        {"host_addrs": ("x" * 201,)},
        {"tunnel_addrs": ["list"]},
        {"noise_key": bytes(31)},
        {"offers": tuple(offer(model=str(n)) for n in range(MAX_OFFERS + 1))},
        {"offers": (offer(), offer())},
        {"seq": -1},
        {"seq": 1 << 53},
        {"issued_at": -1},
        {"ttl_s": 9},
        {"ttl_s": MAX_TTL_S + 1},
        {"ttl_s": 0},
        {"software": "x" * 33},
        {"version": 2},
    ],
)
def test_a_record_out_of_bounds_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        record(**changes)


def test_a_record_too_long_to_travel_is_refused_with_what_to_do() -> None:
    sold = tuple(offer(model=f"{number}" + "m" * 95) for number in range(MAX_OFFERS))
    with pytest.raises(RecordError, match="announce fewer"):
        sign_record(IDENTITY, record(offers=sold))


def test_eight_ordinary_offers_fit() -> None:
    prices = {"prompt": 150_000_000, "cached": 15_000_000, "completion": 600_000_000}
    sold = tuple(offer(model=f"meta-llama/Llama-3.{n}-70B-Instruct", prices=prices, slots=8) for n in range(MAX_OFFERS))
    address = f"/ip4/203.0.113.200/tcp/40001/p2p/{IDENTITY.peer_id}"
    signed = sign_record(IDENTITY, record(offers=sold, host_addrs=(address,), tunnel_addrs=("203.0.113.200:40002",)))
    assert len(signed.envelope) <= MAX_RECORD_BYTES


def test_a_record_stands_from_a_skew_before_its_issue_to_its_expiry() -> None:
    stands = record(issued_at=1000, ttl_s=60)
    for now in (1000 - CLOCK_SKEW_S, 1000, 1059.9):
        check_time(stands, now)
    with pytest.raises(RecordError, match="future"):
        check_time(stands, 1000 - CLOCK_SKEW_S - 1)
    with pytest.raises(RecordError, match="expired"):
        check_time(stands, 1060)


def test_a_withdrawal_outlives_every_record_that_it_takes_back() -> None:
    gone = replace(record(issued_at=1000).withdrawal(), seq=2)
    assert gone.withdrawn
    assert gone.offers == ()
    assert parse_record(sign_record(IDENTITY, gone).envelope).record == gone
    check_time(gone, 1000 + MAX_TTL_S)
    with pytest.raises(RecordError, match="expired"):
        check_time(gone, 1000 + MAX_TTL_S + CLOCK_SKEW_S)
