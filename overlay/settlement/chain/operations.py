"""What a node does with channels on the chain: open, top up, claim, close, refund.

Every operation is a message from the wallet to the channel that carries a fresh query id. The channel answers the
wallet under that id when it did it (with ``Excesses``, or with the payout or the refund that carries the change), and
the message bounces when it refused: so the wallet's own proved transactions tell what became of it, also when the
channel's account is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from overlay.settlement.cells import (
    ChannelTerms,
    answered,
    claim_body,
    close_together_body,
    finish_refund_body,
    start_refund_body,
    top_up_body,
)
from overlay.settlement.chain.account import WalletAccount
from overlay.settlement.chain.client import ChannelState
from overlay.settlement.errors import OperationFailed
from overlay.settlement.limits import (
    ATTACHED_NANOTON,
    CONFIRM_TIMEOUT_S,
    MAX_TRANSFERS,
    MIN_DEPOSIT_NANOTON,
    RENT_RESERVE_NANOTON,
)
from overlay.settlement.transactions import AccountTransaction, Message
from overlay.settlement.voucher import CloseAgreement, Voucher
from overlay.settlement.wallet import Transfer

_REASONS = {
    101: "only the payer may do this",
    102: "only the payee may close with a voucher",
    103: "the channel is not in a state for this (a refund was started, or none was)",
    104: "a signature does not match",
    105: "the voucher or agreement is no newer than what was paid already",
    106: "the amount is more than the deposit",
    107: "the challenge period has not passed yet",
    108: "too little value is attached",
    109: "the channel or the agreement has expired",
    110: "signed for another channel or network",
    111: "the expiry or the challenge period is too far away",
    112: f"the deposit is below {MIN_DEPOSIT_NANOTON} nanoTON",
}


class ChannelRefused(OperationFailed):
    """The contract refused the operation; the attached value came back, less fees. ``exit_code`` is the contract's."""

    def __init__(self, exit_code: int | None) -> None:
        reason = _REASONS.get(exit_code or 0, "no reason is known")
        super().__init__(f"the channel refused: {reason}" + (f" (exit code {exit_code})" if exit_code else ""))
        self.exit_code = exit_code


@dataclass(frozen=True)
class TxResult:
    """What one operation did. ``hash`` (hexadecimal), ``lt`` and ``utime_s`` are those of the wallet's transaction.

    ``fee_nanoton`` is what the operation cost the sender beyond what it moved; ``state`` is the channel afterwards.
    A batch's wallet fee is shared out among its operations, the remainder to the first.
    """

    hash: str
    lt: int
    utime_s: int
    fee_nanoton: int
    state: ChannelState


@dataclass(frozen=True)
class _Operation:
    terms: ChannelTerms
    query_id: int
    transfer: Transfer
    moved_nanoton: int
    ends: bool


@dataclass(frozen=True)
class Claim:
    """One voucher to claim: ``signature`` is the payer's over it."""

    terms: ChannelTerms
    voucher: Voucher
    signature: bytes
    close: bool = False


async def open_channel(account: WalletAccount, terms: ChannelTerms, deposit_nanoton: int) -> TxResult:
    """Deploy the channel of ``terms`` with a deposit; its payer must be this wallet.

    The deposit and the rent reserve (0.02 TON, returned at the end) are moved, the rest is fee. Take a nonce that was
    never used between the two: an earlier channel's vouchers would be valid again in one with the same terms.
    """
    return await _fund(account, terms, deposit_nanoton, opening=True)


async def finish_opening(
    account: WalletAccount, terms: ChannelTerms, deposit_nanoton: int, *, since_s: int
) -> ChannelState:
    """The end of an :func:`open_channel` that began at ``since_s`` (the chain's Unix seconds) or later, and that a
    crash or a failure cut off: wait for what became of it, or begin it anew if nothing ever left the wallet.

    The wallet's own history decides: a channel that is not there yet may be on its way, and a second deposit would
    only fill it up. Raises as :func:`open_channel` does.
    """
    await account.resume()
    address = terms.address()
    for sent in await account.client.transactions(account.address, since_s=since_s):
        ours = [out for out in sent.out_messages if out.destination == address]
        if ours and sent.success:
            query_id = _query_id_of(ours[0])
            if (await _outcomes(account, {query_id: address}, sent))[query_id].bounced:
                raise ChannelRefused(None)
            return await account.client.channel_state(terms, was_open=True)
    return (await open_channel(account, terms, deposit_nanoton)).state


async def top_up(account: WalletAccount, terms: ChannelTerms, amount_nanoton: int) -> TxResult:
    """Add to the deposit of an open channel; its payer must be this wallet."""
    return await _fund(account, terms, amount_nanoton, opening=False)


async def _fund(account: WalletAccount, terms: ChannelTerms, amount: int, *, opening: bool) -> TxResult:
    query_id = account.query_id()
    reserve = RENT_RESERVE_NANOTON if opening else 0
    transfer = Transfer(
        terms.address(), amount + reserve + ATTACHED_NANOTON, top_up_body(query_id, amount),
        terms.state_init() if opening else None,
    )  # fmt: skip
    return await _one(account, _Operation(terms, query_id, transfer, amount + reserve, ends=False))


