"""TON for a simulated swarm: the contract's model behind the interface of the chain client, in virtual time.

Wallets hand in messages; every ``block_s`` a block executes what has arrived and then the messages that follow from it,
those of one hop a block. What a node reads is the newest block, after the way to a liteserver and back. Between the
two stand faults: servers that do not answer.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import trio
from pytoniq_core import begin_cell

from overlay.chain import Chain
from overlay.settlement import ChannelTerms, InsufficientFunds
from overlay.settlement.cells import OP_PAYOUT, OP_REFUND, StoredChannel
from overlay.settlement.chain import ChannelState, TonClient, WalletAccount
from overlay.settlement.errors import ChainUnavailable, OperationFailed
from overlay.settlement.limits import REQUEST_TIMEOUT_S
from overlay.settlement.model import ModelChain, ModelMessage, Outcome
from overlay.settlement.transactions import BOUNCED_OP, AccountTransaction, Message
from overlay.settlement.wallet import Transfer, Wallet

NETWORK_ID = -777
"""The ``global_id`` of simulated chains: no real one has it."""

HISTORY = 64
"""Transactions remembered of an account: a node looks for the last few."""

FEE_MARGIN_NANOTON = 20_000_000
"""What a wallet has to hold beyond what it sends; deploying it and a channel costs less than half of it."""

MAX_WAITING = 10_000
"""Messages handed in that no block has executed yet."""


@dataclass(frozen=True)
class _Told(Message):
    """A message of the model as nodes read it: its operation is known without a cell."""

    said: tuple[int, int] | None = None
    name: bytes = b""

    @property
    def hash(self) -> bytes:
        """A name of its own: there is no cell."""
        return self.name

    def operation(self) -> tuple[int, int] | None:
        """``(op, query id)``."""
        return self.said


@dataclass
class _Waiting:
    """A wallet's message that no block has executed yet."""

    address: str
    transfers: Sequence[Transfer]
    done: trio.Event = field(default_factory=trio.Event)
    transaction: AccountTransaction | None = None


