"""Strict CBOR and signed envelopes: the bytes that parties exchange on the control plane.

One value has one encoding here (RFC 8949 §4.2, deterministic): a decoder accepts bytes only if encoding the result
gives the same bytes again. So a hash or signature over the bytes is a hash or signature over the meaning, duplicates
and trailing data are refused, and two implementations can be compared byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cbor2

from transport.identity import Identity, PeerId, peer_id_of, verify

MAX_DEPTH = 8
"""Nesting beyond this is refused before decoding goes on: no message of ours needs more than five levels."""

_PLAIN = (int, str, bytes, bool, type(None), float)


class WireError(ValueError):
    """Bytes from the network that do not follow the protocol. The message says what is wrong with them."""


def _check(value: Any, depth: int, *, floats: bool) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                raise WireError("a map key must be text or an integer")
            _check(item, depth + 1, floats=floats)
    elif kind in (list, tuple):
        for item in value:
            _check(item, depth + 1, floats=floats)
    elif kind not in _PLAIN:
        # cbor2.dumps(memoryview) would silently encode a list of integers: refuse it here rather than be slow.
        raise WireError(f"{kind.__name__} has no place on the wire")
    elif kind is float and not floats:
        raise WireError("floats have no place in a signed or hashed message")


def encode(value: Any, *, floats: bool = False) -> bytes:
    """Encode maps, lists, text, bytes, integers, booleans and null deterministically.

    ``floats`` admits floating point numbers, for messages that are neither hashed nor carry money.
    Raises :class:`WireError` for any other type (a ``memoryview`` in particular) and for deep nesting.
    """
    _check(value, 0, floats=floats)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, max_bytes: int, floats: bool = False) -> Any:
    """Decode what :func:`encode` made; the result holds only plain Python values.

    Raises :class:`WireError` when ``data`` is longer than ``max_bytes``, malformed, not deterministic, has trailing
    bytes, or holds a type that :func:`encode` would refuse.
    """
    if len(data) > max_bytes:
        raise WireError(f"a message of {len(data)} bytes, where at most {max_bytes} are allowed")
    try:
        stream = BytesIO(data)
        value = cbor2.CBORDecoder(stream, max_depth=MAX_DEPTH + 2).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise WireError(f"not CBOR: {error}") from error
    if encode(value, floats=floats) != data:
        raise WireError("not in the deterministic encoding (RFC 8949 §4.2)")
    return value


@dataclass(frozen=True)
class Signed:
    """A payload, who signed it, and the signature: ``[payload, public key, signature]`` in CBOR."""

    payload: bytes
    public_key: bytes
    signature: bytes

    @property
    def peer_id(self) -> PeerId:
        """The signer."""
        return peer_id_of(self.public_key)

    def verify(self, domain: str) -> bool:
        """Whether the signature is one for ``domain``. Those of :func:`open_envelope` are."""
        return verify(self.public_key, domain, self.payload, self.signature)

    def to_bytes(self) -> bytes:
        """The envelope as it travels."""
        return encode([self.payload, self.public_key, self.signature])


def sign_envelope(identity: Identity, domain: str, payload: bytes) -> Signed:
    """Sign ``payload`` for ``domain`` and wrap it."""
    return Signed(payload, identity.public_key, identity.sign(domain, payload))


def parse_envelope(data: bytes, *, max_bytes: int) -> Signed:
    """Parse an envelope whose domain its payload names: its signature is still to be checked (:meth:`Signed.verify`).

    Raises :class:`WireError` when it is malformed or too long.
    """
    value = decode(data, max_bytes=max_bytes)
    if type(value) is not list or len(value) != 3 or not all(type(part) is bytes for part in value):
        raise WireError("a signed envelope is [payload, public key, signature]")
    return Signed(*value)


def open_envelope(domain: str, data: bytes, *, max_bytes: int) -> Signed:
    """Parse an envelope and verify its signature for ``domain``.

    Raises :class:`WireError` when it is malformed, too long or not signed by the key that it names.
    """
    signed = parse_envelope(data, max_bytes=max_bytes)
    if not signed.verify(domain):
        raise WireError("the signature does not match")
    return signed
