"""Who a party is: an Ed25519 key, named by its libp2p peer id, and what it signs.

Everything that crosses the network and must be attributable is signed with one key, the libp2p identity key, over a
domain-separated message, so that a signature made for one purpose never serves another. Peer ids of Ed25519 keys are
the identity multihash of the key itself (libp2p peer-ids spec), so whoever holds a peer id can verify without a lookup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NewType

import base58
from nacl import bindings
from nacl.exceptions import BadSignatureError

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58btc, for example ``12D3KooW…``."""

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

# multihash identity (0x00), length 36, protobuf {Type: Ed25519 (1), Data: 32 bytes}: libp2p peer-ids spec, "Keys".
_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])


_CACHED = 16_384
"""Keys remembered each way, 4 MB when full: decoding base58 takes 20 us and encoding 25, and who meets 10,000 peers, as
simulations do, decodes two of three again and again when 4,096 fit (14 us a call, and 0.2 us when all do)."""


@lru_cache(maxsize=_CACHED)
def peer_id_of(public_key: bytes) -> PeerId:
    """Return the peer id of a 32-byte Ed25519 public key.

    Raises ``ValueError`` when the key has another length.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(maxsize=_CACHED)
def public_key_of(peer_id: str) -> bytes:
    """Return the 32-byte Ed25519 public key inside a peer id.

    Raises ``ValueError`` for anything that is not an Ed25519 identity-multihash peer id.
    """
    if not 40 <= len(peer_id) <= 64:
        raise ValueError("a peer id of an Ed25519 key has 52 base58 characters")
    raw = base58.b58decode(peer_id)
    if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError("not the peer id of an Ed25519 key")
    key = bytes(raw[len(_PEER_ID_PREFIX) :])
    if peer_id_of(key) != peer_id:  # the decoder forgives white space; a peer has one name, which tables are keyed by
        raise ValueError("not the canonical spelling of a peer id")
    return key


def _message(domain: str, payload: bytes) -> bytes:
    return b"cocoon:" + domain.encode() + b"\0" + payload


@dataclass(frozen=True)
class Identity:
    """A signing key and the peer id that names it. ``repr`` never shows the seed."""

    seed: bytes = field(repr=False)
    public_key: bytes = field(init=False)
    peer_id: PeerId = field(init=False)
    _secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(self.seed)}")
        public, secret = bindings.crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public_key", public)
        object.__setattr__(self, "peer_id", peer_id_of(public))
        object.__setattr__(self, "_secret", secret)

    def sign(self, domain: str, payload: bytes) -> bytes:
        """Sign ``payload`` (RFC 8032, pure Ed25519) for ``domain``, a short ASCII name such as ``capacity/1``."""
        signed: bytes = bindings.crypto_sign(_message(domain, payload), self._secret)
        return signed[:SIGNATURE_BYTES]


def verify(public_key: bytes, domain: str, payload: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``payload`` for ``domain`` was made by ``public_key``. Never raises on bad input."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + _message(domain, payload), public_key)
    except (BadSignatureError, ValueError):
        return False
    return True


def verify_peer(peer_id: str, domain: str, payload: bytes, signature: bytes) -> bool:
    """Like :func:`verify`, for a signer named by peer id; False when the peer id itself is malformed."""
    try:
        key = public_key_of(peer_id)
    except ValueError:
        return False
    return verify(key, domain, payload, signature)
