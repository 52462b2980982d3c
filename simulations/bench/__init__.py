"""Benchmarks: `cocoon bench NAME`. What each measures and how is in its module and in docs/benchmarks.md.

The modules are imported when needed: the measuring processes of a benchmark live in this package too, and start sooner
without all the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from overlay.errors import CocoonError, InvalidRequest

if TYPE_CHECKING:
    from overlay.cli.output import Output
    from simulations.bench.report import Row


async def _gateway(quick: bool, output: Output) -> list[Row]:
    from simulations.bench.gateway import gateway_rows

    return await gateway_rows(quick, output)


async def _tunnel(quick: bool, output: Output) -> list[Row]:
    from simulations.bench.tunnel import tunnel_rows

    return await tunnel_rows(quick, output)


async def _dht(quick: bool, output: Output) -> list[Row]:
    from simulations.bench.dht import dht_rows

    return await dht_rows(quick, output)


async def _sim(quick: bool, output: Output) -> list[Row]:
    from simulations.bench.sim import sim_rows

    return await sim_rows(quick, output)


async def _settlement(quick: bool, output: Output) -> list[Row]:
    from simulations.bench.settlement import settlement_rows

    return await settlement_rows(quick, output)


BENCHES: dict[str, Callable[[bool, Output], Awaitable[list[Row]]]] = {
    "dht": _dht,
    "gateway": _gateway,
    "settlement": _settlement,
    "sim": _sim,
    "tunnel": _tunnel,
}
"""What can be measured."""


def run_bench(name: str, quick: bool, output: Output) -> None:
    """Run one benchmark and print its document, or its table.

    Raises :class:`~overlay.errors.InvalidRequest` for an unknown name, and :class:`~overlay.errors.CocoonError` when a
    part fails.
    """
    from simulations.bench.report import document, show
    from simulations.bench.stage import BenchFailed
    from simulations.processes import ProcessFailed

    if name not in BENCHES:
        raise InvalidRequest(f"there is no benchmark {name!r}; there is {', '.join(sorted(BENCHES))}")
    try:
        rows = trio.run(BENCHES[name], quick, output)
    except (BenchFailed, ProcessFailed) as error:
        raise CocoonError(f"the benchmark could not run: {error}") from error
    report = document(name, rows)
    if output.as_json:
        output.document(report)
    else:
        show(report, output)


__all__ = ["BENCHES", "run_bench"]