class SimulatedChain:
    """All accounts, and the blocks. ``clock`` gives Unix seconds; run :meth:`run` in a task."""

    def __init__(self, clock: Callable[[], float], *, block_s: float) -> None:
        self.model = ModelChain(NETWORK_ID)
        self.block_s = block_s
        self.height = 0
        self.fees: Counter[str] = Counter()
        """What each account's own transactions have cost, in nanoTON."""
        self.utime_s = int(clock())
        self.on_block: Callable[[], None] = lambda: None
        """Called after each block that executed something."""
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._hop = 0
        self._lt = 0
        self._history: dict[str, deque[AccountTransaction]] = {}
        self._block = trio.Event()

    async def run(self) -> None:
        """Make blocks, for ever. Without messages a block is only a new time."""
        while True:
            await trio.sleep(self.block_s)
            self._make_block()

    def fund(self, wallet: Wallet, nanoton: int) -> None:
        """Give money to a new wallet; once for each."""
        self.model.add_wallet(wallet, nanoton, self.utime_s)

    def hand_in(self, address: str, transfers: Sequence[Transfer]) -> _Waiting:
        """Take a wallet's message for the next block. Raises :class:`OperationFailed` when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise OperationFailed("the liteserver takes no more messages")
        waiting = _Waiting(address, transfers)
        self._waiting.append(waiting)
        return waiting

    def handed_in(self, address: str) -> list[_Waiting]:
        """The messages of a wallet that no block has executed yet."""
        return [waiting for waiting in self._waiting if waiting.address == address]

    def photograph(self) -> Photograph:
        """What a liteserver that stands still from now on goes on telling."""
        model = self.model
        states = {address: model.channel_state(address) for address in model.channels}
        balances = {account.address: account.balance_nanoton
                    for account in (*model.wallets.values(), *model.channels.values())}  # fmt: skip
        return Photograph(self.utime_s, self._lt, states, balances)

    async def next_block(self) -> None:
        """Wait for one."""
        await self._block.wait()

    def transactions(self, address: str, after_lt: int, limit: int) -> list[AccountTransaction]:
        """Of an account, newest first."""
        found = [entry for entry in self._history.get(address, ()) if entry.lt > after_lt]
        return found[::-1][:limit]

    def _make_block(self) -> None:
        self.height += 1
        self.utime_s = int(self._clock())
        arrived, self._waiting = self._waiting, []
        hop = self._hop
        for waiting in arrived:
            if not self._covers(waiting):
                waiting.done.set()
                continue
            outcome = self.model.send(waiting.address, waiting.transfers, self.utime_s)
            waiting.transaction = self._note(waiting.address, None, outcome)
            waiting.done.set()
        delivered = self.model.deliver(self.utime_s, limit=hop) if hop else []
        for done in delivered:
            self._note(done.message.destination, done.message, done.outcome)
        self._hop = self.model.waiting
        if arrived or delivered:
            self.on_block()
        block, self._block = self._block, trio.Event()
        block.set()

    def _covers(self, waiting: _Waiting) -> bool:
        """The wallet's contract ignores what it cannot pay for; another message may have left first."""
        needed = sum(transfer.value_nanoton for transfer in waiting.transfers) + FEE_MARGIN_NANOTON
        return self.model.balance_nanoton(waiting.address) >= needed

    def _note(self, address: str, message: ModelMessage | None, outcome: Outcome) -> AccountTransaction:
        self._lt += 1
        history = self._history.setdefault(address, deque(maxlen=HISTORY))
        previous = history[-1] if history else None
        entry = AccountTransaction(
            cell=None, account=address, lt=self._lt, hash=hashlib.blake2b(b"%d" % self._lt, digest_size=32).digest(),
            utime=self.utime_s, previous_lt=previous.lt if previous else 0,
            previous_hash=previous.hash if previous else bytes(32), fee_nanoton=outcome.fee_nanoton,
            in_message=None if message is None else _told(message), out_messages=tuple(map(_told, outcome.sent)),
            success=outcome.success, exit_code=outcome.exit_code, gas_used=outcome.gas_used, action_result_code=0,
        )  # fmt: skip
        history.append(entry)
        self.fees[address] += outcome.fee_nanoton
        return entry


def _told(message: ModelMessage) -> _Told:
    said = None if message.op is None else (message.op, message.query_id)
    name = hashlib.blake2b(
        f"{message.source} {message.destination} {said} {message.bounced} {message.value_nanoton}".encode(),
        digest_size=32,
    ).digest()
    return _Told(
        cell=None, kind="internal", source=message.source, destination=message.destination,
        value_nanoton=message.value_nanoton, forward_fee_nanoton=message.forward_fee_nanoton, created_lt=0,
        bounced=message.bounced, body=_body(message), said=said, name=name,
    )  # fmt: skip


def _body(message: ModelMessage) -> Any:
    """The cell that the receiver would read."""
    if message.body is not None:
        return message.body
    cell = begin_cell()
    if message.bounced:
        cell.store_uint(BOUNCED_OP, 32)
    if message.op is not None:
        cell.store_uint(message.op, 32).store_uint(message.query_id, 64)
    if message.op in (OP_PAYOUT, OP_REFUND):
        for amount in message.fields:
            cell.store_coins(amount)
    return cell.end_cell()


@dataclass(frozen=True)
class Photograph:
    """The chain at one block."""

    utime_s: int
    lt: int
    states: Mapping[str, StoredChannel | None]
    balances: Mapping[str, int]


@dataclass
class Connection:
    """A node's way to its liteservers: how long an answer takes, and whether one comes."""

    delay_s: float
    down: bool = False
    stuck: Photograph | None = None
    """What its liteservers go on telling when they stand still."""


