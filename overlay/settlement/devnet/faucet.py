"""The faucet: one JSON object a line over TCP on loopback, so that every process of a demo can fund its wallet.

Request ``{"address": "0:…", "amount_nanoton": n}``; answer ``{"ok": true, "hash": "…"}`` with the hash of the giver's
transaction, or ``{"ok": false, "error": "…"}``. The money comes from the devnet's giver, so it is made nowhere.
Request ``{"totals": true}``; answer ``{"ok": true, …}`` with the fields of :class:`Totals` and ``conserved``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Protocol

import trio

from overlay.settlement.cells import check_address, check_int
from overlay.settlement.devnet.ledger import Totals
from overlay.settlement.devnet.limits import IDLE_TIMEOUT_S, MAX_FAUCET_LINE_BYTES, MAX_FUND_NANOTON, TVM_TIMEOUT_S
from overlay.settlement.errors import DevnetError


class Funds(Protocol):
    """What the faucet draws on: the devnet."""

    async def fund(self, address: str, amount_nanoton: int) -> str:
        """Send money to a raw address; returns the transaction's hash in hexadecimal."""
        ...

    def totals(self) -> Totals:
        """Where every nanoTON is."""
        ...


async def serve_faucet(stream: trio.SocketStream, devnet: Funds) -> None:
    """Answer one client until it leaves, is silent for too long or sends a line that is too long."""
    buffer = bytearray()
    async with stream:
        try:
            while True:
                with trio.fail_after(IDLE_TIMEOUT_S):
                    data = await stream.receive_some(4096)
                if not data:
                    return
                buffer += data
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    await stream.send_all(json.dumps(await _answer(line, devnet)).encode() + b"\n")
                if len(buffer) > MAX_FAUCET_LINE_BYTES:
                    return
        except (trio.BrokenResourceError, trio.TooSlowError):
            return


async def _answer(line: bytes, devnet: Funds) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if request == {"totals": True}:
            totals = devnet.totals()
            return {"ok": True, **asdict(totals), "conserved": totals.conserved}
        if not isinstance(request, dict) or set(request) != {"address", "amount_nanoton"}:
            raise ValueError('a request is {"address": …, "amount_nanoton": …}')
        address = check_address(request["address"])
        amount = check_int("amount_nanoton", request["amount_nanoton"], 1, MAX_FUND_NANOTON)
        return {"ok": True, "hash": await devnet.fund(address, amount)}
    except (ValueError, DevnetError) as error:
        return {"ok": False, "error": str(error)}


async def ask_faucet(config: dict[str, Any], address: str, amount_nanoton: int) -> str:
    """Ask the devnet of a global config for money; returns the hash of the giver's transaction in hexadecimal.

    Raises :class:`DevnetError` when the config is not a devnet's, or the faucet refuses or cannot be reached.
    """
    return str((await _ask(config, {"address": address, "amount_nanoton": amount_nanoton}))["hash"])


async def ask_totals(config: dict[str, Any]) -> dict[str, Any]:
    """Where every nanoTON of a running devnet is: the fields of :class:`Totals`, and ``conserved``.

    Raises :class:`DevnetError` as :func:`ask_faucet` does.
    """
    answer = await _ask(config, {"totals": True})
    return {name: value for name, value in answer.items() if name != "ok"}


async def _ask(config: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    faucet = config.get("devnet", {}).get("faucet")
    if faucet is None:
        raise DevnetError("this network has no faucet: fund the wallet's address with real Toncoin")
    request = json.dumps(question).encode() + b"\n"
    try:
        with trio.fail_after(TVM_TIMEOUT_S):
            async with await trio.open_tcp_stream(faucet["host"], faucet["port"]) as stream:
                await stream.send_all(request)
                reply = bytearray()
                while not reply.endswith(b"\n") and len(reply) <= MAX_FAUCET_LINE_BYTES:
                    data = await stream.receive_some(MAX_FAUCET_LINE_BYTES)
                    if not data:
                        break
                    reply += data
        answer = json.loads(reply)
        if not isinstance(answer, dict):
            raise ValueError("an answer is an object")
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
        raise DevnetError(
            f"the devnet's faucet at {faucet['host']}:{faucet['port']} does not answer: is `cocoon devnet run` up?"
        ) from error
    if not answer.get("ok"):
        raise DevnetError(f"the faucet refused: {answer.get('error')}")
    return answer
