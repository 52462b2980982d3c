"""The cells of a payment channel: its terms, its address, its messages and its stored state.

Layouts follow ``contract/channel.tolk`` and docs/protocols/channel.md. Addresses are raw (``0:`` and 64 hexadecimal
digits, lower case, basechain only), so that one account has one spelling wherever it is compared or signed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any, Self

from pytoniq_core import Address, Cell, StateInit, begin_cell

from overlay.settlement.limits import (
    MAX_AMOUNT_NANOTON,
    MAX_CHALLENGE_PERIOD_S,
    MAX_NONCE,
    MAX_TERMS_BYTES,
    MAX_UINT32,
    REMEMBERED_TERMS,
)
from transport.wire import WireError, decode, encode

_RAW_ADDRESS = re.compile(r"0:[0-9a-f]{64}\Z")

OP_TOP_UP = 0x10C00001
OP_CLAIM = 0x10C00002
OP_CLOSE_TOGETHER = 0x10C00003
OP_START_REFUND = 0x10C00004
OP_FINISH_REFUND = 0x10C00005
OP_PAYOUT = 0x20C00001
OP_REFUND = 0x20C00002
OP_REFUND_STARTED = 0x20C00003
OP_EXCESSES = 0xD53276DB

VOUCHER_TAG = 0x564F5543
"""``VOUC``: the first 32 bits of a voucher; the contract keeps them beside the network id, as vouchers have them."""


def check_address(address: object) -> str:
    """Return ``address`` when it is raw and canonical; ``ValueError`` otherwise."""
    if type(address) is not str or not _RAW_ADDRESS.match(address):
        raise ValueError("an address is written raw here: 0: and 64 lower-case hexadecimal digits")
    return address


def normalise_address(text: str) -> str:
    """Turn any spelling of a basechain address (raw, or the checksummed ``EQ…``/``UQ…`` form) into the raw one.

    Raises ``ValueError`` for anything else, masterchain addresses included.
    """
    try:
        parsed = Address(text.strip())
    except Exception as error:  # pytoniq_core raises several unrelated types on bad input
        raise ValueError(f"not a TON address: {text!r}") from error
    if parsed.wc != 0:
        raise ValueError("payments live in the basechain: the address must be in workchain 0")
    return check_address(raw_address(parsed))


def raw_address(address: Any) -> str:
    """The raw spelling of a pytoniq ``Address``."""
    return f"{address.wc}:{address.hash_part.hex()}"


def address_of(raw: str) -> Any:
    """The pytoniq ``Address`` of a raw one."""
    return Address((0, bytes.fromhex(check_address(raw)[2:])))


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` when it is an integer (no bool) within ``[low, high]``; else a ``ValueError`` names it."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be an integer between {low} and {high}")
    return value


def check_bytes(name: str, value: object, length: int) -> bytes:
    """Return ``value`` when it is exactly ``length`` bytes; ``ValueError`` that names it otherwise."""
    if type(value) is not bytes or len(value) != length:
        raise ValueError(f"{name} must be {length} bytes")
    return value


@cache
def channel_code() -> Any:
    """The contract's code cell, as committed beside its source."""
    return Cell.one_from_boc(files("overlay.settlement.contract").joinpath("channel.boc").read_bytes())


@dataclass(frozen=True)
class ChannelTerms:
    """What a channel is, for ever: everything here is part of its address.

    ``payer`` and ``payee`` are raw addresses, the keys are Ed25519 public keys, ``network_id`` is the chain's
    ``global_id`` (-239 mainnet, -3 testnet), ``expiry_s`` is a Unix time, ``challenge_period_s`` a duration.
    """

    payer: str
    payee: str
    payer_key: bytes
    payee_key: bytes
    network_id: int
    nonce: int
    expiry_s: int
    challenge_period_s: int

    def __post_init__(self) -> None:
        check_address(self.payer)
        check_address(self.payee)
        check_bytes("payer_key", self.payer_key, 32)
        check_bytes("payee_key", self.payee_key, 32)
        check_int("network_id", self.network_id, -(2**31), 2**31 - 1)
        check_int("nonce", self.nonce, 0, MAX_NONCE)
        check_int("expiry_s", self.expiry_s, 1, MAX_UINT32 - MAX_CHALLENGE_PERIOD_S)
        check_int("challenge_period_s", self.challenge_period_s, 0, MAX_CHALLENGE_PERIOD_S)

    def terms_cell(self) -> Any:
        """The inner cell ``ChannelTerms``: what a claim does not need."""
        builder = begin_cell().store_address(address_of(self.payer)).store_bytes(self.payee_key)
        builder.store_uint(self.nonce, 64).store_uint(self.expiry_s, 32)
        return builder.store_uint(self.challenge_period_s, 32).end_cell()

    def data_cell(self) -> Any:
        """``ChannelStorage`` as deployed: open, empty, nothing paid."""
        builder = begin_cell().store_coins(0).store_coins(0).store_address(address_of(self.payee))
        builder.store_bytes(self.payer_key).store_uint(VOUCHER_TAG, 32).store_int(self.network_id, 32)
        return builder.store_uint(0, 32).store_ref(self.terms_cell()).end_cell()

    def state_init(self, code: Any = None) -> Any:
        """The ``StateInit`` that deploys the channel; ``code`` defaults to the committed contract."""
        return StateInit(code=channel_code() if code is None else code, data=self.data_cell())

    def address(self, code: Any = None) -> str:
        """The channel's raw address: the hash of its ``StateInit``."""
        return self._address if code is None else f"0:{self.state_init(code).serialize().hash.hex()}"

    @cached_property
    def _address(self) -> str:
        return f"0:{self.state_init().serialize().hash.hex()}"

    def to_wire(self) -> list[Any]:
        """The terms as a plain value, for messages that carry them."""
        return [
            1, self.payer, self.payee, self.payer_key, self.payee_key,
            self.network_id, self.nonce, self.expiry_s, self.challenge_period_s,
        ]  # fmt: skip

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Parse what :meth:`to_wire` made. Raises :class:`transport.wire.WireError` for anything else."""
        if type(value) is not list or len(value) != 9 or type(value[0]) is not int or value[0] != 1:
            raise WireError("channel terms are a list of nine, version 1 first")
        try:
            return cls(*value[1:])
        except ValueError as error:
            raise WireError(f"bad channel terms: {error}") from error

    def to_bytes(self) -> bytes:
        """The terms in deterministic CBOR."""
        return encode(self.to_wire())

    @staticmethod
    @lru_cache(maxsize=REMEMBERED_TERMS)
    def from_bytes(data: bytes) -> ChannelTerms:
        """Parse what :meth:`to_bytes` made; :class:`transport.wire.WireError` otherwise. Remembered, since a provider
        reads all its channels from the ledger every few seconds, and each address is the hash of a tree of cells."""
        return ChannelTerms.from_wire(decode(data, max_bytes=MAX_TERMS_BYTES))


@dataclass(frozen=True)
class StoredChannel:
    """A channel's data cell, parsed: ``ChannelStorage`` of the contract."""

    closing: bool
    deposit_nanoton: int
    paid_nanoton: int
    close_at_s: int
    terms: ChannelTerms


