"""The table of options against the world that uses them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import simulations
from simulations.scenarios import options
from simulations.scenarios.registries import Registries

WORLD = Path(simulations.__file__).parent / "world"
SOURCES = [WORLD / "faults.py", *sorted(WORLD.glob("attackers.py")), *sorted(WORLD.glob("attacks/*.py"))]
TABLES = (options.PROVIDERS, options.CLIENTS, options.ATTACKS, options.FAULTS)


def test_every_option_that_the_world_reads_is_in_the_table():
    texts = [path.read_text("utf-8") for path in SOURCES if path.exists()]
    read = {name for text in texts for name in re.findall(r"options(?:\.get\(|\[)\"(\w+)\"", text)}
    assert read <= {name for table in TABLES for known in table.values() for name in known}


def test_every_kind_that_the_world_knows_is_in_the_table():
    known = Registries.of_the_world()
    names = (known.provider_behaviours, known.client_behaviours, known.attacks, known.faults)
    for table, registered in zip(TABLES, names, strict=True):
        assert set(registered or ()) <= set(table)


@pytest.mark.parametrize(
    ("means", "right", "wrong"),
    [
        (options.Means.NUMBER, 1.5, True),
        (options.Means.SECOND, 3, "3"),
        (options.Means.FLAG, False, 0),
        (options.Means.TEXT, "x", 1),
        (options.Means.TABLE, {"a": 1}, [1]),
        (options.Means.CLIENTS, "x", {}),
    ],
)
def test_values_are_told_by_their_types(means, right, wrong):
    assert options.is_right(means, right)
    assert not options.is_right(means, wrong)
