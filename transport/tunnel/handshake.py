"""The Noise handshake as a pure state machine: messages in, messages out, and at the end two keys and a peer.

::

    initiator                                   responder
    hello, message 1   ------------------->     reads the hello, refuses other versions, patterns and subnets
                       <-------------------     message 2
    (XX only) message 3 ------------------->
    first record (PING) ------------------>     only now is the initiator known to be live (message 1 can be replayed)

The hello is six plaintext bytes, bound into the prologue together with the subnet id: ``CCNT``, version, pattern.
Handshake payloads carry the certificate of the sender's static key and four bytes of feature flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from cryptography.exceptions import InvalidTag
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection

from transport.identity import PeerId
from transport.tunnel.errors import HandshakeError
from transport.tunnel.keys import CERTIFICATE_BYTES, KEY_BYTES, TunnelEndpoint, certified_peer
from transport.tunnel.noise_backend import BACKEND

MAGIC = b"CCNT"
VERSION = 1
HELLO_BYTES = 6
FEATURE_BYTES = 4
PAYLOAD_BYTES = CERTIFICATE_BYTES + FEATURE_BYTES


class Features(IntFlag):
    """Optional features, offered in the handshake payload. Unknown bits are ignored; in force is what both offer."""

    PADDING = 1
    """Each side pads batches of small frames (:mod:`transport.tunnel.padding`)."""


class Pattern(IntEnum):
    """Which Noise pattern the initiator chose: the last byte of its hello."""

    IK = 1
    IKPSK2 = 2
    XX = 3

    @property
    def noise_name(self) -> str:
        """As the Noise specification writes it."""
        return {Pattern.IK: "IK", Pattern.IKPSK2: "IKpsk2", Pattern.XX: "XX"}[self]

    @property
    def protocol_name(self) -> str:
        """The Noise protocol name (§8)."""
        return f"Noise_{self.noise_name}_25519_AESGCM_SHA256"


# Length of each handshake message: e (32), s encrypted (48), payload with tag. Anything else is refused unread.
_PAYLOAD = PAYLOAD_BYTES + 16
_IK_LENGTHS = (32 + 48 + _PAYLOAD, 32 + _PAYLOAD)
MESSAGE_LENGTHS = {
    Pattern.IK: _IK_LENGTHS,
    Pattern.IKPSK2: _IK_LENGTHS,
    Pattern.XX: (32, 32 + 48 + _PAYLOAD, 48 + _PAYLOAD),
}


@dataclass(frozen=True)
class HandshakeResult:
    """What both sides hold after the handshake. Keys are AES-256-GCM keys, nonces start at 0."""

    send_key: bytes
    receive_key: bytes
    handshake_hash: bytes
    peer_id: PeerId
    peer_static: bytes
    pattern: Pattern
    initiator: bool
    features: int

    def __repr__(self) -> str:
        return f"HandshakeResult(peer_id={self.peer_id!r}, pattern={self.pattern.name}, initiator={self.initiator})"


def prologue(hello: bytes, subnet: str) -> bytes:
    """What both sides must agree on before the first message: the hello and the subnet id."""
    name = subnet.encode()
    return b"cocoon tunnel\0" + hello + bytes([len(name)]) + name


def hello_of(pattern: Pattern) -> bytes:
    """The plaintext hello that selects this version and ``pattern``."""
    return MAGIC + bytes([VERSION, pattern])


def parse_hello(hello: bytes, *, private: bool) -> Pattern:
    """The pattern that a hello selects. In a private subnet only IKpsk2 passes, in a public one anything else.

    Raises :class:`HandshakeError`; the responder then closes without a byte.
    """
    if len(hello) != HELLO_BYTES or not hello.startswith(MAGIC):
        raise HandshakeError("not a tunnel hello")
    if hello[4] != VERSION:
        raise HandshakeError(f"tunnel version {hello[4]} is not spoken here")
    try:
        pattern = Pattern(hello[5])
    except ValueError as error:
        raise HandshakeError(f"unknown handshake pattern {hello[5]}") from error
    if private != (pattern is Pattern.IKPSK2):
        raise HandshakeError(f"{pattern.name} is not accepted in a {'private' if private else 'public'} subnet")
    return pattern


def choose_pattern(endpoint: TunnelEndpoint, peer_static: bytes | None) -> Pattern:
    """IKpsk2 in a private subnet, else IK where the responder's static key is known, else XX."""
    if endpoint.psk is not None:
        if peer_static is None:
            raise HandshakeError("a private subnet needs the responder's static key (from its signed record)")
        return Pattern.IKPSK2
    return Pattern.XX if peer_static is None else Pattern.IK


