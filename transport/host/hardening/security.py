"""P9: one security protocol."""

from __future__ import annotations

from typing import Any

from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport


def libp2p_keys(seed: bytes) -> KeyPair:
    """The libp2p key pair of a 32-byte Ed25519 seed."""
    private = Ed25519PrivateKey.from_bytes(seed)
    return KeyPair(private, private.get_public_key())


def noise_only(keys: KeyPair) -> dict[Any, Any]:
    """The security protocols that we speak: Noise. Upstream's default adds plaintext and secio (__init__.py:661)."""
    return {NOISE_ID: NoiseTransport(keys, noise_privkey=new_x25519_key_pair().private_key)}
