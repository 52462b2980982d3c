"""`cocoon subnet`: a network of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from overlay.cli import options as o
from overlay.cli.output import Output
from overlay.datadir import write_private
from overlay.errors import SubnetError
from overlay.subnet import create_subnet

app = typer.Typer(help="Private subnets.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A short label: small letters, digits, hyphens.")],
    bootstrap: o.BootstrapOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it; default NAME.subnet.", metavar="FILE")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Write a subnet file. Whoever has the file is a member: pass it on like a password."""
    subnet = create_subnet(name, tuple(bootstrap or ()), os.urandom)
    path = out or Path(f"{name}.subnet")
    if path.exists():
        raise SubnetError(f"{path} exists; writing over it would cut its members off. Name another with --out")
    write_private(path, subnet.to_text())
    output = Output(as_json)
    if as_json:
        output.document({"id": subnet.id, "file": str(path)})
        return
    output.line(f"subnet {subnet.id} written to {path}")
    output.line(f"next: cocoon node run --subnet {path}      on each machine that takes part, and")
    output.line(f'      cocoon chat --subnet {path} "Hello"   from one of them')
