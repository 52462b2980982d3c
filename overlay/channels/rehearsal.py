"""What leaving a channel would bring, shown beforehand: the real contracts, run here on the real proved state.

The accounts (channel and both wallets) are those of the newest proved block, cell for cell; the virtual machine is
TON's own, in a Node process; the prices and limits are the chain's, from its proved configuration. Nothing is sent.
What can differ when it is done is told: the provider may claim meanwhile, rent goes on (0.3 nanoTON a second), and
prices may be voted to change.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pytoniq_core import Cell, CurrencyCollection, HashMap, InternalMsgInfo, MessageAny, ShardAccount, begin_cell

from overlay.channels.answers import amount_paid
from overlay.settlement import ChannelTerms, DevnetError, Transfer, Voucher, Wallet
from overlay.settlement.cells import (
    OP_PAYOUT,
    OP_REFUND,
    address_of,
    claim_body,
    finish_refund_body,
    start_refund_body,
)
from overlay.settlement.chain import AccountState, ChannelState, TonClient
from overlay.settlement.devnet.tvm import MessageRejected, Tvm, open_tvm
from overlay.settlement.limits import ATTACHED_NANOTON, TRANSFER_VALID_S
from overlay.settlement.transactions import AccountTransaction, Message, parse_message, parse_transaction
from overlay.settlement.wallet import wallet_seqno

CHAIN_PARAMETERS = (18, 19, 20, 21, 24, 25, 43, 45)
"""Rent, network id, gas and forward prices, size limits, precompiled contracts: what a chain may have otherwise than
the emulator's own copy of mainnet. The machine's version (8) stays the emulator's."""

