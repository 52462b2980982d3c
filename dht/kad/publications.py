"""What this node itself publishes and renews: its records and the keys that it provides. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dht.kad.errors import KadError
from dht.kad.limits import MAX_OWN_RECORDS


@dataclass(frozen=True, slots=True)
class Publication:
    """A record (``value``) or a provided key (None)."""

    key: bytes
    value: bytes | None


class Publications:
    """Each is due again after its interval; times are seconds of one monotonic clock of the caller."""

    def __init__(self) -> None:
        self._due: dict[Publication, float] = {}
        self._records: dict[bytes, Publication] = {}

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Publication]:
        return iter(list(self._due))

    def add(self, publication: Publication, due: float) -> None:
        """Publish from now on, next at ``due``; a record replaces the one under its key. Raises :class:`KadError`."""
        if publication.value is not None:
            self.withdraw_record(publication.key)
        if publication not in self._due and len(self._due) >= MAX_OWN_RECORDS:
            raise KadError(f"this node publishes {MAX_OWN_RECORDS} records already: withdraw some")
        if publication.value is not None:
            self._records[publication.key] = publication
        self._due[publication] = due

    def withdraw_record(self, key: bytes) -> None:
        """Renew a record no more; those that hold it forget it when it ends."""
        if (publication := self._records.pop(key, None)) is not None:
            del self._due[publication]

    def withdraw_provided(self, key: bytes) -> None:
        """Say no more that we provide ``key``."""
        self._due.pop(Publication(key, None), None)

    def due(self, now: float, limit: int) -> list[Publication]:
        """What is to be published now, the longest overdue first."""
        ready = [(at, publication) for publication, at in self._due.items() if at <= now]
        ready.sort(key=lambda item: (item[0], item[1].key))
        return [publication for _, publication in ready[:limit]]

    def done(self, publication: Publication, due: float) -> None:
        """It was published (or tried); it is due again at ``due``, unless it was withdrawn meanwhile."""
        if publication in self._due:
            self._due[publication] = due
