"""Clients that have bought for days: they have channels when they begin."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from simulations.scenarios.checks import check
from simulations.scenarios.model import Scenario
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError
from simulations.world import run


def regulars(scenario: Scenario, channels: int) -> Scenario:
    """The same, whose clients begin with channels."""
    groups = tuple(msgspec.structs.replace(group, channels=channels) for group in scenario.clients)
    return msgspec.structs.replace(scenario, clients=groups)


def test_clients_begin_with_as_many_channels_as_the_scenario_says(town: Any) -> None:
    result = run(regulars(town(providers=3, clients=4, duration_s=30.0, jobs_per_hour=0.0), 2), 1)
    assert result.samples[-1].channels == 8
    assert result.chain_fees_nanoton > 0
    assert not result.jobs


def test_nobody_has_channels_to_more_providers_than_sell_his_model(town: Any) -> None:
    scenario = town(providers=3)
    check(regulars(scenario, 3), "town", Registries())
    for channels in (-1, 4):
        with pytest.raises(ScenarioError, match=r"clients.buyers.channels: from 0 to the 3 providers of llama-3-8b"):
            check(regulars(scenario, channels), "town", Registries())
