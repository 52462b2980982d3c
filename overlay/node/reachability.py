"""Whether others reach this node, for its user: what peers that dialled back have answered, and who has come how.

That somebody from another machine has connected is proof, that nobody has is none; the host's verdict (AutoNAT, see
docs/protocols/host.md) fills the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from transport.host.interface import EventKind, Host, Reach
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
        elif (scope := scope_of(info.addr)) == "outside":
            self.outside_at = now
        elif scope == "nearby":
            self.nearby_at = now

    def state(self) -> dict[str, Any]:
        """For `cocoon node status`."""
        known = self.host.reachability
        relays = [addr for addr in self.host.addrs if "/p2p-circuit" in addr]
        if known.verdict is Reach.PUBLIC or (self.outside_at is not None and known.verdict is Reach.UNKNOWN):
            how = "direct"
        elif relays:
            how = "relay"
        elif self.nearby_at is not None:
            how = "nearby"
        else:
            how = "unknown"
        now = self.clock()
        seen = {"direct": self.outside_at, "nearby": self.nearby_at, "relay": self.circuit_at}.get(how)
        return {
            "verdict": known.verdict.value,
            "ip4": known.ip4.value,
            "ip6": known.ip6.value,
            "how": how,
            "relays": relays,
            "relay_peers": list(known.relays),
            "relaying": known.relaying,
            "last_s_ago": None if seen is None else max(0, round(now - seen)),
        }


def text(state: dict[str, Any]) -> str:
    """The same in one line."""
    ago = state["last_s_ago"]
    when = "nobody has come that way yet" if ago is None else f"somebody last came {ago} s ago"
    verdict = "" if state["verdict"] == Reach.UNKNOWN.value else f"{state['verdict']}: "
    match state["how"]:
        case "direct":
            relaying = "; it relays for others" if state["relaying"] else ""
            return f"{verdict}directly from the internet; {when}{relaying}"
        case "relay":
            return f"{verdict}through {len(state['relays'])} relay{'s' * (len(state['relays']) != 1)}; {when}"
        case "nearby":
            outside = "Nobody outside can dial this node" if verdict else "Not known from outside"
            return f"{verdict}from your own network; {when}. {outside}"
    if state["verdict"] == Reach.PRIVATE.value:
        return "private: nobody can dial this node, and it has found no relay yet"
    return "not known: nobody has connected from another machine yet"


def scope_of(addr: str) -> str:
    """Of which network an address is: `outside`, `nearby`, `here`, or `unknown` for a name."""
    parts = addr.split("/")
    try:
        ip = ip_address(parts[2].partition("%")[0])
    except (IndexError, ValueError):
        return "unknown"
    if ip.is_loopback:
        return "here"
    return "outside" if ip.is_global else "nearby"


__all__ = ["Reachability", "scope_of", "text"]
