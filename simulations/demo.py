"""`cocoon demo`: the whole path on one machine, in separate processes, with play money on a real TVM.

A devnet, three providers with different prices and a client that runs a gateway. A voice message and a chat prompt go
through the gateway's ordinary HTTP, as any OpenAI client would send them; what is shown of the negotiation, the
vouchers and the settlement are the processes' own events. At the end the devnet's books are added up.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import httpx
import trio

from overlay.cli.output import Output, prices_text
from overlay.control import call_control
from overlay.events import ton
from overlay.settlement.devnet import ask_totals
from simulations.processes import CocoonProcess, ProcessFailed, run_process

PROVIDERS = {"anna": (1, 1), "boris": (3, 2), "clara": (5, 4)}
"""The three providers, and by what each multiplies the default prices."""

START_TIMEOUT_S = 60.0
JOB_TIMEOUT_S = 60.0
SETTLED_TIMEOUT_S = 20.0

_TRADE = ("asked", "quoted", "declined", "countered", "agreed", "channel_opened", "tunnel", "voucher", "settled")


@dataclass
class Demo:
    """The running swarm: processes by name, and where the client is."""

    output: Output
    devnet: CocoonProcess
    config: dict[str, Any]
    providers: dict[str, CocoonProcess]
    client: CocoonProcess
    client_dir: Path
    url: str
    names: dict[str, str] = field(default_factory=dict)
    """Peer id and wallet address → the name shown for it."""

    def name_of(self, key: str) -> str:
        """The provider's name instead of its peer id."""
        return self.names.get(key, key)


async def run_demo(voice: Path | None, prompt: str, output: Output) -> dict[str, Any]:
    """Run the demo and return its result: jobs, balances, settlements, and whether every nanoTON is accounted for."""
    with tempfile.TemporaryDirectory(prefix="cocoon-demo-") as directory:
        async with _swarm(Path(directory), output) as demo:
            totals_before = await ask_totals(demo.config)
            before = await _balances(demo)
            output.note("")
            transcript = await _transcribe(demo, voice)
            chat = await _chat(demo, prompt)
            settlements = await _settle(demo)
            after = await _balances(demo)
            totals_after = await ask_totals(demo.config)
    result = {
        "jobs": [transcript, chat],
        "settled": len(settlements),
        "settlements": settlements,
        "balances": {name: {"before_nanoton": before[name], "after_nanoton": after[name]} for name in before},
        "supply_nanoton": totals_after["minted_nanoton"],
        "fees_nanoton": totals_after["fees_nanoton"] - totals_before["fees_nanoton"],
        "conserved": _conserved(totals_before, totals_after, before, after),
    }
    _show_result(output, result)
    return result


def _conserved(first: dict[str, int], last: dict[str, int], before: dict[str, int], after: dict[str, int]) -> bool:
    """Every nanoTON that exists is in an account or was burned as a fee, and what client and providers lost together is
    exactly the fees of the chain and what still lies in channels."""
    books = bool(first["conserved"] and last["conserved"]) and last["in_flight_nanoton"] == 0
    spent = sum(before.values()) - sum(after.values())
    fees = last["fees_nanoton"] - first["fees_nanoton"]
    return books and first["minted_nanoton"] == last["minted_nanoton"] and spent == fees


@asynccontextmanager
async def _swarm(home: Path, output: Output) -> AsyncIterator[Demo]:
    """Start everything and stop it again, in the order that lets running jobs end."""
    async with AsyncExitStack() as stack:

        async def start(
            name: str, *arguments: str, on_event: Callable[[str, dict[str, Any]], None] | None = None
        ) -> CocoonProcess:
            return await stack.enter_async_context(run_process(name, arguments, home=home, on_event=on_event))

        output.note("starting a TON devnet (real TVM, play money) …")
        devnet = await start("devnet", "devnet", "run", "--dir", str(home / "devnet"))
        config_file = (await devnet.wait_for("ready", START_TIMEOUT_S))["config"]
        output.note(f"starting {len(PROVIDERS)} providers and a client …")
        providers = {}
        for name, (numerator, denominator) in PROVIDERS.items():
            prices = [
                f"--set=price.{unit}={price * numerator // denominator}" for unit, price in _default_prices().items()
            ]
            providers[name] = await start(
                name, "node", "run", "--preset", "local", "--data-dir", str(home / name), "--ton", config_file, *prices
            )
        names = {}
        for name, process in providers.items():
            ready = await process.wait_for("ready", START_TIMEOUT_S)
            names[ready["peer_id"]] = names[ready["wallet"]] = name
            selling = "; ".join(
                f"{e['task']} at {prices_text(e['prices'])}"
                for e in process.events
                if e["event"] == "selling" and e["task"] in ("chat", "transcribe")
            )
            output.note(f"  {name:6} {ready['peer_id'][-8:]} sells {selling}")

        def on_event(_name: str, event: dict[str, Any]) -> None:
            if event.get("event") in _TRADE:
                output.note("  " + _readable(event["text"], names))

        client = await start(
            "client",
            "gateway",
            "run",
            "--port",
            "0",
            "--data-dir",
            str(home / "client"),
            "--ton",
            config_file,
            on_event=on_event,
        )
        ready = await client.wait_for("ready", START_TIMEOUT_S)
        with trio.fail_after(START_TIMEOUT_S):
            await _wait_for_offers(ready["url"])
        config = json.loads(await trio.Path(config_file).read_text())
        yield Demo(output, devnet, config, providers, client, home / "client", ready["url"], names)


