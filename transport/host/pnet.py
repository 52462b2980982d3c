"""Private networks: the libp2p pre-shared-key protector and kubo's ``swarm.key`` file.

Both directions of a connection are XSalsa20 streams under the network's key, each after a 24-byte random nonce
(libp2p specs, pnet/Private-Networks-PSK-V1.md). It keeps strangers out before any handshake; it authenticates nothing,
which is Noise's task inside it.

py-libp2p 0.8.1 writes an 8-byte nonce and runs plain Salsa20 (security/pnet/psk_conn.py:26), so it can talk to no other
implementation. XSalsa20 is Salsa20 under a key derived by HSalsa20 from the first 16 nonce bytes
(Bernstein, "Extending the Salsa20 nonce", 2011).
"""

from __future__ import annotations

import struct
from typing import Any

from Crypto.Cipher import Salsa20

PSK_BYTES = 32
NONCE_BYTES = 24

_HEADER = "/key/swarm/psk/1.0.0/"
_BASE16 = "/base16/"
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_QUARTER_ROUNDS = (
    (0, 4, 8, 12),
    (5, 9, 13, 1),
    (10, 14, 2, 6),
    (15, 3, 7, 11),
    (0, 1, 2, 3),
    (5, 6, 7, 4),
    (10, 11, 8, 9),
    (15, 12, 13, 14),
)


class SwarmKeyError(ValueError):
    """A swarm key file that is not one."""


def parse_swarm_key(text: str) -> bytes:
    """The 32-byte key in the text of a kubo ``swarm.key`` file. Raises :class:`SwarmKeyError`."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) != 3 or lines[0] != _HEADER:
        raise SwarmKeyError(f"a swarm key file has three lines, the first of them {_HEADER}")
    if lines[1] != _BASE16:
        raise SwarmKeyError(f"a swarm key file in the encoding {lines[1]!r}; only {_BASE16} is understood")
    try:
        key = bytes.fromhex(lines[2])
    except ValueError:
        raise SwarmKeyError("the swarm key is not hexadecimal") from None
    if len(key) != PSK_BYTES or len(lines[2]) != 2 * PSK_BYTES:
        raise SwarmKeyError(f"a swarm key has {2 * PSK_BYTES} hexadecimal digits, this one {len(lines[2])}")
    return key


def format_swarm_key(psk: bytes) -> str:
    """The text of a kubo ``swarm.key`` file for a 32-byte key."""
    if len(psk) != PSK_BYTES:
        raise ValueError(f"a swarm key has {PSK_BYTES} bytes, not {len(psk)}")
    return f"{_HEADER}\n{_BASE16}\n{psk.hex()}\n"


def _rotate(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """HSalsa20: 32 bytes of key and 16 of nonce to a 32-byte subkey."""
    k = struct.unpack("<8I", key)
    n = struct.unpack("<4I", nonce)
    c = _CONSTANTS
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for a, b, d, e in _QUARTER_ROUNDS:
            x[b] ^= _rotate(x[a] + x[e], 7)
            x[d] ^= _rotate(x[b] + x[a], 9)
            x[e] ^= _rotate(x[d] + x[b], 13)
            x[a] ^= _rotate(x[e] + x[d], 18)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


class XSalsa20:
    """One direction of a protected connection: a stream cipher that keeps its position."""

    def __init__(self, psk: bytes, nonce: bytes) -> None:
        if len(psk) != PSK_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"XSalsa20 takes {PSK_BYTES} bytes of key and {NONCE_BYTES} of nonce")
        self._cipher: Any = Salsa20.new(key=hsalsa20(psk, nonce[:16]), nonce=nonce[16:])

    def process(self, data: bytes) -> bytes:
        """The next ``len(data)`` bytes, encrypted or decrypted (the operation is its own inverse)."""
        return bytes(self._cipher.encrypt(data))
