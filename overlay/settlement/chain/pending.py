"""The one external message of a wallet that is signed and not settled yet, kept where a crash cannot lose it.

A wallet's message is stored before it leaves. Whoever finds one stored, after a crash or a failure, sends that very
message again until its sequence number has passed or it has expired, and signs another only then: so nothing is sent
twice, whatever happens between signing and the proof that it took effect.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overlay.settlement.cells import check_address, check_bytes, check_int
from overlay.settlement.chain.limits import MAX_PENDING_BYTES
from overlay.settlement.errors import SettlementError
from overlay.settlement.limits import MAX_UINT32

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pending_external (
    wallet        TEXT NOT NULL,
    network_id    INTEGER NOT NULL,
    seqno         INTEGER NOT NULL,
    valid_until_s INTEGER NOT NULL,
    after_lt      INTEGER NOT NULL,
    body_hash     BLOB NOT NULL,
    intent        BLOB NOT NULL,
    boc           BLOB NOT NULL,
    PRIMARY KEY (wallet, network_id)
) STRICT
"""
_VERSION = 1


@dataclass(frozen=True)
class PendingExternal:
    """A signed external message of ``wallet`` (raw address).

    ``boc`` is the message; ``body_hash`` is the hash of its signed body, by which its transaction is known;
    ``after_lt`` is the wallet's last transaction when it was signed; ``intent`` says what it is to do
    (:func:`overlay.settlement.chain.account.intent_of`), the same for a second attempt at the same thing.
    """

    wallet: str
    network_id: int
    seqno: int
    valid_until_s: int
    after_lt: int
    body_hash: bytes
    intent: bytes
    boc: bytes

    def __post_init__(self) -> None:
        check_address(self.wallet)
        check_int("seqno", self.seqno, 0, MAX_UINT32)
        check_int("valid_until_s", self.valid_until_s, 1, MAX_UINT32)
        check_int("after_lt", self.after_lt, 0, 2**63 - 1)
        check_bytes("body_hash", self.body_hash, 32)
        check_bytes("intent", self.intent, 32)
        if not 0 < len(self.boc) <= MAX_PENDING_BYTES:
            raise ValueError(f"an external message has at most {MAX_PENDING_BYTES} bytes")


class PendingStore(Protocol):
    """At most one message for each wallet and network. Every method returns when the disk has it."""

    def load(self, wallet: str, network_id: int) -> PendingExternal | None:
        """The message that is not settled yet."""

    def store(self, external: PendingExternal) -> None:
        """Keep a message. Raises ``ValueError`` when another one of its wallet is kept."""

    def settle(self, external: PendingExternal) -> None:
        """Forget this message: it took effect, or cannot any more."""


class MemoryPendingStore:
    """A :class:`PendingStore` that does not outlive the process: for tests and tools."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], PendingExternal] = {}

    def load(self, wallet: str, network_id: int) -> PendingExternal | None:
        """The message that is not settled yet."""
        return self._kept.get((wallet, network_id))

    def store(self, external: PendingExternal) -> None:
        """Keep a message."""
        if self._kept.setdefault((external.wallet, external.network_id), external) != external:
            raise ValueError("another message of this wallet is not settled yet")

    def settle(self, external: PendingExternal) -> None:
        """Forget this message."""
        if self.load(external.wallet, external.network_id) == external:
            del self._kept[external.wallet, external.network_id]


class SqlitePendingStore:
    """A :class:`PendingStore` in one small SQLite file (WAL, ``synchronous=FULL``), made on first use, mode 0600.

    Opened for each call: there are a few a minute at most, and a file that nobody holds can be moved and backed up.
    Raises :class:`~overlay.settlement.errors.SettlementError` when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, wallet: str, network_id: int) -> PendingExternal | None:
        """The message that is not settled yet."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT wallet, network_id, seqno, valid_until_s, after_lt, body_hash, intent, boc "
                "FROM pending_external WHERE wallet = ? AND network_id = ?",
                (wallet, network_id),
            ).fetchone()
        return None if row is None else PendingExternal(*row)

    def store(self, external: PendingExternal) -> None:
        """Keep a message."""
        if self.load(external.wallet, external.network_id) == external:
            return
        row = (
            external.wallet, external.network_id, external.seqno, external.valid_until_s, external.after_lt,
            external.body_hash, external.intent, external.boc,
        )  # fmt: skip
        with self._open() as connection:
            try:
                connection.execute("INSERT INTO pending_external VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise ValueError("another message of this wallet is not settled yet") from error

    def settle(self, external: PendingExternal) -> None:
        """Forget this message."""
        with self._open() as connection:
            connection.execute(
                "DELETE FROM pending_external WHERE wallet = ? AND body_hash = ?", (external.wallet, external.body_hash)
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _VERSION):
                    raise SettlementError(f"{self._path} is of a newer version of this program")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version={_VERSION}")
                yield connection
            finally:
                connection.close()
        except (sqlite3.DatabaseError, OSError) as error:
            raise SettlementError(f"{self._path} cannot be used: {error}; nothing is sent without it") from error
