"""`cocoon wallet`: the TON wallet of a node or a client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from overlay.cli import options as o
from overlay.cli.channel import RoleOption, _directory
from overlay.cli.output import Output
from overlay.datadir import open_data_dir, write_private
from overlay.errors import ConfigError
from overlay.events import ton

app = typer.Typer(help="The TON wallet (v5r1, 24 words) of a node or a client.", no_args_is_help=True)


@app.command()
def show(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    words: Annotated[bool, typer.Option(help="Print the 24 words, which are the money: shield your screen.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Address and balance; with --words the mnemonic."""
    from overlay.cli.operations import wallet_state

    setup = o.make_setup(role, data_dir=_directory(data_dir, role), config=None, overrides=None, ton=ton_config)
    state = trio.run(wallet_state, setup, words)
    output = Output(as_json)
    if as_json:
        output.document(state)
        return
    if state["balance_nanoton"] is None:
        _show_addresses(output, state["addresses"])
        output.line(f"balance unknown: {state['why']}")
    else:
        output.line(f"address {state['address']}")
        output.line(f"balance {ton(state['balance_nanoton'])}  ({state['network']})")
    if words:
        output.line(state["words"])


@app.command()
def new(role: RoleOption = "client", data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """Make a wallet now instead of at the first start. Refused when there is one."""
    from overlay.settlement import new_mnemonic

    _store(role, data_dir, " ".join(new_mnemonic()), as_json)


@app.command("import")
def import_words(role: RoleOption = "client", data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """Take over a wallet by its 24 words, read from standard input so that they stay out of the shell's history."""
    from overlay.settlement import check_mnemonic

    text = " ".join(typer.get_text_stream("stdin").read().split())
    if not check_mnemonic(text.split()):
        raise ConfigError("these are not the 24 words of a TON wallet: a word is misspelt, missing or out of order")
    _store(role, data_dir, text, as_json)


def _store(role: str, data_dir: Path | None, words: str, as_json: bool) -> None:
    from overlay.cli.operations import wallet_addresses

    with open_data_dir(_directory(data_dir, role)) as directory:
        path = directory.path / "wallet.words"
        if path.exists():
            raise ConfigError(f"there is a wallet already: {path}; move the file away first if you mean it")
        write_private(path, words + "\n")
    addresses = wallet_addresses(words)
    output = Output(as_json)
    if as_json:
        output.document({"addresses": addresses, "file": str(path)})
        return
    _show_addresses(output, addresses)
    output.line(f"its 24 words are in {path}: back that file up, and show it to nobody")


def _show_addresses(output: Output, addresses: dict[str, str]) -> None:
    for name, address in addresses.items():
        output.line(f"{name:8} {address}")
