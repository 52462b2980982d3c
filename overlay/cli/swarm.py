"""`cocoon demo`, `cocoon swarm up` and `cocoon bench`: many processes at once, from `simulations`, imported lazily."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from compute.audio import probe_duration_ms
from overlay.cli import options as o
from overlay.cli.ask import read_audio
from overlay.cli.output import Output

app = typer.Typer(help="A swarm of real nodes on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `up` a subcommand although it is the only one."""


@app.command()
def up(
    number: Annotated[int, typer.Option("-n", "--nodes", help="How many providers.", min=1, max=64)] = 3,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where they live; default: a temporary directory.")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Start a devnet and N providers as processes, keep them up (a dead one is restarted), stop them all on Ctrl-C."""
    from simulations.swarm import run_swarm

    trio.run(run_swarm, number, directory, Output(as_json))


def demo(
    voice: Annotated[
        Path | None, typer.Option(help="A voice message of yours instead of the sample.", metavar="FILE")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = "What is Cocoon?",
    as_json: o.JsonOption = False,
) -> None:
    """Three providers, a client and a TON devnet on this machine: one voice message, one chat, paid and settled."""
    from simulations.demo import run_demo

    if voice is not None:
        probe_duration_ms(read_audio(voice))
    result = trio.run(run_demo, voice, prompt, Output(as_json))
    if not result["conserved"]:
        raise typer.Exit(1)


def bench(
    name: Annotated[str, typer.Argument(help="Which: gateway, tunnel, dht, settlement or sim.")] = "gateway",
    quick: Annotated[bool, typer.Option(help="Fewer samples, for a first look.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Measure what is claimed, beside a peer in the same run."""
    from simulations.bench import run_bench

    run_bench(name, quick, Output(as_json))


def register(root: typer.Typer) -> None:
    """Add `demo` and `bench` to the root."""
    root.command()(demo)
    root.command()(bench)
