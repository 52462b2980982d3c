"""`cocoon watchtower`: claim for providers that are away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output, short
from overlay.control import answers, call_control
from overlay.datadir import home, open_data_dir
from overlay.events import ton

app = typer.Typer(help="Hold providers' vouchers and claim for those that are away.", no_args_is_help=True)


@app.command()
def run(
    serve: Annotated[
        list[str] | None,
        typer.Option(help="Peer id of a provider to serve; repeatable; * serves anybody.", metavar="PEER"),
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option(help="libp2p address to listen on; repeatable.", metavar="ADDR")
    ] = None,
    bootstrap: o.BootstrapOption = None,
    data_dir: o.DataDirOption = None,
    preset: o.PresetOption = None,
    config: o.ConfigOption = None,
    subnet: o.SubnetOption = None,
    ton_config: o.TonOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Watch over providers' channels until stopped. SIGTERM or Ctrl-C exits 0; nothing that was promised is lost."""
    from overlay.node.watchtower import run_watchtower

    extra: dict[str, Any] = {
        "watchtower.serve": ",".join(serve) if serve else None,
        "node.listen": ",".join(listen) if listen else None,
    }
    setup = o.make_setup(
        "watchtower", data_dir=data_dir, config=config, overrides=overrides, preset=preset, bootstrap=bootstrap,
        subnet=subnet, ton=ton_config, extra=extra,
    )  # fmt: skip
    output = Output(as_json)
    with open_data_dir(setup.data_dir) as directory:
        trio.run(run_watchtower, setup.config, directory, setup.subnet, setup.bootstrap, output.event)


@app.command()
def status(data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """What is watched and what was claimed, whether or not the watchtower runs."""
    state = trio.run(_state, data_dir or home() / "watchtower")
    output = Output(as_json)
    if as_json:
        output.document(state)
        return
    if "peer_id" in state:
        output.line(f"watchtower {state['peer_id']}  subnet {state['subnet']}  up {state['uptime_s']} s")
        output.line(f"address       {' '.join(state['addrs'])}")
        output.line(f"wallet        {state['wallet']['address']}  {ton(state['wallet']['balance_nanoton'])}")
        output.line(f"serves        {' '.join(state['serve']) or 'nobody'}")
    else:
        output.line("the watchtower is not running: nothing is claimed until it does")
    watching = [
        (short(w["channel"]), short(w["peer"]), ton(w["amount_nanoton"]), ton(w["paid_nanoton"]),
         "refund started" if w["closing_since"] else "open")
        for w in state["watching"]
    ]  # fmt: skip
    output.table("Watching", ["channel", "for", "voucher", "paid", "state"], watching, empty="watching over no channel")
    claims = [
        (short(c["channel"]), short(c["peer"]), ton(c["amount_nanoton"]), ton(c["fee_nanoton"]), c["transaction"])
        for c in state["claims"]
    ]
    output.table("Claimed", ["channel", "for", "in all", "cost", "transaction"], claims, empty="nothing claimed yet")


async def _state(data_dir: Path) -> dict[str, Any]:
    if answers(data_dir):
        state: dict[str, Any] = await call_control(data_dir, "status")
        return state
    from overlay.node.watchtower import BOOKS_NAME
    from overlay.watchtower import TowerStore, tower_state

    path = data_dir / BOOKS_NAME
    if not path.exists():
        return {"watching": [], "claims": []}
    store = TowerStore(path)
    try:
        return tower_state(store)
    finally:
        store.close()
