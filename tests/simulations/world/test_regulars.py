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


def test_there_are_no_fewer_than_none_and_no_more_than_a_client_can_open(town: Any) -> None:
    check(regulars(town(providers=3), 50), "town", Registries())
    for channels in (-1, 51):
        with pytest.raises(ScenarioError, match=rf"clients.buyers.channels: from 0 to 50, not {channels}"):
            check(regulars(town(), channels), "town", Registries())
