"""Strict CBOR and signed envelopes."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport.identity import Identity
from transport.wire import MAX_DEPTH, WireError, decode, encode, open_envelope, sign_envelope

LIMIT = 1 << 16
leaves = (
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(child) for child in children), default=-1)


@given(values.filter(lambda value: _depth(value) <= MAX_DEPTH))
def test_what_is_encoded_is_decoded_again(value: Any) -> None:
    assert decode(encode(value), max_bytes=LIMIT) == value


@given(st.binary(max_size=200))
@example(bytes.fromhex("9f01ff"))  # indefinite length
@example(bytes.fromhex("1801"))  # an integer longer than need be
@example(bytes.fromhex("a2616201616102"))  # keys out of order
@example(bytes.fromhex("a2616101616102"))  # a key twice
@example(bytes.fromhex("0101"))  # trailing data
@example(bytes.fromhex("c000"))  # tags
@example(bytes.fromhex("c249010000000000000000"))  # a bignum
@example(bytes.fromhex("d81c80"))  # shared references
@example(bytes.fromhex("f7"))  # undefined
@example(bytes.fromhex("f93c00"))  # a float
@example(bytes.fromhex("61ff"))  # text that is no UTF-8
@example(b"\x81" * 150 + b"\x00")
@example(bytes.fromhex("9bffffffffffffffff"))  # a list of 2^64 items
@example(bytes.fromhex("5bffffffffffffffff"))  # as many bytes
def test_arbitrary_bytes_decode_to_one_meaning_or_are_refused(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=LIMIT)
    except WireError:
        return
    assert encode(value) == data


@given(values.filter(lambda value: _depth(value) <= MAX_DEPTH))
def test_no_other_encoding_of_a_value_is_accepted(value: Any) -> None:
    data = encode(value)
    loose = cbor2.dumps(value, canonical=False)
    if loose != data:
        with pytest.raises(WireError):
            decode(loose, max_bytes=LIMIT)
    with pytest.raises(WireError):
        decode(data + b"\x00", max_bytes=LIMIT)
    with pytest.raises(WireError):
        decode(data[:-1], max_bytes=LIMIT)


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(WireError, match="at most 10"):
        decode(bytes(11), max_bytes=10)


@pytest.mark.parametrize(
    "value", [memoryview(b"ab"), bytearray(b"ab"), {1, 2}, {b"k": 1}, object(), 1.5, [float("nan")]]
)
def test_types_without_a_place_on_the_wire_are_refused(value: object) -> None:
    with pytest.raises(WireError):
        encode(value)


def test_floats_pass_where_they_are_admitted() -> None:
    assert decode(encode([1.5], floats=True), max_bytes=LIMIT, floats=True) == [1.5]
    with pytest.raises(WireError, match="floats"):
        decode(encode([1.5], floats=True), max_bytes=LIMIT)


def test_nesting_is_bounded_both_ways() -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(WireError, match="deeper"):
        encode(deep)
    with pytest.raises(WireError):
        decode(cbor2.dumps(deep), max_bytes=LIMIT)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_an_envelope_opens_for_its_domain_and_names_its_signer(seed: bytes, payload: bytes) -> None:
    identity = Identity(seed)
    data = sign_envelope(identity, "quote/1", payload).to_bytes()
    opened = open_envelope("quote/1", data, max_bytes=LIMIT)
    assert (opened.payload, opened.peer_id) == (payload, identity.peer_id)
    with pytest.raises(WireError, match="signature"):
        open_envelope("quote/2", data, max_bytes=LIMIT)


@given(st.data())
def test_no_changed_envelope_opens(data: st.DataObject) -> None:
    envelope = bytearray(sign_envelope(Identity(bytes(32)), "quote/1", b"payload").to_bytes())
    position = data.draw(st.integers(0, len(envelope) - 1))
    envelope[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        open_envelope("quote/1", bytes(envelope), max_bytes=LIMIT)


@given(st.binary(max_size=150) | values.filter(lambda value: _depth(value) <= MAX_DEPTH).map(encode))
def test_garbage_is_no_envelope(data: bytes) -> None:
    with pytest.raises(WireError):
        open_envelope("quote/1", data, max_bytes=LIMIT)
