"""The benchmark of the books runs, and its sessions end as it says they do."""

from __future__ import annotations

import random

import pytest

from simulations.bench import settlement_ledger, settlement_risk


async def test_a_group_of_channels_pays_with_few_commits(tmp_path):
    found = await settlement_ledger._group(tmp_path, 1, 2)
    assert len(found["rates"]) == len(found["by_cpu"]) == 1
    assert 0 < found["commits_per_voucher"] < 0.2


def test_one_at_a_time_is_measured_beside_bare_fsyncs(tmp_path, monkeypatch):
    monkeypatch.setattr(settlement_ledger, "WARM_UP_COMMITS", 3)
    found = settlement_ledger._alone(tmp_path, 2, 3)
    assert {name: len(rates) for name, rates in found.items()} == {"vouchers": 2, "appended": 2, "in_place": 2}
    assert all(rate > 0 for rates in found.values() for rate in rates)
    assert settlement_ledger._file_system(tmp_path)


@pytest.mark.parametrize("case", settlement_risk.CASES)
async def test_vanishing_costs_a_window_at_most(tmp_path, case):
    async with settlement_risk._Stage.open(tmp_path, 1) as stage:
        loss, most = await stage.round(case, f"0:{stage.channel(0, case):064x}", random.Random(4))
    assert 0 <= loss <= 1
    assert 0 <= most <= 1
    assert case != "thief" or loss > 0.9, "who never pays is served until the window is full"
    assert case != "provider" or loss == 0
