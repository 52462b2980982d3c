"""What the docs say of costs: by the model in every run, by real wallets in the real TVM in the long one."""

from __future__ import annotations

import pytest

from overlay.settlement import ChannelTerms, Transfer, Voucher, Wallet, channel_public_key
from overlay.settlement.cells import claim_body, top_up_body
from overlay.settlement.limits import ATTACHED_MIN_NANOTON, ATTACHED_NANOTON, RENT_RESERVE_NANOTON
from overlay.settlement.model import ModelChain
from overlay.settlement.model.steps import NETWORK_ID, SEEDS, START_S
from simulations.bench.settlement_contract import contract_rows

TON = 10**9


def life_by_the_model(channels: int, opens_per_message: int) -> int:
    """What a channel's whole life costs both parties, in nanoTON: opened quietly, claimed and closed at once."""
    chain, now = ModelChain(NETWORK_ID), START_S
    payer, payee = Wallet(b"1" * 32, NETWORK_ID), Wallet(b"2" * 32, NETWORK_ID)
    for wallet in (payer, payee):
        chain.add_wallet(wallet, 1000 * TON, now)
        chain.send(wallet.address, [Transfer(wallet.address, TON, bounce=False)], now)  # deploys it
        chain.deliver(now)
    before = chain.balance_nanoton(payer.address) + chain.balance_nanoton(payee.address)
    opens, claims = [], []
    for number in range(channels):
        terms = ChannelTerms(
            payer=payer.address, payee=payee.address, payer_key=channel_public_key(SEEDS["payer"]),
            payee_key=channel_public_key(SEEDS["payee"]), network_id=NETWORK_ID, nonce=number + 1,
            expiry_s=now + 86_400, challenge_period_s=3600,
        )  # fmt: skip
        value = TON + RENT_RESERVE_NANOTON + ATTACHED_MIN_NANOTON
        opens.append(Transfer(terms.address(), value, top_up_body(0, TON), terms.state_init()))
        last = Voucher(terms.address(), NETWORK_ID, 2, TON // 2)
        body = claim_body(number + 1, last.sign(SEEDS["payer"]), last.to_cell(), close=True)
        claims.append(Transfer(terms.address(), ATTACHED_NANOTON, body))
    for start in range(0, channels, opens_per_message):
        chain.send(payer.address, opens[start : start + opens_per_message], now)
    assert all(each.outcome.success for each in chain.deliver(now))
    chain.send(payee.address, claims, now)
    assert all(each.outcome.success for each in chain.deliver(now))
    assert chain.conserved()
    assert all(account.status == "none" for account in chain.channels.values())
    after = chain.balance_nanoton(payer.address) + chain.balance_nanoton(payee.address)
    return (before - after) // channels


def test_a_whole_life_costs_by_the_model_what_the_docs_say() -> None:
    assert life_by_the_model(255, 250) == pytest.approx(0.0129 * TON, abs=0.0001 * TON)


@pytest.mark.slow
async def test_a_whole_life_costs_in_the_tvm_what_the_model_and_the_docs_say() -> None:
    rows = await contract_rows(quick=False)
    assert rows["channel_life"].value == pytest.approx(life_by_the_model(255, 250) / TON, abs=0.000001)
    assert rows["channel_life"].ok is False  # the docs say why it cannot be
    assert rows["batched_claim"].value == pytest.approx(0.0042, abs=0.0001)
    assert rows["channel_settlement"].value == pytest.approx(0.0057, abs=0.0001)
    assert rows["smallest_start"].ok
