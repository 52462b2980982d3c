"""How a dial goes: which address answers, when, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

import trio

from simulations.network.limits import (
    CONNECT_ROUND_TRIPS,
    HANDSHAKE_BYTES,
    NAT_MAPPING_S,
    REFUSED_ROUND_TRIPS,
    TICK_S,
)
from simulations.network.links import CONNECT, Link
from simulations.network.world import Nat, round_trip_s
from transport.host.interface import DialError
from transport.host.limits import DIAL_S, DIAL_STAGGER_S, MAX_DIAL_ADDRS, MAX_RACE_ADDRS
from transport.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from simulations.network.host import VirtualHost

_ADDR = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(?:/p2p/([^/]+))?", re.ASCII)
_SILENCE = "no answer in time"
_FAILED = "the handshake failed"


@lru_cache(maxsize=65536)
def split_addr(addr: str) -> tuple[str, str, int, str] | None:
    """Protocol, host, port and peer id (or ``""``) of a TCP multiaddr; None for anything else."""
    match = _ADDR.fullmatch(addr)
    if match is None or not 0 <= int(match[3]) <= 0xFFFF:
        return None
    return match[1], match[2], int(match[3]), match[4] or ""


def split_peer(addr: str) -> PeerId:
    """The peer id at the end of a multiaddr. Raises :class:`DialError`."""
    parts = split_addr(addr)
    if parts is None:
        raise DialError(f"{addr!r} is not an address like /ip4/192.0.2.1/tcp/4001")
    try:
        public_key_of(parts[3])
    except ValueError:
        raise DialError(f"{addr!r} does not end in /p2p/ and the peer id of an Ed25519 key") from None
    return PeerId(parts[3])


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One address: it answers, or fails, after ``seconds``."""

    addr: str
    seconds: float
    failure: str
    target: VirtualHost | None = None


