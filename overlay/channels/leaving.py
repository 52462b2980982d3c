"""A client leaves a channel alone: start the refund, wait, finish it. Each call goes on where the last one ended.

::

    open --start refund--> closing --until closeAt: waiting--> --finish refund--> closed
      `------- the provider claims and closes at any time ----------^

Only the chain decides what is done next, so a crash between two steps, a second process or a provider that is quicker
changes nothing but the words. When the channel's account is gone, our wallet's history tells what came back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from overlay.chain import Chain, unfunded
from overlay.channels.answers import cumulative
from overlay.channels.limits import OPENING_GRACE_S
from overlay.channels.outcome import Settlement
from overlay.errors import ChainError, ConfigError
from overlay.events import EventLog, ton
from overlay.locks import KeyedLocks
from overlay.settlement import ChannelTerms, InsufficientFunds, OperationFailed, SettlementError
from overlay.settlement.cells import OP_REFUND
from overlay.settlement.chain import ChannelState, TxResult, finish_refund, start_refund
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, GroupCommit, Role, Store

T = TypeVar("T")


async def on_chain(chain: Chain, operation: Callable[[], Awaitable[T]]) -> T:
    """Run a chain operation and turn its errors into those for people."""
    try:
        return await operation()
    except InsufficientFunds as error:
        raise unfunded(chain, error) from error
    except SettlementError as error:
        raise ChainError(f"TON: {error}") from error


@dataclass
class Leaving:
    """See the module's docstring. ``clock`` gives Unix seconds."""

    chain: Chain
    ledger: GroupCommit
    log: EventLog
    clock: Callable[[], float]
    _ending: KeyedLocks[str] = field(default_factory=KeyedLocks)

    def lock(self, channel: str) -> AbstractAsyncContextManager[None]:
        """Held by whoever ends the channel: one at a time."""
        return self._ending.hold(channel)

    async def leave(self, channel: str) -> Settlement:
        """Take the next step out of ``channel``; says how far it has come and when to go on.

        Raises :class:`~overlay.errors.ConfigError` for a channel that we do not know,
        :class:`~overlay.errors.ChainError` and :class:`~overlay.errors.Unfunded`. On cancellation the step may have
        been taken: the next call finds out.
        """
        async with self.lock(channel):
            record = await self.ledger.run(lambda store: store.channel(channel))
            if record is None or record.role is not Role.PAYER:
                raise ConfigError(f"there is no channel {channel}; `cocoon channel list` shows them")
            if record.status is ChannelStatus.CLOSED:
                return was_closed(record, "")
            if record.network_id != self.chain.client.network_id:
                raise ChainError(f"channel {channel} is of TON network {record.network_id}, not of this one")
            return await on_chain(self.chain, lambda: self._step(record))

    async def _step(self, record: ChannelRecord) -> Settlement:
        """What the chain says is next. A step that somebody else's message made void is looked at once more."""
        for last_try in (False, True):
            state = await self._state(record)
            try:
                if state.status in ("closed", "absent"):
                    return await self.found_closed(record)
                if state.status == "open":
                    return await self._start(record)
                if state.utime_s < state.close_at_s:
                    return await self._waiting(record, state)
                return await self._finish(record, state)
            except InsufficientFunds:
                raise
            except OperationFailed:
                if last_try or await self._state(record) == state:
                    raise
        raise AssertionError("the second try returns or raises")

    async def _state(self, record: ChannelRecord) -> ChannelState:
        return await self.chain.client.channel_state(ChannelTerms.from_bytes(record.terms), was_open=True)

    async def _start(self, record: ChannelRecord) -> Settlement:
        result = await start_refund(self.chain.account, ChannelTerms.from_bytes(record.terms))
        await self._note_leaving(record)
        when = date(result.state.close_at_s)
        text = f"the same command gets what the provider has not claimed, from {when} on; transaction {result.hash}"
        return self.tell(
            record, "refund started", result.state.paid_nanoton, 0, result, text, next_at_s=result.state.close_at_s
        )

    async def _waiting(self, record: ChannelRecord, state: ChannelState) -> Settlement:
        await self._note_leaving(record)
        text = (
            f"the refund was started; it can be finished from {date(state.close_at_s)} on, by the same command, "
            "or comes back when the provider claims and closes"
        )
        return Settlement(
            record.channel, record.peer, "waiting", state.paid_nanoton, 0, 0, "", text, done=False,
            next_at_s=state.close_at_s,
        )  # fmt: skip

    async def _note_leaving(self, record: ChannelRecord) -> None:
        """No job starts on it any more. One in dispute stays that until it is closed: who it is with is remembered."""
        if record.status in (ChannelStatus.OPENING, ChannelStatus.OPEN):
            await self.status(record.channel, ChannelStatus.CLOSING)

    async def _finish(self, record: ChannelRecord, state: ChannelState) -> Settlement:
        result = await finish_refund(self.chain.account, ChannelTerms.from_bytes(record.terms))
        await self.ended(record.channel, state.paid_nanoton)
        return self.tell(record, "refunded", state.paid_nanoton, state.spendable_nanoton, result)

    # ---- a channel whose account is gone ----

    async def found_closed(self, record: ChannelRecord) -> Settlement:
        """The channel has ended while we looked away: find out how, from our wallet and our notes."""
        if record.status is ChannelStatus.OPENING:
            if self.clock() - record.opened_at < OPENING_GRACE_S:
                raise ChainError(f"the opening of {record.channel} is still under way; try again in a few minutes")
            await self.status(record.channel, ChannelStatus.CLOSED)
            text = "it was never opened: nothing left the wallet"
            return Settlement(record.channel, record.peer, "was closed", 0, 0, 0, "", text)
        paid, transaction = await self._how_it_ended(record)
        await self.ended(record.channel, paid)
        closed = await self.ledger.run(lambda store: store.channel(record.channel))
        assert closed is not None
        return was_closed(closed, transaction)

    async def _how_it_ended(self, record: ChannelRecord) -> tuple[int, str]:
        """What the provider got in all, and the transaction that brought us the rest.

        The refund says it."""
        sums = await self.ledger.run(lambda store: store.at_risk(record.channel))
        promised = max(sums.promised_nanoton, sums.owed_nanoton, record.paid_nanoton)
        for entry in await self.chain.client.transactions(self.chain.account.address):
            message = entry.in_message
            if message is None or message.source != record.channel or message.bounced:
                continue
            operation = message.operation()
            if operation is None or operation[0] != OP_REFUND:
                continue
            return max(cumulative(message.body), record.paid_nanoton), entry.hash.hex()
        return promised, ""

    # ---- words and books ----

    def tell(
        self, record: ChannelRecord, action: str, paid: int, refund: int, result: TxResult, text: str = "",
        next_at_s: int | None = None,
    ) -> Settlement:  # fmt: skip
        """One step's result, told in the log too."""
        text = text or f"{ton(paid)} to the provider, {ton(refund)} back, transaction {result.hash}"
        self.log.info(
            "settled", f"{action}: …{record.channel[-8:]}, {text}",
            channel=record.channel, peer=record.peer, paid_nanoton=paid, refund_nanoton=refund,
            fee_nanoton=result.fee_nanoton, transaction=result.hash,
        )  # fmt: skip
        return Settlement(
            record.channel, record.peer, action, paid, refund, result.fee_nanoton, result.hash, text,
            done=next_at_s is None, next_at_s=next_at_s,
        )  # fmt: skip

    async def status(self, channel: str, status: ChannelStatus) -> None:
        """Move a channel in the ledger."""
        await self.ledger.run(lambda store: store.set_status(channel, status, at=int(self.clock())))

    async def ended(self, channel: str, paid_nanoton: int) -> None:
        """The channel is closed, and the provider got this sum in all."""

        def write(store: Store) -> None:
            store.set_paid(channel, paid_nanoton)
            store.set_status(channel, ChannelStatus.CLOSED, at=int(self.clock()))

        await self.ledger.run(write)


def was_closed(record: ChannelRecord, transaction: str) -> Settlement:
    """What a channel that is closed in the ledger came to."""
    refund = record.deposit_nanoton - record.paid_nanoton
    where = f", transaction {transaction}" if transaction else ""
    text = f"it had ended before: {ton(record.paid_nanoton)} to the provider, {ton(refund)} back{where}"
    return Settlement(record.channel, record.peer, "was closed", record.paid_nanoton, refund, 0, transaction, text)


def date(unix_s: int) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
