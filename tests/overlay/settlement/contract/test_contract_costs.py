"""What the docs say of costs, measured again in batches of 255 through real wallets."""

from __future__ import annotations

import pytest

from simulations.bench.settlement_contract import contract_rows


@pytest.mark.slow
async def test_a_whole_life_and_a_claim_in_a_batch_of_255_cost_what_the_docs_say() -> None:
    rows = await contract_rows(quick=False)
    assert rows["batched_claim"].value == pytest.approx(0.0042, abs=0.0001)
    assert rows["channel_settlement"].value == pytest.approx(0.0057, abs=0.0001)
    assert rows["channel_life"].value == pytest.approx(0.0129, abs=0.0001)
    assert rows["channel_life"].ok is False  # the docs say why it cannot be
    assert rows["smallest_start"].ok
