"""A wallet v5r1 in the model: what sending and taking in messages costs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pytoniq.contract.wallets.wallet_v5 import WALLET_V5_R1_CODE

from overlay.settlement.model.account import Account, ModelEnds, ModelMessage, Outcome, balance_bits
from overlay.settlement.model.fees import Prices, Size, size_of
from overlay.settlement.wallet import Transfer, Wallet

_VALID_FOR_S = 60


@cache
def _code_size() -> Size:
    return size_of(WALLET_V5_R1_CODE)


@dataclass
class WalletModel(Account):
    """A wallet's account; ``gas`` maps what it does to what that costs. One that is not deployed yet is ``uninit``."""

    wallet: Wallet = field(kw_only=True)
    gas: Mapping[str, int] = field(kw_only=True)
    seqno: int = 0

    def state_size(self) -> Size:
        """The wallet's code and its data: one cell of 322 bits."""
        return _code_size() + Size(322, 1)

    def external(self, transfers: Sequence[Transfer], now: int) -> Any:
        """The signed external message (a cell) that sends ``transfers``; deploys the wallet with the first."""
        return self.wallet.sign_transfers(
            transfers, seqno=self.seqno, valid_until_s=now + _VALID_FOR_S, deploy=self.status != "active"
        )

    def send(self, transfers: Sequence[Transfer], now: int) -> Outcome:
        """Accept the external message that sends ``transfers`` and carry it out.

        Raises :class:`ModelEnds` when the balance does not cover it all: the client looks before it sends.
        """
        message = self.external(transfers, now)
        _, fees = self.collect(0, now, credit_first=False)
        import_fee = self.prices.forward_fee(size_of(message, root=False))
        used = self.gas["send"] + self.gas["send one more"] * (len(transfers) - 1)
        gas_fee = self.prices.gas_fee(used)
        if self.balance_nanoton < import_fee + gas_fee:
            raise ModelEnds("the wallet cannot pay for its own message")
        self.balance_nanoton -= import_fee + gas_fee
        self.status, self.seqno = "active", self.seqno + 1
        fees += import_fee + gas_fee
        sent = []
        for transfer in transfers:
            fee = self.prices.forward_fee(_forwarded(transfer, self.prices))
            if self.balance_nanoton < transfer.value_nanoton + fee:
                raise ModelEnds("the wallet cannot pay for what it sends")
            self.balance_nanoton -= transfer.value_nanoton + fee
            kept = self.prices.kept(fee)
            fees += kept
            sent.append(_outgoing(self.address, transfer, fee - kept))
        return Outcome("send", 0, used, fees, tuple(sent))

    def receive(self, message: ModelMessage, now: int) -> Outcome:
        """Take a message in: what it carries is the wallet's, less the gas of looking at it."""
        value, fees = self.collect(message.value_nanoton, now, credit_first=not message.bounce)
        limit = self.prices.gas_bought(value)
        if self.status != "active" or not limit:
            sent, kept = self.bounce(message, value, 0)
            self.settle_status()
            return Outcome("no gas" if not limit else "no state", None, 0, fees + kept, sent)
        path = "receive plain" if message.op is None and not message.bounced else "receive"
        used, code = self.gas[path], 0
        if used > limit:
            used, code = limit, -14
        gas_fee = self.prices.gas_fee(used)
        self.balance_nanoton -= gas_fee
        if code:
            sent, kept = self.bounce(message, value, gas_fee)
            return Outcome("out of gas", code, used, fees + gas_fee + kept, sent)
        return Outcome(path, 0, used, fees + gas_fee)


_ROOT_BITS = 1023
_SOURCE_BITS = 267 - 2
"""The network writes the sender's address over ``addr_none``."""


def _forwarded(transfer: Transfer, prices: Prices) -> Size:
    """The size of a message as it leaves: what does not fit beside the sender's address moves to cells of its own,
    first the ``StateInit``, then the body (transaction.cpp, ``try_action_send_msg``).
    """
    cell = transfer.message_cell()
    size = size_of(cell, root=False)
    fee = prices.forward_fee(size)
    bits = len(cell.bits) + _SOURCE_BITS + balance_bits(fee - prices.kept(fee)) - 4
    body_bits = 0 if transfer.body is None else len(transfer.body.bits)
    headed = len(cell.bits) - (378 + balance_bits(transfer.value_nanoton)) - 1  # what is left is the init and the body
    init_bits = 0 if transfer.state_init is None else 5
    body_inline = bool(body_bits) and headed - body_bits in (1, 2, 2 + init_bits)
    if bits > _ROOT_BITS and init_bits and headed - (body_bits if body_inline else 0) == 2 + init_bits:
        size, bits = size + Size(init_bits, 1), bits - init_bits
    if bits > _ROOT_BITS and body_inline:
        size += Size(body_bits, 1)
    return size


def _outgoing(source: str, transfer: Transfer, forward_fee: int) -> ModelMessage:
    op, query_id = None, 0
    if transfer.body is not None:
        cursor = transfer.body.begin_parse()
        if cursor.remaining_bits >= 96:
            op, query_id = cursor.load_uint(32), cursor.load_uint(64)
    return ModelMessage(
        source, transfer.destination, transfer.value_nanoton, forward_fee, bounce=transfer.bounce, op=op,
        query_id=query_id, body=transfer.body, deploys=transfer.state_init is not None,
    )  # fmt: skip
