"""Where peers were reached, and where they say they can be: what a host remembers in order to dial again. Pure.

An address is *confirmed* when a dial of ours found that very peer behind it (Noise proves it), *claimed* when the peer
said so in identify. Confirmed ones are tried first and survive restarts; claims are cheap, so they go first when there
is no room, one failure ends them, and one network may make only so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from transport.host.limits import (
    CLAIMED_ADDR_S,
    CONFIRMED_ADDR_S,
    MAX_ADDR_BYTES,
    MAX_ADDR_FAILURES,
    MAX_CLAIMED_PEERS_PER_NETWORK,
    MAX_DIAL_ADDRS,
    MAX_KNOWN_PEERS,
)
from transport.host.origins import origin_of
from transport.identity import PeerId


@dataclass(frozen=True)
class KnownAddr:
    """One address of one peer. Times are Unix seconds; 0 for never."""

    addr: str
    confirmed_at: float
    seen_at: float
    failures: int = 0
    """Dials in a row that did not reach the peer there."""

    def alive(self, now: float) -> bool:
        """Whether it is still worth a dial."""
        if self.confirmed_at:
            return now - self.confirmed_at < CONFIRMED_ADDR_S and self.failures < MAX_ADDR_FAILURES
        return now - self.seen_at < CLAIMED_ADDR_S and not self.failures


def _network(addr: str) -> str:
    parts = addr.split("/")
    if len(parts) < 3:
        return "?"
    return origin_of(parts[2]).network if parts[1] in ("ip4", "ip6") else parts[2].lower()


class PeerBook:
    """At most ``max_peers`` peers with at most :data:`MAX_DIAL_ADDRS` addresses each."""

    def __init__(self, max_peers: int = MAX_KNOWN_PEERS) -> None:
        self._max_peers = max_peers
        self._peers: dict[PeerId, tuple[KnownAddr, ...]] = {}  # in the order of their last news
        self._changed: dict[PeerId, None] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def confirmed(self, peer: PeerId, addr: str, now: float) -> None:
        """``peer`` was reached at ``addr``."""
        others = [known for known in self._peers.get(peer, ()) if known.addr != addr and known.alive(now)]
        self._keep(peer, [KnownAddr(addr, now, now), *others])

    def claimed(self, peer: PeerId, addrs: Sequence[str], now: float) -> None:
        """``peer`` says that it listens there; this replaces its earlier claims."""
        known = [entry for entry in self._peers.get(peer, ()) if entry.confirmed_at and entry.alive(now)]
        there = {entry.addr for entry in known}
        new = [a for a in dict.fromkeys(addrs) if a not in there and len(a.encode()) <= MAX_ADDR_BYTES]
        if known or (new and self._room_for_claims(peer, new[0])):
            self._keep(peer, [*known, *(KnownAddr(addr, 0.0, now) for addr in new)])

    def failed(self, peer: PeerId, addr: str, now: float) -> None:
        """A dial did not find ``peer`` at ``addr``."""
        entries = [
            replace(known, failures=known.failures + 1) if known.addr == addr else known
            for known in self._peers.get(peer, ())
        ]
        alive = [known for known in entries if known.alive(now)]
        if peer in self._peers:
            self._changed[peer] = None
            if alive:
                self._peers[peer] = tuple(alive)
            else:
                del self._peers[peer]

    def load(self, peer: PeerId, entries: Iterable[KnownAddr], now: float) -> None:
        """Take in what was kept from an earlier run, oldest peers first."""
        capped = (  # times from the future were written under a wrong clock
            replace(known, confirmed_at=min(known.confirmed_at, now), seen_at=min(known.seen_at, now))
            for known in entries
        )
        if alive := [known for known in capped if known.alive(now)]:
            self._keep(peer, alive)
            self._changed.pop(peer, None)
        else:
            self._changed[peer] = None

    def addrs(self, peer: PeerId) -> list[str]:
        """Where to dial ``peer``, best first."""
        return [known.addr for known in self._peers.get(peer, ())]

    def candidates(self, now: float) -> list[PeerId]:
        """Whom to dial for company: confirmed before claimed, recent before old, but each network once before any
        network twice, so that one that filled our memory gets no more than its turn."""
        ranked = sorted(self._peers.items(), key=lambda item: (-item[1][0].confirmed_at, -item[1][0].seen_at, item[0]))
        turns: Counter[str] = Counter()
        keyed: list[tuple[bool, int, int, PeerId]] = []
        for position, (peer, entries) in enumerate(ranked):
            if entries[0].alive(now):
                network = _network(entries[0].addr)
                keyed.append((not entries[0].confirmed_at, turns[network], position, peer))
                turns[network] += 1
        return [peer for *_, peer in sorted(keyed)]

    def take_changes(self) -> list[tuple[PeerId, tuple[KnownAddr, ...]]]:
        """What is new since the last call, one entry a peer; no addresses: forgotten."""
        changes = [(peer, self._peers.get(peer, ())) for peer in self._changed]
        self._changed.clear()
        return changes

    def put_back(self, peers: Iterable[PeerId]) -> None:
        """Their changes were taken and not written; :meth:`take_changes` gives them again."""
        self._changed.update(dict.fromkeys(peers))

    def _keep(self, peer: PeerId, entries: list[KnownAddr]) -> None:
        self._peers.pop(peer, None)
        best_first = sorted(entries, key=lambda known: (-known.confirmed_at, -known.seen_at))
        self._peers[peer] = tuple(best_first[:MAX_DIAL_ADDRS])
        self._changed[peer] = None
        while len(self._peers) > self._max_peers:
            claims = (other for other, known in self._peers.items() if not known[0].confirmed_at)
            victim = next(claims, None) or next(iter(self._peers))
            del self._peers[victim]
            self._changed[victim] = None

    def _room_for_claims(self, peer: PeerId, addr: str) -> bool:
        network = _network(addr)
        count = sum(
            1
            for other, known in self._peers.items()
            if other != peer and not known[0].confirmed_at and _network(known[0].addr) == network
        )
        return count < MAX_CLAIMED_PEERS_PER_NETWORK
