"""`cocoon wallet`: the TON wallet of a node or a client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay.cli import options as o
from overlay.cli.channel import RoleOption, _directory
from overlay.cli.output import Output
from overlay.datadir import open_data_dir
from overlay.errors import ConfigError
from overlay.events import ton
from overlay.keys import KeyFiles, WalletSecret
from overlay.passphrase import existing_passphrase, new_passphrase, terminal_ask
from overlay.settlement import SealError

app = typer.Typer(help="The TON wallet (v5r1, 24 words) of a node or a client.", no_args_is_help=True)

PASSWORD_VARIABLE = "COCOON_MNEMONIC_PASSWORD"  # noqa: S105 — the name of a variable, no password

PassphraseOption = Annotated[
    bool, typer.Option("--passphrase", help="Seal the keys on disk under a passphrase, asked for or laid down.")
]
MnemonicPasswordOption = Annotated[
    bool,
    typer.Option(
        "--mnemonic-password",
        help=f"The words have a password of their own (TON's standard): ${PASSWORD_VARIABLE}, or asked for.",
    ),
]


@app.command()
def show(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    words: Annotated[bool, typer.Option(help="Print the 24 words, which are the money: shield your screen.")] = False,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Address and balance; with --words the mnemonic."""
    from overlay.cli.operations import wallet_state

    setup = _setup(role, data_dir, ton_config, overrides)
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
    output.line("its keys are sealed under a passphrase" if state["sealed"] else "its keys are not sealed")
    if words:
        output.line(state["words"])
        if state["mnemonic_password"]:
            output.line(f"mnemonic password: {state['mnemonic_password']}")