def parse_channel_data(data: Any) -> StoredChannel:
    """Parse the data cell of a channel account. Raises ``ValueError`` when it is not one of ours."""
    try:
        root = data.begin_parse()
        paid, deposit = root.load_coins() or 0, root.load_coins() or 0
        payee, payer_key = root.load_address(), root.load_bytes(32)
        tag, network_id, close_at = root.load_uint(32), root.load_int(32), root.load_uint(32)
        inner = root.load_ref().begin_parse()
        payer, payee_key = inner.load_address(), inner.load_bytes(32)
        terms = ChannelTerms(
            payer=raw_address(payer), payee=raw_address(payee), payer_key=payer_key, payee_key=payee_key,
            network_id=network_id, nonce=inner.load_uint(64), expiry_s=inner.load_uint(32),
            challenge_period_s=inner.load_uint(32),
        )  # fmt: skip
        leftovers = (root.remaining_bits, root.remaining_refs, inner.remaining_bits, inner.remaining_refs)
    except Exception as error:  # pytoniq_core raises several unrelated types on short cells
        raise ValueError(f"not a channel's data: {error}") from error
    if tag != VOUCHER_TAG or any(leftovers):
        raise ValueError("not a channel's data: another tag or trailing data")
    return StoredChannel(close_at != 0, deposit, paid, close_at, terms)


def answered(message: Any) -> int | None:
    """What a message from a channel pays its receiver: the rest of its value is change. ``None``: no answer of ours.

    ``message`` is a :class:`overlay.settlement.transactions.Message`. ``Excesses`` is nothing but change; ``Payout``
    and ``Refund`` name their amount.
    """
    body = message.body.begin_parse()
    if body.remaining_bits < 96:
        return None
    op = body.load_uint(32)
    if op not in (OP_EXCESSES, OP_PAYOUT, OP_REFUND):
        return None
    body.skip_bits(64)
    try:
        if op == OP_EXCESSES:
            return 0
        body.load_coins()
        return int(body.load_coins() or 0)
    except Exception:  # pytoniq_core raises several unrelated types on short cells
        return None


def top_up_body(query_id: int, amount_nanoton: int) -> Any:
    """``TopUp``: adds ``amount_nanoton`` of the attached value to the deposit; deploys with the first one.

    With query id 0 nothing is answered: what is over stays in the channel until the end, which saves a message.
    """
    check_int("amount_nanoton", amount_nanoton, 1, MAX_AMOUNT_NANOTON)
    return begin_cell().store_uint(OP_TOP_UP, 32).store_uint(query_id, 64).store_coins(amount_nanoton).end_cell()


def claim_body(query_id: int, signature: bytes, voucher: Any, *, close: bool) -> Any:
    """``Claim``: pays the payee what ``voucher`` (a cell) adds; with ``close`` also ends the channel."""
    check_bytes("signature", signature, 64)
    builder = begin_cell().store_uint(OP_CLAIM, 32).store_uint(query_id, 64).store_bytes(signature)
    return builder.store_bit(int(close)).store_ref(voucher).end_cell()


def close_together_body(query_id: int, payer_signature: bytes, payee_signature: bytes, agreement: Any) -> Any:
    """``CloseTogether``: both parties signed ``agreement`` (a cell); anyone may send it."""
    check_bytes("payer_signature", payer_signature, 64)
    check_bytes("payee_signature", payee_signature, 64)
    builder = begin_cell().store_uint(OP_CLOSE_TOGETHER, 32).store_uint(query_id, 64).store_bytes(payer_signature)
    return builder.store_ref(begin_cell().store_bytes(payee_signature).end_cell()).store_ref(agreement).end_cell()


def start_refund_body(query_id: int) -> Any:
    """``StartRefund``: the payer asks for its deposit; the challenge period begins at the expiry or now, if later."""
    return begin_cell().store_uint(OP_START_REFUND, 32).store_uint(query_id, 64).end_cell()


def finish_refund_body(query_id: int) -> Any:
    """``FinishRefund``: after the challenge period, ends the channel and returns what was not claimed."""
    return begin_cell().store_uint(OP_FINISH_REFUND, 32).store_uint(query_id, 64).end_cell()
