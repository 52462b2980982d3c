"""The devnet's ledger: accounts, messages between them, and where every nanoTON is.

A block's worth of work is a queue of messages, each run by the real TVM as one transaction of its destination. The
ledger holds the transactions to the TON accounting rules: what an account had plus what came in is what it has, what
it sent and what the network kept. So the balances, the fees and what is still in flight always sum to the supply.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytoniq_core import Cell, ShardAccount, begin_cell

from overlay.settlement.cells import address_of
from overlay.settlement.devnet.limits import (
    LT_STEP,
    MAX_EXTERNAL_BYTES,
    MAX_TRANSACTIONS_KEPT,
    MAX_TRANSACTIONS_PER_BLOCK,
)
from overlay.settlement.devnet.tvm import MessageRejected, Tvm
from overlay.settlement.errors import DevnetError
from overlay.settlement.transactions import AccountTransaction, Message, parse_message, parse_transaction


@dataclass(frozen=True)
class Account:
    """One account at one moment. ``cell`` is its ``ShardAccount``; ``root`` the ``Account`` inside it."""

    address: str
    cell: Any
    encoded: str
    balance_nanoton: int
    exists: bool

    @property
    def root(self) -> Any:
        """The account's own cell, which ``getAccountState`` hands out."""
        return self.cell.refs[0]


@dataclass(frozen=True)
class Totals:
    """Where the money is, in nanoTON: the first is always the sum of the other three."""

    minted_nanoton: int
    balances_nanoton: int
    fees_nanoton: int
    in_flight_nanoton: int

    @property
    def conserved(self) -> bool:
        """Whether nothing was lost or made."""
        return self.minted_nanoton == self.balances_nanoton + self.fees_nanoton + self.in_flight_nanoton


_NOBODY = begin_cell().store_ref(begin_cell().store_bit(0).end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()


def _account(address: str, cell: Any, encoded: str | None = None) -> Account:
    parsed = ShardAccount.deserialize(cell.begin_parse()).account
    balance = 0 if parsed is None else parsed.storage.balance.grams or 0
    encoded = base64.b64encode(cell.to_boc()).decode() if encoded is None else encoded
    return Account(address, cell, encoded, balance, parsed is not None)


def genesis_account(address: str, balance_nanoton: int, now: int) -> Any:
    """The ``ShardAccount`` of an account that has money and no code yet (account_uninit)."""
    account = begin_cell().store_bit(1).store_address(address_of(address))
    account.store_uint(1, 3).store_uint(1, 8).store_uint(1, 3).store_uint(103, 8)  # storage_used: 1 cell, 103 bits
    account.store_uint(0, 3).store_uint(now, 32).store_bit(0)  # storage_extra_none, last_paid, no due payment
    account.store_uint(0, 64).store_coins(balance_nanoton).store_bit(0).store_uint(0, 2)  # account_uninit$00
    return begin_cell().store_ref(account.end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()


class Ledger:
    """All accounts of the basechain. Not safe for concurrent use: the devnet calls it under one lock.

    ``clock`` gives Unix seconds. ``changed`` collects the addresses whose state the next block must show.
    """

    def __init__(self, tvm: Tvm, clock: Callable[[], float], *, giver: str, supply_nanoton: int) -> None:
        self._tvm = tvm
        self._clock = clock
        self.now = int(clock())
        self.lt = 1_000_000
        self._accounts = {giver: _account(giver, genesis_account(giver, supply_nanoton, self.now))}
        self._transactions: dict[str, deque[AccountTransaction]] = {}
        self._queue: deque[Message] = deque()
        self._minted = supply_nanoton
        self._fees = 0
        self.changed: set[str] = {giver}

    def account(self, address: str) -> Account:
        """The account as it stands; one that does not exist has no money."""
        found = self._accounts.get(address)
        return found if found is not None else _account(address, _NOBODY)

    def transactions(self, address: str) -> tuple[AccountTransaction, ...]:
        """The account's transactions that are kept, oldest first."""
        return tuple(self._transactions.get(address, ()))

    @property
    def busy(self) -> bool:
        """Whether messages wait for the next block."""
        return bool(self._queue)

    def totals(self) -> Totals:
        """Add up every nanoTON."""
        balances = sum(account.balance_nanoton for account in self._accounts.values())
        in_flight = sum(message.value_nanoton + message.forward_fee_nanoton for message in self._queue)
        return Totals(self._minted, balances, self._fees, in_flight)

    def tick(self) -> None:
        """Let time go on: the time of the next transactions and block. It never goes back."""
        self.now = max(self.now, int(self._clock()))

    async def accept_external(self, boc: bytes) -> AccountTransaction:
        """Run an external message. Its internal messages wait for :meth:`deliver`.

        Raises :class:`MessageRejected` when it is malformed or the account does not accept it: then nothing happened.
        """
        if len(boc) > MAX_EXTERNAL_BYTES:
            raise MessageRejected(
                f"an external message of {len(boc)} bytes, where {MAX_EXTERNAL_BYTES} are allowed", None
            )
        try:
            cell = Cell.one_from_boc(boc)
            message = parse_message(cell)
        except Exception as error:  # pytoniq_core raises several unrelated types on bad input
            raise MessageRejected(f"not a message: {error}", None) from error
        if message.kind != "external-in" or message.destination is None or not message.destination.startswith("0:"):
            raise MessageRejected("not an external message to a basechain account", None)
        self.tick()
        return await self._run(message)

    async def deliver(self) -> int:
        """Run waiting internal messages, and those that they cause, up to a block's worth; returns how many ran."""
        self.tick()
        count = 0
        while self._queue and count < MAX_TRANSACTIONS_PER_BLOCK:
            await self._run(self._queue[0])
            self._queue.popleft()
            count += 1
        return count

    async def _run(self, message: Message) -> AccountTransaction:
        address = message.destination
        assert address is not None
        before = self.account(address)
        lt = self.lt + LT_STEP
        seed = hashlib.sha256(b"devnet randomness" + lt.to_bytes(8, "big")).digest()
        try:
            encoded_tx, encoded_account = await self._tvm.transaction(
                before.encoded, message.cell, now=self.now, lt=lt, seed=seed
            )
        except MessageRejected as error:
            if message.kind == "internal":
                raise DevnetError(f"the TVM refused an internal message: {error}") from error
            raise
        self.lt = lt
        transaction = parse_transaction(Cell.one_from_boc(base64.b64decode(encoded_tx)))
        after = _account(address, Cell.one_from_boc(base64.b64decode(encoded_account)), encoded_account)
        self._book(before, after, message, transaction)
        return transaction

    def _book(self, before: Account, after: Account, message: Message, transaction: AccountTransaction) -> None:
        expected = before.balance_nanoton + transaction.balance_change_nanoton
        if after.balance_nanoton != expected:
            raise DevnetError(
                f"transaction {transaction.hash.hex()} does not add up: {after.balance_nanoton} instead of {expected}"
            )
        self._fees += transaction.fee_nanoton + message.forward_fee_nanoton
        if after.exists:
            self._accounts[after.address] = after
        else:
            self._accounts.pop(after.address, None)
        self.changed.add(after.address)
        history = self._transactions.setdefault(after.address, deque(maxlen=MAX_TRANSACTIONS_KEPT))
        history.append(transaction)
        self._queue.extend(out for out in transaction.out_messages if out.kind == "internal")