_QUERY_ID = 1 << 63
_LT_STEP = 1000
_NOBODY = begin_cell().store_ref(begin_cell().store_bit(0).end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()
_SEED = bytes(32)
"""The contracts use no randomness."""


@dataclass(frozen=True)
class Step:
    """One message that would be sent: what the channel did with it. Sums in nanoTON, ``at_s`` in Unix seconds."""

    action: str
    at_s: int
    gas: int
    fee_nanoton: int
    exit_code: int | None
    success: bool


@dataclass(frozen=True)
class Outcome:
    """How one course of events would end.

    ``receives_nanoton`` is what the channel pays us, ``costs_nanoton`` all fees of ours on the way (what the wallet
    ends up with is the difference, ``change_nanoton``), ``at_s`` when we have it at the earliest."""

    course: str
    receives_nanoton: int
    costs_nanoton: int
    change_nanoton: int
    at_s: int
    steps: tuple[Step, ...]

    @property
    def success(self) -> bool:
        """Whether every message would do what it is for."""
        return all(step.success for step in self.steps)


@dataclass(frozen=True)
class Situation:
    """A channel as it stands: everything that a rehearsal needs and the chain has proved."""

    terms: ChannelTerms
    state: ChannelState
    accounts: Mapping[str, AccountState | None]
    parameters: Mapping[int, Any]


async def read_situation(client: TonClient, terms: ChannelTerms) -> Situation:
    """Read the channel, both wallets and the chain's prices. Raises :class:`~overlay.settlement.SettlementError`."""
    state = await client.channel_state(terms, was_open=True)
    addresses = (terms.address(), terms.payer, terms.payee)
    accounts = {address: await client.account_state(address) for address in addresses}
    return Situation(terms, state, accounts, await client.config_parameters(list(CHAIN_PARAMETERS)))


@dataclass
class Stage:
    """Accounts at one moment, and the machine that runs messages on them. Copies are cheap: try things on a copy."""

    tvm: Tvm
    accounts: dict[str, str]
    lt: int
    ran: list[AccountTransaction] = field(default_factory=list)

    def copy(self) -> Stage:
        """The same accounts, to be changed apart."""
        return Stage(self.tvm, dict(self.accounts), self.lt, list(self.ran))

    def balance(self, address: str) -> int:
        """What an account holds, in nanoTON."""
        account = ShardAccount.deserialize(self._cell(address).begin_parse()).account
        return 0 if account is None else int(account.storage.balance.grams or 0)

    def data(self, address: str) -> Any:
        """An active account's data cell, else ``None``."""
        account = ShardAccount.deserialize(self._cell(address).begin_parse()).account
        if account is None or account.storage.state.type_ != "account_active":
            return None
        return account.storage.state.state_init.data

    def _cell(self, address: str) -> Any:
        encoded = self.accounts.get(address)
        return _NOBODY if encoded is None else Cell.one_from_boc(base64.b64decode(encoded))

    async def run(self, message: Message, now_s: int) -> list[AccountTransaction]:
        """Run ``message`` and every one that follows from it; returns the transactions in order.

        Raises :class:`~overlay.settlement.devnet.tvm.MessageRejected` for an external one that is not accepted."""
        queue, done = deque([message]), []
        while queue:
            current = queue.popleft()
            assert current.destination is not None
            self.lt += _LT_STEP
            before = self.accounts.get(current.destination) or base64.b64encode(_NOBODY.to_boc()).decode()
            transaction, after = await self.tvm.transaction(before, current.cell, now=now_s, lt=self.lt, seed=_SEED)
            self.accounts[current.destination] = after
            parsed = parse_transaction(Cell.one_from_boc(base64.b64decode(transaction)))
            queue.extend(out for out in parsed.out_messages if out.kind == "internal")
            done.append(parsed)
        self.ran += done
        return done


@asynccontextmanager
async def open_stage(situation: Situation) -> AsyncIterator[Stage]:
    """Start the machine with the chain's prices and the situation's accounts.

    Raises :class:`~overlay.settlement.DevnetError` when Node or the npm packages are missing."""
    async with open_tvm() as tvm:
        await tvm.set_config(_config(tvm.default_config, situation.parameters))
        accounts, lt = {}, 1_000_000
        for address, state in situation.accounts.items():
            if state is None:
                continue
            cell = (
                begin_cell().store_ref(state.cell).store_bytes(state.last_hash).store_uint(state.last_lt, 64).end_cell()
            )
            accounts[address] = base64.b64encode(cell.to_boc()).decode()
            lt = max(lt, state.last_lt)
        yield Stage(tvm, accounts, lt)


def _config(default_boc: bytes, parameters: Mapping[int, Any]) -> Any:
    """The emulator's configuration with the chain's own parameters put in."""
    root = Cell.one_from_boc(default_boc)
    known = HashMap.parse(root.begin_parse(), 32, value_deserializer=lambda value: value.load_ref())
    known.update(parameters)
    made = HashMap(32, value_serializer=lambda value, builder: builder.store_ref(value))
    made.map = known
    return made.serialize()


@dataclass
class Rehearsal:
    """Runs the courses that a party's leaving may take. ``wallet`` is that party's."""

    stage: Stage
    situation: Situation
    wallet: Wallet

    async def as_payee(self, voucher: Voucher, signature: bytes, now_s: int) -> list[Outcome]:
        """Claim the highest voucher and close."""
        stage = self.stage.copy()
        body = claim_body(_QUERY_ID, signature, voucher.to_cell(), close=True)
        step = await self._send(stage, "claim and close", body, now_s)
        return [self._outcome(stage, "you claim your last voucher and close", now_s, [step], OP_PAYOUT)]

    async def as_payer(self, voucher: Voucher | None, signature: bytes, now_s: int) -> list[Outcome]:
        """Start the refund, unless that is done, wait and finish it; or the provider claims our last voucher
        meanwhile."""
        stage, steps = self.stage.copy(), []
        close_at = self.situation.state.close_at_s
        if self.situation.state.status == "open":
            steps.append(await self._send(stage, "start refund", start_refund_body(_QUERY_ID), now_s))
            terms = self.situation.terms
            close_at = max(now_s, terms.expiry_s) + terms.challenge_period_s
        outcomes = []
        if voucher is not None and voucher.amount_nanoton > self.situation.state.paid_nanoton:
            other = stage.copy()
            body = claim_body(_QUERY_ID, signature, voucher.to_cell(), close=True)
            answer = await other.run(self._from(self.situation.terms.payee, body), now_s)
            step = self._step("the provider claims and closes", now_s, answer)
            course = "the provider claims your last voucher and closes"
            outcomes.append(self._outcome(other, course, now_s, [*steps, step], OP_REFUND))
        at = max(now_s, close_at)
        last = await self._send(stage, "finish refund", finish_refund_body(_QUERY_ID), at)
        outcomes.append(self._outcome(stage, "the provider claims nothing more", at, [*steps, last], OP_REFUND))
        return outcomes

    async def _send(self, stage: Stage, action: str, body: Any, now_s: int) -> Step:
        """Have our wallet send ``body`` to the channel, as it would."""
        data = stage.data(self.wallet.address)
        transfer = Transfer(self.situation.terms.address(), ATTACHED_NANOTON, body)
        message = self.wallet.sign_transfers(
            [transfer], seqno=0 if data is None else wallet_seqno(data), valid_until_s=now_s + TRANSFER_VALID_S,
            deploy=data is None,
        )  # fmt: skip
        try:
            return self._step(action, now_s, await stage.run(parse_message(message), now_s))
        except MessageRejected as error:
            raise DevnetError(f"the wallet would not send it ({error}): is there money in it?") from error

    def _from(self, sender: str, body: Any) -> Message:
        """A message to the channel from somebody whose wallet we cannot sign for."""
        info = InternalMsgInfo(
            ihr_disabled=True, bounce=True, bounced=False, src=address_of(sender),
            dest=address_of(self.situation.terms.address()), value=CurrencyCollection(ATTACHED_NANOTON), ihr_fee=0,
            fwd_fee=0, created_lt=self.stage.lt, created_at=0,
        )  # fmt: skip
        return parse_message(MessageAny(info=info, init=None, body=body).serialize())

    def _step(self, action: str, at_s: int, ran: list[AccountTransaction]) -> Step:
        channel = self.situation.terms.address()
        first = next((t for t in ran if t.account == channel), None)
        if first is None:
            return Step(action, at_s, 0, 0, None, success=False)
        return Step(action, at_s, first.gas_used, first.fee_nanoton, first.exit_code, first.success)

    def _outcome(self, stage: Stage, course: str, at_s: int, steps: list[Step], operation: int) -> Outcome:
        ours, channel = self.wallet.address, self.situation.terms.address()
        change = stage.balance(ours) - self.stage.balance(ours)
        receives = sum(
            amount_paid(message)
            for transaction in stage.ran
            for message in (transaction.in_message,)
            if message is not None and transaction.account == ours and message.source == channel
            and (found := message.operation()) is not None and found[0] == operation
        )  # fmt: skip
        return Outcome(course, receives, receives - change, change, at_s, tuple(steps))
