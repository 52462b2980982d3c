"""`cocoon market`: who sells what, as far as this node can find out."""

from __future__ import annotations

from typing import Annotated

import trio
import typer

from compute.tasks import Task
from overlay.cli import options as o
from overlay.cli.output import prices_text, short
from overlay.market import Tier

app = typer.Typer(help="Who sells what.", no_args_is_help=True)

_LEARNED = {
    "own": "our own",
    "gossip": "gossip",
    "neighbour": "a neighbour",
    "provider": "the provider",
}


@app.callback()
def _group() -> None:
    """Keeps `providers` a subcommand although it is the only one."""


@app.command()
@o.shared
def providers(
    call: o.Call,
    model: Annotated[str, typer.Argument(help="Model; auto takes any that is on offer.")] = "auto",
    task: Annotated[Task, typer.Option(help="What it is to do.")] = Task.CHAT,
    tier: Annotated[Tier | None, typer.Option(help="Confidentiality tier; default: market.tier.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to look for the first one.", min=0, max=60)] = 5.0,
) -> None:
    """List the providers of a model: price, load, age of the record, and how it came here. Asks and pays nobody."""
    from overlay.cli.operations import providers_of

    wanted = tier.value if tier is not None else call.setup.config.market.tier
    found = trio.run(providers_of, call.setup, task, model, wanted, wait, call.output.aside)
    if call.output.as_json:
        call.output.document(found)
        return
    rows = [
        (
            short(p["peer_id"]), p["model"], p["tier"], prices_text(p["prices"]), f"{p['busy']}/{p['slots']}",
            f"{p['queue_wait_ms']} ms", p["units_per_s"] or "-", f"{p['age_s']} s",
            _LEARNED.get(p["learned"], p["learned"]), p["path"] or "-",
        )
        for p in found["providers"]
    ]  # fmt: skip
    columns = ["provider", "model", "tier", "ask", "busy", "wait", "units/s", "age", "learned from", "connected"]
    call.output.table(f"Providers of {task.value}", columns, rows, empty="nobody")
    if found["known"] > len(rows):
        call.output.note(f"{found['known'] - len(rows)} more are known")
