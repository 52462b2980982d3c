"""What a client and a provider hold each other to: an agreement signed by both.

An agreement is *standing*: one covers as many jobs as fit until it expires or its maximum is used up. Its id is the
SHA-256 of its body, so the tunnel, the channel and the receipts can name it in 32 bytes. Times are by the provider's
clock, which is the one that decides whether a job is admitted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from compute.tasks import Task
from compute.usage import Prices
from overlay.market import limits
from overlay.market.codec import PEER, PRICES, TON_ADDRESS, Record, blob, choice, integer, text
from transport.identity import SIGNATURE_BYTES, Identity, PeerId, verify_peer
from transport.wire import WireError, decode, encode

AGREEMENT_DOMAIN = "market/agreement/1"
_VERSION = 1
_TIME = integer(0, 1 << 53)
_AMOUNT = integer(0, limits.MAX_AMOUNT_NANOTON)


class Tier(StrEnum):
    """How confidential a job is (DESIGN: D8), strongest first. Each is priced on its own."""

    ATTESTED_GPU = "attested-gpu"
    ATTESTED_CPU = "attested-cpu"
    VERIFIED = "verified"
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Who pays: the TON address that refunds go to (raw form) and the Ed25519 key that signs vouchers."""

    address: str
    key: bytes


@dataclass(frozen=True, kw_only=True)
class AgreementBody(Record):
    """The terms. Amounts are nanoTON, prices nanoTON per million units, times Unix milliseconds (provider's clock).

    ``quote`` is the hash of the quote that was accepted, which makes every agreement distinct and ties it to what led
    to it. ``network_id`` is TON's global id (-239 mainnet, -3 testnet).
    """

    client: Annotated[PeerId, PEER]
    provider: Annotated[PeerId, PEER]
    subnet: Annotated[str, text(limits.MAX_SUBNET_CHARS)]
    task: Annotated[Task, choice(Task)]
    model: Annotated[str, text(limits.MAX_MODEL_CHARS)]
    tier: Annotated[Tier, choice(Tier)]
    prices: Annotated[Prices, PRICES]
    credit_window_nanoton: Annotated[int, _AMOUNT]
    max_amount_nanoton: Annotated[int, integer(1, limits.MAX_AMOUNT_NANOTON)]
    min_deposit_nanoton: Annotated[int, _AMOUNT]
    max_parallel: Annotated[int, integer(1, 1 << 16)]
    valid_from_ms: Annotated[int, _TIME]
    valid_until_ms: Annotated[int, _TIME]
    payer_address: Annotated[str, TON_ADDRESS]
    payer_key: Annotated[bytes, blob(32)]
    payee_address: Annotated[str, TON_ADDRESS]
    payee_key: Annotated[bytes, blob(32)]
    network_id: Annotated[int, integer(-(1 << 31), (1 << 31) - 1)]
    quote: Annotated[bytes, blob(32)]

    def _check(self) -> None:
        if not 0 < self.valid_until_ms - self.valid_from_ms <= limits.MAX_AGREEMENT_MS:
            raise ValueError(f"an agreement lasts at most {limits.MAX_AGREEMENT_MS} ms, and ends after it starts")
        if self.client == self.provider:
            raise ValueError("an agreement has two parties")

    def encode(self) -> bytes:
        """The bytes that are hashed and signed."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        return encode({"version": _VERSION, **self.to_map()})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse :meth:`encode`. Raises :class:`~transport.wire.WireError`."""
        value = decode(data, max_bytes=limits.MAX_AGREEMENT_BYTES)
        if type(value) is not dict or value.pop("version", None) != _VERSION:
            raise WireError(f"only version {_VERSION} of an agreement is understood")
        try:
            return cls.from_map(value)
        except ValueError as error:
            raise WireError(f"agreement: {error}") from error


@dataclass(frozen=True)
class Agreement:
    """Terms and both signatures. Build it with :meth:`parse`, or check it with :meth:`verify` before trusting it."""

    body: AgreementBody
    client_signature: bytes
    provider_signature: bytes

    @cached_property
    def id(self) -> bytes:
        """SHA-256 of the body: 32 bytes."""
        return agreement_id(self.body)

    def verify(self) -> bool:
        """Whether both parties signed these terms."""
        data = self.body.encode()
        return verify_peer(self.body.client, AGREEMENT_DOMAIN, data, self.client_signature) and verify_peer(
            self.body.provider, AGREEMENT_DOMAIN, data, self.provider_signature
        )

    def valid_at(self, now_ms: int) -> bool:
        """Whether a job may start under it at ``now_ms`` (Unix milliseconds, provider's clock)."""
        return self.body.valid_from_ms <= now_ms < self.body.valid_until_ms

    def encode(self) -> bytes:
        """As it is stored: ``[body, client's signature, provider's signature]``."""
        return encode([self.body.encode(), self.client_signature, self.provider_signature])

    @classmethod
    def parse(cls, data: bytes) -> Agreement:
        """Parse :meth:`encode` and verify both signatures. Raises :class:`~transport.wire.WireError`."""
        value: Any = decode(data, max_bytes=limits.MAX_AGREEMENT_BYTES + 256)
        if type(value) is not list or len(value) != 3 or not all(type(part) is bytes for part in value):
            raise WireError("an agreement is its body and two signatures")
        agreement = cls(AgreementBody.parse(value[0]), value[1], value[2])
        if not agreement.verify():
            raise WireError("an agreement must be signed by both its parties")
        return agreement


def agreement_id(body: AgreementBody) -> bytes:
    """SHA-256 of the encoded body."""
    return hashlib.sha256(body.encode()).digest()


def sign_agreement(identity: Identity, body: AgreementBody) -> bytes:
    """``identity``'s signature under ``body``: 64 bytes. It must be one of the two parties."""
    assert identity.peer_id in (body.client, body.provider)
    signature = identity.sign(AGREEMENT_DOMAIN, body.encode())
    assert len(signature) == SIGNATURE_BYTES
    return signature
