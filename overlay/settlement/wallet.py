"""The wallet of a node: TON's wallet v5r1, from 24 words, and the external messages that it signs.

Pure: nothing here talks to a chain (:mod:`overlay.settlement.chain` sends what is made here). The wallet's id, and so
its address, holds the network id: the same words have another address on another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from nacl import bindings
from pytoniq.contract.wallets.wallet_v5 import WALLET_V5_R1_CODE
from pytoniq_core import (
    Address,
    Cell,
    CurrencyCollection,
    ExternalMsgInfo,
    InternalMsgInfo,
    MessageAny,
    StateInit,
    begin_cell,
)

from overlay.settlement.cells import address_of, check_bytes, check_int
from overlay.settlement.limits import MAX_AMOUNT_NANOTON, MAX_TRANSFERS, MAX_UINT32
from overlay.settlement.mnemonic import mnemonic_seed

_ACTION_SEND_MESSAGE = 0x0EC3C86D
_SIGNED_EXTERNAL = 0x7369676E
_SEND_MODE = 3
"""Fees paid separately, errors ignored: wallet v5 insists on the latter for external messages (its error 137)."""


@dataclass(frozen=True)
class Transfer:
    """One message to send: ``value_nanoton`` to ``destination`` (raw), with a body and, to deploy, a ``StateInit``."""

    destination: str
    value_nanoton: int
    body: Any = None
    state_init: Any = None
    bounce: bool = True

    def message_cell(self) -> Any:
        """The internal message as the wallet's action carries it."""
        check_int("value_nanoton", self.value_nanoton, 0, MAX_AMOUNT_NANOTON)
        info = InternalMsgInfo(
            ihr_disabled=True, bounce=self.bounce, bounced=False, src=None, dest=address_of(self.destination),
            value=CurrencyCollection(self.value_nanoton), ihr_fee=0, fwd_fee=0, created_lt=0, created_at=0,
        )  # fmt: skip
        body = Cell.empty() if self.body is None else self.body
        return MessageAny(info=info, init=self.state_init, body=body).serialize()


@dataclass(frozen=True)
class Wallet:
    """A v5r1 wallet's key on one network. ``repr`` never shows the seed."""

    seed: bytes = field(repr=False)
    network_id: int
    public_key: bytes = field(init=False)
    address: str = field(init=False)
    _secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_bytes("a seed", self.seed, 32)
        check_int("network_id", self.network_id, -(2**31), 2**31 - 1)
        public, secret = bindings.crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public_key", public)
        object.__setattr__(self, "_secret", secret)
        object.__setattr__(self, "address", f"0:{self.state_init().serialize().hash.hex()}")

    @classmethod
    def from_mnemonic(cls, words: str | Sequence[str], network_id: int, password: str = "") -> Self:
        """The wallet of 24 words and their password, where they have one.

        Raises ``ValueError`` when they are not a valid TON mnemonic. Takes about 0.1 s.
        """
        listed = words.split() if isinstance(words, str) else list(words)
        return cls(mnemonic_seed(listed, password), network_id)

    @property
    def wallet_id(self) -> int:
        """The 32-bit id in the wallet's data: context of a client wallet, xor the network id."""
        return _wallet_id(self.network_id)

    def state_init(self) -> Any:
        """The ``StateInit`` that deploys the wallet."""
        return _state_init(self.public_key, self.network_id)

    def friendly_address(self) -> str:
        """The address as wallets show it: non-bounceable, url-safe, marked when it is not mainnet's."""
        return _friendly(self.address, self.network_id)

    def sign_transfers(self, transfers: Sequence[Transfer], *, seqno: int, valid_until_s: int, deploy: bool) -> Any:
        """The signed external message (a cell) that sends ``transfers``, accepted once, until ``valid_until_s``.

        ``deploy`` puts the ``StateInit`` in: needed while the wallet has no code, that is at sequence number 0.
        Raises ``ValueError`` for more than 255 transfers or none.
        """
        if not 1 <= len(transfers) <= MAX_TRANSFERS:
            raise ValueError(f"a wallet sends between 1 and {MAX_TRANSFERS} messages at once")
        check_int("valid_until_s", valid_until_s, 1, MAX_UINT32)
        actions = Cell.empty()
        for transfer in transfers:
            action = begin_cell().store_ref(actions).store_uint(_ACTION_SEND_MESSAGE, 32).store_uint(_SEND_MODE, 8)
            actions = action.store_ref(transfer.message_cell()).end_cell()
        body = begin_cell().store_uint(_SIGNED_EXTERNAL, 32).store_uint(self.wallet_id, 32)
        body.store_uint(valid_until_s, 32).store_uint(seqno, 32).store_bit(1).store_ref(actions).store_bit(0)
        unsigned = body.end_cell()
        signature = bindings.crypto_sign(unsigned.hash, self._secret)[:64]
        signed = begin_cell().store_cell(unsigned).store_bytes(signature).end_cell()
        info = ExternalMsgInfo(None, address_of(self.address), 0)
        return MessageAny(info=info, init=self.state_init() if deploy else None, body=signed).serialize()


def wallet_address(words: Sequence[str], network_id: int = -239, password: str = "") -> str:
    """The address, as wallets show it, of these words' wallet on a network (mainnet when none is named)."""
    return Wallet.from_mnemonic(words, network_id, password).friendly_address()


def wallet_address_of_key(public_key: bytes, network_id: int) -> str:
    """The address, as wallets show it, of the wallet with this Ed25519 public key on a network."""
    return _friendly(f"0:{_state_init(public_key, network_id).serialize().hash.hex()}", network_id)


def _wallet_id(network_id: int) -> int:
    context = 1 << 31  # context_id_client$1 wc:int8 version:uint8 counter:uint15, all of them zero here
    return (context ^ network_id) & 0xFFFFFFFF


def _state_init(public_key: bytes, network_id: int) -> Any:
    data = begin_cell().store_bit(1).store_uint(0, 32).store_uint(_wallet_id(network_id), 32)
    return StateInit(code=WALLET_V5_R1_CODE, data=data.store_bytes(public_key).store_bit(0).end_cell())


def _friendly(raw: str, network_id: int) -> str:
    address = Address((0, bytes.fromhex(raw[2:])))
    text: str = address.to_str(is_bounceable=False, is_test_only=network_id != -239)
    return text


def wallet_seqno(data: Any) -> int:
    """The sequence number in a v5r1 wallet's data cell."""
    cursor = data.begin_parse()
    cursor.load_bit()
    number: int = cursor.load_uint(32)
    return number
