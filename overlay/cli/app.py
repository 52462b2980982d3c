"""Assembles the command groups and runs one command."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence

import trio
import typer

from compute.tasks import TaskError
from overlay.cli import ask, channel, devnet, gateway, market, node, sim, subnet, swarm, wallet, watchtower
from overlay.cli.output import Output
from overlay.errors import CocoonError, InvalidRequest

app = typer.Typer(
    name="cocoon",
    help="Rent and sell GPU time peer to peer, paid in Toncoin. Start with `cocoon demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(node.app, name="node")
app.add_typer(gateway.app, name="gateway")
app.add_typer(market.app, name="market")
app.add_typer(channel.app, name="channel")
app.add_typer(wallet.app, name="wallet")
app.add_typer(watchtower.app, name="watchtower")
app.add_typer(subnet.app, name="subnet")
app.add_typer(devnet.app, name="devnet")
app.add_typer(swarm.app, name="swarm")
app.add_typer(sim.app, name="sim")
ask.register(app)
swarm.register(app)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Only options of `cocoon` itself."""
    if version:
        print("cocoon", importlib.metadata.version("cocoon-node"))
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, never raised."""
    output = Output("--json" in arguments)
    try:
        typer.main.get_command(app)(list(arguments), prog_name="cocoon")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        return _report(error, output)
    return 0


def _report(error: BaseException, output: Output) -> int:
    """One line for what a person can act on; a traceback only for what is our own fault, or when asked for."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
        leaf = leaf.exceptions[0]
    if isinstance(leaf, TaskError):
        leaf = InvalidRequest(str(leaf), param=leaf.param)
    if isinstance(leaf, CocoonError):
        output.error(leaf, leaf.code)
        return leaf.exit_code
    if isinstance(leaf, (KeyboardInterrupt, trio.Cancelled)):
        return 130
    if isinstance(leaf, BrokenPipeError):
        # The reader of our output (head, less) went away: not an error. Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    raise error
