"""`cocoon devnet run`: a TON network of one's own, with play money."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output
from overlay.datadir import home

app = typer.Typer(help="A local TON network: the real TVM, play money.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `run` a subcommand although it is the only one."""


@app.command()
def run(
    host: Annotated[str, typer.Option(help="Address of the liteserver.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the liteserver; 0 takes any free one.", min=0, max=65_535)] = 0,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where global.config.json goes.", metavar="DIR")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Run until stopped; nodes and clients of this user find it by themselves."""
    from overlay.chain import run_local_devnet

    trio.run(run_local_devnet, host, port, directory or home() / "devnet", Output(as_json).event)
