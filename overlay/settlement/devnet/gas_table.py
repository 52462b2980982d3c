"""Measure what each channel operation costs: ``python -m overlay.settlement.devnet.gas_table`` prints a Markdown table.

Every operation runs on a devnet, in the real TVM at mainnet's prices; gas and fee are read from the channel's own
transaction, the cost to the sender from what its wallet is left with.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from overlay.settlement.cells import ChannelTerms, top_up_body
from overlay.settlement.chain import (
    ChannelRefused,
    TonClient,
    TxResult,
    WalletAccount,
    claim,
    cooperative_close,
    finish_refund,
    open_channel,
    start_refund,
    top_up,
)
from overlay.settlement.devnet.server import Devnet
from overlay.settlement.limits import ATTACHED_NANOTON
from overlay.settlement.voucher import CloseAgreement, Voucher, channel_public_key
from overlay.settlement.wallet import Transfer, Wallet

_TON = 10**9
_PAYER_SEED, _PAYEE_SEED = b"a" * 32, b"b" * 32


class _Table:
    """Runs operations and prints one row for each."""

    def __init__(self, devnet: Devnet) -> None:
        self._devnet = devnet
        print("| operation | gas | fee of the channel's transaction (TON) | cost to the sender, all in all (TON) |")
        print("| --- | --- | --- | --- |")

    def row(self, name: str, terms: ChannelTerms, result: TxResult | None) -> None:
        """Print the channel's last transaction; ``result`` is ``None`` for a refused operation."""
        transaction = self._devnet.ledger.transactions(terms.address())[-1]
        cost = "" if result is None else _ton(result.fee_nanoton)
        print(f"| {name} | {transaction.gas_used} | {_ton(transaction.fee_nanoton)} | {cost} |")


def _ton(nanoton: int) -> str:
    return f"{nanoton // _TON}.{nanoton % _TON // 1000:06d}"


async def _measure() -> None:
    now = [2_000_000_000.0]

    def clock() -> float:
        return now[0]

    async with Devnet.serve(clock=clock) as devnet, TonClient.connect(devnet.global_config(), clock=clock) as client:
        payer, payee = (WalletAccount(client, Wallet(seed * 32, client.network_id)) for seed in (b"1", b"2"))
        for account in (payer, payee):
            await devnet.fund(account.address, 100 * _TON)
        terms = ChannelTerms(
            payer=payer.address, payee=payee.address, payer_key=channel_public_key(_PAYER_SEED),
            payee_key=channel_public_key(_PAYEE_SEED), network_id=client.network_id, nonce=1,
            expiry_s=int(clock()) + 86_400, challenge_period_s=3600,
        )  # fmt: skip
        table = _Table(devnet)
        await _life_by_vouchers(table, payer, payee, terms)
        await _close_together(table, payer, payee, replace(terms, nonce=2))
        refunded = replace(terms, nonce=3)
        await open_channel(payer, refunded, _TON)
        table.row("start refund", refunded, await start_refund(payer, refunded))
        now[0] = refunded.expiry_s + refunded.challenge_period_s
        await devnet.seal()
        table.row("finish refund", refunded, await finish_refund(payer, refunded))


def _voucher(terms: ChannelTerms, seq: int, amount_nanoton: int) -> tuple[Voucher, bytes]:
    voucher = Voucher(terms.address(), terms.network_id, seq, amount_nanoton)
    return voucher, voucher.sign(_PAYER_SEED)


async def _life_by_vouchers(table: _Table, payer: WalletAccount, payee: WalletAccount, terms: ChannelTerms) -> None:
    # The first transfer of a wallet also deploys it: not a cost of the channel, so it happens on another channel.
    await open_channel(payer, replace(terms, nonce=100), _TON)
    await claim(payee, replace(terms, nonce=100), *_voucher(replace(terms, nonce=100), 1, 1))
    table.row("open (deploy and deposit)", terms, await open_channel(payer, terms, 10 * _TON))
    table.row("top up", terms, await top_up(payer, terms, _TON))
    await _top_up_unanswered(payer, terms)
    table.row("the same without an answer", terms, None)
    table.row("claim by the payee", terms, await claim(payee, terms, *_voucher(terms, 1, _TON)))
    table.row("claim relayed by another", terms, await claim(payer, terms, *_voucher(terms, 2, 2 * _TON)))
    for name, account, voucher in (
        ("refused: replayed voucher", payee, _voucher(terms, 2, 2 * _TON)),
        ("refused: bad signature", payee, (_voucher(terms, 3, 3 * _TON)[0], bytes(64))),
    ):
        try:
            await claim(account, terms, *voucher)
        except ChannelRefused:
            table.row(name, terms, None)
    table.row("claim and close", terms, await claim(payee, terms, *_voucher(terms, 4, 4 * _TON), close=True))


async def _top_up_unanswered(payer: WalletAccount, terms: ChannelTerms) -> None:
    before = (await payer.client.channel_state(terms)).deposit_nanoton
    await payer.transfer([Transfer(terms.address(), _TON + ATTACHED_NANOTON, top_up_body(0, _TON))])
    while (await payer.client.channel_state(terms)).deposit_nanoton == before:
        await payer.client.next_block()


async def _close_together(table: _Table, payer: WalletAccount, payee: WalletAccount, terms: ChannelTerms) -> None:
    await open_channel(payer, terms, 10 * _TON)
    agreement = CloseAgreement(terms.address(), terms.network_id, 4 * _TON, 2**32 - 1)
    signatures = agreement.sign(_PAYER_SEED), agreement.sign(_PAYEE_SEED)
    table.row("close together, sent by the payee", terms, await cooperative_close(payee, terms, agreement, *signatures))


if __name__ == "__main__":
    trio.run(_measure)
