"""How many claims a wallet can send at once: each needs gas attached, which mostly comes back."""

from __future__ import annotations

from overlay.channels.limits import CLAIM_ATTACHED_NANOTON, CLAIM_RESERVE_NANOTON
from overlay.settlement.chain import WalletAccount
from overlay.settlement.limits import MAX_TRANSFERS


async def affordable(account: WalletAccount) -> int:
    """Claims that the wallet can send in one message now, 1 to 255: at least one, so that it says itself what it lacks.

    Raises :class:`~overlay.settlement.SettlementError` when the chain is away."""
    balance = await account.balance_nanoton()
    return min(MAX_TRANSFERS, max(1, (balance - CLAIM_RESERVE_NANOTON) // CLAIM_ATTACHED_NANOTON))
