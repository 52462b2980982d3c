"""`cocoon demo`, `cocoon swarm` and `cocoon bench`: many processes at once, from `simulations`, imported lazily."""

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


DirOption = Annotated[Path, typer.Option("--dir", help="The directory of the running swarm.", metavar="DIR")]


@app.command()
def up(
    number: Annotated[int, typer.Option("-n", "--nodes", help="How many providers.", min=1, max=64)] = 3,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where they live; default: a temporary directory.")
    ] = None,
    netns: Annotated[
        bool, typer.Option("--netns", help="Each in a network namespace of its own (needs root).")
    ] = False,
    delay: Annotated[str, typer.Option(help="With --netns: one way between any two, for example 40ms.")] = "0ms",
    jitter: Annotated[str, typer.Option(help="… and by how much that varies, either way.")] = "0ms",
    loss: Annotated[str, typer.Option(help="… the share of packets that are lost, for example 1%.")] = "0%",
    rate: Annotated[str | None, typer.Option(help="… each one's line, up and down, for example 20mbit.")] = None,
    nat: Annotated[int, typer.Option(help="… how many of them are behind a NAT.", metavar="K", min=0)] = 0,
    nat_kind: Annotated[
        str, typer.Option("--nat-kind", help="… which: full-cone, restricted, symmetric, firewall.", metavar="KIND")
    ] = "symmetric",
    carrier: Annotated[
        str | None,
        typer.Option(help="… what carries packets: veth, netem, relay; default: what will do.", metavar="NAME"),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Start a devnet and N providers as processes, keep them up (a dead one is restarted), stop them all on Ctrl-C."""
    from simulations.netns.options import network_options
    from simulations.swarm import run_swarm

    network = network_options(
        number,
        netns=netns,
        delay=delay,
        jitter=jitter,
        loss=loss,
        rate=rate,
        nat=nat,
        nat_kind=nat_kind,
        carrier=carrier,
    )
    trio.run(run_swarm, number, directory, Output(as_json), network)


@app.command()
def chaos(
    directory: DirOption,
    action: Annotated[
        str | None, typer.Argument(help="One thing only: kill, freeze, thaw, partition, heal.", metavar="ACTION")
    ] = None,
    nodes: Annotated[str, typer.Argument(help="To whom, for example node-1,node-2.", metavar="NODES")] = "",
    seed: Annotated[int | None, typer.Option(help="The same plan again; default: a new one, which is printed.")] = None,
    lasting: Annotated[str, typer.Option("--for", help="How long it goes on.", metavar="TIME")] = "60s",
    every: Annotated[str, typer.Option(help="Time between two things that go wrong.", metavar="TIME")] = "5s",
    as_json: o.JsonOption = False,
) -> None:
    """Kill, freeze, partition and heal nodes of a running swarm, by a plan drawn from a seed or one thing at a time."""
    from simulations.netns.ordeal import run_chaos, run_one

    if action is not None:
        trio.run(run_one, directory, action, nodes, Output(as_json))
    else:
        trio.run(run_chaos, directory, seed, lasting, every, Output(as_json))


@app.command()
def down(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Stop the swarm that runs there.", metavar="DIR", show_default=False)
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Remove what killed swarms left (namespaces, links, processes); with --dir, first stop the one that runs there."""
    from simulations.netns.ordeal import run_down

    trio.run(run_down, directory, Output(as_json))


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
