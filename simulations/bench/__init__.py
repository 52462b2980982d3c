"""Benchmarks: `cocoon bench NAME`. What each measures and how is in its module and in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from overlay.cli.output import Output
from overlay.errors import CocoonError
from simulations.bench.gateway import gateway_rows
from simulations.bench.report import Row, document, show
from simulations.bench.stage import BenchFailed
from simulations.processes import ProcessFailed

BENCHES: dict[str, Callable[[bool, Output], Awaitable[list[Row]]]] = {"gateway": gateway_rows}
"""What can be measured."""


def run_bench(name: str, quick: bool, output: Output) -> None:
    """Run one benchmark and print its document, or its table.

    Raises :class:`~overlay.errors.CocoonError` for an unknown name and when a part fails.
    """
    if name not in BENCHES:
        raise CocoonError(f"there is no benchmark {name!r}; there is {', '.join(sorted(BENCHES))}")
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