class Dial:
    """One dial of a peer that all who want it share: each address has a head start over the next, and what a later
    caller knows joins (as :class:`transport.host.race.Race` does it)."""

    def __init__(self, host: VirtualHost, peer: PeerId, addrs: Sequence[str]) -> None:
        self._host = host
        self._peer = peer
        self._attempts: dict[str, _Attempt] = {}
        self._next_s = self._ends_s = host.network.timeline.now()
        self._first_s = inf
        """When the first address answers that does."""
        self._waiting = 0
        self._link: Link | None = None
        self._over = trio.Event()
        if not addrs:
            raise DialError(f"no address of {peer} is known")
        host.network.dials += 1
        host.last_dial_s = trio.current_time()
        self.enter(addrs)

    @property
    def failure(self) -> DialError:
        """Names each address and why it did not lead there."""
        reasons = "; ".join(f"{each.addr}: {each.failure or _FAILED}" for each in self._attempts.values())
        return DialError(f"cannot reach {self._peer} ({reasons})")

    def enter(self, addrs: Sequence[str]) -> bool:
        """Try these as well. False when there was no room for all of them."""
        plain = list(dict.fromkeys(addr.partition("/p2p/")[0] for addr in addrs))[:MAX_DIAL_ADDRS]
        fresh = [addr for addr in plain if addr not in self._attempts]
        room = MAX_RACE_ADDRS - len(self._attempts)
        now = self._host.network.timeline.now()
        for addr in fresh[:room]:
            attempt = self._attempts[addr] = self._try(addr)
            start = max(now, self._next_s)
            end = start + attempt.seconds
            self._next_s = start + (min(DIAL_STAGGER_S, attempt.seconds) if attempt.failure else DIAL_STAGGER_S)
            self._ends_s = max(self._ends_s, end)
            if attempt.target is not None and end < self._first_s:
                self._first_s = end
                self._set_out(attempt, attempt.target, end)
        if fresh and self._first_s == inf:
            self._host.network.timeline.at(self._ends_s, self._give_up, self._ends_s)
        return len(fresh) <= room

    async def result(self) -> Link | None:
        """The connection, None if there is none. When the last who waits is cancelled, so is the dial."""
        self._waiting += 1
        try:
            await self._over.wait()
        finally:
            self._waiting -= 1
            if not self._waiting and not self._over.is_set():
                self._end()
        return self._link

    def _end(self) -> None:
        self._over.set()
        self._host.dialled(self._peer, self)

    def _give_up(self, ends_s: float) -> None:
        """The last address has failed, unless others have joined since."""
        if ends_s == self._ends_s and self._first_s == inf and not self._over.is_set():
            self._host.network.failed_dials += 1
            self._end()

    def _try(self, addr: str) -> _Attempt:
        host, network = self._host, self._host.network
        parts = split_addr(addr)
        assert parts is not None, "hints were checked"
        family, where, port, _ = parts
        if family not in ("ip4", "ip6"):
            return _Attempt(addr, TICK_S, "name or service not known")
        if (host.place.ip4 if family == "ip4" else host.place.ip6) is None:
            return _Attempt(addr, TICK_S, "network is unreachable")
        target = network.listener(where, port)
        if target is None or (not target.alive and not target.crashed):
            neighbour = target or network.machine(where)
            if neighbour is None or not _admits(neighbour):
                return _Attempt(addr, DIAL_S, _SILENCE)
            seconds = REFUSED_ROUND_TRIPS * round_trip_s(host.place, neighbour.place)
            return _Attempt(addr, seconds, "connection refused")
        if network.is_cut(host, target) or not _admits(target):
            return _Attempt(addr, DIAL_S, _SILENCE)
        seconds = CONNECT_ROUND_TRIPS * round_trip_s(host.place, target.place) + network.rng.random() * network.jitter_s
        if target.peer_id != self._peer:
            return _Attempt(addr, seconds, "another peer answers there")
        return _Attempt(addr, seconds, "", target)

    def _set_out(self, attempt: _Attempt, target: VirtualHost, end_s: float) -> None:
        one_way = round_trip_s(self._host.place, target.place) / 2
        timeline = self._host.network.timeline
        timeline.at(max(timeline.now(), end_s - one_way), self._arrive, (attempt, one_way, end_s))

    def _arrive(self, what: tuple[_Attempt, float, float]) -> None:
        """The handshake reaches the other side, which answers; the connection stands there when the dialler's next
        message arrives."""
        attempt, one_way, end_s = what
        host, target = self._host, attempt.target
        network = host.network
        assert target is not None
        now = network.timeline.tick * TICK_S
        if self._over.is_set() or not host.alive or end_s != self._first_s:
            return
        if not target.alive or network.is_cut(host, target):
            network.timeline.at(now + DIAL_S, self._finish, None)
            return
        network.bytes += HANDSHAKE_BYTES
        network.log.event(CONNECT, network.timeline.tick, host.number, target.number)
        theirs = target.accept(host, 2 * one_way, f"{attempt.addr}/p2p/{target.peer_id}", self._seen_as(attempt))
        network.timeline.at(now + one_way, self._finish, theirs)
        if theirs is not None:  # nothing overtakes the end of the handshake
            theirs.last_tick = network.timeline.at(now + 2 * one_way, target.stand, theirs.remote)

    def _seen_as(self, attempt: _Attempt) -> str:
        """Our address as the other side sees it: a NAT, or our own system, picked the port."""
        host, target = self._host, attempt.target
        assert target is not None
        six = attempt.addr.startswith("/ip6/")
        if host.place.nat is Nat.FULL_CONE:
            port = host.place.port
        else:
            varies = target.number if host.place.nat is Nat.SYMMETRIC else 0
            port = 32768 + (host.number * 31 + varies * 7) % 28000
        family, address = ("ip6", host.place.ip6) if six else ("ip4", host.place.ip4)
        return f"/{family}/{address}/tcp/{port}/p2p/{host.peer_id}"

    def _finish(self, link: Link | None) -> None:
        """The answer is back."""
        if self._over.is_set() or not self._host.alive:
            if link is not None:
                link.close()
            return
        if link is not None and not self._host.has_room():
            link.close()
            link = None
        if link is not None:
            self._host.link(link)
            self._link = link
        else:
            self._host.network.failed_dials += 1
        self._end()


def _admits(target: VirtualHost) -> bool:
    """Whether the target's NAT lets a stranger in."""
    if target.place.nat is Nat.FULL_CONE:
        return trio.current_time() - target.last_dial_s < NAT_MAPPING_S
    return target.place.nat is Nat.OPEN
