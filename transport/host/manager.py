"""The connections that stand, and the closing of those that :mod:`transport.host.connections` gives up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.rcmgr import Direction

from transport.host.connections import ConnectionLimits, Held, make_room
from transport.host.hardening import close_connection, log
from transport.host.limits import MAX_PROTECTED_PEERS
from transport.host.origins import Origin, origin_of
from transport.identity import PeerId

_TRIMMED = 0x1005  # "connection garbage collected", what go-libp2p says in its Go Away
_FREE_PROTOCOLS = ("/meshsub/", "/floodsub/", "/ipfs/id/", "/ipfs/ping/")


@dataclass
class _Record:
    connection: Any
    peer: PeerId
    origin: Origin
    inbound: bool
    opened_at: float
    used_at: float


class ConnectionManager:
    """Holds a host to its :class:`ConnectionLimits`. ``mesh`` names the peers that gossip needs; ``spawn`` starts a
    task that outlives its caller."""

    def __init__(
        self, limits: ConnectionLimits, mesh: Callable[[], Collection[PeerId]], spawn: Callable[..., object]
    ) -> None:
        self._limits = limits
        self._mesh = mesh
        self._spawn = spawn
        self._records: dict[int, _Record] = {}
        self._tags: dict[PeerId, set[str]] = {}
        self.trimmed = 0
        """Connections closed to make room, newcomers that found none included."""

    def protect(self, peer: PeerId, tag: str) -> bool:
        """Never trim ``peer``, until :meth:`unprotect` was called for each of its tags. False when too many peers are
        protected already: a host that may trim nobody is one that strangers can fill."""
        if peer not in self._tags and len(self._tags) >= min(MAX_PROTECTED_PEERS, self._limits.total // 2):
            return False
        self._tags.setdefault(peer, set()).add(tag)
        return True

    def unprotect(self, peer: PeerId, tag: str) -> None:
        """Take back one tag; one that was not given is no error."""
        tags = self._tags.get(peer, set())
        tags.discard(tag)
        if not tags:
            self._tags.pop(peer, None)

    def opened(self, connection: Any) -> bool:
        """Count a new connection in and close whom it displaces. False when it is the one that has to go."""
        now = trio.current_time()
        remote = connection.muxed_conn.get_remote_address()
        record = _Record(
            connection,
            PeerId(str(connection.muxed_conn.peer_id)),
            origin_of(remote[0] if remote else None),
            connection.direction == Direction.INBOUND,
            now,
            now,
        )
        key = id(connection)
        mesh = set(self._mesh())
        standing = [self._held(k, r, mesh) for k, r in self._records.items() if not r.connection.is_closed]
        leaving = make_room(standing, self._held(key, record, mesh), now, self._limits)
        for victim in leaving:
            self._close(connection if victim == key else self._records.pop(victim).connection)
        if key in leaving:
            return False
        self._records[key] = record
        return True

    def closed(self, connection: Any) -> None:
        """Forget a connection that is gone."""
        self._records.pop(id(connection), None)

    def used(self, connection: Any) -> None:
        """A stream of one of our own protocols came or went."""
        if (record := self._records.get(id(connection))) is not None:
            record.used_at = trio.current_time()

    def _held(self, key: int, record: _Record, mesh: set[PeerId]) -> Held:
        return Held(
            key,
            record.peer,
            record.origin,
            record.inbound,
            record.peer in self._tags or record.peer in mesh,
            streams_in_use(record.connection),
            record.opened_at,
            record.used_at,
        )

    def _close(self, connection: Any) -> None:
        self.trimmed += 1
        log.debug("trimmed the connection of %s", connection.muxed_conn.peer_id)
        self._spawn(close_connection, connection, _TRIMMED)


def streams_in_use(connection: Any) -> int:
    """Streams of our own protocols that are open: gossip, identify and ping make nobody busy."""
    count = 0
    for stream in connection.get_streams():
        protocol = stream.get_protocol()
        if protocol and not stream.muxed_stream.closed and not str(protocol).startswith(_FREE_PROTOCOLS):
            count += 1
    return count
