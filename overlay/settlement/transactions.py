"""Transactions and messages, read from their cells (TL-B ``Transaction``, ``Message Any`` of block.tlb).

Both sides use this: the devnet to account for every nanoTON, the client to find out what became of its messages and
what they cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pytoniq_core import MessageAny, Transaction

from overlay.settlement.cells import raw_address

BOUNCED_OP = 0xFFFFFFFF


@dataclass(frozen=True)
class Message:
    """One message. Amounts in nanoTON; ``forward_fee_nanoton`` is what the receiving side's validators still get."""

    cell: Any
    kind: Literal["internal", "external-in", "external-out"]
    source: str | None
    destination: str | None
    value_nanoton: int
    forward_fee_nanoton: int
    created_lt: int
    bounced: bool
    body: Any

    @property
    def hash(self) -> bytes:
        """The hash of the message's cell."""
        value: bytes = self.cell.hash
        return value

    def operation(self) -> tuple[int, int] | None:
        """``(op, query id)`` of the body, those of the original message for a bounced one, ``None`` when too short."""
        body = self.body.begin_parse()
        if self.bounced and (body.remaining_bits < 32 or body.load_uint(32) != BOUNCED_OP):
            return None
        if body.remaining_bits < 96:
            return None
        return body.load_uint(32), body.load_uint(64)


@dataclass(frozen=True)
class AccountTransaction:
    """One transaction of one account. ``fee_nanoton`` is its ``total_fees``: storage, compute and action fees."""

    cell: Any
    account: str
    lt: int
    hash: bytes
    utime: int
    previous_lt: int
    previous_hash: bytes
    fee_nanoton: int
    in_message: Message | None
    out_messages: tuple[Message, ...]
    success: bool
    exit_code: int | None
    gas_used: int
    action_result_code: int | None

    @property
    def balance_change_nanoton(self) -> int:
        """What the transaction added to the account's balance: value in, less fees, less what its messages carry."""
        received = self.in_message.value_nanoton if self.in_message else 0
        sent = sum(message.value_nanoton + message.forward_fee_nanoton for message in self.out_messages)
        return received - self.fee_nanoton - sent


def parse_message(cell: Any) -> Message:
    """Parse a message cell. Raises pytoniq_core's errors on malformed cells."""
    message = MessageAny.deserialize(cell.begin_parse())
    info = message.info
    if message.is_internal:
        return Message(
            cell, "internal", _std(info.src), _std(info.dest), info.value.grams or 0, info.fwd_fee or 0,
            info.created_lt, bool(info.bounced), message.body,
        )  # fmt: skip
    if message.is_external:
        return Message(cell, "external-in", None, _std(info.dest), 0, 0, 0, False, message.body)
    return Message(cell, "external-out", _std(info.src), None, 0, 0, info.created_lt, False, message.body)


def _std(address: Any) -> str | None:
    return raw_address(address) if address is not None and hasattr(address, "hash_part") else None


def parse_transaction(cell: Any, workchain: int = 0) -> AccountTransaction:
    """Parse an ordinary transaction's cell. Raises pytoniq_core's errors on malformed cells."""
    tx = Transaction.deserialize(cell.begin_parse())
    slot = cell.refs[0].begin_parse()
    in_cell = slot.load_ref() if slot.load_bit() else None
    out_cells = slot.load_dict(15, value_deserializer=lambda value: value.load_ref()) or {}
    compute = getattr(tx.description, "compute_ph", None)
    action = getattr(tx.description, "action", None)
    return AccountTransaction(
        cell=cell,
        account=f"{workchain}:{tx.account_addr_hex}",
        lt=tx.lt,
        hash=cell.hash,
        utime=tx.now,
        previous_lt=tx.prev_trans_lt,
        previous_hash=tx.prev_trans_hash,
        fee_nanoton=tx.total_fees.grams or 0,
        in_message=parse_message(in_cell) if in_cell is not None else None,
        out_messages=tuple(parse_message(out_cells[index]) for index in sorted(out_cells)),
        success=not tx.description.aborted,
        exit_code=getattr(compute, "exit_code", None),
        gas_used=getattr(compute, "gas_used", 0) or 0,
        action_result_code=getattr(action, "result_code", None),
    )
