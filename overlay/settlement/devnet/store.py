"""The devnet on disk: one SQLite file, one SQLite transaction for each block.

What the file holds is always the state after some block, whole: accounts, messages in flight, blocks and transactions.
A process that is killed loses at most what no block had shown yet. A devnet without a directory uses the same code on a
database in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overlay.settlement.devnet.limits import MAX_BLOCKS_KEPT, MAX_TRANSACTIONS_KEPT
from overlay.settlement.errors import DevnetError

FILE_NAME = "devnet.sqlite"
VERSION = 1
"""``PRAGMA user_version``: a file of another version is refused."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE progress (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  seqno INTEGER NOT NULL, now INTEGER NOT NULL, lt INTEGER NOT NULL,
  minted INTEGER NOT NULL, fees INTEGER NOT NULL, epoch_since INTEGER NOT NULL, config BLOB NOT NULL
) STRICT;
CREATE TABLE accounts (
  address TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0), shard_account BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE queue (position INTEGER PRIMARY KEY, message BLOB NOT NULL) STRICT;
CREATE TABLE blocks (
  seqno INTEGER PRIMARY KEY,
  utime INTEGER NOT NULL, start_lt INTEGER NOT NULL, end_lt INTEGER NOT NULL, is_key INTEGER NOT NULL,
  epoch INTEGER NOT NULL, last_key INTEGER,
  master_root BLOB NOT NULL UNIQUE, master_file BLOB NOT NULL,
  shard_root BLOB NOT NULL UNIQUE, shard_file BLOB NOT NULL,
  master BLOB NOT NULL, shard BLOB NOT NULL, key_link BLOB NOT NULL
) STRICT;
CREATE INDEX blocks_by_lt ON blocks (end_lt);
CREATE INDEX blocks_by_utime ON blocks (utime);
CREATE INDEX key_blocks ON blocks (seqno) WHERE is_key;
CREATE TABLE transactions (
  account TEXT NOT NULL, lt INTEGER NOT NULL, hash BLOB NOT NULL, seqno INTEGER NOT NULL, boc BLOB NOT NULL,
  PRIMARY KEY (account, lt)
) STRICT, WITHOUT ROWID;
CREATE INDEX transactions_by_block ON transactions (seqno);
"""


@dataclass(frozen=True)
class BlockRow:
    """A pair of blocks as it is stored. ``last_key`` is the number of the key block before it."""

    seqno: int
    utime: int
    start_lt: int
    end_lt: int
    is_key: bool
    """SQLite gives it back as 0 or 1."""
    epoch: int
    last_key: int | None
    master_root: bytes
    master_file: bytes
    shard_root: bytes
    shard_file: bytes
    master: bytes
    shard: bytes
    key_link: bytes


@dataclass(frozen=True)
class TransactionRow:
    """One transaction as it is stored; ``account`` is a raw address, ``seqno`` its block's number."""

    account: str
    lt: int
    hash: bytes
    seqno: int
    boc: bytes


@dataclass(frozen=True)
class Progress:
    """How far the chain has come. Amounts in nanoTON; ``config`` is a bag of cells, ``now`` Unix seconds."""

    seqno: int
    now: int
    lt: int
    minted_nanoton: int
    fees_nanoton: int
    epoch_since: int
    config: bytes


@dataclass(frozen=True)
class Commit:
    """All that one block changes. An account of ``None`` is gone; ``queue`` is every message that waits, in order."""

    block: BlockRow
    progress: Progress
    accounts: Mapping[str, tuple[int, bytes] | None]
    transactions: Iterable[TransactionRow]
    delivered: int
    queued: Iterable[bytes]


