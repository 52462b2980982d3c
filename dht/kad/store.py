"""Records that we hold for others, pure: the better one wins, each ends in time, and nobody fills the store but with
his own share.

When there is no room, the peer that takes the most loses the record of its own that is farthest from us, which is the
one that we are least needed for. Times are Unix seconds: records say when they end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dht.kad.errors import StoreRefused
from dht.kad.keys import key_of
from dht.kad.limits import (
    MAX_BYTES_PER_SENDER,
    MAX_RECORDS,
    MAX_RECORDS_PER_SENDER,
    MAX_STORE_BYTES,
    RECORD_TTL_S,
)
from dht.kad.validators import Validators
from transport.identity import PeerId


@dataclass(slots=True)
class StoredRecord:
    """A record and whose share of the store it takes."""

    key: bytes
    value: bytes
    point: int
    """Where the key lies in the key space."""
    sender: PeerId
    received_at: float
    """When somebody last stored it here."""
    expires_at: float

    @property
    def size(self) -> int:
        """Bytes that it counts."""
        return len(self.key) + len(self.value)


class _Share:
    """What one sender has us keep."""

    __slots__ = ("keys", "size")

    def __init__(self) -> None:
        self.keys: dict[bytes, None] = {}
        self.size = 0


class RecordStore:
    """Records by key. ``own`` is our peer id: our own records are not subject to a sender's share."""

    def __init__(
        self,
        own: PeerId,
        own_key: int,
        validators: Validators,
        *,
        ttl_s: float = RECORD_TTL_S,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_STORE_BYTES,
        max_records_per_sender: int = MAX_RECORDS_PER_SENDER,
        max_bytes_per_sender: int = MAX_BYTES_PER_SENDER,
    ) -> None:
        self._own = own
        self._own_key = own_key
        self._validators = validators
        self._ttl_s = ttl_s
        self._max_records, self._max_bytes = max_records, max_bytes
        self._max_sender_records, self._max_sender_bytes = max_records_per_sender, max_bytes_per_sender
        self._records: dict[bytes, StoredRecord] = {}
        self._shares: dict[PeerId, _Share] = {}
        self.size = 0
        """Bytes of all keys and values."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StoredRecord]:
        return iter(self._records.values())

    def get(self, key: bytes, now: float) -> StoredRecord | None:
        """The record under ``key``, if it has not ended."""
        record = self._records.get(key)
        return record if record is not None and record.expires_at > now else None

    def put(self, key: bytes, value: bytes, sender: PeerId, now: float) -> StoredRecord:
        """Keep a record that ``sender`` sent, and return what we hold under its key now.

        Raises :class:`dht.kad.InvalidRecord` when the validator refuses it, :class:`StoreRefused` when there is no
        room for it. A worse value than ours is not kept: what is returned is then ours. An equal one renews it.
        """
        expires_at = min(self._validators.validate(key, value, now), now + self._ttl_s)
        held = self.get(key, now)
        if held is not None:
            if held.value == value:
                held.received_at, held.expires_at = now, max(held.expires_at, expires_at)
                return held
            if not self._validators.better(key, held.value, value):
                return held
        self.remove(key)
        record = StoredRecord(key, value, key_of(key), sender, now, expires_at)
        self._insert(record)
        self._make_room(record)
        if key not in self._records:
            if held is not None:  # the older one was within its sender's share: better than none
                self._insert(held)
            raise StoreRefused("no room for this record among those of its sender")
        return record

    def remove(self, key: bytes) -> None:
        """Forget a record, if we have it."""
        record = self._records.pop(key, None)
        if record is None:
            return
        share = self._shares[record.sender]
        del share.keys[key]
        share.size -= record.size
        self.size -= record.size
        if not share.keys:
            del self._shares[record.sender]

    def expire(self, now: float) -> int:
        """Forget the records that have ended; how many."""
        over = [key for key, record in self._records.items() if record.expires_at <= now]
        for key in over:
            self.remove(key)
        return len(over)

    def to_republish(self, now: float, after_s: float, limit: int) -> list[StoredRecord]:
        """Records that nobody has stored here for ``after_s``, so that it falls to us to store them again (paper §2.5),
        the longest waiting first."""
        waiting = (r for r in self._records.values() if now - r.received_at >= after_s and r.expires_at > now)
        due = [record for record in waiting if record.sender != self._own]  # ours have a schedule of their own
        due.sort(key=lambda record: (record.received_at, record.point))
        return due[:limit]

    # --- room ---------------------------------------------------------------------------------------------------------

    def _insert(self, record: StoredRecord) -> None:
        self._records[record.key] = record
        share = self._shares.setdefault(record.sender, _Share())
        share.keys[record.key] = None
        share.size += record.size
        self.size += record.size

    def _make_room(self, new: StoredRecord) -> None:
        if new.sender != self._own:
            share = self._shares[new.sender]
            while share.keys and (len(share.keys) > self._max_sender_records or share.size > self._max_sender_bytes):
                self.remove(self._farthest(share))
        while len(self._records) > self._max_records or self.size > self._max_bytes:
            others = [item for item in self._shares.items() if item[0] != self._own]
            if not others:
                return  # all are ours, which are bounded where they are made
            greatest = max(others, key=lambda item: (item[1].size, len(item[1].keys), item[0]))[1]
            self.remove(self._farthest(greatest))

    def _farthest(self, share: _Share) -> bytes:
        return max(share.keys, key=lambda key: self._records[key].point ^ self._own_key)
