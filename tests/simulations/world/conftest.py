"""A small town for tests: a few providers and clients, a minute or two."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.scenarios.model import ClientGroup, Demand, Fault, ProviderGroup, Scenario, Size


def _town(
    *faults: Fault, providers: int = 3, clients: int = 3, duration_s: float = 60.0, jobs_per_hour: float = 400.0,
    answer: float = 250.0, **config: Any,
) -> Scenario:  # fmt: skip
    demand = Demand(jobs_per_hour, answer_tokens=Size(answer), value=Size(500_000_000.0))
    sellers = ProviderGroup("sellers", providers, config=config, joins_s=(0.0, 1.0))
    buyers = ClientGroup("buyers", clients, demand, joins_s=(2.0, 4.0))
    return Scenario("A town", "For tests.", duration_s, 0.0, 5.0, "town", providers=(sellers,), clients=(buyers,),
                    faults=faults)  # fmt: skip


@pytest.fixture
def town() -> Any:
    """Makes the scenario of one, from its faults and numbers; ``config`` is the providers'."""
    return _town
