"""What an operation is said to cost beforehand covers what it costs in the real TVM, and not much more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytoniq_core import begin_cell

from overlay.settlement import CloseAgreement, InsufficientFunds, Transfer, Voucher, Wallet
from overlay.settlement.chain import (
    Claim,
    TonClient,
    WalletAccount,
    claim,
    claim_many,
    cooperative_close,
    finish_refund,
    open_channel,
    operation_cost,
    start_refund,
    top_up,
)
from overlay.settlement.chain.estimate import OperationName
from overlay.settlement.chain.prices import Prices

TON = 10**9
MAINNET = Prices(100, 40_000, 26_214_400, 400_000, 26_214_400, 2_621_440_000, 1, 500)


async def test_prices_come_from_the_networks_proved_configuration(client: TonClient) -> None:
    assert await client.prices() == MAINNET


def fits(cost: Any, real_fee: int) -> None:
    assert real_fee <= cost.fees_nanoton <= real_fee * 7 // 4, f"{cost.operation}: {cost.fees_nanoton} for {real_fee}"
    assert cost.needed_nanoton == cost.moved_nanoton + cost.fees_nanoton + cost.attached_nanoton


async def test_every_operation_costs_what_was_estimated_or_a_little_less(
    net: Any, client: TonClient, make: Any
) -> None:
    parties = await make(net, client, lifetime_s=3600)
    prices = await client.prices()
    await parties.payee.transfer([Transfer(parties.payer.address, 1, bounce=False)])  # deploys its wallet

    def cost(operation: OperationName, amount: int = 0, *, deploy: bool = False) -> Any:
        return operation_cost(prices, parties.payer.wallet, operation, amount_nanoton=amount, deploy=deploy)

    terms = parties.terms
    fits(cost("open", TON, deploy=True), (await open_channel(parties.payer, terms, TON)).fee_nanoton)
    fits(cost("top up", TON), (await top_up(parties.payer, terms, TON)).fee_nanoton)
    voucher = Voucher(terms.address(), terms.network_id, 1, TON // 2)
    signature = voucher.sign(parties.payer_seed)
    fits(cost("claim"), (await claim(parties.payee, terms, voucher, signature)).fee_nanoton)
    voucher = Voucher(terms.address(), terms.network_id, 2, TON)
    signature = voucher.sign(parties.payer_seed)
    fits(cost("claim and close"), (await claim(parties.payee, terms, voucher, signature, close=True)).fee_nanoton)

    parties = await make(net, client)
    terms = parties.terms
    await open_channel(parties.payer, terms, TON)
    agreement = CloseAgreement(terms.address(), terms.network_id, TON // 3, await client.chain_time_s() + 600)
    signed = agreement.sign(parties.payer_seed), agreement.sign(parties.payee_seed)
    fits(cost("close together"), (await cooperative_close(parties.payer, terms, agreement, *signed)).fee_nanoton)

    parties = await make(net, client, challenge_s=600)
    terms = parties.terms
    await open_channel(parties.payer, terms, TON)
    fits(cost("start refund"), (await start_refund(parties.payer, terms)).fee_nanoton)
    await net.advance(3600 + 601)
    fits(cost("finish refund"), (await finish_refund(parties.payer, terms)).fee_nanoton)


async def test_a_batch_costs_what_was_estimated_or_a_little_less(net: Any, client: TonClient, make: Any) -> None:
    claims, payee = [], WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    await net.call(net.devnet.fund, payee.address, 5 * TON)
    await payee.transfer([Transfer(payee.address, 1, bounce=False)])
    first = await make(net, client)
    from dataclasses import replace

    for nonce in range(1, 9):
        terms = replace(first.terms, payee=payee.address, nonce=nonce)
        await open_channel(first.payer, terms, TON)
        voucher = Voucher(terms.address(), terms.network_id, 1, TON // 2)
        claims.append(Claim(terms, voucher, voucher.sign(first.payer_seed)))
    cost = operation_cost(await client.prices(), payee.wallet, "claim", count=len(claims))
    fits(cost, sum(result.fee_nanoton for result in await claim_many(payee, claims)))


async def test_a_wallet_that_holds_what_is_asked_for_can_pay_and_one_with_a_nanoton_less_is_told(
    net: Any, client: TonClient
) -> None:
    # Two wallets, each filled once: a second deposit would pay rent for the seconds since the first.
    poor, rich = (WalletAccount(client, Wallet(net.fresh_seed(), client.network_id)) for _ in range(2))
    target = [Transfer("0:" + "66" * 32, TON, bounce=False)]
    needed = (await poor.cost(target)).needed_nanoton
    await net.call(net.devnet.fund, poor.address, needed - 1)
    with pytest.raises(InsufficientFunds, match="1 more"):
        await poor.transfer(target)
    await net.call(net.devnet.fund, rich.address, needed)
    await rich.transfer(target)
    assert 0 <= await rich.balance_nanoton() < needed - TON


@given(st.integers(0, 10**6))
def test_gas_costs_the_flat_price_and_then_each_unit_rounded_up(gas: int) -> None:
    assert MAINNET.gas_fee(gas) == 40_000 + 400 * max(gas - 100, 0)


@given(st.integers(1, 1000), st.integers(1, 10**6), st.integers(0, 10**9))
def test_rent_grows_with_size_and_time_and_is_never_rounded_down(cells: int, bits: int, seconds: int) -> None:
    fee = MAINNET.storage_fee(cells, bits, seconds)
    assert fee * 65536 >= (500 * cells + bits) * seconds > (fee - 1) * 65536 or seconds == 0


def test_forwarding_counts_each_cell_below_the_root_once() -> None:
    leaf = begin_cell().store_uint(7, 8).end_cell()
    once = begin_cell().store_ref(leaf).end_cell()
    twice = begin_cell().store_ref(leaf).store_ref(leaf).store_uint(1, 64).end_cell()
    assert MAINNET.forward_fee(once) == MAINNET.forward_fee(twice) == 400_000 + 40_000 + 8 * 400
    assert MAINNET.forward_fee(leaf) == 400_000


@pytest.mark.parametrize(
    "cells", [{}, {18: begin_cell().end_cell()}, {n: begin_cell().end_cell() for n in (18, 21, 25)}]
)
def test_a_configuration_without_prices_is_refused(cells: dict[int, Any]) -> None:
    with pytest.raises(ValueError, match="prices"):
        Prices.from_config(cells)
