"""Dialling a peer: one race at a time a peer, which all who want it share; what came of it is remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from transport.host import hardening
from transport.host.addresses import explain, is_circuit
from transport.host.interface import DialError
from transport.host.limits import DIAL_S, DROPPED_PEER_S, MAX_DIAL_ADDRS, MAX_DROPPED_PEERS
from transport.host.origins import origin_of
from transport.host.peerbook import PeerBook
from transport.host.race import Race
from transport.host.relay import CircuitStream
from transport.host.swarm import is_relayed
from transport.identity import PeerId


class Dialler:
    """Connects ``swarm`` to peers, through relays by ``circuit``. ``spawn`` starts a task of the host; ``now`` gives
    Unix seconds, for the book."""

    def __init__(
        self,
        swarm: Swarm,
        own: PeerId,
        book: PeerBook,
        circuit: Callable[[Multiaddr, PeerId], Awaitable[CircuitStream]],
        spawn: Callable[..., object],
        now: Callable[[], float],
    ) -> None:
        self._swarm = swarm
        self._own = own
        self._book = book
        self._circuit = circuit
        self._spawn = spawn
        self._now = now
        self._races: dict[PeerId, Race] = {}
        self._refused_until: dict[PeerId, float] = {}

    def connection(self, peer: PeerId) -> Any | None:
        """A connection to ``peer`` that stands, if there is one: a direct one before a circuit."""
        if (direct := self.direct(peer)) is not None:
            return direct
        for connection in self._swarm.connections.get(ID.from_string(peer), ()):
            if not connection.is_closed:
                return connection
        return None

    def direct(self, peer: PeerId) -> Any | None:
        """A connection to ``peer`` that stands and goes through no relay."""
        for connection in self._swarm.connections.get(ID.from_string(peer), ()):
            if not connection.is_closed and not is_relayed(connection):
                return connection
        return None

    def direct_origin(self, peer: PeerId) -> str | None:
        """The address, as places are counted by, behind such a connection."""
        if (connection := self.direct(peer)) is None:
            return None
        remote = connection.muxed_conn.get_remote_address()
        return origin_of(remote[0] if remote else None).address

    def refuse(self, peer: PeerId) -> None:
        """Have nothing to do with ``peer`` for :data:`DROPPED_PEER_S`."""
        while len(self._refused_until) >= MAX_DROPPED_PEERS:
            del self._refused_until[next(iter(self._refused_until))]
        self._refused_until[peer] = trio.current_time() + DROPPED_PEER_S

    def refuses(self, peer: PeerId) -> bool:
        """Whether ``peer`` broke a protocol a moment ago."""
        return trio.current_time() < self._refused_until.get(peer, 0.0)

    async def ensure(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> Any:
        """The connection to ``peer``, dialled at ``addrs`` and where it was before if need be. Callers that want the
        same peer share one race, which what each of them knows joins. Raises :class:`DialError`.

        On cancellation of the last who waits, no attempt is left in flight."""
        if peer == self._own:
            raise DialError("that is this node's own peer id")
        while True:
            if self.refuses(peer):
                raise DialError(f"{peer} broke a protocol a moment ago and is refused for up to {DROPPED_PEER_S:.0f} s")
            if (connection := self.connection(peer)) is not None:
                return connection
            if (race := self._races.get(peer)) is None:
                race, wanted = Race(partial(self._attempt, peer)), self._candidates(peer, addrs)
                if not wanted:
                    raise DialError(f"no address of {peer} is known")
                self._races[peer] = race
                self._spawn(self._run, peer, race)
            else:
                wanted = list(dict.fromkeys(addrs))[:MAX_DIAL_ADDRS]
            entered = race.enter(wanted)
            connection = await race.result()
            if connection is not None:
                return connection
            if entered:
                raise DialError(f"cannot reach {peer} ({'; '.join(race.failures)})")

    def _candidates(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
        """Where to try: what the caller knows, and what we do."""
        known = [Multiaddr(addr) for addr in self._book.addrs(peer)]
        return list(dict.fromkeys([*addrs, *known]))[:MAX_DIAL_ADDRS]

    async def _run(self, peer: PeerId, race: Race) -> None:
        try:
            await race.run()
        finally:
            if self._races.get(peer) is race:
                del self._races[peer]

    async def _attempt(self, peer: PeerId, addr: Multiaddr) -> Any:
        """One address. Raises :class:`DialError` with the address and the reason."""
        try:
            with trio.fail_after(DIAL_S):
                connection = await self._dial(addr, ID.from_string(peer))
        except Exception as error:
            self._book.failed(peer, str(addr), self._now())
            raise DialError(f"{addr}: {explain(error)}") from error
        self._book.confirmed(peer, str(addr), self._now())
        return connection

    async def _dial(self, addr: Multiaddr, target: ID) -> Any:
        if not is_circuit(addr):
            return await hardening.dial(self._swarm, addr, target)
        circuit = await self._circuit(addr, PeerId(str(target)))
        return await hardening.upgrade(self._swarm, circuit.raw(True), target)
