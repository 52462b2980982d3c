"""Lines of an event log for people: what `tell` of :class:`~simulations.determinism.EventLog` says, in words."""

from __future__ import annotations

from simulations.network import links
from simulations.network.limits import TICK_S

NOTE = 0
"""A scenario's own line; its time is in nanoseconds."""

KINDS = {
    NOTE: "note",
    links.MESSAGE: "message",
    links.OPEN: "open",
    links.ANSWER: "answer",
    links.END: "end",
    links.RESET: "reset",
    links.CONTROL: "control",
    links.GOSSIP: "gossip",
    links.CLOSE: "close",
    links.CONNECT: "connect",
}

PAYLOAD_CHARACTERS = 60
"""Of a payload, shown."""


def readable(line: str) -> str:
    """``12009 2 4 3 2f61`` as ``24.018 s  host 4 to 3  open  /a``; a line of another shape as it is."""
    words = line.split(" ")
    if len(words) != 5 or not all(word.isdigit() for word in words[:4]):
        return line
    tick, kind, source, target = map(int, words[:4])
    at_s = tick / 1e9 if kind == NOTE else tick * TICK_S
    try:
        payload = bytes.fromhex(words[4])
    except ValueError:
        return line
    where = "" if kind == NOTE else f"  host {source} to {target}"
    return f"{at_s:.3f} s{where}  {KINDS.get(kind, str(kind))}  {_shown(payload)}".rstrip()


def _shown(payload: bytes) -> str:
    """Text where it is that, else bytes in hexadecimal and how many."""
    text = payload.decode("ascii", "replace")
    if text.isprintable() and "\ufffd" not in text:
        return text if len(text) <= PAYLOAD_CHARACTERS else text[:PAYLOAD_CHARACTERS] + "…"
    shown = payload[: PAYLOAD_CHARACTERS // 2].hex()
    return f"{shown}{'…' if len(payload) > PAYLOAD_CHARACTERS // 2 else ''} ({len(payload)} bytes)"
