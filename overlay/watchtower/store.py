"""What a watchtower has promised, in SQLite: on the disk before the promise leaves.

WAL with ``synchronous=FULL``, as the ledger has it. The rules stand in the file itself: no voucher sinks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from overlay.errors import CocoonError, ConfigError
from overlay.settlement import ChannelTerms, Voucher
from overlay.watchtower.rules import PeerUse

T = TypeVar("T")

FILE_MODE = 0o600
BUSY_TIMEOUT_MS = 2000
VERSION = 1

_SCHEMA = """
CREATE TABLE watched (
  channel TEXT PRIMARY KEY,
  peer TEXT NOT NULL,
  network_id INTEGER NOT NULL,
  terms BLOB NOT NULL,
  seq INTEGER NOT NULL CHECK (seq > 0),
  amount INTEGER NOT NULL CHECK (amount > 0),
  signature BLOB NOT NULL CHECK (length(signature) = 64),
  handed_at INTEGER NOT NULL,
  deposit INTEGER NOT NULL,
  paid INTEGER NOT NULL DEFAULT 0 CHECK (paid >= 0),
  closing_since INTEGER,
  ended_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX watched_by_peer ON watched (peer);
CREATE TRIGGER voucher_never_sinks BEFORE UPDATE ON watched
WHEN NEW.seq < OLD.seq OR NEW.amount < OLD.amount OR (NEW.seq = OLD.seq AND NEW.amount <> OLD.amount)
  OR NEW.terms <> OLD.terms OR NEW.paid < OLD.paid
BEGIN SELECT RAISE(ABORT, 'a watched voucher never sinks'); END;

CREATE TABLE claims (
  id INTEGER PRIMARY KEY,
  channel TEXT NOT NULL,
  peer TEXT NOT NULL,
  at INTEGER NOT NULL,
  amount INTEGER NOT NULL,
  fee INTEGER NOT NULL,
  tx TEXT NOT NULL
) STRICT;
CREATE INDEX claims_by_peer ON claims (peer, at);
"""

_SELECT = (
    "SELECT channel, peer, network_id, terms, seq, amount, signature, handed_at, deposit, paid, closing_since, "
    "ended_at FROM watched "
)
_PUT = (
    "INSERT INTO watched (channel, peer, network_id, terms, seq, amount, signature, handed_at, deposit, paid, "
    "closing_since, ended_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (channel) DO UPDATE SET "
    "seq = excluded.seq, amount = excluded.amount, signature = excluded.signature, handed_at = excluded.handed_at, "
    "deposit = excluded.deposit WHERE excluded.seq > seq AND excluded.amount > amount"
)


@dataclass(frozen=True)
class Watched:
    """A channel that is watched for ``peer``, and its highest voucher. Times in Unix seconds, sums in nanoTON."""

    channel: str
    peer: str
    terms: ChannelTerms
    seq: int
    amount_nanoton: int
    signature: bytes
    handed_at: int
    deposit_nanoton: int
    paid_nanoton: int = 0
    closing_since: int | None = None
    ended_at: int | None = None

    @property
    def voucher(self) -> Voucher:
        """The voucher as it is claimed."""
        return Voucher(self.channel, self.terms.network_id, self.seq, self.amount_nanoton)


@dataclass(frozen=True)
class ClaimMade:
    """One claim that the tower paid for."""

    channel: str
    peer: str
    at: int
    amount_nanoton: int
    fee_nanoton: int
    transaction: str


class TowerStore:
    """The open file, synchronous; one thread at a time. Raises :class:`~overlay.errors.ConfigError` when it cannot be
    opened."""

    def __init__(self, path: str | Path) -> None:
        try:
            if str(path) != ":memory:":
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ConfigError(f"{path} was written by a newer program: use that")
            if version == 0:
                self._db.executescript(f"BEGIN IMMEDIATE;\n{_SCHEMA}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot open the watchtower's file {path}: {error}") from error

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside, or none; on return they are on the disk."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def put(self, watched: Watched) -> Watched:
        """Store a channel, or its higher voucher; returns what is stored then. A lower one changes nothing."""
        with self.transaction():
            self._db.execute(
                _PUT,
                (
                    watched.channel, watched.peer, watched.terms.network_id, watched.terms.to_bytes(), watched.seq,
                    watched.amount_nanoton, watched.signature, watched.handed_at, watched.deposit_nanoton,
                    watched.paid_nanoton, watched.closing_since, watched.ended_at,
                ),
            )  # fmt: skip
        stored = self.get(watched.channel)
        assert stored is not None
        return stored

    def get(self, channel: str) -> Watched | None:
        """One channel, ended or not."""
        row = self._db.execute(_SELECT + "WHERE channel = ?", (channel,)).fetchone()
        return None if row is None else _watched(row)

    def live(self, network_id: int | None = None) -> list[Watched]:
        """Channels that have not ended, by address; of one network, or of all."""
        rows = self._db.execute(
            _SELECT + "WHERE ended_at IS NULL AND (?1 IS NULL OR network_id = ?1) ORDER BY channel",
            (network_id,),
        )
        return [_watched(row) for row in rows]

    def count(self) -> int:
        """Channels that have not ended."""
        (count,) = self._db.execute("SELECT count(*) FROM watched WHERE ended_at IS NULL").fetchone()
        return int(count)

    def use_of(self, peer: str, *, since: int) -> PeerUse:
        """What ``peer`` takes of the tower, its claims counted from ``since`` on."""
        (channels,) = self._db.execute(
            "SELECT count(*) FROM watched WHERE peer = ? AND ended_at IS NULL", (peer,)
        ).fetchone()
        (spent,) = self._db.execute(
            "SELECT coalesce(sum(fee), 0) FROM claims WHERE peer = ? AND at >= ?", (peer, since)
        ).fetchone()
        return PeerUse(int(channels), int(spent))

    def note(self, channel: str, *, paid_nanoton: int, closing_since: int | None) -> None:
        """What the chain shows of a channel that goes on. The first sight of a refund stays."""
        with self.transaction():
            self._db.execute(
                "UPDATE watched SET paid = max(paid, ?), closing_since = coalesce(closing_since, ?) WHERE channel = ?",
                (paid_nanoton, closing_since, channel),
            )

    def end(self, channel: str, at: int) -> None:
        """The channel is gone from the chain."""
        with self.transaction():
            self._db.execute("UPDATE watched SET ended_at = coalesce(ended_at, ?) WHERE channel = ?", (at, channel))

    def add_claim(self, claim: ClaimMade) -> None:
        """A claim has taken effect."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO claims (channel, peer, at, amount, fee, tx) VALUES (?,?,?,?,?,?)",
                (claim.channel, claim.peer, claim.at, claim.amount_nanoton, claim.fee_nanoton, claim.transaction),
            )
            self._db.execute(
                "UPDATE watched SET paid = max(paid, ?) WHERE channel = ?", (claim.amount_nanoton, claim.channel)
            )

    def claims(self, *, limit: int = 100) -> list[ClaimMade]:
        """The latest claims, newest first."""
        rows = self._db.execute(
            "SELECT channel, peer, at, amount, fee, tx FROM claims ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [ClaimMade(*row) for row in rows]

    def forget(self, *, ended_before: int) -> int:
        """Drop channels that ended before a time; returns how many."""
        with self.transaction():
            return self._db.execute("DELETE FROM watched WHERE ended_at < ?", (ended_before,)).rowcount


def _watched(row: tuple[object, ...]) -> Watched:
    channel, peer, _network, terms, seq, amount, signature, handed_at, deposit, paid, closing_since, ended_at = row
    return Watched(
        str(channel), str(peer), ChannelTerms.from_bytes(bytes(terms)), int(str(seq)), int(str(amount)),  # type: ignore[call-overload]  # BLOB column
        bytes(signature), int(str(handed_at)), int(str(deposit)), int(str(paid)),  # type: ignore[call-overload]  # BLOB column
        None if closing_since is None else int(str(closing_since)), None if ended_at is None else int(str(ended_at)),
    )  # fmt: skip


class TowerBooks:
    """The store as trio tasks use it: one operation at a time, in a thread."""

    def __init__(self, store: TowerStore) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, operation: Callable[[TowerStore], T]) -> T:
        """Run ``operation``; when it returns, what it wrote is on the disk. Finished even when cancelled.

        Raises :class:`~overlay.errors.CocoonError` when the disk refuses."""
        try:
            with trio.CancelScope(shield=True):
                result = await trio.to_thread.run_sync(operation, self._store, limiter=self._limiter)
        except sqlite3.Error as error:
            raise CocoonError(f"the watchtower's file cannot be written: {error}") from error
        return result


@asynccontextmanager
async def open_tower_books(path: Path) -> AsyncIterator[TowerBooks]:
    """Open the file for the length of the block."""
    store = await trio.to_thread.run_sync(TowerStore, path)
    try:
        yield TowerBooks(store)
    finally:
        with suppress(sqlite3.Error):
            store.close()
