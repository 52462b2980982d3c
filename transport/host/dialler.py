"""Dialling a peer: one attempt at a time a peer, its addresses with a head start each, what came of it remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
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
from transport.host.relay import CircuitStream
from transport.host.swarm import is_relayed
from transport.identity import PeerId

_STAGGER_S = 0.25  # head start of each address over the next one (RFC 8305 §5)


class Dialler:
    """Connects ``swarm`` to peers, through relays by ``circuit``. ``now`` gives Unix seconds, for the book."""

    def __init__(
        self,
        swarm: Swarm,
        own: PeerId,
        book: PeerBook,
        circuit: Callable[[Multiaddr, PeerId], Awaitable[CircuitStream]],
        now: Callable[[], float],
    ) -> None:
        self._swarm = swarm
        self._own = own
        self._book = book
        self._circuit = circuit
        self._now = now
        self._dialling: dict[PeerId, trio.Event] = {}
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
        """The connection to ``peer``, dialled at ``addrs`` and where it was before if need be. Raises
        :class:`DialError`."""
        if peer == self._own:
            raise DialError("that is this node's own peer id")
        while True:
            if self.refuses(peer):
                raise DialError(f"{peer} broke a protocol a moment ago and is refused for up to {DROPPED_PEER_S:.0f} s")
            if (connection := self.connection(peer)) is not None:
                return connection
            if (other := self._dialling.get(peer)) is None:
                break
            await other.wait()
        done = self._dialling[peer] = trio.Event()
        try:
            return await self._race(peer, addrs)
        finally:
            del self._dialling[peer]
            done.set()

    async def _race(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> Any:
        """Dial the addresses one after another with a short head start each; the first connection wins."""
        target = ID.from_string(peer)
        known = [Multiaddr(addr) for addr in self._book.addrs(peer)]
        candidates = sorted(dict.fromkeys([*addrs, *known]), key=is_circuit)[:MAX_DIAL_ADDRS]  # direct ones first
        if not candidates:
            raise DialError(f"no address of {peer} is known")
        failures: list[str] = []
        winner: list[Any] = []

        async def attempt(addr: Multiaddr, failed: trio.Event) -> None:
            try:
                with trio.fail_after(DIAL_S):
                    connection = await self._attempt(addr, target)
            except Exception as error:
                failures.append(f"{addr}: {explain(error)}")
                self._book.failed(peer, str(addr), self._now())
                failed.set()
                return
            winner.append(connection)
            self._book.confirmed(peer, str(addr), self._now())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for addr in candidates:
                failed = trio.Event()
                nursery.start_soon(attempt, addr, failed)
                with trio.move_on_after(_STAGGER_S):
                    await failed.wait()
        if not winner:
            raise DialError(f"cannot reach {peer} ({'; '.join(failures)})")
        return winner[0]

    async def _attempt(self, addr: Multiaddr, target: ID) -> Any:
        if not is_circuit(addr):
            return await hardening.dial(self._swarm, addr, target)
        circuit = await self._circuit(addr, PeerId(str(target)))
        return await hardening.upgrade(self._swarm, circuit.raw(True), target)
