"""Vouchers and close agreements: the two things that channel keys sign, and how they hash.

The hot path signs and verifies a voucher for every few tokens of every job, so the cell hash is computed straight
from the fixed bit layout (docs/protocols/voucher.md): they hold 399 and 367 bits and the amount's bytes,
never a reference, and always end one bit short of a byte, so the representation is one integer with a completion bit.
A signature is Ed25519 (RFC 8032) over the 32 bytes of the cell hash, which is what the contract verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Self

from nacl import bindings
from nacl.exceptions import BadSignatureError
from pytoniq_core import begin_cell

from overlay.settlement.cells import VOUCHER_TAG, address_of, check_address, check_bytes, check_int
from overlay.settlement.limits import MAX_AMOUNT_NANOTON, MAX_CELL_CACHE, MAX_SEQ, MAX_UINT32, MAX_VOUCHER_BYTES
from transport.wire import WireError, decode, encode

CLOSE_TAG = 0x434C4F53


@lru_cache(maxsize=MAX_CELL_CACHE)
def _prefix(tag: int, network_id: int, channel: str) -> int:
    """tag:uint32 networkId:int32 channel:MsgAddressInt (addr_std$10, no anycast, workchain 0) as one integer."""
    head = (tag << 32) | (network_id & 0xFFFFFFFF)
    return (head << 267) | (0b100 << 264) | int(check_address(channel)[2:], 16)


@lru_cache(maxsize=16)
def _secret_key(seed: bytes) -> bytes:
    secret: bytes = bindings.crypto_sign_seed_keypair(check_bytes("a seed", seed, 32))[1]
    return secret


def channel_public_key(seed: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) of a 32-byte channel seed."""
    return _secret_key(seed)[32:]


def sign_cell_hash(seed: bytes, cell_hash: bytes) -> bytes:
    """Sign the 32 bytes of a cell hash; returns 64 bytes."""
    signed: bytes = bindings.crypto_sign(cell_hash, _secret_key(seed))
    return signed[:64]


