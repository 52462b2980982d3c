"""`cocoon channel`: where the money is, and getting it out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output, short
from overlay.datadir import home
from overlay.events import ton

app = typer.Typer(help="Payment channels: list, open, settle, leave.", no_args_is_help=True)

RoleOption = Annotated[
    str, typer.Option("--as", help="client (what you pay from) or node (what you earn in).", metavar="ROLE")
]


def _directory(data_dir: Path | None, role: str) -> Path:
    if role not in ("client", "node"):
        raise typer.BadParameter("--as is client or node")
    return data_dir or home() / role


@app.command("list")
def list_channels(role: RoleOption = "client", data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """Every channel: with whom, what it holds, what was promised, what is at risk."""
    from overlay.operations import channels_of

    rows = trio.run(channels_of, _directory(data_dir, role))
    output = Output(as_json)
    if as_json:
        output.document(rows)
        return
    output.table(
        "Channels",
        ["channel", "peer", "status", "deposit", "vouchers", "settled", "at risk", "expires"],
        [
            (short(c["channel"]), short(c["peer"]), c["status"], ton(c["deposit_nanoton"]), ton(c["voucher_nanoton"]),
             ton(c["paid_nanoton"]), ton(c["at_risk_nanoton"]), c["expires"])
            for c in rows
        ],
        empty="no channels yet",
    )  # fmt: skip


def _chain_command(
    action: str, data_dir: Path | None, role: str, as_json: bool, ton_config: str | None, **arguments: Any
) -> None:
    from overlay.operations import change_channels

    output = Output(as_json)
    setup = o.make_setup(role, data_dir=_directory(data_dir, role), config=None, overrides=None, ton=ton_config)
    results = trio.run(change_channels, action, setup, output.aside, arguments)
    if as_json:
        output.document(results)
        return
    for result in results:
        output.line(f"{result['action']} {result['channel']}: {result['text']}")
    if not results:
        output.line("nothing to do: no channel has anything to settle")


@app.command("open")
def open_channel(
    provider: Annotated[str, typer.Argument(help="Peer id of the provider.")],
    deposit: Annotated[float | None, typer.Option(help="TON to put in.")] = None,
    bootstrap: o.BootstrapOption = None,
    subnet: o.SubnetOption = None,
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Open a channel ahead of the first job, so that the first answer does not wait for the chain."""
    from overlay.operations import open_channel_with

    setup = o.make_setup(
        "client", data_dir=data_dir, config=None, overrides=None, bootstrap=bootstrap, subnet=subnet, ton=ton_config
    )
    output = Output(as_json)
    amount = None if deposit is None else round(deposit * 1_000_000_000)
    result = trio.run(open_channel_with, setup, provider, amount, output.aside)
    if as_json:
        output.document(result)
    else:
        output.line(f"channel {result['channel']} holds {ton(result['deposit_nanoton'])}")


@app.command()
def settle(
    channel: Annotated[str | None, typer.Argument(help="One channel; default: all.")] = None,
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Bring channels to the chain: a node claims what it earned, a client closes together with the provider."""
    _chain_command("settle", data_dir, role, as_json, ton_config, channel=channel)


@app.command("exit")
def leave(
    channel: Annotated[str, typer.Argument(help="The channel to leave.")],
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Leave alone, without the other side: a client starts (later finishes) the refund, a node claims and closes."""
    _chain_command("exit", data_dir, role, as_json, ton_config, channel=channel)