class SimulatedClient(TonClient):
    """The chain client of one node."""

    def __init__(self, chain: SimulatedChain, connection: Connection) -> None:
        self.chain = chain
        self.connection = connection
        self.network_id = NETWORK_ID

    async def _ask(self) -> None:
        if self.connection.down:
            await trio.sleep(REQUEST_TIMEOUT_S)
            raise ChainUnavailable("no liteserver answers")
        await trio.sleep(self.connection.delay_s)

    async def chain_time_s(self) -> int:
        """The newest block's Unix time, as far as the node can know."""
        await self._ask()
        return self._utime_s()

    def _utime_s(self) -> int:
        stuck = self.connection.stuck
        return self.chain.utime_s if stuck is None else stuck.utime_s

    def balance_nanoton(self, address: str) -> int:
        """Of an account, as the last answer had it."""
        stuck = self.connection.stuck
        return self.chain.model.balance_nanoton(address) if stuck is None else stuck.balances.get(address, 0)

    async def channel_state(self, terms: ChannelTerms, *, was_open: bool = False) -> ChannelState:
        """The channel in the newest block. Raises :class:`ChainUnavailable`."""
        await self._ask()
        address = terms.address()
        stuck, balance = self.connection.stuck, self.balance_nanoton(address)
        stored = self.chain.model.channel_state(address) if stuck is None else stuck.states.get(address)
        gone: Literal["absent", "closed"] = "closed" if was_open else "absent"
        if stored is None or stored.deposit_nanoton == 0:
            return ChannelState(gone, 0, 0, 0, balance, self._utime_s())
        return ChannelState(
            "closing" if stored.closing else "open", stored.deposit_nanoton, stored.paid_nanoton, stored.close_at_s,
            balance, self._utime_s(),
        )  # fmt: skip

    async def transactions(
        self, address: str, *, after_lt: int = 0, since_s: int = 0, limit: int = 256
    ) -> list[AccountTransaction]:
        """The account's transactions, newest first. Raises :class:`ChainUnavailable`."""
        await self._ask()
        found, stuck = self.chain.transactions(address, after_lt, limit), self.connection.stuck
        found = [entry for entry in found if entry.utime >= since_s]
        return found if stuck is None else [entry for entry in found if entry.lt <= stuck.lt]

    async def next_block(self, timeout_s: float = math.inf) -> None:
        """Wait for a block: here they do not come without one."""
        await self.chain.next_block()


class SimulatedAccount(WalletAccount):
    """A node's wallet on the simulated chain. ``rng`` makes query ids."""

    def __init__(self, client: SimulatedClient, wallet: Wallet, rng: random.Random) -> None:
        super().__init__(client, wallet)
        self._chain, self._client = client.chain, client
        self._rng = rng

    async def balance_nanoton(self) -> int:
        """What the wallet holds in the newest block."""
        await self.client.chain_time_s()
        return self._client.balance_nanoton(self.address)

    async def resume(self) -> None:
        """Wait for what an earlier run of this node has handed in: it is executed or dropped with the next block."""
        async with self._sending:
            for waiting in self._chain.handed_in(self.address):
                await waiting.done.wait()

    async def transfer(self, transfers: Sequence[Transfer]) -> AccountTransaction:
        """As the real one: one message at a time, executed or an error. Raises as :meth:`WalletAccount.transfer`."""
        async with self._sending:
            held = await self.balance_nanoton()
            needed = sum(transfer.value_nanoton for transfer in transfers) + FEE_MARGIN_NANOTON
            if held < needed:
                raise InsufficientFunds(
                    f"the wallet {self.address} holds {held} nanoTON and needs {needed}: send it {needed - held} more"
                )
            waiting = self._chain.hand_in(self.address, transfers)
            await waiting.done.wait()
            await self._seen()
            if waiting.transaction is None:
                raise OperationFailed("the wallet's balance did not cover the message when its turn came")
            return waiting.transaction

    async def _seen(self) -> None:
        """The real account looks until the wallet's number moves; it never gives up a message that may have arrived
        while the time of the blocks that it is shown stands still."""
        while self._client.connection.stuck is not None:
            await self.client.next_block()
        await self.client.chain_time_s()

    def query_id(self) -> int:
        """A seeded one."""
        return self._rng.getrandbits(63) | 1 << 63


def chain_of(chain: SimulatedChain, wallet: Wallet, channel_seed: bytes, way: Connection, rng: random.Random) -> Chain:
    """One node's place on the simulated chain."""
    client = SimulatedClient(chain, way)
    return Chain("simulation", {}, client, SimulatedAccount(client, wallet, rng), channel_seed)
