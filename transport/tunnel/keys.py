"""The tunnel's static key, certified by the libp2p identity, and what an endpoint needs to take part.

The Noise static key is derived from the identity's seed, so a node has one secret to keep; the identity signs it, so
that whoever authenticates the static key in a handshake also learns the authenticated peer id.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from noise.backends.default.keypairs import KeyPair25519

from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, PeerId, peer_id_of, verify
from transport.tunnel.errors import HandshakeError

STATIC_KEY_DOMAIN = "tunnel static key"
"""Signature domain of the certificate of a static key."""

KEY_BYTES = 32
CERTIFICATE_BYTES = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
MAX_SUBNET_BYTES = 64
"""A subnet id is short text; its length is one byte in the prologue."""


@dataclass(frozen=True)
class StaticKey:
    """An X25519 key pair (Noise ``s``). ``repr`` never shows the private half.

    ``pair`` is the same in the noise library's form: made once, since deriving the public half costs as much as a
    Diffie-Hellman.
    """

    private: bytes = field(repr=False)
    public: bytes = field(init=False)
    pair: KeyPair25519 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.private) != KEY_BYTES:
            raise ValueError(f"a static key has {KEY_BYTES} bytes, not {len(self.private)}")
        pair = KeyPair25519.from_private_bytes(self.private)
        object.__setattr__(self, "public", pair.public_bytes)
        object.__setattr__(self, "pair", pair)

    @classmethod
    def from_seed(cls, seed: bytes) -> StaticKey:
        """Derive the key from an identity's 32-byte seed by HKDF-SHA256, so that the two keys never share bits."""
        hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"cocoon tunnel static key v1")
        return cls(hkdf.derive(seed))


def certify(identity: Identity, static_public: bytes) -> bytes:
    """The certificate of a static key: identity public key (32) and its signature over the static key (64)."""
    return identity.public_key + identity.sign(STATIC_KEY_DOMAIN, static_public)


def certified_peer(certificate: bytes, static_public: bytes) -> PeerId:
    """Who certified ``static_public``. Raises :class:`HandshakeError` when the certificate does not hold."""
    if len(certificate) != CERTIFICATE_BYTES:
        raise HandshakeError("the peer's certificate has the wrong length")
    public_key, signature = certificate[:PUBLIC_KEY_BYTES], certificate[PUBLIC_KEY_BYTES:]
    if not verify(public_key, STATIC_KEY_DOMAIN, static_public, signature):
        raise HandshakeError("the peer's identity did not sign its static key")
    return peer_id_of(public_key)


@dataclass(frozen=True)
class TunnelEndpoint:
    """One party of tunnels: identity, static key, subnet.

    ``subnet`` is the subnet's id (``main`` for the public network); ``psk`` is 32 bytes in a private subnet, None in a
    public one. ``random_bytes`` makes ephemeral keys; only tests and the simulator replace it. ``padding`` offers to
    hide the lengths of small messages, which happens where both sides do.
    """

    identity: Identity
    static_key: StaticKey
    subnet: str = "main"
    psk: bytes | None = field(default=None, repr=False)
    random_bytes: Callable[[int], bytes] = field(default=os.urandom, repr=False)
    padding: bool = False
    certificate: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.subnet.encode()) <= MAX_SUBNET_BYTES:
            raise ValueError(f"a subnet id has 1 to {MAX_SUBNET_BYTES} bytes")
        if self.psk is not None and len(self.psk) != KEY_BYTES:
            raise ValueError(f"a subnet's psk has {KEY_BYTES} bytes, not {len(self.psk)}")
        object.__setattr__(self, "certificate", certify(self.identity, self.static_key.public))

    @classmethod
    def of(
        cls, identity: Identity, *, subnet: str = "main", psk: bytes | None = None, padding: bool = False,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> TunnelEndpoint:  # fmt: skip
        """The endpoint of ``identity`` with the static key derived from its seed."""
        return cls(identity, StaticKey.from_seed(identity.seed), subnet, psk, random_bytes, padding)

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self.identity.peer_id