async def claim(
    account: WalletAccount, terms: ChannelTerms, voucher: Voucher, signature: bytes, *, close: bool = False
) -> TxResult:
    """Have the channel pay what ``voucher`` adds. Anyone may; only the payee with ``close``, which ends the channel."""
    return (await claim_many(account, [Claim(terms, voucher, signature, close)]))[0]


async def claim_many(account: WalletAccount, claims: Sequence[Claim]) -> list[TxResult]:
    """Claim up to 255 vouchers with one wallet message. Raises :class:`ChannelRefused` when any is refused;
    the others have taken effect then.
    """
    if not 1 <= len(claims) <= MAX_TRANSFERS:
        raise ValueError(f"between 1 and {MAX_TRANSFERS} claims at once")
    operations = []
    for each in claims:
        query_id = account.query_id()
        body = claim_body(query_id, each.signature, each.voucher.to_cell(), close=each.close)
        operations.append(_plain(each.terms, query_id, body, ends=each.close))
    return await _perform(account, operations)


async def cooperative_close(
    account: WalletAccount,
    terms: ChannelTerms,
    agreement: CloseAgreement,
    payer_signature: bytes,
    payee_signature: bytes,
) -> TxResult:
    """End the channel as both have signed. Anyone may send it; the change goes back to the sender."""
    query_id = account.query_id()
    body = close_together_body(query_id, payer_signature, payee_signature, agreement.to_cell())
    return await _one(account, _plain(terms, query_id, body, ends=True))


async def start_refund(account: WalletAccount, terms: ChannelTerms) -> TxResult:
    """As the payer, ask for the deposit back: the challenge period runs from the expiry, or from now if later."""
    query_id = account.query_id()
    return await _one(account, _plain(terms, query_id, start_refund_body(query_id), ends=False))


async def finish_refund(account: WalletAccount, terms: ChannelTerms) -> TxResult:
    """After the challenge period, end the channel: what was not claimed goes back to the payer."""
    query_id = account.query_id()
    return await _one(account, _plain(terms, query_id, finish_refund_body(query_id), ends=True))


def _plain(terms: ChannelTerms, query_id: int, body: Any, *, ends: bool) -> _Operation:
    return _Operation(terms, query_id, Transfer(terms.address(), ATTACHED_NANOTON, body), 0, ends)


async def _one(account: WalletAccount, operation: _Operation) -> TxResult:
    return (await _perform(account, [operation]))[0]


async def _perform(account: WalletAccount, operations: Sequence[_Operation]) -> list[TxResult]:
    """Send the operations in one wallet message and wait for what became of each, in proved states."""
    sent = await account.transfer([operation.transfer for operation in operations])
    # When an earlier attempt turned out to have gone through, its messages have its query ids, not ours.
    query_ids = [_query_id_of(out) for out in sent.out_messages]
    outcomes = await _outcomes(
        account, dict(zip(query_ids, (o.terms.address() for o in operations), strict=True)), sent
    )
    results = []
    wallet_fee, remainder = divmod(sent.fee_nanoton, len(operations))
    for index, (operation, out, query_id) in enumerate(zip(operations, sent.out_messages, query_ids, strict=True)):
        returned = outcomes[query_id]
        if returned.bounced:
            raise ChannelRefused(await _exit_code(account, operation, out))
        fee = wallet_fee + (remainder if index == 0 else 0)
        change = returned.value_nanoton - (answered(returned) or 0)
        fee += out.value_nanoton + out.forward_fee_nanoton - operation.moved_nanoton - change
        state = await account.client.channel_state(operation.terms, was_open=True)
        if operation.ends != (state.status == "closed"):
            raise OperationFailed(f"the channel is {state.status}, which the operation does not explain")
        results.append(TxResult(sent.hash.hex(), sent.lt, sent.utime, fee, state))
    return results


def _query_id_of(message: Message) -> int:
    operation = message.operation()
    assert operation is not None, "our own messages have an operation and a query id"
    return operation[1]


async def _outcomes(account: WalletAccount, waiting: dict[int, str], sent: AccountTransaction) -> dict[int, Message]:
    """For each query id (with the channel asked), what the channel sent back: its answer, or our own, bounced."""
    outcomes: dict[int, Message] = {}
    seen_lt = sent.lt
    with trio.move_on_after(CONFIRM_TIMEOUT_S):
        while True:
            for transaction in await account.client.transactions(account.address, after_lt=seen_lt):
                seen_lt = max(seen_lt, transaction.lt)
                message = transaction.in_message
                operation = message.operation() if message is not None and message.kind == "internal" else None
                if message is None or operation is None or waiting.get(operation[1]) != message.source:
                    continue
                if message.bounced or answered(message) is not None:
                    outcomes[operation[1]] = message
            if len(outcomes) == len(waiting):
                return outcomes
            await account.client.next_block()
    raise OperationFailed(
        f"the channel has not answered within {int(CONFIRM_TIMEOUT_S)} s: look at its state before trying again"
    )


async def _exit_code(account: WalletAccount, operation: _Operation, out: Message) -> int | None:
    """Why the channel refused, where its account still exists to be asked."""
    for transaction in await account.client.transactions(operation.transfer.destination, limit=32):
        if transaction.in_message is not None and transaction.in_message.hash == out.hash:
            return transaction.exit_code
    return None
