"""The devnet's ledger: accounts, messages between them, and where every nanoTON is.

A block's worth of work is a queue of messages, each run by the real TVM as one transaction of its destination. The
ledger holds the transactions to the TON accounting rules: what an account had plus what came in is what it has, what
it sent and what the network kept. So the balances, the fees and what is still in flight always sum to the supply.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytoniq_core import Cell, ShardAccount

from overlay.settlement.devnet import hashmap
from overlay.settlement.devnet.accounts import ACCOUNTS, NOBODY, key_of, uninit_account
from overlay.settlement.devnet.blocks import Work
from overlay.settlement.devnet.hashmap import Node
from overlay.settlement.devnet.limits import (
    GENESIS_LT,
    LT_STEP,
    MAX_CELL_DEPTH,
    MAX_EXTERNAL_BYTES,
    MAX_TRANSACTIONS_CACHED,
    MAX_TRANSACTIONS_PER_BLOCK,
)
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.devnet.store import Store, TransactionRow
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


@dataclass(frozen=True)
class Sealing:
    """What a block takes out of the ledger: the work itself and what to write down of it.

    ``changed`` has the accounts as they are now (``None``: gone), ``delivered`` counts the messages of earlier blocks
    that were run, ``queued`` are those that wait from this block on.
    """

    work: Work
    changed: dict[str, Account | None]
    delivered: int
    queued: list[Message]


def _account(address: str, cell: Any, encoded: str | None = None) -> Account:
    parsed = ShardAccount.deserialize(cell.begin_parse()).account
    balance = 0 if parsed is None else parsed.storage.balance.grams or 0
    return Account(address, cell, encoded or _encode(cell), balance, parsed is not None)


def _encode(cell: Any) -> str:
    return base64.b64encode(to_boc([cell])).decode()


def _carried(message: Message) -> int:
    return message.value_nanoton + message.forward_fee_nanoton


class Ledger:
    """All accounts of the basechain. Not safe for concurrent use: the devnet calls it under one lock.

    ``clock`` gives Unix seconds; ``store`` is read for what is older than this process. ``fees_nanoton`` and
    ``minted_nanoton`` are since the beginning.
    """

    def __init__(self, tvm: Tvm, store: Store, clock: Callable[[], float]) -> None:
        self._tvm = tvm
        self._store = store
        self._clock = clock
        self.now = int(clock())
        self.lt = GENESIS_LT
        self.minted_nanoton = 0
        self.fees_nanoton = 0
        self._accounts: dict[str, Account] = {}
        self._queue: deque[Message] = deque()
        self._from_earlier_blocks = 0
        self._delivered = 0
        self._work = Work()
        self._parsed: OrderedDict[bytes, AccountTransaction] = OrderedDict()

    def restore(self) -> Node | None:
        """Take over what the store holds; returns the dictionary of accounts."""
        progress = self._store.progress()
        assert progress is not None
        self.now, self.lt = max(self.now, progress.now), progress.lt
        self.minted_nanoton, self.fees_nanoton = progress.minted_nanoton, progress.fees_nanoton
        items = []
        for address, balance, boc in self._store.accounts():
            cell = Cell.one_from_boc(boc)
            self._accounts[address] = Account(address, cell, base64.b64encode(boc).decode(), balance, True)
            items.append((key_of(address), cell, balance))
        self._queue.extend(parse_message(Cell.one_from_boc(boc)) for boc in self._store.queue())
        self._from_earlier_blocks = len(self._queue)
        if not self.totals().conserved:
            raise DevnetError("the devnet's database does not add up: it was changed from outside; start a new one")
        return hashmap.build(ACCOUNTS, items)

    def account(self, address: str) -> Account:
        """The account as it stands; one that does not exist has no money."""
        found = self._accounts.get(address)
        return found if found is not None else Account(address, NOBODY, _NOBODY_ENCODED, 0, False)

    @property
    def accounts(self) -> Mapping[str, Account]:
        """Every account that exists, by its raw address."""
        return self._accounts

    def transactions(self, address: str) -> tuple[AccountTransaction, ...]:
        """The account's transactions that are kept, oldest first, those without a block yet included."""
        kept = [self.parsed(row) for row in reversed(self._store.transactions(address))]
        return (*kept, *(each for each in self._work.transactions if each.account == address))

    def parsed(self, row: TransactionRow) -> AccountTransaction:
        """A stored transaction; the last ones used are kept parsed."""
        found = self._parsed.get(row.hash)
        if found is None:
            found = parse_transaction(Cell.one_from_boc(row.boc))
        self._remember(found)
        return found

    def _remember(self, transaction: AccountTransaction) -> None:
        self._parsed[transaction.hash] = transaction
        self._parsed.move_to_end(transaction.hash)
        if len(self._parsed) > MAX_TRANSACTIONS_CACHED:
            self._parsed.popitem(last=False)

    @property
    def busy(self) -> bool:
        """Whether messages wait for the next block."""
        return bool(self._queue)

    def totals(self) -> Totals:
        """Add up every nanoTON."""
        balances = sum(account.balance_nanoton for account in self._accounts.values())
        return Totals(self.minted_nanoton, balances, self.fees_nanoton, sum(map(_carried, self._queue)))

    def tick(self) -> None:
        """Let time go on: the time of the next transactions and block. It never goes back."""
        self.now = max(self.now, int(self._clock()))

    def mint(self, address: str, balance_nanoton: int) -> None:
        """Make a new account with money out of nothing: the giver at genesis, crowds in tests and benchmarks."""
        if address in self._accounts:
            raise DevnetError(f"the account {address} exists already")
        self._work.touched.setdefault(address, self.account(address).root.hash)
        self._accounts[address] = _account(address, uninit_account(address, balance_nanoton, self.now))
        self.minted_nanoton += balance_nanoton
        self._work.minted_nanoton += balance_nanoton

    async def accept_external(self, boc: bytes) -> AccountTransaction:
        """Run an external message. Its internal messages wait for :meth:`deliver`.

        Raises :class:`MessageRejected` when it is malformed or the account does not accept it: then nothing happened.
        """
        message = read_external(boc)
        self.tick()
        return await self._run(message)

    async def check_external(self, boc: bytes) -> None:
        """Find out whether :meth:`accept_external` would take a message now. Raises :class:`MessageRejected`."""
        message = read_external(boc)
        self.tick()
        await self._emulate(message)

    async def deliver(self, limit: int = MAX_TRANSACTIONS_PER_BLOCK) -> int:
        """Run waiting internal messages, and those that they cause, up to ``limit``; returns how many ran."""
        self.tick()
        count = 0
        while self._queue and count < limit:
            message = self._queue[0]
            await self._run(message)
            self._queue.popleft()
            if self._from_earlier_blocks:
                self._from_earlier_blocks -= 1
                self._delivered += 1
                self._work.imported_nanoton += _carried(message)
            count += 1
        return count

    def take_work(self) -> Sealing:
        """What the next block has to show; from now on work counts for the one after it."""
        work, self._work = self._work, Work()
        queued = list(self._queue)[self._from_earlier_blocks :]
        work.exported_nanoton = sum(map(_carried, queued))
        delivered, self._delivered = self._delivered, 0
        self._from_earlier_blocks = len(self._queue)
        return Sealing(work, {address: self._accounts.get(address) for address in work.touched}, delivered, queued)

    async def _emulate(self, message: Message) -> tuple[str, str]:
        address = message.destination
        assert address is not None
        lt = self.lt + LT_STEP
        seed = hashlib.sha256(b"devnet randomness" + lt.to_bytes(8, "big")).digest()
        before = self.account(address)
        return await self._tvm.transaction(before.encoded, message.cell, now=self.now, lt=lt, seed=seed)

    async def _run(self, message: Message) -> AccountTransaction:
        try:
            encoded_tx, encoded_account = await self._emulate(message)
        except MessageRejected as error:
            if message.kind == "internal":
                raise DevnetError(f"the TVM refused an internal message: {error}") from error
            raise
        assert message.destination is not None
        before = self.account(message.destination)
        self.lt += LT_STEP
        transaction = parse_transaction(Cell.one_from_boc(base64.b64decode(encoded_tx)))
        cell = Cell.one_from_boc(base64.b64decode(encoded_account))
        self._book(before, _account(before.address, cell, encoded_account), message, transaction)
        return transaction

    def _book(self, before: Account, after: Account, message: Message, transaction: AccountTransaction) -> None:
        expected = before.balance_nanoton + transaction.balance_change_nanoton
        if after.balance_nanoton != expected:
            raise DevnetError(
                f"transaction {transaction.hash.hex()} does not add up: {after.balance_nanoton} instead of {expected}"
            )
        fees = transaction.fee_nanoton + message.forward_fee_nanoton
        self.fees_nanoton += fees
        work = self._work
        work.fees_nanoton += fees
        work.touched.setdefault(after.address, before.root.hash)
        work.transactions.append(transaction)
        self._remember(transaction)
        if after.exists:
            self._accounts[after.address] = after
        else:
            self._accounts.pop(after.address, None)
        self._queue.extend(out for out in transaction.out_messages if out.kind == "internal")


def read_external(boc: bytes) -> Message:
    """Parse an external message to a basechain account. Raises :class:`MessageRejected`."""
    if len(boc) > MAX_EXTERNAL_BYTES:
        raise MessageRejected(f"an external message of {len(boc)} bytes, where {MAX_EXTERNAL_BYTES} are allowed", None)
    try:
        cell = Cell.one_from_boc(boc)
        message = parse_message(cell)
    except Exception as error:  # pytoniq_core raises several unrelated types on bad input
        raise MessageRejected(f"not a message: {error}", None) from error
    if cell.get_depth(0) > MAX_CELL_DEPTH:
        raise MessageRejected(f"cells {cell.get_depth(0)} deep, where {MAX_CELL_DEPTH} are allowed", None)
    if message.kind != "external-in" or message.destination is None or not message.destination.startswith("0:"):
        raise MessageRejected("not an external message to a basechain account", None)
    return message


_NOBODY_ENCODED = _encode(NOBODY)
