"""The provider of the benchmarks: a whole `cocoon node`, except that its engines are synthetic.

`python -m simulations.bench.provider --data-dir DIR --ton CONFIG` prints the node's events as JSON lines. It sells
three models, each an engine with a thread of its own:

- ``whole``: the answer is one text of 840 bytes;
- ``chunks``: 50 tokens as fast as the engine's thread can make them, one a step;
- ``paced``: 50 tokens, one every 20 ms; each token's text is the time of its making.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import trio

from compute.engines import Engine
from overlay.cli.output import Output
from overlay.config import load_config
from overlay.datadir import open_data_dir
from overlay.node.machine import LocalMachine
from overlay.node.provider import run_provider
from overlay.subnet import load_subnet
from simulations.bench.bare import PACE_S, STREAM_CHUNKS, WHOLE_BYTES, stamp
from simulations.engines import SyntheticEngine

WHOLE, CHUNKS, PACED = "whole", "chunks", "paced"


def paced_engine() -> SyntheticEngine:
    """The engine behind ``paced``; the benchmark also calls one in process."""
    return SyntheticEngine(model=PACED, chunks=STREAM_CHUNKS, interval_s=PACE_S, text=lambda _number: stamp())


def bench_engines() -> list[Engine]:
    """The three engines of the module's docstring."""
    answer = "x" * WHOLE_BYTES
    return [
        SyntheticEngine(model=WHOLE, chunks=1, text=lambda _number: answer),
        SyntheticEngine(model=CHUNKS, chunks=STREAM_CHUNKS),
        paced_engine(),
    ]


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description="a provider with synthetic engines")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ton", required=True)
    options = parser.parse_args()
    config = load_config(None, overrides=[f"ton.config={options.ton}", "node.serve=chat"], preset="local")
    run = partial(run_provider, engines=bench_engines())
    with open_data_dir(options.data_dir) as directory:
        trio.run(run, config, LocalMachine(directory), load_subnet(None), (), Output(as_json=True).event)


if __name__ == "__main__":
    main()
