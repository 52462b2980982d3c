"""A chain of wallets and channels without a TVM, for simulations to settle on.

Messages wait in a queue and are delivered in order; every nanoTON is in an account, on its way, or a fee, and
:meth:`ModelChain.conserved` says so. Time is an argument. Nothing here is random.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.settlement.cells import StoredChannel, parse_channel_data
from overlay.settlement.model.account import ChannelAccount, ModelMessage, Outcome
from overlay.settlement.model.fees import MAINNET_PRICES, Prices
from overlay.settlement.model.gas import CHANNEL_GAS, WALLET_GAS
from overlay.settlement.model.wallet import WalletModel
from overlay.settlement.wallet import Transfer, Wallet


@dataclass(frozen=True)
class Delivered:
    """A message that ran, and what came of it."""

    message: ModelMessage
    outcome: Outcome


class ModelChain:
    """Accounts and the messages between them. ``network_id`` is the chain's ``global_id``."""

    def __init__(
        self,
        network_id: int,
        *,
        prices: Prices = MAINNET_PRICES,
        channel_gas: Mapping[str, int] = CHANNEL_GAS,
        wallet_gas: Mapping[str, int] = WALLET_GAS,
    ) -> None:
        self.network_id = network_id
        self.prices = prices
        self._channel_gas, self._wallet_gas = channel_gas, wallet_gas
        self.wallets: dict[str, WalletModel] = {}
        self.channels: dict[str, ChannelAccount] = {}
        self._queue: deque[ModelMessage] = deque()
        self._minted = 0
        self._fees = 0
        self._lost = 0
        """What went to addresses that the model knows nothing of."""

    def add_wallet(self, wallet: Wallet, balance_nanoton: int, now: int) -> WalletModel:
        """A wallet with money and, as a new one has, no code yet: its first transfer deploys it."""
        account = WalletModel(
            wallet.address, self.prices, "uninit", balance_nanoton, 0, now, wallet=wallet, gas=self._wallet_gas
        )
        self.wallets[wallet.address] = account
        self._minted += balance_nanoton
        return account

    def balance_nanoton(self, address: str) -> int:
        """What the account at ``address`` holds; 0 for one that does not exist."""
        account = self.wallets.get(address) or self.channels.get(address)
        return 0 if account is None else account.balance_nanoton

    def channel_state(self, address: str) -> StoredChannel | None:
        """The channel's stored state, ``None`` when it does not exist or has no code."""
        account = self.channels.get(address)
        return None if account is None or account.status != "active" else account.state

    def send(self, address: str, transfers: Sequence[Transfer], now: int) -> Outcome:
        """Have the wallet at ``address`` send; what it sends waits for :meth:`deliver`. ``KeyError``."""
        for transfer in transfers:
            if transfer.state_init is not None and transfer.destination not in self.channels:
                self._expect(transfer)
        outcome = self.wallets[address].send(transfers, now)
        self._book(outcome, 0)
        return outcome

    def _expect(self, transfer: Transfer) -> None:
        terms = parse_channel_data(transfer.state_init.data).terms
        if terms.address() == transfer.destination:
            self.channels[transfer.destination] = ChannelAccount(
                transfer.destination, self.prices, terms=terms, gas=self._channel_gas, network_id=self.network_id
            )

    def deliver(self, now: int, limit: int | None = None) -> list[Delivered]:
        """Run waiting messages, and those that they cause, at most ``limit``; returns them in order."""
        done: list[Delivered] = []
        while self._queue and (limit is None or len(done) < limit):
            message = self._queue.popleft()
            account = self.wallets.get(message.destination) or self.channels.get(message.destination)
            if account is None:
                self._lost += message.value_nanoton
                self._fees += message.forward_fee_nanoton
                continue
            outcome = account.receive(message, now)
            self._book(outcome, message.forward_fee_nanoton)
            done.append(Delivered(message, outcome))
        return done

    def _book(self, outcome: Outcome, forward_fee: int) -> None:
        self._fees += outcome.fee_nanoton + forward_fee
        self._queue.extend(outcome.sent)

    @property
    def waiting(self) -> int:
        """How many messages are on their way."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether messages wait."""
        return bool(self._queue)

    @property
    def fees_nanoton(self) -> int:
        """What the network has taken so far."""
        return self._fees

    def conserved(self) -> bool:
        """Whether every nanoTON that was put in is in an account, on its way, a fee, or sent to strangers."""
        held = sum(account.balance_nanoton for account in (*self.wallets.values(), *self.channels.values()))
        moving = sum(message.value_nanoton + message.forward_fee_nanoton for message in self._queue)
        return self._minted == held + moving + self._fees + self._lost
