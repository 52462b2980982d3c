"""P2, P11, P20: sockets that have not said who they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.network.swarm import Swarm

from transport.host.hardening.handshakes import HandshakeRates
from transport.host.hardening.quiet import log
from transport.host.limits import INBOUND_HANDSHAKE_S, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS
from transport.host.origins import origin_of


class HalfOpenBudget:
    """Which unauthenticated connections may stay, in all and from one address (P11). Newcomers always enter: an honest
    handshake takes a round trip or two, so it is the oldest of the most crowded address that is given up.

    Upstream counts them among the connections, so 250 silent sockets from one machine shut everybody out until they
    time out (network/swarm.py:1982).
    """

    def __init__(self, total: int = MAX_HALF_OPEN, per_address: int = MAX_HALF_OPEN_PER_ADDRESS) -> None:
        self._total = total
        self._per_address = per_address
        self._members: dict[int, str] = {}  # oldest first
        self._by_address: Counter[str] = Counter()
        self._next = 0

    def enter(self, address: str) -> tuple[int, int | None]:
        """A ticket for a newcomer from ``address``, and the ticket that has to go for it, if any."""
        victim = None
        if self._by_address[address] >= self._per_address:
            victim = self._oldest(address)
        elif len(self._members) >= self._total:
            crowded = max(self._by_address.values())
            victim = next(ticket for ticket, where in self._members.items() if self._by_address[where] == crowded)
        if victim is not None:
            self.leave(victim)
        self._next += 1
        self._members[self._next] = address
        self._by_address[address] += 1
        return self._next, victim

    def _oldest(self, address: str) -> int:
        return next(ticket for ticket, where in self._members.items() if where == address)

    def leave(self, ticket: int) -> None:
        """Give a place back; once too often is no error."""
        if (address := self._members.pop(ticket, None)) is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def counts(self) -> dict[str, int]:
        """How many are there, by address."""
        return dict(self._by_address)


def accept_inbound(
    swarm: Swarm, budget: HalfOpenBudget, rates: HandshakeRates, came: Callable[[str | None], None] = lambda _: None
) -> Callable[[Any], Awaitable[None]]:
    """The handler of accepted sockets: authenticate within the budget and a deadline, then be done (P2, P11).

    Upstream's handler keeps its task and its slot until the host stops (network/swarm.py:2044 and 2060, limiter at
    1982), so a host accepts 250 connections in its life. Established connections are the business of
    :mod:`transport.host.manager`. ``came`` is told of the address behind each.
    """
    evict: dict[int, Callable[[], None]] = {}

    async def accept(stream: Any) -> None:
        remote = stream.get_remote_address()
        came(remote[0] if remote else None)
        origin = origin_of(remote[0] if remote else None)
        address = origin.address
        if not rates.allows(origin, trio.current_time()):
            stream.abort()
            return
        ticket, victim = budget.enter(address)
        if victim is not None and (abort := evict.pop(victim, None)) is not None:
            abort()
        evict[ticket] = stream.abort
        worked = True
        try:
            with trio.fail_after(INBOUND_HANDSHAKE_S):
                await swarm.upgrade_inbound_raw_conn(stream.raw(False), None)
        except Exception as error:
            worked = not isinstance(error, trio.TooSlowError)  # a slow one is bounded by the half-open budget
            log.debug("an inbound connection from %s failed: %r", address, error)
            stream.abort()
        except BaseException:
            stream.abort()
            raise
        finally:
            given_up = evict.pop(ticket, None) is None
            if worked and not given_up:
                rates.spend(origin, trio.current_time())
            budget.leave(ticket)

    return accept