def _default_prices() -> dict[str, int]:
    import msgspec

    from overlay.config import PriceSection

    prices = msgspec.structs.asdict(PriceSection())
    prices.pop("cap_ratio")
    return prices


def _readable(text: str, names: dict[str, str]) -> str:
    for key, name in names.items():
        text = text.replace(key, name).replace("…" + key[-8:], name)
    return text


async def _wait_for_offers(url: str) -> None:
    """Until the client has heard of every provider, so that the market is a market."""
    async with httpx.AsyncClient(base_url=url) as http:
        while True:
            models = (await http.get("/v1/models")).json()["data"]
            if models and all(model["cocoon"]["providers"] >= len(PROVIDERS) for model in models):
                return
            await trio.sleep(0.1)


async def _balances(demo: Demo) -> dict[str, int]:
    """What each party's wallet holds, as the party itself reads it from the chain."""
    balances = {"client": (await call_control(demo.client_dir, "wallet"))["balance_nanoton"]}
    for name in demo.providers:
        balances[name] = (await call_control(demo.client_dir.parent / name, "wallet"))["balance_nanoton"]
    return balances


async def _transcribe(demo: Demo, voice: Path | None) -> dict[str, Any]:
    with as_file(files("simulations") / "data" / "voice.ogg") as sample:
        file = voice or sample
        audio = await trio.Path(file).read_bytes()
        demo.output.note(f"1. a voice message: {file.name}, {len(audio)} bytes")
        async with httpx.AsyncClient(base_url=demo.url, timeout=JOB_TIMEOUT_S) as http:
            answer = await http.post(
                "/v1/audio/transcriptions", files={"file": (file.name, audio)}, data={"model": "auto"}
            )
    document = _checked(answer)
    demo.output.note(f"  → {document['text']}\n")
    return await _job(demo, "transcribe", document["text"])


async def _chat(demo: Demo, prompt: str) -> dict[str, Any]:
    demo.output.note(f"2. a chat: {prompt}")
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    pieces: list[str] = []
    async with (
        httpx.AsyncClient(base_url=demo.url, timeout=JOB_TIMEOUT_S) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        if answer.status_code != 200:
            await answer.aread()
            _checked(answer)
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:]).get("choices", []):
                piece = choice["delta"].get("content") or ""
                pieces.append(piece)
                demo.output.write_aside(("  → " if len(pieces) == 1 else "") + piece)
    demo.output.write_aside("\n")
    return await _job(demo, "chat", "".join(pieces).strip())


def _checked(answer: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise ProcessFailed(f"the gateway answered {answer.status_code}: {document['error']['message']}")
    return document


async def _job(demo: Demo, task: str, text: str) -> dict[str, Any]:
    """What the client's own books say of the job."""
    done = await demo.client.wait_for("job_done", JOB_TIMEOUT_S, task=task)
    return {
        "task": task,
        "model": done["model"],
        "provider": demo.name_of(done["provider"]),
        "peer_id": done["provider"],
        "text": text,
        "units": done["units"],
        "prices": done["prices"],
        "ask_nanoton": done["ask_nanoton"],
        "paid_nanoton": done["paid_nanoton"],
        "relayed": done["relayed"],
    }


async def _settle(demo: Demo) -> list[dict[str, Any]]:
    """Close every channel together with its provider, and wait until the providers have seen it too."""
    demo.output.note("\n3. settling on chain")
    settled = await call_control(demo.client_dir, "settle")
    for entry in settled:
        entry["provider"] = demo.name_of(entry["peer"])
        await demo.providers[entry["provider"]].wait_for("settled", SETTLED_TIMEOUT_S, channel=entry["channel"])
    return list(settled)


def _show_result(output: Output, result: dict[str, Any]) -> None:
    if output.as_json:
        output.document(result)
        return
    output.line("")
    transactions = {entry["provider"]: entry for entry in result["settlements"]}
    rows = []
    for job in result["jobs"]:
        units = ", ".join(f"{count} {unit}" for unit, count in job["units"].items())
        agreed = prices_text({unit: job["prices"].get(unit, 0) for unit in job["units"]})
        rows.append((job["task"], job["provider"], units, agreed, ton(job["paid_nanoton"])))
    output.table("Jobs", ["task", "provider", "units", "agreed price", "paid"], rows, empty="no jobs")
    output.line("")
    settled = [
        (name, ton(entry["paid_nanoton"]), ton(entry["refund_nanoton"]), entry["tx"])
        for name, entry in transactions.items()
    ]
    output.table(
        "Settled on chain", ["provider", "to provider", "back to client", "transaction"], settled, empty="nothing"
    )
    output.line("")
    balances = []
    for name, balance in result["balances"].items():
        change = balance["after_nanoton"] - balance["before_nanoton"]
        balances.append((name, ton(balance["before_nanoton"]), ton(balance["after_nanoton"]), ton(change)))
    change = sum(b["after_nanoton"] - b["before_nanoton"] for b in result["balances"].values())
    balances.append(("together", "", "", ton(change)))
    output.table("Balances", ["who", "before", "after", "change"], balances, empty="")
    output.line("")
    verdict = "conserved to the nanoTON" if result["conserved"] else "NOT CONSERVED"
    output.line(
        f"{ton(result['fees_nanoton'])} went to the chain as fees; {ton(result['supply_nanoton'])} in all: {verdict}"
    )
