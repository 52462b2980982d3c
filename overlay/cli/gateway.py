"""`cocoon gateway run`: the OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from typing import Annotated

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output
from overlay.datadir import open_data_dir
from overlay.errors import ConfigError

app = typer.Typer(help="The OpenAI-compatible endpoint.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `run` a subcommand although it is the only one."""


@app.command()
def run(
    host: Annotated[str | None, typer.Option(help="Address to bind; loopback unless you know why.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one.")] = None,
    bootstrap: o.BootstrapOption = None,
    data_dir: o.DataDirOption = None,
    config: o.ConfigOption = None,
    subnet: o.SubnetOption = None,
    ton_config: o.TonOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Serve OpenAI's HTTP API (chat, completions, transcriptions, embeddings, models) until stopped."""
    from overlay.node.gateway import run_gateway
    from overlay.node.machine import LocalMachine

    setup = o.make_setup(
        "client",
        data_dir=data_dir,
        config=config,
        overrides=overrides,
        bootstrap=bootstrap,
        subnet=subnet,
        ton=ton_config,
        extra={"gateway.host": host, "gateway.port": port},
    )
    output = Output(as_json)
    token = None
    if name := setup.config.gateway.token_env:
        token = os.environ.get(name)
        if not token:
            raise ConfigError(f"gateway.token_env names {name}, which is not set in the environment")
    with open_data_dir(setup.data_dir) as directory:
        trio.run(run_gateway, setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, output.event, token)
