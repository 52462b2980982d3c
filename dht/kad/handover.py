"""Which records newcomers are due, pure: a record belongs to the k nearest peers, whoever they are (paper §2.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dht.kad.contacts import Contact
from dht.kad.limits import HANDOVER_MARGIN_S
from dht.kad.routing import RoutingTable
from dht.kad.store import StoredRecord
from transport.identity import PeerId

_GIVERS = 2  # holders that hand a record over: the nearest one, and one more in case it has just left


def due_to(
    records: Iterable[StoredRecord], table: RoutingTable, newcomers: Mapping[PeerId, float], k: int
) -> Iterator[tuple[StoredRecord, Contact]]:
    """Each record with each newcomer that is among the k nearest to it, if we are one of the two holders nearest to
    it that we know of; the others leave it to us. ``newcomers`` says since what Unix time each has been known: what was
    stored well after that has reached it already."""
    if not newcomers:
        return
    last = max(newcomers.values()) + HANDOVER_MARGIN_S
    for record in records:
        if record.received_at > last:
            continue
        nearest = table.closest(record.point, k - 1)  # and we are one of the k
        due = [
            peer
            for peer in nearest
            if record.received_at <= newcomers.get(peer.peer_id, float("-inf")) + HANDOVER_MARGIN_S
        ]
        if not due:
            continue
        mine = record.point ^ table.own_key
        before = sum((peer.key ^ record.point) < mine for peer in nearest if peer.peer_id not in newcomers)
        if before < _GIVERS:
            for peer in due:
                yield record, peer
