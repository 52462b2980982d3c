"""The options that several commands share, and what they turn into: a checked configuration and a data directory.

A command that is decorated with :func:`shared` has these options without listing them: typer sees them in its
signature, the command itself gets a :class:`Call` made of them as its first argument.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from overlay.cli.output import Output
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


@dataclass(frozen=True)
class Call:
    """What a decorated command gets: its shared options, checked, and where it writes."""

    setup: Setup
    output: Output


_SHARED: dict[str, tuple[Any, Any]] = {
    "bootstrap": (BootstrapOption, None),
    "data_dir": (DataDirOption, None),
    "config": (ConfigOption, None),
    "subnet": (SubnetOption, None),
    "ton": (TonOption, None),
    "overrides": (SetOption, None),
    "verbose": (VerboseOption, False),
    "as_json": (JsonOption, False),
}


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a client's command every shared option. Its first parameter, a :class:`Call`, is made of them."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _SHARED.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added

    @functools.wraps(command)
    def run(**values: Any) -> None:
        common = {name: values.pop(name) for name in _SHARED}
        output = Output(common.pop("as_json"), verbose=common.pop("verbose"))
        command(Call(make_setup("client", **common), output), **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