class Store:
    """The database. Everything is called from one thread; raises :class:`DevnetError` when the disk fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._failed: str | None = None
        self._transaction_count = self._one("SELECT count(*) FROM transactions")

    @classmethod
    @contextmanager
    def open(cls, directory: Path | None) -> Iterator[Store]:
        """Open or make the database in ``directory`` (``None``: in memory) and close it when the block is left.

        Raises :class:`DevnetError` when the directory cannot be used, holds something else, or another process has
        its devnet running there.
        """
        try:
            connection = _connect(directory)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(directory, error) from error
        try:
            yield cls(connection)
        finally:
            connection.close()

    def meta(self) -> dict[str, bytes]:
        """What the devnet of this file is for ever; empty for a new file."""
        return dict(self._db.execute("SELECT name, value FROM meta"))

    def set_meta(self, values: Mapping[str, bytes]) -> None:
        """Write down what the devnet is for ever."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", sorted(values.items()))

    def progress(self) -> Progress | None:
        """Where the chain stands, ``None`` before its first block."""
        row = self._db.execute(
            "SELECT seqno, now, lt, minted, fees, epoch_since, config FROM progress"
        ).fetchone()  # fmt: skip
        return None if row is None else Progress(*row)

    def accounts(self) -> Iterator[tuple[str, int, bytes]]:
        """Every account: address, balance, ``ShardAccount``."""
        yield from self._db.execute("SELECT address, balance, shard_account FROM accounts ORDER BY address")

    def queue(self) -> list[bytes]:
        """The messages that wait for the next block, first first."""
        return [row[0] for row in self._db.execute("SELECT message FROM queue ORDER BY position")]

    def commit(self, change: Commit) -> None:
        """Write one block and all that it changes, or nothing."""
        db, block = self._db, change.block
        with self._transaction():
            progress = change.progress
            db.execute(
                "INSERT OR REPLACE INTO progress VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (progress.seqno, progress.now, progress.lt, progress.minted_nanoton, progress.fees_nanoton,
                 progress.epoch_since, progress.config),
            )  # fmt: skip
            for address, account in change.accounts.items():
                if account is None:
                    db.execute("DELETE FROM accounts WHERE address = ?", (address,))
                else:
                    db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", (address, *account))
            db.execute(
                "DELETE FROM queue WHERE position IN (SELECT position FROM queue ORDER BY position LIMIT ?)",
                (change.delivered,),
            )
            db.executemany("INSERT INTO queue (message) VALUES (?)", ((message,) for message in change.queued))
            db.execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (block.seqno, block.utime, block.start_lt, block.end_lt, block.is_key, block.epoch, block.last_key,
                 block.master_root, block.master_file, block.shard_root, block.shard_file, block.master, block.shard,
                 block.key_link),
            )  # fmt: skip
            rows = [(row.account, row.lt, row.hash, row.seqno, row.boc) for row in change.transactions]
            db.executemany("INSERT INTO transactions VALUES (?, ?, ?, ?, ?)", rows)
            self._prune(block.seqno, len(rows))

    def block(self, column: Literal["seqno", "master_root", "shard_root"], value: int | bytes) -> BlockRow | None:
        """The block with this value in a unique column."""
        return self._block(f"{column} = ?", value)

    def first_block_from(self, column: Literal["end_lt", "utime"], value: int) -> BlockRow | None:
        """The first block whose ``column``, which never falls from block to block, is at least ``value``."""
        return self._block(f"{column} >= ? ORDER BY {column}, seqno LIMIT 1", value)

    def _block(self, condition: str, value: object) -> BlockRow | None:
        query = f"SELECT * FROM blocks WHERE {condition}"  # noqa: S608 — our own conditions
        row = self._db.execute(query, (value,)).fetchone()
        return None if row is None else BlockRow(*row)

    def first_key_after(self, seqno: int) -> int | None:
        """The number of the first key block after ``seqno``."""
        row = self._db.execute("SELECT min(seqno) FROM blocks WHERE is_key AND seqno > ?", (seqno,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def block_ids(self, oldest: int, before: int) -> Iterator[tuple[int, bytes, bytes, int, bool]]:
        """``(number, root hash, file hash, last logical time, is key)`` of the masterchain's key blocks and of those
        from ``oldest`` on, before ``before``.
        """
        for row in self._db.execute(
            "SELECT seqno, master_root, master_file, end_lt, is_key FROM blocks WHERE seqno < ?"
            " AND (is_key OR seqno >= ?) ORDER BY seqno",
            (before, oldest),
        ):
            yield (*row[:4], bool(row[4]))

    def transactions(self, account: str, *, upto_lt: int | None = None, limit: int = -1) -> list[TransactionRow]:
        """The account's transactions up to ``upto_lt``, newest first."""
        rows = self._db.execute(
            "SELECT * FROM transactions WHERE account = ? AND lt <= ? ORDER BY lt DESC LIMIT ?",
            (account, 2**63 - 1 if upto_lt is None else min(upto_lt, 2**63 - 1), limit),
        )
        return [TransactionRow(*row) for row in rows]

    def block_transactions(
        self, seqno: int, *, after: tuple[str, int] | None, limit: int, reverse: bool
    ) -> list[TransactionRow]:
        """Transactions of a block by account and time, from the one after ``after`` on (before it, if ``reverse``)."""
        order, sign = ("DESC", "<") if reverse else ("ASC", ">")
        condition, bound = ("", ()) if after is None else (f" AND (account, lt) {sign} (?, ?)", after)
        rows = self._db.execute(
            f"SELECT * FROM transactions WHERE seqno = ?{condition}"  # noqa: S608 — our own conditions
            f" ORDER BY account {order}, lt {order} LIMIT ?",
            (seqno, *bound, limit),
        )
        return [TransactionRow(*row) for row in rows]

    def _prune(self, seqno: int, added: int) -> None:
        """Forget the oldest transactions beyond the limit, and old blocks that hold none and are no key blocks."""
        self._transaction_count += added
        while self._transaction_count > MAX_TRANSACTIONS_KEPT:
            oldest = self._one("SELECT min(seqno) FROM transactions")
            if oldest == seqno:
                break
            self._transaction_count -= self._db.execute("DELETE FROM transactions WHERE seqno = ?", (oldest,)).rowcount
            self._forget_block(oldest, seqno)
        self._forget_block(seqno - MAX_BLOCKS_KEPT - 1, seqno)

    def _forget_block(self, old: int, newest: int) -> None:
        if old < newest - MAX_BLOCKS_KEPT:  # the newest state still names those up to there
            self._db.execute(
                "DELETE FROM blocks WHERE seqno = ? AND NOT is_key"
                " AND NOT EXISTS (SELECT 1 FROM transactions WHERE transactions.seqno = blocks.seqno)",
                (old,),
            )

    def _one(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._failed is not None:
            raise DevnetError(f"the devnet has stopped: {self._failed}")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            # What is in memory is ahead of the disk now: nothing may be built on it.
            self._failed = f"its database cannot be written ({error}); free the disk and start it again"
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise DevnetError(f"the devnet has stopped: {self._failed}") from error


def _connect(directory: Path | None) -> sqlite3.Connection:
    if directory is None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
    else:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(directory / FILE_NAME, isolation_level=None, timeout=0.0)
    try:
        # One process only: the ledger's state in memory is the truth while it runs.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            version = VERSION
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    if version != VERSION:
        connection.close()
        raise OSError(
            f"{FILE_NAME} there is of format {version}, where this program reads {VERSION}"
            if version
            else f"{FILE_NAME} there is no devnet's"
        )
    return connection


def _unusable(directory: Path | None, error: Exception) -> DevnetError:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return DevnetError(f"a devnet runs in {directory} already: stop it, or take another data directory")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DevnetError(f"the data directory {directory} cannot be used: {reason}; take another, or an empty one")
