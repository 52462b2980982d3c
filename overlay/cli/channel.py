"""`cocoon channel`: where the money is, and getting it out."""

from __future__ import annotations

import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output, short
from overlay.datadir import home
from overlay.events import ton

app = typer.Typer(help="Payment channels: list, open, settle, leave.", no_args_is_help=True)

WAIT_LOOK_S = 60.0
"""How often `exit --wait` looks whether the money is out."""

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
    from overlay.cli.operations import channels_of

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


def _change(action: str, setup: o.Setup, as_json: bool, channel: str | None, *, wait: bool = False) -> None:
    from overlay.cli.operations import change_channels

    output = Output(as_json)
    while True:
        results = trio.run(change_channels, action, setup, output.aside, {"channel": channel})
        unfinished = [result for result in results if not result.get("done", True)]
        if not as_json:
            for result in results:
                output.line(f"{result['action']} {result['channel']}: {result['text']}")
            if not results:
                output.line("nothing to do: no channel has anything to settle")
        if not wait or not unfinished:
            break
        # The provider may close earlier than the refund can be finished: look now and then.
        ahead_s = min(result["next_at"] for result in unfinished) - time.time()
        time.sleep(min(max(ahead_s, 1.0), WAIT_LOOK_S))
    if as_json:
        output.document(results)


def _nanoton(text: str) -> int:
    """An amount in TON as typed, exactly: no float touches money."""
    try:
        amount = Decimal(text) * 1_000_000_000
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is no amount of TON; write it like 0.5") from None
    if not amount.is_finite() or amount <= 0 or amount != int(amount):
        raise typer.BadParameter("an amount is above zero, with nine decimals at most")
    return int(amount)


@app.command("open")
def open_channel(
    provider: Annotated[str, typer.Argument(help="Peer id of the provider.")],
    deposit: Annotated[
        str | None, typer.Option(help="TON to put into a new channel; default: ton.deposit_nanoton.", metavar="TON")
    ] = None,
    bootstrap: o.BootstrapOption = None,
    subnet: o.SubnetOption = None,
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Open a channel ahead of the first job, so that the first answer does not wait for the chain."""
    from overlay.cli.operations import open_channel_with

    setup = o.make_setup(
        "client", data_dir=data_dir, config=None, overrides=None, bootstrap=bootstrap, subnet=subnet, ton=ton_config
    )
    output = Output(as_json)
    amount = None if deposit is None else _nanoton(deposit)
    result = trio.run(open_channel_with, setup, provider, amount, output.aside)
    if as_json:
        output.document(result)
    else:
        output.line(f"channel {result['channel']} holds {ton(result['deposit_nanoton'])}")


@app.command()
def settle(
    channel: Annotated[str | None, typer.Argument(help="One channel, or the end of its address; default: all.")] = None,
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    bootstrap: o.BootstrapOption = None,
    subnet: o.SubnetOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Bring channels to the chain: a node claims what it earned, a client closes together with the provider."""
    setup = o.make_setup(
        role, data_dir=_directory(data_dir, role), config=config, overrides=overrides, bootstrap=bootstrap,
        subnet=subnet, ton=ton_config,
    )  # fmt: skip
    _change("settle", setup, as_json, channel)


@app.command("exit")
def leave(
    channel: Annotated[str, typer.Argument(help="The channel to leave, or the end of its address.")],
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    bootstrap: o.BootstrapOption = None,
    subnet: o.SubnetOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the money is out; may be interrupted and given again.")
    ] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Leave alone, without the other side: a client starts (later finishes) the refund, a node claims and closes."""
    setup = o.make_setup(
        role, data_dir=_directory(data_dir, role), config=config, overrides=overrides, bootstrap=bootstrap,
        subnet=subnet, ton=ton_config,
    )  # fmt: skip
    _change("exit", setup, as_json, channel, wait=wait)


@app.command("prove-exit")
def prove(
    channel: Annotated[str, typer.Argument(help="The channel, or the end of its address.")],
    role: RoleOption = "client",
    data_dir: o.DataDirOption = None,
    ton_config: o.TonOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """What `exit` would bring, when and at what cost: the real contract, run here on the real state. Sends nothing."""
    from overlay.cli.operations import prove_exit

    setup = o.make_setup(role, data_dir=_directory(data_dir, role), config=config, overrides=overrides, ton=ton_config)
    output = Output(as_json)
    shown = trio.run(prove_exit, setup, channel, output.aside)
    if as_json:
        output.document(shown)
    else:
        _show_proof(output, shown)
    if not shown["possible"]:
        raise typer.Exit(5)


def _show_proof(output: Output, shown: dict[str, Any]) -> None:
    output.line(
        f"{shown['channel']} is {shown['status']} on {shown['network']}, {ton(shown['deposit_nanoton'])} deposited, "
        f"{ton(shown['paid_nanoton'])} paid out"
    )
    rows = [
        (each["if"], ton(each["receives_nanoton"]), ton(each["costs_nanoton"]), ton(each["wallet_change_nanoton"]),
         _when(each["at"], shown["state_at"]))
        for each in shown["outcomes"]
    ]  # fmt: skip
    output.table("Leaving", ["if", "you receive", "fees", "your wallet", "when"], rows, empty="")
    for each in shown["outcomes"]:
        for step in each["steps"]:
            if not step["success"]:
                output.line(f"{step['action']} would fail: exit code {step['exit_code']}")


def _when(at_s: int, now_s: int) -> str:
    return "at once" if at_s <= now_s else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_s))
