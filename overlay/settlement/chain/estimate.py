"""What an operation will cost, before anything is sent: at the network's own prices, from the very cells to be sent.

Forward fees are computed exactly. Gas is what the real TVM was measured to use; estimates err upwards, by a tenth, so
that a wallet that holds what is asked for never falls short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from overlay.settlement.cells import (
    ChannelTerms,
    claim_body,
    close_together_body,
    finish_refund_body,
    start_refund_body,
    top_up_body,
)
from overlay.settlement.chain.prices import Prices
from overlay.settlement.limits import ATTACHED_NANOTON, MAX_SEQ, RENT_RESERVE_NANOTON
from overlay.settlement.model.gas import CHANNEL_GAS
from overlay.settlement.voucher import CloseAgreement, Voucher
from overlay.settlement.wallet import Transfer, Wallet

OperationName = Literal["open", "top up", "claim", "claim and close", "close together", "start refund", "finish refund"]

_WALLET_GAS = 4250
"""A v5r1 wallet that checks a signature and sends nothing (4222 measured), deployment included."""

_WALLET_GAS_PER_MESSAGE = 717
"""Each message that it sends beside (717 measured)."""

_CHANNEL_GAS: dict[OperationName, int] = {
    "open": CHANNEL_GAS["top up"],
    "top up": CHANNEL_GAS["top up"],
    "claim": CHANNEL_GAS["claim by the payee"],
    "claim and close": CHANNEL_GAS["claim and close by the payee"],
    "close together": CHANNEL_GAS["close together by the payer"],
    "start refund": CHANNEL_GAS["start refund"],
    "finish refund": CHANNEL_GAS["finish refund by the payer, nothing due"],
}
"""Gas of the channel's own transaction when the party sends it that usually does, as measured in the TVM."""

_CHANNEL_MESSAGES: dict[OperationName, int] = {
    "open": 1, "top up": 1, "claim": 1, "claim and close": 2, "close together": 2, "start refund": 2,
    "finish refund": 1,
}  # fmt: skip
"""Messages that the channel sends: payout, refund, notice or ``Excesses``. All fit into one cell."""


@dataclass(frozen=True)
class TransferCost:
    """What a wallet needs for a transfer: ``value_nanoton`` leaves with the messages, ``fees_nanoton`` is burnt."""

    value_nanoton: int
    fees_nanoton: int

    @property
    def needed_nanoton(self) -> int:
        """What the wallet must hold."""
        return self.value_nanoton + self.fees_nanoton


@dataclass(frozen=True)
class OperationCost:
    """What ``count`` operations in one message cost. All in nanoTON.

    ``moved`` goes where the operation puts it (the deposit and its rent reserve); ``fees`` is gone; ``attached`` comes
    back within seconds; ``needed`` is what the wallet must hold: the sum of the three.
    """

    operation: OperationName
    count: int
    moved_nanoton: int
    fees_nanoton: int
    attached_nanoton: int
    needed_nanoton: int


def transfer_cost(prices: Prices, wallet: Wallet, transfers: Sequence[Transfer], *, deploy: bool) -> TransferCost:
    """What ``wallet`` pays for one external message with these transfers; ``deploy`` when it has no code yet."""
    message = wallet.sign_transfers(transfers, seqno=0, valid_until_s=1, deploy=deploy)
    fees = prices.forward_fee(message)
    fees += prices.gas_fee(_WALLET_GAS + _WALLET_GAS_PER_MESSAGE * len(transfers))
    fees += sum(prices.forward_fee(transfer.message_cell()) for transfer in transfers)
    return TransferCost(sum(transfer.value_nanoton for transfer in transfers), fees + fees // 10)


def operation_cost(
    prices: Prices,
    wallet: Wallet,
    operation: OperationName,
    *,
    count: int = 1,
    amount_nanoton: int = 0,
    deploy: bool = False,
) -> OperationCost:
    """What ``count`` such operations (255 at most) cost ``wallet`` when it sends them in one message.

    ``amount_nanoton`` is what each moves, for ``open`` and ``top up``; ``deploy`` when the wallet has no code yet.
    Raises ``ValueError`` for impossible numbers.
    """
    transfers = [_sample(wallet, operation, index, amount_nanoton) for index in range(count)]
    sent = transfer_cost(prices, wallet, transfers, deploy=deploy)
    reserve = RENT_RESERVE_NANOTON if operation == "open" else 0
    moved = (amount_nanoton + reserve) * count
    channel = prices.gas_fee(_CHANNEL_GAS[operation]) + _CHANNEL_MESSAGES[operation] * prices.lump_price
    burnt = (channel + channel // 10) * count
    return OperationCost(
        operation, count, moved, sent.fees_nanoton + burnt, sent.value_nanoton - moved - burnt, sent.needed_nanoton
    )


def _sample(wallet: Wallet, operation: OperationName, index: int, amount_nanoton: int) -> Transfer:
    """A message of the operation's kind and size."""
    terms = ChannelTerms(
        payer=wallet.address, payee=f"0:{index + 1:064x}", payer_key=wallet.public_key, payee_key=wallet.public_key,
        network_id=wallet.network_id, nonce=index, expiry_s=2**31, challenge_period_s=3600,
    )  # fmt: skip
    channel, signature = terms.address(), index.to_bytes(64, "big")
    value = ATTACHED_NANOTON + amount_nanoton
    if operation in ("open", "top up"):
        first = operation == "open"
        return Transfer(
            channel, value + (RENT_RESERVE_NANOTON if first else 0), top_up_body(index, amount_nanoton),
            state_init=terms.state_init() if first else None,
        )  # fmt: skip
    if operation in ("claim", "claim and close"):
        voucher = Voucher(channel, terms.network_id, MAX_SEQ, 10**9)
        return Transfer(channel, value, claim_body(index, signature, voucher.to_cell(), close=True))
    if operation == "close together":
        agreement = CloseAgreement(channel, terms.network_id, 10**9, 2**31)
        return Transfer(channel, value, close_together_body(index, signature, signature, agreement.to_cell()))
    body = start_refund_body(index) if operation == "start refund" else finish_refund_body(index)
    return Transfer(channel, value, body)
