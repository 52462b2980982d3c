"""The watchtower's pure parts: its messages, when it claims, and a file in which no voucher sinks."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError
from overlay.settlement import ChannelTerms, Voucher, channel_public_key
from overlay.watchtower import TowerPolicy, TowerStore, parse_towers
from overlay.watchtower.limits import CLOSE_MARGIN_S, EXPIRY_MARGIN_S, MAX_MESSAGE_BYTES, PATIENCE_S
from overlay.watchtower.messages import NotWatching, Watch, Watching, decode_message, encode_message
from overlay.watchtower.rules import PeerUse, claims_from_s, must_claim, why_not
from overlay.watchtower.store import ClaimMade, Watched
from transport.identity import Identity
from transport.wire import WireError

PAYEE, TOWER = Identity(b"p" * 32), Identity(b"t" * 32)
SEED = b"s" * 32
NOW = 1_900_000_000
TERMS = ChannelTerms(
    "0:" + "11" * 32, "0:" + "22" * 32, channel_public_key(SEED), b"k" * 32, -667, 7, NOW + 7 * 86_400, 3600
)
CHANNEL = TERMS.address()

amounts = st.integers(1, 2**63 - 1)


def watch(amount=1000, seq=1):
    voucher = Voucher(CHANNEL, -667, seq, amount)
    return Watch(TERMS, voucher, voucher.sign(SEED))


# ---- messages ----


@given(amounts, amounts)
def test_a_hand_over_survives_its_encoding_and_fits(seq, amount):
    message = watch(amount, seq)
    data = encode_message(PAYEE, TOWER.peer_id, message)
    assert decode_message(data, sender=PAYEE.peer_id, to=TOWER.peer_id) == message
    assert len(data) <= MAX_MESSAGE_BYTES


@given(amounts, amounts, st.integers(0, 2**32), st.text(max_size=400))
def test_the_answers_survive_theirs(seq, amount, until, reason):
    for message in (Watching(CHANNEL, -667, seq, amount, until), NotWatching(CHANNEL, reason[:300])):
        data = encode_message(TOWER, PAYEE.peer_id, message)
        assert decode_message(data, sender=TOWER.peer_id, to=PAYEE.peer_id) == message


@given(st.integers(0, 900), st.integers(1, 255))
def test_a_message_with_one_byte_changed_is_none(position, change):
    data = bytearray(encode_message(PAYEE, TOWER.peer_id, watch()))
    data[position % len(data)] ^= change
    with pytest.raises(WireError):
        decode_message(bytes(data), sender=PAYEE.peer_id, to=TOWER.peer_id)


@given(st.binary(max_size=600))
def test_bytes_of_any_kind_are_an_answer_or_a_wire_error(data):
    with pytest.raises(WireError):
        decode_message(data, sender=PAYEE.peer_id, to=TOWER.peer_id)


def test_a_message_of_another_to_another_or_about_another_channel_is_refused():
    data = encode_message(PAYEE, TOWER.peer_id, watch())
    for sender, to in ((TOWER, TOWER), (PAYEE, PAYEE)):
        with pytest.raises(WireError):
            decode_message(data, sender=sender.peer_id, to=to.peer_id)
    other = replace(TERMS, nonce=8)
    for message in (replace(watch(), terms=other), replace(watch(), signature=bytes(64))):
        with pytest.raises(WireError):
            decode_message(encode_message(PAYEE, TOWER.peer_id, message), sender=PAYEE.peer_id, to=TOWER.peer_id)


def test_an_address_without_a_peer_id_is_no_towers():
    assert [tower.peer for tower in parse_towers([f"/dns4/t.example/tcp/4001/p2p/{TOWER.peer_id}"])] == [TOWER.peer_id]
    for addr in ("/ip4/127.0.0.1/tcp/1", "12D3KooW", f"/ip4/127.0.0.1/tcp/1/p2p/{TOWER.peer_id}x"):
        with pytest.raises(ConfigError, match="no watchtower's address"):
            parse_towers([addr])
    with pytest.raises(ConfigError, match="at most"):
        parse_towers([f"/ip4/127.0.0.1/tcp/1/p2p/{TOWER.peer_id}"] * 9)


# ---- when it claims, and for whom ----


def state(status, paid=0, close_at=0):
    """What the rules read of a :class:`~overlay.settlement.chain.ChannelState`."""
    return SimpleNamespace(status=status, paid_nanoton=paid, close_at_s=close_at)


ahead = st.integers(-10_000, 40 * 86_400)


@given(amounts, st.integers(0, 2**63), ahead, ahead, st.integers(0, 10_000), st.sampled_from(["open", "closing"]))
def test_what_is_paid_is_never_claimed_and_no_deadline_is_passed(amount, paid, close_in, seen_ago, patience, status):
    close_at, seen = NOW + close_in, NOW - abs(seen_ago)
    wanted = must_claim(TERMS, amount, state(status, paid, close_at), seen, patience, NOW)
    if paid >= amount:
        assert not wanted
    elif status == "closing" and (close_in <= CLOSE_MARGIN_S or abs(seen_ago) >= patience):
        assert wanted


@given(ahead, st.integers(0, 40 * 86_400), st.integers(0, 10_000))
def test_patience_never_goes_beyond_the_margin_or_a_quarter_of_what_is_left(seen, left, patience):
    seen, close_at = NOW + seen, NOW + seen + left
    claims = claims_from_s(seen, close_at, patience)
    assert claims <= close_at - CLOSE_MARGIN_S
    assert claims <= seen + min(patience, left // 4)


def test_an_open_channel_is_claimed_when_its_expiry_is_near_and_a_closed_one_never():
    for left, wanted in ((EXPIRY_MARGIN_S + 1, False), (EXPIRY_MARGIN_S, True), (-5, True)):
        terms = replace(TERMS, expiry_s=NOW + left)
        assert must_claim(terms, 5, state("open"), None, PATIENCE_S, NOW) is wanted
    for gone in ("closed", "absent"):
        assert not must_claim(TERMS, 5, state(gone), None, 0, NOW)


@given(st.integers(0, 300), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 5000))
def test_every_channel_that_is_taken_on_has_its_claim_paid_for_ahead(channels, spent, allowance, everything):
    policy = TowerPolicy(["payee"], allowance)
    reason = why_not(policy, "payee", TERMS, -667, PeerUse(channels, spent), everything)
    if reason is None:
        assert spent + (channels + 1) * 12_000_000 <= allowance
        assert channels < 256
        assert everything < 4096
    assert why_not(policy, "stranger", TERMS, -667, PeerUse(0, 0), 0) is not None


# ---- the file ----


def row(seq, amount, **changes):
    return replace(Watched(CHANNEL, "payee", TERMS, seq, amount, bytes(64), NOW, 10**9), **changes)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=20))
def test_the_file_keeps_the_highest_voucher_whatever_order_they_come_in(vouchers):
    store = TowerStore(":memory:")
    best = None
    for seq, amount in vouchers:
        stored = store.put(row(seq, amount))
        if best is None or (seq > best[0] and amount > best[1]):
            best = (seq, amount)
        assert (stored.seq, stored.amount_nanoton) == best
    with pytest.raises(sqlite3.IntegrityError, match="never sinks"):
        store._db.execute("UPDATE watched SET amount = amount - 1")
    store.close()


def test_what_a_peer_has_cost_is_counted_within_the_window_and_ended_channels_are_forgotten(tmp_path):
    store = TowerStore(tmp_path / "tower.sqlite3")
    store.put(row(1, 100))
    store.add_claim(ClaimMade(CHANNEL, "payee", NOW - 100, 100, 7, "aa"))
    store.add_claim(ClaimMade(CHANNEL, "payee", NOW, 100, 5, "bb"))
    assert store.use_of("payee", since=NOW - 50) == PeerUse(1, 5)
    assert store.use_of("payee", since=0) == PeerUse(1, 12)
    store.note(CHANNEL, paid_nanoton=50, closing_since=NOW)
    store.note(CHANNEL, paid_nanoton=100, closing_since=NOW + 60)
    store.close()
    store = TowerStore(tmp_path / "tower.sqlite3")
    (watched,) = store.live(-667)
    assert (watched.paid_nanoton, watched.closing_since, watched.terms) == (100, NOW, TERMS)
    assert store.live(-239) == []
    store.end(CHANNEL, NOW)
    assert (store.count(), store.forget(ended_before=NOW)) == (0, 0)
    assert store.forget(ended_before=NOW + 1) == 1
    assert store.get(CHANNEL) is None
    store.close()


def test_a_file_of_a_newer_program_is_refused(tmp_path):
    path = tmp_path / "tower.sqlite3"
    TowerStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="newer program"):
        TowerStore(path)
