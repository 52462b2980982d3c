"""What outlives a restart: the routing table's peers, our own records and provided keys. Optional: a node without
storage asks its bootstrap peers, and its owner publishes again.

One SQLite file in WAL mode; a snapshot is one transaction, so a crash leaves the last whole one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dht.kad.contacts import Contact
from dht.kad.errors import BadMessage, KadError
from dht.kad.limits import MAX_OWN_RECORDS, MAX_SAVED_PEERS
from dht.kad.messages import parse_peer
from dht.kad.publications import Publication

_VERSION = 1
_BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS peers (place INTEGER PRIMARY KEY, peer BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS publications (key BLOB NOT NULL, value BLOB);
"""


class StorageError(KadError):
    """The file cannot be read or written; the message says what to do."""


@dataclass(frozen=True)
class Snapshot:
    """What is kept: peers that answered, and what we publish."""

    peers: tuple[Contact, ...] = ()
    publications: tuple[Publication, ...] = ()


class Storage(Protocol):
    """Where snapshots are kept. Both methods block, and run in a thread of their own, never two at once."""

    def load(self) -> Snapshot:
        """The last snapshot, empty at first. Raises :class:`StorageError`."""

    def save(self, snapshot: Snapshot) -> None:
        """Replace it, wholly or not at all. Raises :class:`StorageError`."""


class SqliteStorage:
    """A :class:`Storage` in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # losing the last snapshot to a power cut costs a look-up
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise StorageError(f"{self._path} is of version {version}; this node reads {_VERSION}. Move it away")
            connection.executescript(_SCHEMA + f"PRAGMA user_version={_VERSION};")
        except BaseException:
            connection.close()
            raise
        return connection

    def load(self) -> Snapshot:
        """The last snapshot; what is damaged in it is left out. Raises :class:`StorageError` for a damaged file."""
        try:
            with closing(self._connect()) as connection:
                peers = connection.execute(
                    "SELECT peer FROM peers ORDER BY place LIMIT ?", (MAX_SAVED_PEERS,)
                ).fetchall()
                rows = connection.execute("SELECT key, value FROM publications LIMIT ?", (MAX_OWN_RECORDS,)).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self._path}: {error}. If it is damaged, move it away") from error
        found = [contact for (raw,) in peers if (contact := _contact(raw)) is not None]
        return Snapshot(tuple(found), tuple(Publication(bytes(key), value) for key, value in rows))

    def save(self, snapshot: Snapshot) -> None:
        """Replace the snapshot in one transaction. Raises :class:`StorageError`."""
        peers = [(place, peer.wire) for place, peer in enumerate(snapshot.peers[:MAX_SAVED_PEERS])]
        try:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM peers")
                connection.execute("DELETE FROM publications")
                connection.executemany("INSERT INTO peers VALUES (?, ?)", peers)
                rows = [(publication.key, publication.value) for publication in snapshot.publications]
                connection.executemany("INSERT INTO publications VALUES (?, ?)", rows)
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path}: {error}") from error


def _contact(raw: object) -> Contact | None:
    try:
        return parse_peer(raw) if isinstance(raw, bytes) else None
    except BadMessage:
        return None
