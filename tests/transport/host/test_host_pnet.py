"""The private-network cipher and kubo's swarm key file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.host import SwarmKeyError, format_swarm_key, parse_swarm_key
from transport.host.pnet import XSalsa20, hsalsa20


def test_hsalsa20_gives_the_published_subkey() -> None:
    # "Cryptography in NaCl" (Bernstein, 2009), §8: firstkey and secondkey.
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert hsalsa20(shared, bytes(16)).hex() == "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"


def test_xsalsa20_gives_the_published_stream() -> None:
    # "Cryptography in NaCl", §10: key, nonce and the first bytes of the stream.
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    stream = XSalsa20(key, nonce).process(bytes(32))
    assert stream.hex() == "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24), st.lists(st.binary(max_size=200)))
def test_a_stream_in_pieces_is_the_stream_in_one(key: bytes, nonce: bytes, pieces: list[bytes]) -> None:
    cipher, plain = XSalsa20(key, nonce), XSalsa20(key, nonce)
    sealed = b"".join(cipher.process(piece) for piece in pieces)
    assert plain.process(sealed) == b"".join(pieces)


@given(st.binary(min_size=32, max_size=32))
def test_a_swarm_key_file_is_read_as_written(psk: bytes) -> None:
    assert parse_swarm_key(format_swarm_key(psk)) == psk
    assert parse_swarm_key(format_swarm_key(psk).replace("\n", "\r\n")) == psk


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "three lines"),
        ("/key/swarm/psk/2.0.0/\n/base16/\n" + "00" * 32, "first of them"),
        ("/key/swarm/psk/1.0.0/\n/base64/\n" + "AA" * 22, "only /base16/"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "zz" * 32, "not hexadecimal"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "00" * 31, "64 hexadecimal digits"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "00 " * 32, "64 hexadecimal digits"),
    ],
)
def test_a_malformed_swarm_key_says_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(SwarmKeyError, match=what):
        parse_swarm_key(text)


@given(st.text(max_size=120))
def test_arbitrary_text_is_no_swarm_key(text: str) -> None:
    with pytest.raises(SwarmKeyError):
        parse_swarm_key(text)
