"""The key space: SHA-256 of everything, compared by XOR (libp2p kad-dht §Distance). Keys are 256-bit integers."""

from __future__ import annotations

import random
from functools import lru_cache
from hashlib import sha256

import base58

from dht.kad.errors import BadMessage
from dht.kad.limits import KEY_BITS
from transport.identity import PeerId, peer_id_of, public_key_of

_ED25519_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])  # identity multihash of a protobuf Ed25519 key
_ED25519_BYTES = 38

# Caches are of the process, so that ten thousand simulated nodes share one object for each peer. They are bounded, and
# a function of their argument alone.
_CACHED = 16_384


def key_of(data: bytes) -> int:
    """The point of the key space that ``data`` (a record's key, a peer's multihash) lies at."""
    return int.from_bytes(sha256(data).digest(), "big")


@lru_cache(maxsize=_CACHED)
def peer_bytes(peer_id: PeerId) -> bytes:
    """The peer id as a multihash, as it travels. Raises ``ValueError`` for what is no Ed25519 peer id."""
    public_key_of(peer_id)
    return bytes(base58.b58decode(peer_id))


@lru_cache(maxsize=_CACHED)
def peer_id_from(raw: bytes) -> PeerId:
    """The peer id of a multihash. Raises :class:`BadMessage` for anything but an Ed25519 key: our nodes have no other,
    and the host could not dial it."""
    if len(raw) != _ED25519_BYTES or not raw.startswith(_ED25519_PREFIX):
        raise BadMessage("not the peer id of an Ed25519 key")
    return peer_id_of(raw[len(_ED25519_PREFIX) :])


@lru_cache(maxsize=_CACHED)
def peer_key(peer_id: PeerId) -> int:
    """Where a peer lies in the key space."""
    return key_of(peer_bytes(peer_id))


def common_bits(a: int, b: int) -> int:
    """How many leading bits two keys share; the index of the bucket that one has in the other's table."""
    return KEY_BITS - (a ^ b).bit_length()


def random_key_in_bucket(own: int, bucket: int, rng: random.Random) -> bytes:
    """Bytes whose :func:`key_of` shares exactly ``bucket`` leading bits with ``own``; 2^(bucket + 1) hashes on
    average. libp2p's FIND_NODE hashes its key, so a key of given bits can only be found by trying."""
    prefix = rng.randbytes(24)
    counter = 0
    while True:
        data = prefix + counter.to_bytes(8, "big")
        if common_bits(key_of(data), own) == bucket:
            return data
        counter += 1
