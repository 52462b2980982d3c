"""Who enters the routing table: peers that answered us, and newcomers that are asked whether they serve.

A newcomer is asked for itself (FIND_NODE of its own id): its answer says at once that it lives, that it serves, and at
which addresses it wants to be reached, which no other peer needs to be believed about.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from dht.kad.contacts import Contact, addr_to_wire, seen_networks, unaddressed
from dht.kad.errors import BadMessage
from dht.kad.keys import peer_bytes
from dht.kad.limits import (
    MAX_NON_SERVERS,
    MAX_OBSERVED,
    MAX_PROBE_QUEUE,
    MAX_PROBES,
    OUTAGE_FAILURES,
    PROBE_AGAIN_S,
)
from dht.kad.messages import Message, MessageType, encode_message
from dht.kad.routing import RoutingTable
from dht.kad.session import NoAnswer, Session, Wire
from transport.identity import PeerId


class _Seen(msgspec.Struct, frozen=True):
    """What a connection tells of its peer."""

    addr: bytes | None
    networks: tuple[bytes, ...] | None


class Neighbours:
    """Keeps the table true. ``on_first`` is called when the table was empty and is no longer."""

    def __init__(
        self,
        table: RoutingTable,
        wire: Wire,
        on_first: Callable[[], None],
        *,
        probe_inbound: bool,
    ) -> None:
        self.table = table
        self.newcomers: dict[PeerId, float] = {}
        """Peers that entered since somebody last emptied this, and when, by trio's clock: they may be due records that
        were stored before (hand-over)."""
        self._wire = wire
        self._on_first = on_first
        self._probe_inbound = probe_inbound
        self._seen: dict[PeerId, _Seen] = {}
        self._non_servers: dict[PeerId, tuple[float, int]] = {}  # until when, and how often they refused
        self._queue: dict[PeerId, Contact] = {}
        self._probing: dict[PeerId, None] = {}
        self._nursery: trio.Nursery | None = None

    def run_in(self, nursery: trio.Nursery) -> None:
        """Where probes run; there is no task while there is nobody to ask."""
        self._nursery = nursery

    def stop(self) -> None:
        """No probes from now on: the nursery closes. A look-up that somebody else began may still be under way."""
        self._nursery = None

    # --- news from the host -----------------------------------------------------------------------------------------

    def connected(self, peer: PeerId, addr: str) -> None:
        """A connection stands; ``addr`` is what the host knows it by."""
        self._seen.pop(peer, None)
        self._seen[peer] = _Seen(addr_to_wire(addr, peer), seen_networks(addr))
        if len(self._seen) > MAX_OBSERVED:
            del self._seen[next(iter(self._seen))]
        self.met(peer)

    def disconnected(self, peer: PeerId) -> None:
        """Its last connection is gone."""
        self._seen.pop(peer, None)

    def connected_to(self, peer: PeerId) -> bool:
        """Whether a connection stands, as far as we remember."""
        return peer in self._seen

    def met(self, peer: PeerId) -> None:
        """A peer connected or asked us something: it lives, and is asked whether it serves if it would be let in."""
        if self.table.alive(peer, trio.current_time()) or not self._probe_inbound or peer in self._wire.asking:
            return  # one that we are asking at this moment will have said all by its answer
        try:
            unknown = unaddressed(peer)
        except ValueError:
            return  # a peer whose id is no Ed25519 key: it cannot be named in our messages
        if self.table.wants(unknown, self._networks(peer)):
            self.probe(unknown)

    def _networks(self, peer: PeerId) -> tuple[bytes, ...] | None:
        seen = self._seen.get(peer)
        return seen.networks if seen else None

    # --- what came of requests --------------------------------------------------------------------------------------

    def answered(self, peer: Contact) -> None:
        """A peer answered, reached through what others told of it.

        If the connection it answered on is to none of the addresses told, it is asked for its own word first."""
        seen = self._seen.get(peer.peer_id)
        if peer.peer_id not in self.table and seen is not None and seen.addr not in (None, *peer.addrs):
            if self.table.wants(peer, seen.networks):
                self.probe(peer)
            return
        self._enter(peer, own_word=False)

    def _enter(self, peer: Contact, *, own_word: bool) -> None:
        empty = not len(self.table)
        if self.table.answered(peer, trio.current_time(), self._networks(peer.peer_id), own_word=own_word):
            self.newcomers[peer.peer_id] = trio.current_time()
            if empty:
                self._on_first()

    def failed(self, peer: Contact, *, refused: bool = False) -> None:
        """A peer did not answer; ``refused``: it opened no stream of the protocol, which a stranger that does not serve
        would not either, so it is left alone for a while. One that leaves the table makes room for another."""
        if refused and peer.peer_id not in self.table:
            self._note_non_server(peer.peer_id)
        if self._wire.times.missed_in_row >= OUTAGE_FAILURES or not self.table.failed(peer.peer_id):
            return
        self.newcomers.pop(peer.peer_id, None)
        if (replacement := self.table.take_replacement(peer.key)) is not None:
            self.probe(replacement)

    def _note_non_server(self, peer: PeerId) -> None:
        _, times = self._non_servers.pop(peer, (0.0, 0))
        pause_s = PROBE_AGAIN_S[min(times, len(PROBE_AGAIN_S) - 1)]
        self._non_servers[peer] = (trio.current_time() + pause_s, times + 1)
        if len(self._non_servers) > MAX_NON_SERVERS:
            del self._non_servers[next(iter(self._non_servers))]

    # --- asking newcomers -------------------------------------------------------------------------------------------

    def probe(self, peer: Contact) -> None:
        """Ask a peer for itself, soon; nothing if it said lately that it does not serve."""
        if self._nursery is None or peer.peer_id in self._queue or peer.peer_id in self._probing:
            return
        if self.refused(peer.peer_id):
            return
        self._queue[peer.peer_id] = peer
        if len(self._queue) > MAX_PROBE_QUEUE:
            del self._queue[next(iter(self._queue))]
        if len(self._probing) < MAX_PROBES:
            first = self._next_probe()
            self._nursery.start_soon(self._probe_all, first)

    def refused(self, peer: PeerId) -> bool:
        """Whether it said lately that it does not serve."""
        return trio.current_time() < self._non_servers.get(peer, (float("-inf"), 0))[0]

    def _next_probe(self) -> Contact:
        peer = self._queue.pop(next(iter(self._queue)))
        self._probing[peer.peer_id] = None
        return peer

    async def _probe_all(self, peer: Contact) -> None:
        while True:
            try:
                await self.ask_for_itself(peer)
            finally:
                self._probing.pop(peer.peer_id, None)
            if not self._queue:
                return
            peer = self._next_probe()

    async def ask_for_itself(self, peer: Contact) -> bool:
        """Whether a peer serves; it enters the table if there is room."""
        request = encode_message(Message(MessageType.FIND_NODE, peer_bytes(peer.peer_id)))
        async with Session(self._wire) as session:
            try:
                reply = await session.ask(peer, MessageType.FIND_NODE, request)
            except NoAnswer as error:
                self.failed(peer, refused=error.refused)
                return False
            except BadMessage:
                self.failed(peer)
                return False
        own = next((other for other in reply.closer if other.peer_id == peer.peer_id), None)
        self._enter(own or self.table.get(peer.peer_id) or peer, own_word=own is not None)
        return True
