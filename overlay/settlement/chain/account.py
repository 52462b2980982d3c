"""A wallet on a chain: sends batches of messages, one signed external message in flight at a time.

A wallet's sequence number makes each signed message count at most once, so a lost one is sent again as it is until the
number moves or the message's validity has passed; another is signed only then. The message is stored before it leaves
(:mod:`overlay.settlement.chain.pending`), so this holds across crashes: no failure between us and the chain can pay
twice.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from overlay.settlement.chain.client import TonClient
from overlay.settlement.chain.estimate import TransferCost, transfer_cost
from overlay.settlement.chain.pending import MemoryPendingStore, PendingExternal, PendingStore
from overlay.settlement.chain.proved import AccountState
from overlay.settlement.errors import ChainUnavailable, InsufficientFunds, OperationFailed
from overlay.settlement.limits import CONFIRM_TIMEOUT_S, RESEND_INTERVAL_S, TRANSFER_VALID_S
from overlay.settlement.transactions import AccountTransaction, parse_message
from overlay.settlement.wallet import Transfer, Wallet, wallet_seqno


@dataclass(frozen=True)
class Resumed:
    """What became of a message that an earlier attempt had signed: its ``transaction``, ``None`` when it expired."""

    external: PendingExternal
    transaction: AccountTransaction | None


def intent_of(transfers: Sequence[Transfer]) -> bytes:
    """What these transfers are to do, as a hash: destinations, amounts and bodies without their query ids.

    A second attempt at the same thing has another query id and the same intent.
    """
    digest = hashlib.sha256()
    for transfer in transfers:
        digest.update(f"{transfer.destination} {transfer.value_nanoton} {transfer.bounce} ".encode())
        if transfer.state_init is not None:
            digest.update(transfer.state_init.serialize().hash)
        if transfer.body is not None:
            bits = transfer.body.bits.to01()
            digest.update((bits[:32] + bits[96:]).encode())
            for ref in transfer.body.refs:
                digest.update(ref.hash)
        digest.update(b"\n")
    return digest.digest()


class WalletAccount:
    """A :class:`Wallet` with its chain. Tasks may share it: transfers queue up.

    ``pending`` keeps the message in flight; without one it does not outlive the process.
    """

    def __init__(self, client: TonClient, wallet: Wallet, pending: PendingStore | None = None) -> None:
        if wallet.network_id != client.network_id:
            raise ValueError(
                f"the wallet is of network {wallet.network_id}, the chain is network {client.network_id}: "
                "the same words have another address there"
            )
        self.client = client
        self.wallet = wallet
        self._pending: PendingStore = MemoryPendingStore() if pending is None else pending
        self._sending = trio.Lock()

    @property
    def address(self) -> str:
        """The wallet's raw address."""
        return self.wallet.address

    def query_id(self) -> int:
        """A fresh one for an operation that is to be answered; never 0, which asks for no answer."""
        return secrets.randbits(63) | 1 << 63

    async def balance_nanoton(self) -> int:
        """What the wallet holds in the newest proved state."""
        state = await self.client.account_state(self.address)
        return 0 if state is None else state.balance_nanoton

    async def cost(self, transfers: Sequence[Transfer]) -> TransferCost:
        """What sending these transfers would cost the wallet now, at the network's prices. Sends nothing."""
        state = await self.client.account_state(self.address)
        return await self._cost(state, transfers)

    async def resume(self) -> Resumed | None:
        """Finish what an earlier run of this program left in flight; ``None`` when there was nothing.

        Do this before deciding anything from the chain's state: afterwards that message has taken effect or never will.
        """
        async with self._sending:
            return await self._resume()

    async def transfer(self, transfers: Sequence[Transfer]) -> AccountTransaction:
        """Send up to 255 messages in one external message; deploys the wallet with the first.

        Returns the wallet's transaction once it is in a proved state. When an earlier attempt at the same thing turns
        out to have taken effect after it had been reported as failed, its transaction is returned and nothing is sent.
        Raises :class:`InsufficientFunds` when the balance does not cover it (nothing is sent),
        :class:`OperationFailed` when the message was refused or expired. On cancellation and on
        :class:`ChainUnavailable` a message that was handed in may still take effect.
        """
        intent = intent_of(transfers)
        async with self._sending:
            earlier = await self._resume()
            if earlier is not None and earlier.transaction is not None and earlier.external.intent == intent:
                return _complete(earlier.transaction, len(transfers))
            state = await self.client.account_state(self.address)
            cost = await self._cost(state, transfers)
            held = 0 if state is None else state.balance_nanoton
            if state is None or held < cost.needed_nanoton:
                raise InsufficientFunds(
                    f"the wallet {self.wallet.friendly_address()} holds {held} nanoTON and needs "
                    f"{cost.needed_nanoton}: send it {cost.needed_nanoton - held} more"
                )
            external = self._sign(state, transfers, intent)
            await trio.to_thread.run_sync(self._pending.store, external)
            await self._deliver(external, sent_before=False)
            return _complete(await self._finish(external), len(transfers))

    async def wait_until_funded(self, at_least_nanoton: int, *, timeout_s: float = CONFIRM_TIMEOUT_S) -> int:
        """Wait for the balance to reach ``at_least_nanoton``; returns it. Raises :class:`trio.TooSlowError`."""
        with trio.fail_after(timeout_s):
            while (balance := await self.balance_nanoton()) < at_least_nanoton:
                await self.client.next_block()
            return balance

    # ---- one message ----

    async def _cost(self, state: AccountState | None, transfers: Sequence[Transfer]) -> TransferCost:
        prices = await self.client.prices()
        return transfer_cost(prices, self.wallet, transfers, deploy=state is None or state.data is None)

    def _sign(self, state: AccountState, transfers: Sequence[Transfer], intent: bytes) -> PendingExternal:
        deploy = state.data is None
        seqno = 0 if deploy else wallet_seqno(state.data)
        # The chain's own time: this machine's clock decides nothing here.
        valid_until = state.utime_s + TRANSFER_VALID_S
        message = self.wallet.sign_transfers(transfers, seqno=seqno, valid_until_s=valid_until, deploy=deploy)
        body_hash = parse_message(message).body.hash
        return PendingExternal(
            self.address, self.wallet.network_id, seqno, valid_until, state.last_lt, body_hash, intent, message.to_boc()
        )

    async def _resume(self) -> Resumed | None:
        external = await trio.to_thread.run_sync(self._pending.load, self.address, self.wallet.network_id)
        if external is None:
            return None
        try:
            await self._deliver(external, sent_before=True)
        except OperationFailed:  # refused or expired, and the sequence number has not moved: it never took effect
            return Resumed(external, None)
        return Resumed(external, await self._finish(external))

    async def _deliver(self, external: PendingExternal, *, sent_before: bool) -> None:
        """Hand the message in, again and again, until the sequence number moves or it cannot be accepted any more.

        Raises :class:`OperationFailed` in the latter case, when the message is settled: it will never take effect. A
        message that nobody has had before and every server refuses is such a one at once. One that may have been
        ``sent_before`` has to expire first: a refusal may mean that it was executed in a block we have not seen.
        """
        refusal: OperationFailed | None = None
        may_have_arrived = sent_before
        send_at = trio.current_time()
        while True:
            refused_at_once = False
            if trio.current_time() >= send_at:
                try:
                    await self.client.send_external(external.boc)
                    may_have_arrived = True
                except OperationFailed as error:
                    refusal, refused_at_once = error, not may_have_arrived
                except ChainUnavailable:
                    may_have_arrived = True
                send_at = trio.current_time() + RESEND_INTERVAL_S
            state = await self.client.account_state(self.address)
            if state is not None and state.data is not None and wallet_seqno(state.data) > external.seqno:
                return
            if refused_at_once or (state is not None and state.utime_s > external.valid_until_s):
                await trio.to_thread.run_sync(self._pending.settle, external)
                raise refusal or OperationFailed("the wallet's message was not executed in time; nothing was sent")
            await self.client.next_block()

    async def _finish(self, external: PendingExternal) -> AccountTransaction:
        """The transaction that executed the message, which is settled with it."""
        for transaction in await self.client.transactions(self.address, after_lt=external.after_lt):
            message = transaction.in_message
            # Anybody may wrap the same signed body into another envelope, so it is the body that is looked for.
            if message is not None and message.kind == "external-in" and message.body.hash == external.body_hash:
                await trio.to_thread.run_sync(self._pending.settle, external)
                return transaction
        await trio.to_thread.run_sync(self._pending.settle, external)
        raise OperationFailed(
            "the wallet's sequence number moved without our message: another program uses this wallet"
        )


def _complete(transaction: AccountTransaction, count: int) -> AccountTransaction:
    if not transaction.success or len(transaction.out_messages) != count:
        raise OperationFailed(
            f"the wallet sent {len(transaction.out_messages)} of {count} messages "
            f"(exit code {transaction.exit_code}): its balance did not cover the rest"
        )
    return transaction
