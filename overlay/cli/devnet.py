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
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep the chain here and go on from it the next time; else it is gone at the end.", metavar="DIR"
        ),
    ] = None,
    liteservers: Annotated[int, typer.Option(help="How many liteservers show the chain.", min=1, max=16)] = 1,
    trouble: Annotated[
        Path | None, typer.Option(help="A timetable of trouble (JSON): delays, losses, lies.", metavar="FILE")
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Run until stopped; nodes and clients of this user find it by themselves."""
    from overlay.chain import DevnetOptions, run_local_devnet

    options = DevnetOptions(host, port, directory or home() / "devnet", data_dir, liteservers, trouble)
    trio.run(run_local_devnet, options, Output(as_json).event)
