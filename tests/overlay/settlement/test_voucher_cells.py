"""Vouchers, close agreements and channel terms: hashes, signatures and the wire, without a chain."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.settlement import ChannelTerms, CloseAgreement, Voucher, channel_public_key, normalise_address
from overlay.settlement.cells import parse_channel_data
from overlay.settlement.limits import MAX_AMOUNT_NANOTON, MAX_CHALLENGE_PERIOD_S, MAX_NONCE, MAX_SEQ, MAX_UINT32
from transport.wire import WireError, encode

addresses = st.binary(min_size=32, max_size=32).map(lambda data: f"0:{data.hex()}")
keys = st.binary(min_size=32, max_size=32)
networks = st.integers(-(2**31), 2**31 - 1)
vouchers = st.builds(
    Voucher,
    channel=addresses,
    network_id=networks,
    seq=st.integers(1, MAX_SEQ),
    amount_nanoton=st.integers(1, MAX_AMOUNT_NANOTON),
)
agreements = st.builds(
    CloseAgreement,
    channel=addresses,
    network_id=networks,
    amount_nanoton=st.integers(0, MAX_AMOUNT_NANOTON),
    valid_until_s=st.integers(1, MAX_UINT32),
)
terms = st.builds(
    ChannelTerms,
    payer=addresses,
    payee=addresses,
    payer_key=keys,
    payee_key=keys,
    network_id=networks,
    nonce=st.integers(0, MAX_NONCE),
    expiry_s=st.integers(1, MAX_UINT32 - MAX_CHALLENGE_PERIOD_S),
    challenge_period_s=st.integers(0, MAX_CHALLENGE_PERIOD_S),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=10),
    max_leaves=12,
)

SEED = bytes(range(32))


@given(vouchers)
def test_a_vouchers_hash_is_its_cells_hash(voucher: Voucher) -> None:
    assert voucher.cell_hash() == voucher.to_cell().hash


@given(agreements)
def test_a_close_agreements_hash_is_its_cells_hash(agreement: CloseAgreement) -> None:
    assert agreement.cell_hash() == agreement.to_cell().hash


@given(vouchers, vouchers)
def test_different_vouchers_have_different_hashes(one: Voucher, other: Voucher) -> None:
    assert (one == other) == (one.cell_hash() == other.cell_hash())


@given(vouchers)
def test_a_voucher_and_a_close_agreement_never_hash_alike(voucher: Voucher) -> None:
    agreement = CloseAgreement(
        voucher.channel, voucher.network_id, voucher.amount_nanoton, 1 + voucher.seq % MAX_UINT32
    )
    assert agreement.cell_hash() != voucher.cell_hash()


@given(vouchers)
def test_a_voucher_survives_the_wire(voucher: Voucher) -> None:
    assert Voucher.from_bytes(voucher.to_bytes()) == voucher


@given(agreements)
def test_a_close_agreement_survives_the_wire(agreement: CloseAgreement) -> None:
    assert CloseAgreement.from_bytes(agreement.to_bytes()) == agreement


@given(terms)
def test_terms_survive_the_wire_and_their_own_data_cell(value: ChannelTerms) -> None:
    assert ChannelTerms.from_bytes(value.to_bytes()) == value
    stored = parse_channel_data(value.data_cell())
    assert stored.terms == value
    assert (stored.closing, stored.deposit_nanoton, stored.paid_nanoton, stored.close_at_s) == (False, 0, 0, 0)


@given(plain)
def test_anything_else_on_the_wire_is_refused_with_a_wire_error(value: object) -> None:
    for kind in (Voucher, CloseAgreement, ChannelTerms):
        try:
            parsed = kind.from_wire(value)
        except WireError:
            continue
        assert parsed.to_wire() == value


@given(st.binary(max_size=120))
def test_garbage_bytes_are_refused_with_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        Voucher.from_bytes(data)


def test_terms_of_an_unknown_version_are_refused() -> None:
    value = ChannelTerms("0:" + "11" * 32, "0:" + "22" * 32, SEED, SEED, -3, 1, 2_000_000_000, 60).to_wire()
    with pytest.raises(WireError, match="version 1"):
        ChannelTerms.from_bytes(encode([2, *value[1:]]))


@given(terms, terms)
@settings(max_examples=25, deadline=None)
def test_every_term_is_part_of_the_address(one: ChannelTerms, other: ChannelTerms) -> None:
    for field in fields(ChannelTerms):
        changed = replace(one, **{field.name: getattr(other, field.name)})
        assert (changed.address() == one.address()) == (changed == one)


@given(vouchers, st.binary(min_size=32, max_size=32))
def test_only_the_signers_key_verifies_and_only_the_signed_voucher(voucher: Voucher, other_seed: bytes) -> None:
    key, signature = channel_public_key(SEED), voucher.sign(SEED)
    assert voucher.verify(key, signature)
    other_amount = voucher.amount_nanoton % MAX_AMOUNT_NANOTON + 1
    assert not replace(voucher, amount_nanoton=other_amount).verify(key, signature)
    assert not replace(voucher, seq=voucher.seq % MAX_SEQ + 1).verify(key, signature)
    assert voucher.verify(channel_public_key(other_seed), signature) == (other_seed == SEED)


@given(vouchers, st.binary(max_size=80), st.binary(max_size=40))
def test_verification_never_raises(voucher: Voucher, signature: bytes, key: bytes) -> None:
    assert not voucher.verify(key, signature)


@pytest.mark.parametrize(
    "bad",
    [
        {"amount_nanoton": 0},
        {"amount_nanoton": 2**63},
        {"amount_nanoton": True},
        {"amount_nanoton": 1.0},
        {"seq": 0},
        {"network_id": 2**31},
        {"channel": "0:" + "AB" * 32},
        {"channel": "-1:" + "ab" * 32},
        {"channel": "0:" + "ab" * 32 + "\n"},
    ],
)
def test_a_voucher_out_of_bounds_cannot_be_made(bad: dict[str, object]) -> None:
    good = {"channel": "0:" + "ab" * 32, "network_id": -239, "seq": 1, "amount_nanoton": 1}
    with pytest.raises(ValueError, match=r"must be|is written"):
        Voucher(**{**good, **bad})  # type: ignore[arg-type]  # wrong on purpose


def test_every_spelling_of_an_address_becomes_the_raw_one() -> None:
    raw = "0:83dfd552e63729b472fcbcc8c45ebcc6691702558b68ec7527e1ba403a0f31a8"
    assert normalise_address(raw.upper().replace("0:", "0:")) == raw
    assert normalise_address("EQCD39VS5jcptHL8vMjEXrzGaRcCVYto7HUn4bpAOg8xqB2N") == raw


@pytest.mark.parametrize("text", ["", "0:12", "EQCD39VS5jcptHL8vMjEXrzGaRcCVYto7HUn4bpAOg8xqB2M", "-1:" + "33" * 32])
def test_what_is_not_a_basechain_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|workchain"):
        normalise_address(text)
