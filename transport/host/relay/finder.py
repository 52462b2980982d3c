"""Finding relays without being told: among the peers that offer it, two at a time, in different networks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import trio
from multiaddr import Multiaddr

from transport.host.hardening import log
from transport.host.interface import HostError
from transport.host.limits import (
    BOOTSTRAP_RECHECK_S,
    MAX_AVOIDED_RELAYS,
    RELAY_AVOID_MAX_S,
    RELAY_AVOID_S,
    RELAY_EXPLORE_S,
    RELAY_FIND_S,
    RELAY_RENEW_FRACTION,
    RELAYS_WANTED,
)
from transport.host.relay.client import RelayClient
from transport.identity import PeerId


@dataclass(frozen=True)
class Candidate:
    """A peer that offers to relay: where we reached it, and the /24 or /48 that this is in."""

    peer: PeerId
    addr: Multiaddr
    network: str


class Avoided:
    """Relays that are left alone for a while, longer each time in a row. Pure."""

    def __init__(self) -> None:
        self._until: dict[PeerId, tuple[float, float]] = {}

    def add(self, relay: PeerId, now: float) -> float:
        """It refused, or was lost; for how many seconds it is avoided now."""
        _, before_s = self._until.pop(relay, (0.0, RELAY_AVOID_S / 2))
        pause_s = min(2 * before_s, RELAY_AVOID_MAX_S)
        while len(self._until) >= MAX_AVOIDED_RELAYS:
            del self._until[next(iter(self._until))]
        self._until[relay] = (now + pause_s, pause_s)
        return pause_s

    def forgive(self, relay: PeerId) -> None:
        """It has served well: what was before counts no more."""
        self._until.pop(relay, None)

    def has(self, relay: PeerId, now: float) -> bool:
        """Whether it is not to be asked yet."""
        return now < self._until.get(relay, (0.0, 0.0))[0]


def choose(
    candidates: Iterable[Candidate], held: Collection[PeerId], avoided: Avoided, now: float, rng: random.Random
) -> Candidate | None:
    """Any candidate, so that the load spreads, but one of another network than those held where there is one. Pure."""
    known = sorted(candidates, key=lambda candidate: candidate.peer)
    taken = {candidate.network for candidate in known if candidate.peer in held}
    free = [c for c in known if c.peer not in held and not avoided.has(c.peer, now)]
    elsewhere = [candidate for candidate in free if candidate.network not in taken]
    return rng.choice(elsewhere or free) if free else None


class RelayFinder:
    """Keeps a place on :data:`RELAYS_WANTED` relays while ``wanted()``; when that is None, those that it has. Run
    :meth:`run` in a task.

    ``candidates()`` are the connected peers that offer to relay; ``explore()`` connects to others for want of any;
    ``keep(relay, True)`` protects the connection to one, and False no more; ``changed()`` is told when a place is won
    or lost.
    """

    def __init__(
        self,
        client: RelayClient,
        wanted: Callable[[], bool | None],
        candidates: Callable[[], Sequence[Candidate]],
        explore: Callable[[], Awaitable[object]],
        keep: Callable[[PeerId, bool], object],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._candidates = candidates
        self._explore = explore
        self._keep = keep
        self._changed = changed
        self._rng = rng
        self._avoided = Avoided()
        self._holding: dict[PeerId, trio.CancelScope] = {}

    async def run(self) -> None:
        """Look for relays whenever there are too few, for ever."""
        explored_at = float("-inf")
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(RELAY_FIND_S * self._rng.uniform(0.75, 1.0))
                if not (wanted := self._wanted()):
                    for scope in self._holding.values() if wanted is False else ():
                        scope.cancel()
                    continue
                held = {*self._holding, *self._client.relays()}
                if len(held) >= RELAYS_WANTED:
                    continue
                now = trio.current_time()
                if (found := choose(self._candidates(), held, self._avoided, now, self._rng)) is not None:
                    self._holding[found.peer] = trio.CancelScope()
                    nursery.start_soon(self._hold, found)
                elif now - explored_at >= RELAY_EXPLORE_S:
                    explored_at = now
                    await self._explore()

    async def _hold(self, relay: Candidate) -> None:
        """Keep a place there until it is lost, or not wanted any more."""
        try:
            with self._holding[relay.peer] as scope:
                self._keep(relay.peer, True)
                try:
                    await self._renew(relay)
                except HostError as error:
                    log.debug("no place on the relay %s: %s", relay.peer, error)
            if not scope.cancelled_caught:
                self._avoided.add(relay.peer, trio.current_time())
        finally:
            del self._holding[relay.peer]
            self._keep(relay.peer, False)
            if relay.peer in self._client.relays():
                self._client.forget(relay.peer)
            self._changed()

    async def _renew(self, relay: Candidate) -> None:
        """Returns when the place is lost with its connection. Raises :class:`HostError` when the relay refuses."""
        while True:
            seconds = await self._client.reserve(relay.peer, relay.addr)
            renew_at = trio.current_time() + RELAY_RENEW_FRACTION * seconds
            self._changed()
            while trio.current_time() < renew_at:
                await trio.sleep(BOOTSTRAP_RECHECK_S)
                if relay.peer not in self._client.relays():
                    return
            self._avoided.forgive(relay.peer)