class Handshake:
    """One side of one handshake. Feed it with :meth:`read`, send what :meth:`write` returns, until ``result`` is set.

    An instance that raised is dead; its connection must be closed.
    """

    def __init__(
        self,
        endpoint: TunnelEndpoint,
        pattern: Pattern,
        *,
        initiator: bool,
        peer_static: bytes | None = None,
        expected_peer: PeerId | None = None,
    ) -> None:
        self.pattern = pattern
        self.initiator = initiator
        self.hello = hello_of(pattern)
        self.result: HandshakeResult | None = None
        self._endpoint = endpoint
        self._expected_peer = expected_peer
        self._peer: PeerId | None = None
        self._offered = Features.PADDING if endpoint.padding else Features(0)
        self._features = 0
        self._step = 0
        self._lengths = MESSAGE_LENGTHS[pattern]
        noise: Any = NoiseConnection.from_name(pattern.protocol_name.encode(), BACKEND)
        if initiator:
            noise.set_as_initiator()
            if pattern is not Pattern.XX:
                if peer_static is None or len(peer_static) != KEY_BYTES:
                    raise HandshakeError(f"the responder's static key has {KEY_BYTES} bytes")
                noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, peer_static)
        else:
            noise.set_as_responder()
        noise.set_prologue(prologue(self.hello, endpoint.subnet))
        noise.noise_protocol.keypairs["s"] = endpoint.static_key.pair
        if pattern is Pattern.IKPSK2:
            if endpoint.psk is None:
                raise HandshakeError("IKpsk2 needs the subnet's psk")
            noise.set_psks(psk=endpoint.psk)
        noise.start_handshake()
        # Kept apart, since the library deletes its own reference with the last message, before XX's `rs` can be read.
        self._state: Any = noise.noise_protocol.handshake_state
        self._state.e = KeyPair25519.from_private_bytes(endpoint.random_bytes(KEY_BYTES))
        self._noise = noise

    @property
    def reading(self) -> bool:
        """Whether the next message comes from the peer."""
        return (self._step % 2 == 0) != self.initiator

    @property
    def message_length(self) -> int:
        """Length in bytes of the message that comes next, in either direction."""
        return self._lengths[self._step]

    def write(self) -> bytes:
        """The next message to send."""
        assert self.result is None
        assert not self.reading
        # XX's first message goes out in the clear, before any key: it says nothing.
        silent = self.pattern is Pattern.XX and self._step == 0
        payload = b"" if silent else self._endpoint.certificate + self._offered.to_bytes(FEATURE_BYTES, "big")
        message = bytes(self._noise.write_message(payload))
        assert len(message) == self.message_length
        self._advance()
        return message

    def read(self, message: bytes) -> None:
        """Take the peer's next message. Raises :class:`HandshakeError` for any that does not authenticate."""
        assert self.result is None
        assert self.reading
        if len(message) != self.message_length:
            raise HandshakeError("a handshake message of the wrong length")
        try:
            payload = bytes(self._noise.read_message(message))
        except (InvalidTag, ValueError) as error:  # ValueError: a low-order public key
            raise HandshakeError("a handshake message does not authenticate") from error
        if self._state.rs is not None and payload:
            self._authenticate(payload)
        self._advance()

    def _authenticate(self, payload: bytes) -> None:
        if len(payload) != PAYLOAD_BYTES:
            raise HandshakeError("a handshake payload of the wrong length")
        peer = certified_peer(payload[:CERTIFICATE_BYTES], self._state.rs.public_bytes)
        if self._expected_peer is not None and peer != self._expected_peer:
            raise HandshakeError(f"the peer is {peer}, not {self._expected_peer}")
        self._peer = peer
        self._features = self._offered & int.from_bytes(payload[CERTIFICATE_BYTES:], "big")

    def _advance(self) -> None:
        self._step += 1
        if self._step < len(self._lengths):
            return
        assert self._peer is not None
        protocol = self._noise.noise_protocol
        self.result = HandshakeResult(
            send_key=protocol.cipher_state_encrypt.k,
            receive_key=protocol.cipher_state_decrypt.k,
            handshake_hash=bytes(protocol.handshake_hash),
            peer_id=self._peer,
            peer_static=self._state.rs.public_bytes,
            pattern=self.pattern,
            initiator=self.initiator,
            features=self._features,
        )
        self._state = None
