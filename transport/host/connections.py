"""Which connections a full host keeps: a pure policy. :mod:`transport.host.manager` acts on it.

Identities are free, addresses are not. So places are counted by where a connection comes from, and what goes first
is what its peer paid least for: idle before busy, inbound before outbound, crowded networks before lonely ones, the
longest unused before the recently used. Newcomers have a while in which to become useful; protected peers stay.
The order follows what Bitcoin Core ("SelectNodeToEvict") and go-libp2p (connmgr) do, for their reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transport.host.limits import (
    CONNECTION_GRACE_S,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_LOCAL,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_CONNECTIONS_PER_NETWORK,
    MAX_CONNECTIONS_PER_PEER,
    MAX_INBOUND_CONNECTIONS,
)
from transport.host.origins import Origin
from transport.identity import PeerId


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections stand at once. Origins are counted for inbound connections: whom we dial is our choice."""

    total: int = MAX_CONNECTIONS
    inbound: int = MAX_INBOUND_CONNECTIONS
    per_address: int = MAX_CONNECTIONS_PER_ADDRESS
    per_network: int = MAX_CONNECTIONS_PER_NETWORK
    local: int = MAX_CONNECTIONS_LOCAL
    per_peer: int = MAX_CONNECTIONS_PER_PEER
    grace_s: float = CONNECTION_GRACE_S

    def __post_init__(self) -> None:
        if not 0 < self.per_peer <= self.inbound <= self.total or min(self.per_address, self.per_network) < 1:
            raise ValueError(f"{self} makes no sense: 0 < per peer <= inbound <= total, and 1 or more per origin")


@dataclass(frozen=True)
class Held:
    """What the policy knows of a connection. Times are seconds on one monotonic clock."""

    key: int
    peer: PeerId
    origin: Origin
    inbound: bool
    protected: bool
    streams: int
    """Streams of our own protocols open now; gossip and identify are free to any peer and do not count."""
    opened_at: float
    used_at: float
    """When a stream of our own protocols was last opened or closed."""


def make_room(held: Iterable[Held], newcomer: Held, now: float, limits: ConnectionLimits) -> list[int]:
    """The keys of the connections that have to close for ``newcomer`` to stay; its own key alone if it cannot."""
    standing = list(held)
    leaving: list[int] = []
    for members, limit, always in _rules(standing, newcomer, limits):
        surplus = sum(1 for member in members if member.key not in leaving) + 1 - limit
        for _ in range(surplus):
            present = [member for member in standing if member.key not in leaving]
            candidates = [member for member in members if member.key not in leaving]
            if always:
                victim: Held | None = min(candidates, key=lambda member: (member.opened_at, member.key))
            else:
                victim = _least_valuable(candidates, present, newcomer, now, limits)
            if victim is None:
                return [newcomer.key]
            leaving.append(victim.key)
    return leaving


def _rules(
    standing: Sequence[Held], newcomer: Held, limits: ConnectionLimits
) -> Iterable[tuple[Sequence[Held], int, bool]]:
    """The counts that the newcomer adds to, narrowest first: who is in each, its limit, and whether the oldest goes
    whatever it is worth (one peer's own connections: the newest is the one that its peer still has)."""
    yield [member for member in standing if member.peer == newcomer.peer], limits.per_peer, True
    if newcomer.inbound:
        inbound = [member for member in standing if member.inbound]
        origin = newcomer.origin
        here = limits.local if origin.local else limits.per_address
        around = limits.local if origin.local else limits.per_network
        yield [member for member in inbound if member.origin.address == origin.address], here, False
        yield [member for member in inbound if member.origin.network == origin.network], around, False
        yield inbound, limits.inbound, False
    yield standing, limits.total, False


def _least_valuable(
    candidates: Sequence[Held], present: Sequence[Held], newcomer: Held, now: float, limits: ConnectionLimits
) -> Held | None:
    crowd = Counter(member.origin.network for member in present if member.inbound)

    def worth(member: Held) -> tuple[bool, bool, int, float, int]:
        crowded = crowd[member.origin.network] if member.inbound else 0
        return (not member.inbound, member.streams > 0, -crowded, member.used_at, member.key)

    free = [member for member in candidates if not member.protected]
    settled = [member for member in free if now - member.opened_at >= limits.grace_s]
    if settled:
        return min(settled, key=worth)
    # All are new. Those of a network that has more than the newcomer's make room, and all that came to us make room for
    # a peer that we chose to dial: a flood of newcomers must not lock the door behind it.
    ours = crowd[newcomer.origin.network] + 1
    yielding = [m for m in free if m.inbound and (not newcomer.inbound or crowd[m.origin.network] > ours)]
    return min(yielding, key=worth) if yielding else None
