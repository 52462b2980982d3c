"""The chain as the rest of the node sees it: proved states, transactions, messages out. One trio object."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import trio

from overlay.settlement.asyncio_bridge import AsyncThread
from overlay.settlement.cells import ChannelTerms, channel_code, check_address, parse_channel_data
from overlay.settlement.chain.lite import LiteSession, ServerAddress, servers_of
from overlay.settlement.chain.proved import AccountState, ProvedAnswer
from overlay.settlement.errors import ChainUnavailable, ProofRejected
from overlay.settlement.limits import BLOCK_AGE_LIMIT_S, CONFIRM_TIMEOUT_S, MAX_TRANSACTIONS_READ, POLL_INTERVAL_S
from overlay.settlement.transactions import AccountTransaction

_ANY_ACCOUNT = "0:" + "00" * 32


@dataclass(frozen=True)
class ChannelState:
    """A channel in one proved shard state. Amounts in nanoTON, times Unix seconds; zeros when there is no account.

    ``absent``: no such account, or one that never had a deposit; ``closed``: the same where one was known.
    ``spendable_nanoton`` is what vouchers may still promise beyond ``paid_nanoton``.
    """

    status: Literal["absent", "open", "closing", "closed"]
    deposit_nanoton: int
    paid_nanoton: int
    seq: int
    close_at_s: int
    balance_nanoton: int
    utime_s: int

    @property
    def spendable_nanoton(self) -> int:
        """Deposit less payouts."""
        return self.deposit_nanoton - self.paid_nanoton


class TonClient:
    """Reads the chain and sends messages. Make one with :meth:`connect`; tasks may share it."""

    def __init__(self, bridge: AsyncThread, session: LiteSession, clock: Callable[[], float]) -> None:
        self._bridge = bridge
        self._session = session
        self._clock = clock
        self.network_id = 0
        """The chain's ``global_id``, from the first proved state."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, config: dict[str, Any], *, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[TonClient]:
        """Connect to the network of a ``global.config.json`` (as a dictionary); hang up when the block is left.

        ``clock`` gives Unix seconds and serves to notice servers that are behind. Raises ``ValueError`` for a malformed
        config, :class:`ChainUnavailable` when no server answers.
        """
        servers = servers_of(config)

        async def make(addresses: list[ServerAddress]) -> LiteSession:
            return LiteSession(addresses)

        async with AsyncThread() as bridge:
            session = await bridge.call(make, servers)
            client = cls(bridge, session, clock)
            try:
                client.network_id = (await client._proved(_ANY_ACCOUNT)).network_id
                yield client
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(5.0):
                    await bridge.call(session.close)

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
            return ChannelState(gone, 0, 0, 0, 0, balance, answer.utime_s)
        try:
            stored = parse_channel_data(account.data)
        except ValueError as error:
            raise ProofRejected(str(error)) from error
        if account.code_hash != channel_code().hash or stored.terms != terms:
            raise ProofRejected("the account at the channel's address holds another contract")
        if stored.deposit_nanoton == 0:
            # TON keeps the code of a refused deployment, and anyone may deploy an empty channel: that is none.
            return ChannelState(gone, 0, 0, 0, 0, account.balance_nanoton, answer.utime_s)
        return ChannelState(
            "closing" if stored.closing else "open", stored.deposit_nanoton, stored.paid_nanoton, stored.seq,
            stored.close_at_s, account.balance_nanoton, answer.utime_s,
        )  # fmt: skip

    async def send_external(self, boc: bytes) -> None:
        """Hand in an external message (a BoC). Being taken is not being executed: watch the account.

        Raises :class:`OperationFailed` when the server refuses it, :class:`ChainUnavailable` when none answers.
        """
        await self._bridge.call(self._session.send, boc)

    async def transactions(
        self, address: str, *, after_lt: int = 0, limit: int = MAX_TRANSACTIONS_READ
    ) -> list[AccountTransaction]:
        """The account's transactions after ``after_lt``, newest first, at most ``limit``, proved by their hashes."""
        account = await self.account_state(address)
        if account is None:
            return []
        found: list[AccountTransaction] = []
        lt, hash_ = account.last_lt, account.last_hash
        while lt > after_lt and len(found) < limit:
            batch = await self._bridge.call(self._session.transactions, address, lt, hash_, min(16, limit - len(found)))
            if not batch:
                break
            found.extend(transaction for transaction in batch if transaction.lt > after_lt)
            lt, hash_ = batch[-1].previous_lt, batch[-1].previous_hash
        return found

    async def config_parameters(self, numbers: list[int]) -> dict[int, Any]:
        """Cells of the blockchain's configuration parameters (those that exist), proved in the newest block."""
        return await self._bridge.call(self._session.config, numbers)

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
            await self._bridge.call(self._session.next_block, timeout_s)
        except Exception:  # the connection is down: the next request reconnects and says what is wrong
            await trio.sleep(timeout_s)

    async def _proved(self, address: str) -> ProvedAnswer:
        check_address(address)
        age = 0.0
        for _ in range(self._session.server_count):
            answer = await self._bridge.call(self._session.account, address)
            age = self._clock() - answer.utime_s
            if age <= BLOCK_AGE_LIMIT_S:
                return answer
            await self._bridge.call(self._session.leave)
        raise ChainUnavailable(
            f"the newest block of every liteserver is at least {int(age)} s old: they are behind, "
            "or this machine's clock is wrong"
        )
