"""`cocoon bench settlement`: what settling costs and how fast it is, in four parts that each measure their own.

The contract, the ledger, the devnet and the two parties have a module each (``settlement_<part>``), which gives its
rows as a dictionary by id. Their methods are described there and in docs/benchmarks.md.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from importlib.util import find_spec

from overlay.cli.output import Output
from simulations.bench.report import Row

PARTS = ("contract", "ledger", "devnet", "parties")
"""In the order in which they are run: what needs no quiet machine first."""


async def settlement_rows(quick: bool, output: Output) -> list[Row]:
    """The rows of every part that is there; one that is not is said to be missing."""
    found: list[Row] = []
    for part in PARTS:
        name = f"simulations.bench.settlement_{part}"
        if find_spec(name) is None:
            output.note(f"{part}: not part of this version, left out")
            found.append(Row(f"{part}_missing", f"{part}: not part of this version, left out", None, ""))
            continue
        output.note(f"measuring the {part} …")
        found += (await _rows_of(name, part, quick)).values()
    return found


async def _rows_of(name: str, part: str, quick: bool) -> Mapping[str, Row]:
    measured = getattr(importlib.import_module(name), f"{part}_rows")(quick)
    rows: Mapping[str, Row] = await measured if inspect.isawaitable(measured) else measured
    return rows
