"""Asking others to dial us, again and again, and what their answers come to."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from multiaddr import Multiaddr

from transport.host.addresses import plain_ip
from transport.host.autonat.messages import DIAL_ERROR, OK, question, read_answer
from transport.host.hardening import log
from transport.host.interface import HostError, HostStream, Reach
from transport.host.limits import (
    AUTONAT_ENOUGH_VOICES,
    AUTONAT_EXCHANGE_S,
    AUTONAT_FIRST_S,
    AUTONAT_HASTE_S,
    AUTONAT_MAX_ADDRS,
    AUTONAT_MAX_MESSAGE,
    AUTONAT_REFRESH_S,
    AUTONAT_SCARCE_S,
)
from transport.host.votes import Votes
from transport.identity import PeerId

FAMILIES = ("ip4", "ip6")


@dataclass(frozen=True)
class Server:
    """A peer that answers AutoNAT, straight connected: ``network`` is the /24 or /48 that it is in."""

    peer: PeerId
    family: str
    network: str
    may_confirm: bool = True
    """Whether its dial would prove anything: not if our router lets it in for a connection of ours."""


@dataclass(frozen=True)
class Seen:
    """What a server says of us: the IP address at which it sees us."""

    ip: str
    stream: HostStream
    """To ask it on."""


class AutonatClient:
    """Decides for each family of addresses. Run :meth:`run` in a task.

    ``servers`` lists whom to ask; ``open_at(server)`` asks one at which IP address it sees us (None: at none of the
    outside) and opens the stream to ask more; ``ports(family)`` are those at which we may be reached;
    ``knocks()`` counts the connections that came in from outside so far; ``changed`` is told of a new verdict;
    ``environment()`` is anything that is another thing when our addresses are others.
    """

    def __init__(
        self,
        own: PeerId,
        servers: Callable[[], Sequence[Server]],
        open_at: Callable[[Server], Awaitable[Seen | None]],
        ports: Callable[[str], Sequence[int]],
        knocks: Callable[[], int],
        environment: Callable[[], object],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._own = own
        self._servers = servers
        self._open_at = open_at
        self._ports = ports
        self._knocks = knocks
        self._environment = environment
        self._changed = changed
        self._rng = rng
        self._votes = {family: Votes() for family in FAMILIES}
        self._asked: dict[PeerId, float] = {}
        self._confirmed: dict[str, dict[Multiaddr, float]] = {family: {} for family in FAMILIES}

    def verdict(self, family: str) -> Reach:
        """Whether others reach us at addresses of ``family``."""
        return self._votes[family].verdict

    def confirmed(self) -> list[Multiaddr]:
        """Addresses at which somebody reached us, of families that are public, the latest first."""
        found = [
            (at, addr)
            for family in FAMILIES
            if self.verdict(family) is Reach.PUBLIC
            for addr, at in self._confirmed[family].items()
        ]
        return [addr for _, addr in sorted(found, key=lambda entry: -entry[0])]

    async def run(self) -> None:
        """Ask, for ever."""
        environment, pause_s = self._environment(), AUTONAT_FIRST_S
        while True:
            await trio.sleep(pause_s * self._rng.uniform(0.75, 1.0))
            if (now_there := self._environment()) != environment:
                environment = now_there
                self._begin_anew()
            self._expire()
            server = self.next_server()
            if server is not None:
                await self._ask(server)
            pause_s = self._pause_s()

    def next_server(self) -> Server | None:
        """Whom to ask next: of the family that is least decided, a network not heard yet, and who was asked longest
        ago."""
        present = self._servers()
        self._asked = {peer: at for peer, at in self._asked.items() if any(s.peer == peer for s in present)}

        def rank(server: Server) -> tuple[int, bool, float, PeerId]:
            votes = self._votes[server.family]
            return abs(votes.score), server.network in votes, self._asked.get(server.peer, float("-inf")), server.peer

        return min(present, key=rank, default=None)

    def _pause_s(self) -> float:
        families = {server.family for server in self._servers()}
        if not families:
            return AUTONAT_HASTE_S
        pauses = []
        for family in families:
            votes = self._votes[family]
            if votes.verdict is Reach.UNKNOWN:
                pauses.append(AUTONAT_HASTE_S)
            else:
                pauses.append(AUTONAT_REFRESH_S if len(votes) >= AUTONAT_ENOUGH_VOICES else AUTONAT_SCARCE_S)
        return min(pauses)

    def _begin_anew(self) -> None:
        before = [self.verdict(family) for family in FAMILIES]
        for family in FAMILIES:
            self._votes[family].clear()
            self._confirmed[family].clear()
        if before != [self.verdict(family) for family in FAMILIES]:
            self._changed()

    def _expire(self) -> None:
        now = trio.current_time()
        for votes in self._votes.values():
            before = votes.verdict
            if votes.expire(now) is not before:
                self._changed()

    async def _ask(self, server: Server) -> None:
        self._asked[server.peer] = trio.current_time()
        try:
            with trio.fail_after(AUTONAT_EXCHANGE_S):
                reached = await self._exchange(server)
        except (HostError, trio.TooSlowError) as error:
            log.debug("AutoNAT by %s: %s", server.peer, error or "no answer in time")
            return
        if reached is False or (reached is not None and server.may_confirm):
            self.count(server, reached)

    async def _exchange(self, server: Server) -> Multiaddr | bool | None:
        """Where the server reached us, False for nowhere, None if that is not known."""
        seen = await self._open_at(server)
        if seen is None:
            return None
        try:
            ports = list(self._ports(server.family))[:AUTONAT_MAX_ADDRS]
            tried = [Multiaddr(f"/{server.family}/{seen.ip}/tcp/{port}") for port in ports]
            if not tried:
                return None
            knocks = self._knocks()
            await seen.stream.send(question(self._own, tried))
            status, addr = read_answer(await seen.stream.receive(AUTONAT_MAX_MESSAGE))
        finally:
            await seen.stream.aclose()
        if status == DIAL_ERROR:
            return False
        if status != OK:
            log.debug("AutoNAT by %s: refused with status %s", server.peer, status)
            return None
        if self._knocks() == knocks:
            log.debug("AutoNAT by %s: it says that it dialled us, and nobody came", server.peer)
            return None
        return addr if addr in tried else tried[0]

    def count(self, server: Server, reached: Multiaddr | bool) -> None:
        """Take an answer in."""
        now = trio.current_time()
        votes, known = self._votes[server.family], self._confirmed[server.family]
        before = votes.verdict, self.confirmed()
        if isinstance(reached, Multiaddr):
            assert plain_ip(reached) is not None, "we made it"
            known[reached] = now
            while len(known) > AUTONAT_MAX_ADDRS:
                del known[min(known, key=lambda addr: known[addr])]
        votes.count(server.network, reached is not False, now)
        if votes.verdict is Reach.PRIVATE:
            known.clear()
        if (votes.verdict, set(self.confirmed())) != (before[0], set(before[1])):
            self._changed()
