"""The hash of the noise library by hashlib and hmac's one-shot functions, a fraction of the cost of its own objects.

A handshake takes some twenty HMACs a side: most of what is not curve arithmetic. The transcript is the same (test
vectors in tests/transport/tunnel/handshake_vectors.json).
"""

from __future__ import annotations

import hashlib
import hmac

from noise.backends.default.backend import DefaultNoiseBackend
from noise.backends.default.hashes import SHA256Hash


class _Sha256(SHA256Hash):  # type: ignore[misc]  # the noise library has no types
    """SHA-256 (Noise §12.5)."""

    def hash(self, data: bytes) -> bytes:
        """HASH(data)."""
        return hashlib.sha256(data).digest()


def _hmac_sha256(key: bytes, data: bytes, algorithm: object) -> bytes:
    """HMAC-HASH (Noise §4.3); ``algorithm`` is SHA-256, the only one that the tunnel's protocol names use."""
    return hmac.digest(key, data, "sha256")


class _Backend(DefaultNoiseBackend):  # type: ignore[misc]  # the noise library has no types
    def __init__(self) -> None:
        super().__init__()
        self.hashes = {"SHA256": _Sha256}
        self.hmac = _hmac_sha256


BACKEND = _Backend()
