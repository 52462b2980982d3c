"""Every failure that exploring found: its smallest case is a file in seeds/, and must hold from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.explore import replays
from simulations.runs import world

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.toml"))


@pytest.mark.parametrize("file", SEEDS, ids=lambda file: file.stem)
def test_a_case_that_failed_once_holds(file):
    again = replays.rerun(replays.load(file), world())
    assert again.failure is None, f"{again.failure.signature}: {again.failure.what}"
    assert again.result is not None
    assert again.result.complete
