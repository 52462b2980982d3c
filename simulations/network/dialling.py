"""How a dial goes: which address answers, when, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from simulations.network.limits import (
    CONNECT_ROUND_TRIPS,
    HANDSHAKE_BYTES,
    NAT_MAPPING_S,
    REFUSED_ROUND_TRIPS,
    STAGGER_S,
    TICK_S,
)
from simulations.network.links import CONNECT, Link
from simulations.network.world import Nat, round_trip_s
from transport.host.interface import DialError
from transport.host.limits import DIAL_S, MAX_DIAL_ADDRS
from transport.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from simulations.network.host import VirtualHost

_ADDR = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(?:/p2p/([^/]+))?", re.ASCII)
_SILENCE = "no answer in time"


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
    """One dial of a peer at up to eight addresses, each with a head start over the next."""

    def __init__(self, host: VirtualHost, peer: PeerId, addrs: Sequence[str]) -> None:
        self._host = host
        self._peer = peer
        plain = dict.fromkeys(addr.partition("/p2p/")[0] for addr in addrs)
        self._candidates = list(plain)[:MAX_DIAL_ADDRS]
        self._task: Task | None = None
        self._link: Link | None = None
        self._cancelled = False

    async def run(self) -> Link:
        """The connection. Raises :class:`DialError`, which names each address and its failure."""
        host, network = self._host, self._host.network
        if not self._candidates:
            raise DialError(f"no address of {self._peer} is known")
        network.dials += 1
        host.last_dial_s = trio.current_time()
        attempts, ends = self._plan()
        reached = [(end, number) for number, end in enumerate(ends) if not attempts[number].failure]
        if reached:
            end, number = min(reached)
            await self._wait_for(attempts[number], end)
            if self._link is not None:
                return self._link
            attempts[number] = _Attempt(attempts[number].addr, DIAL_S, "the handshake failed")
        else:
            await trio.sleep(max(ends))
        network.failed_dials += 1
        reasons = "; ".join(f"{attempt.addr}: {attempt.failure}" for attempt in attempts if attempt.failure)
        raise DialError(f"cannot reach {self._peer} ({reasons})")

    def _plan(self) -> tuple[list[_Attempt], list[float]]:
        """What comes of each address, and how many seconds from now."""
        attempts, ends, start = [], [], 0.0
        for addr in self._candidates:
            attempt = self._try(addr)
            attempts.append(attempt)
            ends.append(start + attempt.seconds)
            start += min(STAGGER_S, attempt.seconds) if attempt.failure else STAGGER_S
        return attempts, ends

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

    async def _wait_for(self, attempt: _Attempt, seconds: float) -> None:
        assert attempt.target is not None
        one_way = round_trip_s(self._host.place, attempt.target.place) / 2
        timeline = self._host.network.timeline
        now = trio.current_time()
        timeline.at(now + max(0.0, seconds - one_way), self._arrive, (attempt, one_way))
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: RaiseCancelT) -> Abort:
        self._cancelled = True
        self._task = None
        return Abort.SUCCEEDED

    def _arrive(self, what: tuple[_Attempt, float]) -> None:
        """The handshake reaches the other side, which answers; the connection stands there when the dialler's next
        message arrives."""
        attempt, one_way = what
        host, target = self._host, attempt.target
        network = host.network
        assert target is not None
        now = network.timeline.tick * TICK_S
        if self._cancelled or not host.alive:
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
        if link is not None:
            if self._cancelled or not self._host.alive or not self._host.has_room():
                link.close()
            else:
                self._host.link(link)
                self._link = link
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


def _admits(target: VirtualHost) -> bool:
    """Whether the target's NAT lets a stranger in."""
    if target.place.nat is Nat.FULL_CONE:
        return trio.current_time() - target.last_dial_s < NAT_MAPPING_S
    return target.place.nat is Nat.OPEN
