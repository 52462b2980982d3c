"""Results that several tests look at, and the page of one, made once."""

from __future__ import annotations

import pytest

from simulations.report import report_page
from simulations.results import Attacker, RunResult
from tests.simulations.report.synthetic import synthetic


@pytest.fixture(scope="session")
def result() -> RunResult:
    return synthetic(1)


@pytest.fixture(scope="session")
def page(result: RunResult) -> str:
    """The page of a run that has everything. Drawing one takes more than a second: those who can, use ``small``."""
    return report_page(result)


@pytest.fixture
def small() -> RunResult:
    """A run of which little is drawn: two bar charts."""
    return RunResult(
        scenario="steady",
        title="A steady market",
        seed=7,
        commit="0123abcd",
        duration_s=600.0,
        virtual_s=600.0,
        complete=True,
        digest="ab" * 32,
        events=1000,
        attackers=(Attacker("eclipse", 3, 5, 9_000_000),),
        efficiency={"ours": 0.97, "golem": 0.78},
    )
