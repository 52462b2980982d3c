"""The peer book on disk, so that a restarted node needs no bootstrap peer: one SQLite file, written in transactions.

Nothing of value is in it. A file that cannot be read is put aside and a new one begun.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from transport.host.addresses import parse_addr
from transport.host.interface import HostError
from transport.host.limits import MAX_DIAL_ADDRS, MAX_KNOWN_PEERS
from transport.host.peerbook import KnownAddr, PeerBook
from transport.identity import PeerId, public_key_of

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS known_addrs (
    peer TEXT NOT NULL, addr TEXT NOT NULL, confirmed_at REAL NOT NULL, seen_at REAL NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (peer, addr)
) WITHOUT ROWID
"""


class PeerStoreError(HostError):
    """The peer store cannot be opened or written. The message names the file."""


class PeerStore:
    """One open file. Calls may come from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self._put_aside()
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                raise PeerStoreError(f"the peer store {path} cannot be opened: {error}") from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0.1)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a lost tail is re-learned; a torn page cannot happen under WAL
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"its version is {version}")
            db.execute(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.execute("SELECT peer, addr, confirmed_at, seen_at, failures FROM known_addrs LIMIT 1").fetchone()
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _put_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + suffix)
            try:
                damaged.replace(damaged.with_name(damaged.name + ".damaged"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise PeerStoreError(f"the peer store {self._path} is damaged and cannot be moved: {error}") from error

    def load(self, book: PeerBook, now: float) -> None:
        """Fill ``book``. Rows that make no sense are skipped: the file may have been written by anyone."""
        found: dict[PeerId, list[KnownAddr]] = {}
        try:
            rows = self._db.execute(
                "SELECT peer, addr, confirmed_at, seen_at, failures FROM known_addrs ORDER BY seen_at DESC LIMIT ?",
                (MAX_KNOWN_PEERS * MAX_DIAL_ADDRS,),
            ).fetchall()
        except sqlite3.Error as error:
            raise PeerStoreError(f"the peer store {self._path} cannot be read: {error}") from error
        for row in rows:
            if (known := _parse(row)) is not None:
                found.setdefault(known[0], []).append(known[1])
        for peer, entries in reversed(found.items()):
            book.load(peer, entries, now)

    def save(self, changes: Sequence[tuple[PeerId, tuple[KnownAddr, ...]]]) -> None:
        """Write what :meth:`PeerBook.take_changes` gave, all of it or nothing. Raises :class:`PeerStoreError`."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for peer, entries in changes:
                    self._db.execute("DELETE FROM known_addrs WHERE peer = ?", (peer,))
                    self._db.executemany(
                        "INSERT INTO known_addrs VALUES (?, ?, ?, ?, ?)",
                        [(peer, known.addr, known.confirmed_at, known.seen_at, known.failures) for known in entries],
                    )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise PeerStoreError(f"the peer store {self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@asynccontextmanager
async def opened(path: Path | None) -> AsyncIterator[PeerStore | None]:
    """The store at ``path`` for the length of the block; none without a path. Raises :class:`PeerStoreError`."""
    if path is None:
        yield None
        return
    store = await trio.to_thread.run_sync(PeerStore, path)
    try:
        yield store
    finally:
        store.close()


def _parse(row: Sequence[object]) -> tuple[PeerId, KnownAddr] | None:
    peer, addr, confirmed_at, seen_at, failures = row
    if not (isinstance(peer, str) and isinstance(addr, str) and isinstance(failures, int)):
        return None
    if not (isinstance(confirmed_at, int | float) and isinstance(seen_at, int | float)):
        return None
    try:
        public_key_of(peer)
        parsed = parse_addr(addr)
    except (ValueError, HostError):
        return None
    return PeerId(peer), KnownAddr(str(parsed), float(confirmed_at), float(seen_at), failures)
