"""Identities, peer ids and domain-separated signatures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.identity import Identity, peer_id_of, public_key_of, verify, verify_peer

seeds = st.binary(min_size=32, max_size=32)
domains = st.sampled_from(["capacity/1", "quote/1", "voucher/1"])


def test_the_peer_id_is_the_one_that_libp2p_computes_for_the_same_key() -> None:
    # RFC 8032 §7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    identity = Identity(seed)
    assert identity.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    from libp2p.crypto.ed25519 import Ed25519PrivateKey
    from libp2p.peer.id import ID

    assert identity.peer_id == str(ID.from_pubkey(Ed25519PrivateKey.from_bytes(seed).get_public_key()))


@given(seeds)
def test_a_peer_id_holds_its_public_key(seed: bytes) -> None:
    identity = Identity(seed)
    assert public_key_of(identity.peer_id) == identity.public_key
    assert peer_id_of(identity.public_key) == identity.peer_id


@given(seeds, domains, st.binary(max_size=200))
def test_a_signature_is_verified_by_key_and_by_peer_id(seed: bytes, domain: str, payload: bytes) -> None:
    identity = Identity(seed)
    signature = identity.sign(domain, payload)
    assert verify(identity.public_key, domain, payload, signature)
    assert verify_peer(identity.peer_id, domain, payload, signature)


@given(seeds, st.binary(max_size=50), st.integers(0, 511))
def test_a_flipped_bit_of_the_signature_is_noticed(seed: bytes, payload: bytes, bit: int) -> None:
    identity = Identity(seed)
    signature = bytearray(identity.sign("quote/1", payload))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(identity.public_key, "quote/1", payload, bytes(signature))


@given(seeds, domains, domains, st.binary(max_size=50))
def test_a_signature_for_one_domain_serves_no_other(seed: bytes, made: str, used: str, payload: bytes) -> None:
    identity = Identity(seed)
    assert verify(identity.public_key, used, payload, identity.sign(made, payload)) == (made == used)


@given(st.text(max_size=70), st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=70))
def test_verification_of_garbage_is_false_and_never_raises(peer: str, key: bytes, payload: bytes, mark: bytes) -> None:
    assert not verify(key, "quote/1", payload, mark)
    assert not verify_peer(peer, "quote/1", payload, mark)


@given(st.text(max_size=70))
def test_what_is_no_peer_id_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        public_key_of(text)


@given(st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=40, max_size=64))
def test_base58_text_that_is_no_peer_id_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        public_key_of(text)


def test_one_key_has_one_peer_id_spelling() -> None:
    peer = Identity(bytes(32)).peer_id
    for other in (" " + peer, peer + " ", peer + "\n", "1" + peer):
        with pytest.raises(ValueError, match=r"."):
            public_key_of(other)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_or_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        peer_id_of(bytes(length))


def test_repr_does_not_show_the_secret() -> None:
    identity = Identity(b"\x07" * 32)
    assert "x07" not in repr(identity)
    assert identity.sign("quote/1", b"").hex() not in repr(identity)
