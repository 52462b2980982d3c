"""Whether others reach this node: what it has seen itself, which is all that can be known without trusting anybody.

Nobody is asked to dial back (docs/protocols/host.md says why upstream's AutoNAT is off): that somebody from another
machine has connected is proof, that nobody has is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from transport.host.interface import EventKind, Host
from transport.identity import PeerId

_NEWS_S = 10.0
"""Within so long after somebody came from outside, it is no news that another one did."""


@dataclass
class Reachability:
    """Run :meth:`watch` in a task. ``clock`` gives Unix seconds."""

    host: Host
    clock: Callable[[], float]
    outside_at: float | None = None
    """When somebody last connected straight to us from a public address."""
    nearby_at: float | None = None
    """The same from a private one: of our own network, behind the same router."""
    circuit_at: float | None = None
    """When somebody last came through a relay."""

    async def watch(self) -> None:
        """Note who comes, for ever."""
        async with self.host.events() as events:
            async for event in events:
                if event.kind is EventKind.CONNECTED and event.peer_id is not None:
                    self.came(event.peer_id)

    def came(self, peer: PeerId) -> None:
        """A peer has just connected, or been connected to."""
        if self.outside_at is not None and self.clock() < self.outside_at + _NEWS_S:
            return  # a provider meets clients by the hundred, and one tells what all of them do
        info = next((info for info in self.host.peers() if info.peer_id == peer), None)
        if info is None or not info.inbound:
            return
        now = self.clock()
        if info.relayed:
            self.circuit_at = now
        elif (scope := _scope(info.addr)) == "outside":
            self.outside_at = now
        elif scope == "nearby":
            self.nearby_at = now

    def state(self) -> dict[str, Any]:
        """For `cocoon node status`."""
        relays = [addr for addr in self.host.addrs if "/p2p-circuit" in addr]
        if self.outside_at is not None:
            how = "direct"
        elif relays:
            how = "relay"
        elif self.nearby_at is not None:
            how = "nearby"
        else:
            how = "unknown"
        now = self.clock()
        seen = {"direct": self.outside_at, "nearby": self.nearby_at, "relay": self.circuit_at}.get(how)
        return {"how": how, "relays": relays, "last_s_ago": None if seen is None else max(0, round(now - seen))}


def text(state: dict[str, Any]) -> str:
    """The same in one line."""
    ago = state["last_s_ago"]
    when = "nobody has come that way yet" if ago is None else f"somebody last came {ago} s ago"
    match state["how"]:
        case "direct":
            return f"directly from the internet; {when}"
        case "relay":
            return f"through {len(state['relays'])} relay{'s' * (len(state['relays']) != 1)}; {when}"
        case "nearby":
            return f"from your own network; {when}. Not known from outside"
    return "not known: nobody has connected from another machine yet"


def _scope(addr: str) -> str:
    parts = addr.split("/")
    try:
        ip = ip_address(parts[2].partition("%")[0])
    except (IndexError, ValueError):
        return "unknown"
    if ip.is_loopback:
        return "here"
    return "outside" if ip.is_global else "nearby"


__all__ = ["Reachability", "text"]
