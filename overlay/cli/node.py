"""`cocoon node`: run a provider, ask a running one, check this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from overlay.cli import options as o
from overlay.cli.output import Output, prices_text, short
from overlay.control import call_control
from overlay.datadir import home, open_data_dir
from overlay.events import ton
from overlay.node import reachability
from overlay.node.discovery import table_text

app = typer.Typer(help="Run a node and look at it.", no_args_is_help=True)


@app.command()
def run(
    serve: Annotated[str | None, typer.Option(help="Tasks to sell: chat,transcribe,embed.", metavar="TASKS")] = None,
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
    """Sell this machine's compute until stopped. SIGTERM or Ctrl-C lets running jobs finish, then exits 0."""
    from overlay.node.machine import LocalMachine
    from overlay.node.provider import run_provider

    extra: dict[str, Any] = {"node.serve": serve, "node.listen": ",".join(listen) if listen else None}
    setup = o.make_setup(
        "node",
        data_dir=data_dir,
        config=config,
        overrides=overrides,
        preset=preset,
        bootstrap=bootstrap,
        subnet=subnet,
        ton=ton_config,
        extra=extra,
    )
    output = Output(as_json)
    with open_data_dir(setup.data_dir) as directory:
        trio.run(run_provider, setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, output.event)


@app.command()
def status(data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """What the running node sells, earns and is busy with."""
    state = trio.run(_call, data_dir, "status")
    output = Output(as_json)
    if as_json:
        output.document(state)
        return
    output.line(f"node {state['peer_id']}  subnet {state['subnet']}  up {state['uptime_s']} s")
    if "addrs" in state:  # a client listens nowhere
        direct = [addr for addr in state["addrs"] if addr not in state["reachable"]["relays"]]
        output.line(f"control plane {' '.join(direct) or '–'}")
        output.line(f"tunnel        {' '.join(state['tunnel_addrs'])}")
        output.line(f"reachable     {reachability.text(state['reachable'])}")
        for addr in state["reachable"]["relays"]:
            relay = addr.partition("/p2p-circuit")[0].rpartition("/p2p/")[2]
            output.line(f"relay         {short(relay)} at {addr}")
    output.line(f"wallet        {state['wallet']}  {state['network']}")
    _discovery(output, state["peers"], state["discovery"])
    output.table(
        "Tunnels", ["peer", "path", "handshake", "round trip", "sent", "received", "streams"],
        [
            (
                short(t["peer_id"]), t["path"], t["pattern"], "–" if t["rtt_ms"] is None else f"{t['rtt_ms']} ms",
                _rate(t["sent_bytes_per_s"]), _rate(t["received_bytes_per_s"]), t["streams"],
            )
            for t in state["tunnels"]
        ],
        empty="no tunnels open",
    )  # fmt: skip
    money = state["money"]
    output.line(f"running jobs  may cost {ton(money['reserved_nanoton'])} more, "
                f"{ton(money['at_risk_nanoton'])} at risk{_caps(money['caps'])}")  # fmt: skip
    if "selling" not in state:
        output.line(
            f"spent         {ton(money['spent_nanoton'])}; {ton(money['locked_nanoton'])} more in open channels"
        )
        return
    rows = [
        (s["task"], s["model"], prices_text(s["prices"]), f"{s['busy']}/{s['slots']}", s["queued"], s["note"])
        for s in state["selling"]
    ]
    output.table("Selling", ["task", "model", "ask", "busy", "queued", "note"], rows, empty="selling nothing")
    output.line(f"earned {ton(money['earned_nanoton'])}, of it claimed on chain {ton(money['claimed_nanoton'])}, "
                f"served and not yet paid {ton(money['at_risk_nanoton'])}")  # fmt: skip
    for tower in state["watchtowers"]:
        has = f"watches over {ton(tower['watched_nanoton'])} on {tower['channels']} channels"
        output.line(f"watchtower    {short(tower['peer_id'])} {has if tower['reachable'] else 'does not answer'}")


def _caps(caps: dict[str, int | None]) -> str:
    """The user's caps on what is at risk, if there are any."""
    words = (("per_channel_nanoton", "a channel"), ("per_peer_nanoton", "a peer"), ("total_nanoton", "in all"))
    found = [f"{ton(cap)} {word}" for key, word in words if (cap := caps[key]) is not None]
    return f" (capped at {', '.join(found)})" if found else ""


def _rate(bytes_per_s: float) -> str:
    """Kilobytes a second over the last seconds, which is what tokens make; megabytes for tensors."""
    return f"{bytes_per_s / 1e6:.1f} MB/s" if bytes_per_s >= 1e6 else f"{bytes_per_s / 1e3:.1f} kB/s"


def _discovery(output: Output, peers: int, state: dict[str, Any]) -> None:
    """How the node finds and is found."""
    output.line(f"peers         {peers} connected, gossip {'on' if state['gossip'] else 'off (discovery.gossip)'}")
    output.line(f"hash table    {table_text(state['dht'])}")
    sources = ", ".join(f"{source} {count}" for source, count in state["learned"].items())
    output.line(f"providers     {state['providers_known']} known{f' ({sources})' if sources else ''}")
    for entry in state["listed"]:
        where = f"shard of {entry['shard_bits']} bits, {entry['providers_there']} there"
        if entry["shard_bits"] is None:
            where = f"not yet: {entry['error'] or 'being announced'}"
        output.line(f"listed        {entry['task']} {entry['model']} {entry['tier']}: {where}")


@app.command()
def peers(data_dir: o.DataDirOption = None, as_json: o.JsonOption = False) -> None:
    """Who the running node is connected to, and what it knows to be on offer."""
    state = trio.run(_call, data_dir, "peers")
    output = Output(as_json)
    if as_json:
        output.document(state)
        return
    rows = [
        (p["peer_id"], p["addr"], "in" if p["inbound"] else "out", "relayed" if p["relayed"] else "direct")
        for p in state["peers"]
    ]
    output.table("Connected", ["peer", "address", "way", "path"], rows, empty="no peers connected")
    offers = [
        (short(f["peer_id"]), f["task"], f["model"], f["tier"], prices_text(f["prices"]), f"{f['busy']}/{f['slots']}",
         f"{f['age_s']} s", f["learned"])
        for f in state["offers"]
    ]  # fmt: skip
    output.table(
        "On offer", ["provider", "task", "model", "tier", "ask", "busy", "age", "learned from"], offers,
        empty="no offers heard yet",
    )  # fmt: skip
    output.line(f"hash table    {table_text(state['discovery']['dht'])}")


@app.command()
def doctor(
    data_dir: o.DataDirOption = None,
    preset: o.PresetOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    ton_config: o.TonOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Check what a node needs on this machine, with the fix beside each thing that is amiss."""
    from overlay.cli.doctor import examine

    setup = o.make_setup("node", data_dir=data_dir, config=config, overrides=overrides, preset=preset, ton=ton_config)
    findings = trio.run(examine, setup.config, setup.data_dir)
    output = Output(as_json)
    if as_json:
        output.document([{"check": f.check, "ok": f.ok, "found": f.found, "fix": f.fix} for f in findings])
    else:
        for finding in findings:
            output.line(f"{'ok  ' if finding.ok else 'FIX '} {finding.check}: {finding.found}")
            if finding.fix:
                output.line(f"     {finding.fix}")
    if not all(f.ok or f.optional for f in findings):
        raise typer.Exit(1)


async def _call(data_dir: Path | None, command: str, **arguments: Any) -> Any:
    return await call_control(data_dir or home() / "node", command, **arguments)
