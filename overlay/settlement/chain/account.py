"""A wallet on a chain: sends batches of messages, one signed external message in flight at a time.

A wallet's sequence number makes each signed message count at most once, so a lost one is sent again as it is until the
number moves or the message's validity has passed; another is signed only then. So no failure between us and the chain
can pay twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from overlay.settlement.chain.client import TonClient
from overlay.settlement.chain.proved import AccountState
from overlay.settlement.errors import ChainUnavailable, InsufficientFunds, OperationFailed
from overlay.settlement.limits import CONFIRM_TIMEOUT_S, RESEND_INTERVAL_S, TRANSFER_VALID_S
from overlay.settlement.transactions import AccountTransaction
from overlay.settlement.wallet import Transfer, Wallet, wallet_seqno

_FEE_MARGIN_NANOTON = 10_000_000
"""Kept back for the wallet's own fees on top of what it sends; each message adds its forward fee."""

_MESSAGE_FEE_NANOTON = 2_000_000
"""Upper bound of one message's share of gas and forward fee, a deployment included."""


class WalletAccount:
    """A :class:`Wallet` with its chain. Tasks may share it: transfers queue up."""

    def __init__(self, client: TonClient, wallet: Wallet) -> None:
        if wallet.network_id != client.network_id:
            raise ValueError(
                f"the wallet is of network {wallet.network_id}, the chain is network {client.network_id}: "
                "the same words have another address there"
            )
        self.client = client
        self.wallet = wallet
        self._sending = trio.Lock()

    @property
    def address(self) -> str:
        """The wallet's raw address."""
        return self.wallet.address

    async def balance_nanoton(self) -> int:
        """What the wallet holds in the newest proved state."""
        state = await self.client.account_state(self.address)
        return 0 if state is None else state.balance_nanoton

    async def transfer(self, transfers: Sequence[Transfer]) -> AccountTransaction:
        """Send up to 255 messages in one external message; deploys the wallet with the first.

        Returns the wallet's transaction once it is in a proved state. Raises :class:`InsufficientFunds` when the
        balance does not cover it (nothing is sent), :class:`OperationFailed` when the message was refused or expired.
        On cancellation a message that was handed in may still take effect.
        """
        async with self._sending:
            state = await self.client.account_state(self.address)
            self._check_funds(state, transfers)
            assert state is not None
            deploy = state.data is None
            seqno = 0 if deploy else wallet_seqno(state.data)
            valid_until = state.utime_s + TRANSFER_VALID_S
            message = self.wallet.sign_transfers(transfers, seqno=seqno, valid_until_s=valid_until, deploy=deploy)
            await self._deliver(message.to_boc(), seqno, valid_until)
            transaction = await self._find(message.hash, state.last_lt)
        if not transaction.success or len(transaction.out_messages) != len(transfers):
            raise OperationFailed(
                f"the wallet sent {len(transaction.out_messages)} of {len(transfers)} messages "
                f"(exit code {transaction.exit_code}): its balance did not cover the rest"
            )
        return transaction

    def _check_funds(self, state: AccountState | None, transfers: Sequence[Transfer]) -> None:
        fees = _FEE_MARGIN_NANOTON + _MESSAGE_FEE_NANOTON * len(transfers)
        needed = sum(transfer.value_nanoton for transfer in transfers) + fees
        held = 0 if state is None else state.balance_nanoton
        if held < needed:
            raise InsufficientFunds(
                f"the wallet {self.wallet.friendly_address()} holds {held} nanoTON and needs {needed}: "
                f"send it {needed - held} more"
            )

    async def _deliver(self, boc: bytes, seqno: int, valid_until_s: int) -> None:
        """Hand the message in, again and again, until the sequence number moves or it cannot be accepted any more."""
        refusal: OperationFailed | None = None
        may_have_arrived = False
        send_at = trio.current_time()
        while True:
            if trio.current_time() >= send_at:
                try:
                    await self.client.send_external(boc)
                    may_have_arrived = True
                except OperationFailed as error:
                    if not may_have_arrived:
                        raise
                    refusal = error  # what a server says of a copy of what came through already: the state will tell
                except ChainUnavailable:
                    may_have_arrived = True
                send_at = trio.current_time() + RESEND_INTERVAL_S
            state = await self.client.account_state(self.address)
            if state is not None and state.data is not None and wallet_seqno(state.data) > seqno:
                return
            if state is not None and state.utime_s > valid_until_s:
                raise refusal or OperationFailed("the wallet's message was not executed in time; nothing was sent")
            await self.client.next_block()

    async def _find(self, message_hash: bytes, after_lt: int) -> AccountTransaction:
        for transaction in await self.client.transactions(self.address, after_lt=after_lt):
            if transaction.in_message is not None and transaction.in_message.hash == message_hash:
                return transaction
        raise OperationFailed(
            "the wallet's sequence number moved without our message: another program uses this wallet"
        )

    async def wait_until_funded(self, at_least_nanoton: int, *, timeout_s: float = CONFIRM_TIMEOUT_S) -> int:
        """Wait for the balance to reach ``at_least_nanoton``; returns it. Raises :class:`trio.TooSlowError`."""
        with trio.fail_after(timeout_s):
            while (balance := await self.balance_nanoton()) < at_least_nanoton:
                await self.client.next_block()
            return balance
