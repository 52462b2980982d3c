"""The contract, the wallets and the chain's fees without a TVM, equal to the real ones to the nanoTON.

:class:`ModelChain` is for simulations to settle on: the node's own messages go in, balances and states come out, in
microseconds instead of milliseconds. :mod:`~overlay.settlement.model.contract` decides like ``channel.tolk``,
:mod:`~overlay.settlement.model.account` and :mod:`~overlay.settlement.model.wallet` do what a transaction does, and
:mod:`~overlay.settlement.model.fees` is what it costs. Tests hold all of it to the real TVM
(:mod:`~overlay.settlement.model.replica`) over thousands of random messages.
"""

from overlay.settlement.model.account import ChannelAccount, ModelEnds, ModelMessage, Outcome
from overlay.settlement.model.chain import Delivered, ModelChain
from overlay.settlement.model.fees import MAINNET_PRICES, Prices
from overlay.settlement.model.wallet import WalletModel

__all__ = [
    "MAINNET_PRICES",
    "ChannelAccount",
    "Delivered",
    "ModelChain",
    "ModelEnds",
    "ModelMessage",
    "Outcome",
    "Prices",
    "WalletModel",
]