@app.command()
def fees(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """What a deposit, a claim, a batch and the rest cost at the network's prices now; sends nothing."""
    from overlay.cli.operations import wallet_fees

    found = trio.run(wallet_fees, _setup(role, data_dir, ton_config, overrides))
    output = Output(as_json)
    if as_json:
        output.document(found)
        return
    rows = [
        (
            entry["operation"] + (f" × {entry['count']}" if entry["count"] > 1 else ""),
            ton(entry["fees_nanoton"]), ton(entry["moved_nanoton"]), ton(entry["attached_nanoton"]),
            ton(entry["needed_nanoton"]),
        )
        for entry in found["costs"]
    ]  # fmt: skip
    columns = ("operation", "fees at most", "moves", "comes back", "wallet must hold")
    output.table(f"Costs on {found['network']}", columns, rows, empty="nothing costs anything")
    if found["first_time_nanoton"]:
        output.note(
            f"this wallet has sent nothing yet: its first message costs {ton(found['first_time_nanoton'])} more"
        )


@app.command()
def new(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    passphrase: PassphraseOption = False,
    mnemonic_password: MnemonicPasswordOption = False,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Make a wallet now instead of at the first start. Refused when there is one."""
    from overlay.settlement import new_mnemonic

    setup = _setup(role, data_dir, None, overrides)
    with open_data_dir(setup.data_dir) as directory:
        _refuse_second(KeyFiles(directory))
        password = _mnemonic_password(twice=True) if mnemonic_password else ""
        secret = WalletSecret(tuple(new_mnemonic(password)), password)
        _store(KeyFiles(directory), secret, setup, passphrase, as_json)


@app.command("import")
def import_words(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    passphrase: PassphraseOption = False,
    mnemonic_password: MnemonicPasswordOption = False,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Take over a wallet by its 24 words, read from standard input so that they stay out of the shell's history."""
    from overlay.settlement import check_mnemonic, mnemonic_problem

    setup = _setup(role, data_dir, None, overrides)
    stdin = typer.get_text_stream("stdin")
    if stdin.isatty():
        Output(as_json).note("type the 24 words, then Ctrl-D on a line of its own")
    words = tuple(stdin.read().lower().split())
    password = _mnemonic_password(twice=False) if mnemonic_password else ""
    if not check_mnemonic(words, password):
        raise ConfigError(
            f"these are not the 24 words of a TON wallet: {mnemonic_problem(words, password)}"
            + ("" if password else "; words with a password of their own need --mnemonic-password")
        )
    with open_data_dir(setup.data_dir) as directory:
        _refuse_second(KeyFiles(directory))
        _store(KeyFiles(directory), WalletSecret(words, password), setup, passphrase, as_json)


@app.command()
def encrypt(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Seal the wallet and the channel key on disk under a passphrase."""
    _change(role, data_dir, overrides, as_json, sealed=False, to="sealed")


@app.command()
def decrypt(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Lay the sealed wallet and channel key open again."""
    _change(role, data_dir, overrides, as_json, sealed=True, to="open")


@app.command()
def passwd(
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Change the passphrase of sealed keys; the new one is asked for, or is $COCOON_NEW_PASSPHRASE."""
    _change(role, data_dir, overrides, as_json, sealed=True, to="sealed")


def _setup(role: str, data_dir: Path | None, ton_config: str | None, overrides: list[str] | None) -> o.Setup:
    return o.make_setup(role, data_dir=_directory(data_dir, role), config=None, overrides=overrides, ton=ton_config)


def _change(
    role: str, data_dir: Path | None, overrides: list[str] | None, as_json: bool, *, sealed: bool, to: str
) -> None:
    """Bring the key files from sealed or open to ``to``."""
    setup = _setup(role, data_dir, None, overrides)
    what, configured, ask = f"the wallet in {setup.data_dir}", setup.config.ton.passphrase_file, terminal_ask()
    with open_data_dir(setup.data_dir) as directory:
        files = KeyFiles(directory)
        if files.wallet_path.exists() and files.sealed != sealed:
            raise ConfigError(f"{what} is {'not sealed: nothing' if sealed else 'sealed already: `passwd`'} to change")
        try:
            old = existing_passphrase(what, configured, ask=ask) if sealed else ""
            fresh = new_passphrase(what, configured, ask=ask, changing=sealed) if to == "sealed" else None
            files.change(lambda: old, fresh)
        except (SealError, ValueError) as error:
            raise ConfigError(f"{what}: {error}") from error
    output = Output(as_json)
    if as_json:
        output.document({"sealed": to == "sealed", "file": str(files.wallet_path)})
    elif to == "sealed":
        output.line(f"sealed: {files.wallet_path} and {files.channel_path.name}; without the passphrase they are lost")
        output.note("old copies (backups, snapshots, the disk's free blocks) still hold the words as they were")
    else:
        output.line(f"open: {files.wallet_path} and {files.channel_path.name} can be read by whoever reads the disk")


def _mnemonic_password(*, twice: bool) -> str:
    found = os.environ.get(PASSWORD_VARIABLE)
    if found:
        return found
    ask = terminal_ask()
    if ask is None:
        raise ConfigError(f"no mnemonic password: set {PASSWORD_VARIABLE}, or run this on a terminal")
    password = ask("Mnemonic password: ")
    if twice and ask("The same again: ") != password:
        raise ConfigError("the two passwords differ; nothing was made")
    return password


def _refuse_second(files: KeyFiles) -> None:
    if files.wallet_path.exists():
        raise ConfigError(
            f"there is a wallet already: {files.wallet_path}; move the file away first if you mean it"
        )  # fmt: skip


def _store(files: KeyFiles, secret: WalletSecret, setup: Any, sealed: bool, as_json: bool) -> None:
    from overlay.cli.operations import wallet_addresses

    passphrase = None
    if sealed:
        what = f"the wallet in {setup.data_dir}"
        passphrase = new_passphrase(what, setup.config.ton.passphrase_file, ask=terminal_ask())
    try:
        files.store(secret, passphrase)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    addresses = wallet_addresses(secret.wallet(0).public_key)
    output = Output(as_json)
    if as_json:
        output.document({"addresses": addresses, "file": str(files.wallet_path), "sealed": sealed})
        return
    _show_addresses(output, addresses)
    if sealed:
        output.line(
            f"its 24 words are sealed in {files.wallet_path}: `cocoon wallet show --words` shows them; back up both"
        )
    else:
        output.line(f"its 24 words are in {files.wallet_path}: back that file up, and show it to nobody")


def _show_addresses(output: Output, addresses: dict[str, str]) -> None:
    for name, address in addresses.items():
        output.line(f"{name:8} {address}")