def verify_cell_hash(public_key: bytes, cell_hash: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``cell_hash`` was made by ``public_key``. Never raises on bad input."""
    if type(signature) is not bytes or len(signature) != 64 or len(public_key) != 32:
        return False
    try:
        bindings.crypto_sign_open(signature + cell_hash, public_key)
    except (BadSignatureError, ValueError):
        return False
    return True


def _hash(value: int, bits: int) -> bytes:
    """The representation hash of an ordinary cell without references whose ``bits`` leave one bit of the last byte."""
    assert bits % 8 == 7
    size = (bits + 1) // 8
    # Descriptors (TVM §3.1.4): no references, level 0; then the number of whole bytes plus the number of bytes begun.
    return sha256(bytes((0, 2 * size - 1)) + ((value << 1) | 1).to_bytes(size, "big")).digest()


@dataclass(frozen=True, slots=True)
class Voucher:
    """The payer's word that ``amount_nanoton`` in all, since the channel was opened, is the payee's."""

    channel: str
    network_id: int
    seq: int
    amount_nanoton: int

    def __post_init__(self) -> None:
        check_address(self.channel)
        check_int("network_id", self.network_id, -(2**31), 2**31 - 1)
        check_int("seq", self.seq, 1, MAX_SEQ)
        check_int("amount_nanoton", self.amount_nanoton, 1, MAX_AMOUNT_NANOTON)

    def cell_hash(self) -> bytes:
        """The 32 bytes that are signed."""
        amount = self.amount_nanoton
        length = (amount.bit_length() + 7) >> 3
        head = (_prefix(VOUCHER_TAG, self.network_id, self.channel) << 64) | self.seq
        return _hash((((head << 4) | length) << (8 * length)) | amount, 399 + 8 * length)

    def to_cell(self) -> Any:
        """The cell itself, to put into a claim."""
        builder = begin_cell().store_uint(VOUCHER_TAG, 32).store_int(self.network_id, 32)
        builder.store_address(address_of(self.channel)).store_uint(self.seq, 64)
        return builder.store_coins(self.amount_nanoton).end_cell()

    def sign(self, seed: bytes) -> bytes:
        """The payer's signature (64 bytes) with its 32-byte channel seed."""
        return sign_cell_hash(seed, self.cell_hash())

    def verify(self, public_key: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is ``public_key``'s over this voucher. Never raises on bad input."""
        return verify_cell_hash(public_key, self.cell_hash(), signature)

    def to_wire(self) -> list[Any]:
        """``[channel's 32 bytes, network id, seq, amount]``, for messages that carry vouchers."""
        return [bytes.fromhex(self.channel[2:]), self.network_id, self.seq, self.amount_nanoton]

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Parse what :meth:`to_wire` made. Raises :class:`transport.wire.WireError` for anything else."""
        if type(value) is not list or len(value) != 4:
            raise WireError("a voucher is a list of four")
        try:
            channel = check_bytes("channel", value[0], 32)
            return cls(f"0:{channel.hex()}", *value[1:])
        except ValueError as error:
            raise WireError(f"bad voucher: {error}") from error

    def to_bytes(self) -> bytes:
        """The voucher in deterministic CBOR."""
        return encode(self.to_wire())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse what :meth:`to_bytes` made; :class:`transport.wire.WireError` otherwise."""
        return cls.from_wire(decode(data, max_bytes=MAX_VOUCHER_BYTES))


@dataclass(frozen=True, slots=True)
class CloseAgreement:
    """Both parties' word that the channel ends with ``amount_nanoton`` in all for the payee, the rest for the payer."""

    channel: str
    network_id: int
    amount_nanoton: int
    valid_until_s: int

    def __post_init__(self) -> None:
        check_address(self.channel)
        check_int("network_id", self.network_id, -(2**31), 2**31 - 1)
        check_int("amount_nanoton", self.amount_nanoton, 0, MAX_AMOUNT_NANOTON)
        check_int("valid_until_s", self.valid_until_s, 1, MAX_UINT32)

    def cell_hash(self) -> bytes:
        """The 32 bytes that both sign."""
        amount = self.amount_nanoton
        length = (amount.bit_length() + 7) >> 3
        head = (_prefix(CLOSE_TAG, self.network_id, self.channel) << 4) | length
        value = (((head << (8 * length)) | amount) << 32) | self.valid_until_s
        return _hash(value, 367 + 8 * length)

    def to_cell(self) -> Any:
        """The cell itself, to put into the closing message."""
        builder = begin_cell().store_uint(CLOSE_TAG, 32).store_int(self.network_id, 32)
        builder.store_address(address_of(self.channel)).store_coins(self.amount_nanoton)
        return builder.store_uint(self.valid_until_s, 32).end_cell()

    def sign(self, seed: bytes) -> bytes:
        """One party's signature (64 bytes) with its 32-byte channel seed."""
        return sign_cell_hash(seed, self.cell_hash())

    def verify(self, public_key: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is ``public_key``'s over this agreement. Never raises on bad input."""
        return verify_cell_hash(public_key, self.cell_hash(), signature)

    def to_wire(self) -> list[Any]:
        """``[channel's 32 bytes, network id, amount, valid until]``."""
        return [bytes.fromhex(self.channel[2:]), self.network_id, self.amount_nanoton, self.valid_until_s]

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Parse what :meth:`to_wire` made. Raises :class:`transport.wire.WireError` for anything else."""
        if type(value) is not list or len(value) != 4:
            raise WireError("a close agreement is a list of four")
        try:
            channel = check_bytes("channel", value[0], 32)
            return cls(f"0:{channel.hex()}", *value[1:])
        except ValueError as error:
            raise WireError(f"bad close agreement: {error}") from error

    def to_bytes(self) -> bytes:
        """The agreement in deterministic CBOR."""
        return encode(self.to_wire())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse what :meth:`to_bytes` made; :class:`transport.wire.WireError` otherwise."""
        return cls.from_wire(decode(data, max_bytes=MAX_VOUCHER_BYTES))
