"""The options that several commands share, and what they turn into: a checked configuration and a data directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from overlay.config import Config, load_config
from overlay.datadir import home
from overlay.subnet import Subnet, load_subnet

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where identity, wallet and ledger live.", metavar="DIR", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; default: cocoon.toml in the data directory.", metavar="FILE")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override any key, for example price.completion=90000000.", metavar="KEY=VALUE"),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Defaults by name: local, home, datacenter.", metavar="NAME")
]
BootstrapOption = Annotated[
    list[str] | None, typer.Option("--bootstrap", help="Multiaddr of a peer to start from; repeatable.", metavar="ADDR")
]
SubnetOption = Annotated[
    Path | None, typer.Option("--subnet", help="Subnet file: take part in that private subnet only.", metavar="FILE")
]
TonOption = Annotated[
    str | None,
    typer.Option("--ton", help="TON global.config.json; default: the local devnet, with play money.", metavar="FILE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show discovery, negotiation and payments.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Model; auto takes any that is on offer.")]


@dataclass(frozen=True)
class Setup:
    """What a command runs with."""

    config: Config
    data_dir: Path
    subnet: Subnet
    bootstrap: tuple[str, ...]


def make_setup(
    role: str,
    *,
    data_dir: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    preset: str | None = None,
    bootstrap: list[str] | None = None,
    subnet: Path | None = None,
    ton: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Setup:
    """Combine flags, environment, file and preset. ``role`` (`node` or `client`) names the default data directory."""
    directory = data_dir or home() / role
    file = config or (directory / "cocoon.toml" if (directory / "cocoon.toml").exists() else None)
    named = {"ton.config": ton, **(extra or {})}
    flags = [f"{key}={value}" for key, value in named.items() if value is not None]
    loaded = load_config(file, overrides=[*(overrides or []), *flags], preset=preset)
    network = load_subnet(subnet)
    addresses = tuple(dict.fromkeys([*(bootstrap or []), *loaded.node.bootstrap, *network.bootstrap]))
    return Setup(loaded, directory, network, addresses)
