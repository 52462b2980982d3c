"""The chain as the rest of the node sees it: proved states, transactions, messages out. One trio object."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, TypeVarTuple

import trio

from overlay.settlement.asyncio_bridge import AsyncThread
from overlay.settlement.cells import ChannelTerms, channel_code, check_address, parse_channel_data
from overlay.settlement.chain.blockstore import BlockStore
from overlay.settlement.chain.limits import MAX_CLOCK_SKEW_S, PRICES_TTL_S
from overlay.settlement.chain.network import Network, read_global_config
from overlay.settlement.chain.pool import LitePool, ServerReport
from overlay.settlement.chain.prices import PRICE_PARAMETERS, Prices
from overlay.settlement.chain.proved import AccountState, ProvedAnswer
from overlay.settlement.chain.skew import ChainClock, skew_text
from overlay.settlement.errors import ChainUnavailable, ClockSkewed, ProofRejected
from overlay.settlement.limits import CONFIRM_TIMEOUT_S, MAX_TRANSACTIONS_READ, POLL_INTERVAL_S
from overlay.settlement.transactions import AccountTransaction

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_ANY_ACCOUNT = "0:" + "00" * 32

_elapsed_s = trio.current_time
"""A monotonic clock, to tell a wrong wall clock from a chain that stands still."""


@dataclass(frozen=True)
class ChannelState:
    """A channel in one proved shard state. Amounts in nanoTON, times Unix seconds; zeros when there is no account.

    ``absent``: no such account, or one that never had a deposit; ``closed``: the same where one was known.
    ``spendable_nanoton`` is what vouchers may still promise beyond ``paid_nanoton``.
    """

    status: Literal["absent", "open", "closing", "closed"]
    deposit_nanoton: int
    paid_nanoton: int
    close_at_s: int
    balance_nanoton: int
    utime_s: int

    @property
    def spendable_nanoton(self) -> int:
        """Deposit less payouts."""
        return self.deposit_nanoton - self.paid_nanoton


class TonClient:
    """Reads the chain and sends messages. Make one with :meth:`connect`; tasks may share it."""

    def __init__(
        self, bridge: AsyncThread, pool: LitePool, clock: Callable[[], float], on_news: Callable[[str], None]
    ) -> None:
        self._bridge = bridge
        self._pool = pool
        self._clock = clock
        self._on_news = on_news
        self._chain_clock = ChainClock()
        self._prices: Prices | None = None
        self._prices_until = 0.0
        self.network_id = 0
        """The chain's ``global_id``, from the first proved state."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        config: dict[str, Any],
        *,
        clock: Callable[[], float] = time.time,
        trust_level: int = 1,
        quorum: int = 0,
        network_id: int | None = None,
        blocks: BlockStore | None = None,
        on_news: Callable[[str], None] = lambda _line: None,
    ) -> AsyncIterator[TonClient]:
        """Connect to the network of a ``global.config.json`` (as a dictionary); hang up when the block is left.

        ``clock`` gives Unix seconds, to notice servers that are behind and a clock that is wrong. ``trust_level`` and
        ``quorum`` (0: two of three servers) say what is believed (docs/protocols/channel.md, "Reading the chain");
        ``network_id`` is the ``global_id`` that the caller expects, ``blocks`` remembers proved key blocks, ``on_news``
        gets a line for each server found wrong. Raises ``ValueError`` for a config that is malformed or of another
        network, :class:`ChainUnavailable` when too few servers answer.
        """
        network = read_global_config(config)

        async def make(network: Network) -> LitePool:
            pool = LitePool(network, trust_level=trust_level, quorum=quorum, store=blocks)
            await pool.start()
            return pool

        async with AsyncThread() as bridge:
            pool = await bridge.call(make, network)
            client = cls(bridge, pool, clock, on_news)
            try:
                client.network_id = (await client._proved(_ANY_ACCOUNT)).network_id
                _check_network(network, client.network_id, network_id)
                yield client
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(5.0):
                    await bridge.call(pool.close)

    async def account_state(self, address: str) -> AccountState | None:
        """The account (raw address) in the newest proved state, ``None`` when it is proved absent.

        Raises :class:`ChainUnavailable` or :class:`ProofRejected`.
        """
        return (await self._proved(address)).account

    async def chain_time_s(self) -> int:
        """The newest proved state's Unix time: the clock that contracts go by."""
        return (await self._proved(_ANY_ACCOUNT)).utime_s

    async def channel_state(self, terms: ChannelTerms, *, was_open: bool = False) -> ChannelState:
        """The channel of these terms, from its proved data cell.

        A closed channel's account is gone, as if it had never been: whoever knows that it was open says ``was_open``
        to have absence reported as ``closed``. Raises :class:`ProofRejected` when the account is not our contract.
        """
        answer = await self._proved(terms.address())
        account = answer.account
        gone: Literal["absent", "closed"] = "closed" if was_open else "absent"
        if account is None or account.data is None:
            balance = 0 if account is None else account.balance_nanoton
            return ChannelState(gone, 0, 0, 0, balance, answer.utime_s)
        try:
            stored = parse_channel_data(account.data)
        except ValueError as error:
            raise ProofRejected(str(error)) from error
        if account.code_hash != channel_code().hash or stored.terms != terms:
            raise ProofRejected("the account at the channel's address holds another contract")
        if stored.deposit_nanoton == 0:
            # TON keeps the code of a refused deployment, and anyone may deploy an empty channel: that is none.
            return ChannelState(gone, 0, 0, 0, account.balance_nanoton, answer.utime_s)
        return ChannelState(
            "closing" if stored.closing else "open", stored.deposit_nanoton, stored.paid_nanoton, stored.close_at_s,
            account.balance_nanoton, answer.utime_s,
        )  # fmt: skip

    async def send_external(self, boc: bytes) -> None:
        """Hand in an external message (a BoC). Being taken is not being executed: watch the account.

        Raises :class:`OperationFailed` when the server refuses it, :class:`ChainUnavailable` when none answers.
        """
        await self._call(self._pool.send, boc)

    async def transactions(
        self, address: str, *, after_lt: int = 0, since_s: int = 0, limit: int = MAX_TRANSACTIONS_READ
    ) -> list[AccountTransaction]:
        """The account's transactions after ``after_lt`` and not before ``since_s`` (the chain's Unix seconds), newest
        first, at most ``limit``, proved by their hashes."""
        account = await self.account_state(address)
        if account is None:
            return []
        found: list[AccountTransaction] = []
        lt, hash_ = account.last_lt, account.last_hash
        while lt > after_lt and len(found) < limit:
            batch = await self._call(self._pool.transactions, address, lt, hash_, min(16, limit - len(found)))
            if not batch:
                break
            found.extend(entry for entry in batch if entry.lt > after_lt and entry.utime >= since_s)
            if batch[-1].utime < since_s:
                break
            lt, hash_ = batch[-1].previous_lt, batch[-1].previous_hash
        return found

    async def config_parameters(self, numbers: list[int]) -> dict[int, Any]:
        """Cells of the blockchain's configuration parameters (those that exist), proved in the newest block."""
        return await self._call(self._pool.config, numbers)

    async def wait_for_change(
        self, address: str, since_lt: int, *, timeout_s: float = CONFIRM_TIMEOUT_S
    ) -> AccountState | None:
        """Wait until the account's last transaction is not ``since_lt`` any more (0: it has none, or is absent).

        Returns the new state, ``None`` when the account has gone; :class:`trio.TooSlowError` after ``timeout_s``.
        """
        with trio.fail_after(timeout_s):
            while True:
                account = await self.account_state(address)
                if (account.last_lt if account is not None else 0) != since_lt:
                    return account
                await self.next_block()

    async def next_block(self, timeout_s: float = POLL_INTERVAL_S) -> None:
        """Wait for a new block to be announced, or a moment: for loops that look at a state again."""
        try:
            await self._call(self._pool.next_block, timeout_s)
        except Exception:  # the connection is down: the next request reconnects and says what is wrong
            await trio.sleep(timeout_s)

    async def prices(self) -> Prices:
        """The network's prices for gas, messages and storage, from its proved configuration."""
        now = self._clock()
        if self._prices is None or now >= self._prices_until:
            cells = await self.config_parameters(list(PRICE_PARAMETERS))
            try:
                self._prices = Prices.from_config(cells)
            except ValueError as error:
                raise ProofRejected(f"the network's prices cannot be read: {error}") from error
            self._prices_until = now + PRICES_TTL_S
        return self._prices

    async def servers(self) -> list[ServerReport]:
        """Each liteserver's standing: whether it is trusted, what is wrong with it, its latency."""

        async def read() -> list[ServerReport]:
            return self._pool.reports()

        return await self._call(read)

    @property
    def clock_skew_s(self) -> float:
        """How far this machine's clock is ahead of the chain's (negative: behind), as its freshest blocks show.

        The few seconds that a block takes to get here are part of it.
        """
        return self._chain_clock.skew_s

    async def _call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        try:
            return await self._bridge.call(function, *args)
        finally:
            for line in self._pool.take_news():
                self._on_news(line)

    async def _proved(self, address: str) -> ProvedAnswer:
        check_address(address)
        oldest = self._chain_clock.oldest_fresh(self._clock(), _elapsed_s())

        async def ask() -> ProvedAnswer:
            return await self._pool.account(address, not_before_s=oldest)

        answer = await self._call(ask)
        wall, elapsed = self._clock(), _elapsed_s()
        if not self._chain_clock.is_plausible(wall, elapsed, answer.utime_s):
            await self._refuse_skew(wall - answer.utime_s)
        self._chain_clock.note(wall, elapsed, answer.utime_s)
        if warning := self._chain_clock.warning():
            self._on_news(warning)
        return answer

    async def _refuse_skew(self, lag: float) -> None:
        """The newest block is far from our time: is our clock wrong, or are the servers behind? Their clocks tell."""
        theirs = await self._call(self._pool.server_times)
        ours = self._clock()
        if lag > 0 and (not theirs or abs(ours - statistics.median(theirs)) <= MAX_CLOCK_SKEW_S):
            raise ChainUnavailable(
                f"the newest block of every liteserver is at least {int(lag)} s old, though their clocks agree with "
                "this machine's: they are behind, or the network has stopped"
                if theirs
                else f"the newest block of every liteserver is at least {int(lag)} s old: they are behind, or this "
                "machine's clock is wrong"
            )
        raise ClockSkewed(
            f"this machine's clock is {skew_text(lag)} of TON's: deadlines of channels cannot be kept like that; "
            "set the clock (for example `timedatectl set-ntp true`) and start again"
        )


def _check_network(network: Network, proved: int, expected: int | None) -> None:
    """Hold the proved ``global_id`` to what the file says and to what the caller expects."""
    if network.network_id not in (None, proved):
        raise ValueError(
            f"the global config is {network.name}'s (network {network.network_id}), but its liteservers are of network "
            f"{proved}: the file mixes two networks"
        )
    if expected not in (None, proved):
        raise ValueError(f"the global config leads to network {proved}, but network {expected} was asked for")
