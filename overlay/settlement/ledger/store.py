"""The books in SQLite: synchronous, typed, strict. One thread at a time may use a store.

Methods write inside the caller's transaction: use :meth:`Store.transaction`, or :class:`~overlay.settlement.ledger.
GroupCommit`, which shares one among many callers. WAL with ``synchronous=FULL``: what was committed is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from overlay.settlement.ledger.errors import LedgerConflict, LedgerUnavailable
from overlay.settlement.ledger.limits import (
    BUSY_TIMEOUT_MS,
    FILE_MODE,
    MAX_BLOB_BYTES,
    MAX_EVENTS_PER_CHANNEL,
    MAX_LISTED,
    MAX_NANOTON,
)
from overlay.settlement.ledger.records import (
    GENESIS_HASH,
    AgreementRecord,
    ChainHead,
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    MoneyAtRisk,
    ReceiptRecord,
    Reservation,
    Role,
    VoucherRecord,
)
from overlay.settlement.ledger.schema import migrate

_SELECT_CHANNELS = (
    "SELECT channel, role, peer, network_id, terms, deposit, status, opened_at, closed_at, "
    "paid, written_off FROM channels "
)
_INSERT_CHANNEL = (
    "INSERT INTO channels (channel, role, peer, network_id, terms, deposit, status, opened_at, closed_at, "
    "paid, written_off) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)
_SELECT_RECEIPTS = (
    "SELECT idx, job, agreement, amount, cumulative, hash, prev, body, "
    "provider_signature, client_signature FROM receipts "
)
_INSERT_RECEIPT = (
    "INSERT INTO receipts (channel, idx, job, agreement, amount, cumulative, hash, prev, body, "
    "provider_signature, client_signature) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)


def _nothing(_point: str) -> None:
    """The fault hook of production: no fault."""


def _sum(value: int) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NANOTON:
        raise LedgerConflict(f"a sum is an integer of nanoTON from 0 to {MAX_NANOTON}, not {value!r}")
    return value


def _blob(value: bytes) -> bytes:
    if len(value) > MAX_BLOB_BYTES:
        raise LedgerConflict(f"{len(value)} bytes in one record, where at most {MAX_BLOB_BYTES} are kept")
    return value


@cache
def _empty() -> bytes:
    """A new ledger's bytes: making the tables anew takes three times as long. Its pages are small, since most of a
    ledger that is kept in memory stay empty, and a simulation has thousands."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute("PRAGMA page_size = 1024")
        migrate(made)
        return made.serialize()


class Store:
    """An open ledger file.

    ``path`` is created with mode 0600 when missing; ``":memory:"`` keeps nothing. ``fault`` is called with the name of
    each point at which a crash is interesting (``begin``, ``written``, ``committed``); tests kill the process there.
    Raises :class:`LedgerUnavailable` when the file cannot be opened.
    """

    def __init__(self, path: str | Path, *, fault: Callable[[str], None] = _nothing) -> None:
        self._fault = fault
        self._ids: dict[str, int] = {}
        try:
            stays = str(path) != ":memory:"
            if stays:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
                os.chmod(path, FILE_MODE)
            # The writer's thread changes from call to call; GroupCommit sees to it that there is one at a time.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            self._db.execute("PRAGMA foreign_keys = ON")
            if stays:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                migrate(self._db)
            else:
                self._db.deserialize(_empty())
                self._db.execute("PRAGMA journal_mode = MEMORY")
        except (OSError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"cannot open the ledger {path}: {error}") from error

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside, or none. On return they are on the disk. Raises :class:`LedgerUnavailable` when the disk
        refuses them, and whatever the body raised."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger cannot be written: {error}") from error
        try:
            self._fault("begin")
            yield
            self._fault("written")
            self._db.execute("COMMIT")
        except BaseException as error:
            self._ids.clear()  # a channel that was added in this transaction does not exist
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LedgerUnavailable(f"the ledger cannot be written: {error}") from error
            raise
        self._fault("committed")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Part of a transaction that is undone alone when the body raises."""
        self._db.execute("SAVEPOINT one")
        try:
            yield
        except BaseException:
            self._ids.clear()
            self._db.execute("ROLLBACK TO one")
            self._db.execute("RELEASE one")
            raise
        self._db.execute("RELEASE one")

    def _write(self, sql: str, values: tuple[object, ...]) -> int:
        """Execute one write; returns the rows it changed. A broken rule is :class:`LedgerConflict`."""
        try:
            return self._db.execute(sql, values).rowcount
        except sqlite3.IntegrityError as error:
            raise LedgerConflict(str(error)) from error

    def _id(self, channel: str) -> int:
        known = self._ids.get(channel)
        if known is None:
            row = self._db.execute("SELECT id FROM channels WHERE channel = ?", (channel,)).fetchone()
            if row is None:
                raise LedgerConflict(f"no channel {channel} in the ledger")
            known = int(row[0])
            self._ids[channel] = known
        return known

    # -- channels ----------------------------------------------------------------------------------------------------

    def add_channel(self, record: ChannelRecord) -> None:
        """Store a new channel. Raises :class:`LedgerConflict` when it is known already."""
        self._write(
            _INSERT_CHANNEL,
            (
                record.channel, record.role.value, record.peer, record.network_id, _blob(record.terms),
                _sum(record.deposit_nanoton), record.status.value, record.opened_at, record.closed_at,
                _sum(record.paid_nanoton), _sum(record.written_off_nanoton),
            ),
        )  # fmt: skip

    def channel(self, channel: str) -> ChannelRecord | None:
        """The channel of this name, or ``None``."""
        row = self._db.execute(_SELECT_CHANNELS + "WHERE channel = ?", (channel,)).fetchone()
        return None if row is None else _channel_of(row)

    def channels(
        self, *, role: Role | None = None, peer: str | None = None, limit: int = MAX_LISTED
    ) -> list[ChannelRecord]:
        """Channels, newest first, optionally of one role or with one peer."""
        rows = self._db.execute(
            _SELECT_CHANNELS
            + "WHERE (?1 IS NULL OR role = ?1) AND (?2 IS NULL OR peer = ?2) ORDER BY id DESC LIMIT ?3",
            (None if role is None else role.value, peer, min(limit, MAX_LISTED)),
        )
        return [_channel_of(row) for row in rows]

    def live_channels(self, role: Role, *, peer: str | None = None) -> list[ChannelRecord]:
        """Every channel of one role, optionally with one peer, that is not closed, newest first. However many: whoever
        guards them must miss none."""
        rows = self._db.execute(
            _SELECT_CHANNELS + "WHERE role = ?1 AND status <> 'closed' AND (?2 IS NULL OR peer = ?2) ORDER BY id DESC",
            (role.value, peer),
        )
        return [_channel_of(row) for row in rows]

    def set_status(self, channel: str, status: ChannelStatus, *, at: int) -> None:
        """Move a channel to ``status``; a closed one stays closed."""
        closed_at = at if status is ChannelStatus.CLOSED else None
        self._write(
            "UPDATE channels SET status = ?, closed_at = coalesce(closed_at, ?) WHERE id = ?",
            (status.value, closed_at, self._id(channel)),
        )

    def set_deposit(self, channel: str, deposit_nanoton: int) -> None:
        """Note a top-up: the new total deposit."""
        self._write("UPDATE channels SET deposit = ? WHERE id = ?", (_sum(deposit_nanoton), self._id(channel)))

    def set_paid(self, channel: str, paid_nanoton: int) -> None:
        """Note what the payee has been paid on chain in all."""
        self._write("UPDATE channels SET paid = ? WHERE id = ?", (_sum(paid_nanoton), self._id(channel)))

    def write_off(self, channel: str, amount_nanoton: int) -> None:
        """Note work that was given up because nobody can prove it."""
        self._write(
            "UPDATE channels SET written_off = written_off + ? WHERE id = ?",
            (_sum(amount_nanoton), self._id(channel)),
        )

    # -- vouchers ----------------------------------------------------------------------------------------------------

    def put_voucher(self, record: VoucherRecord) -> None:
        """Store the highest voucher. Storing the same again changes nothing; a lower number or sum, another sum for
        the same number, or more than the deposit raises :class:`LedgerConflict`. The caller verified the signature."""
        self._write(
            "INSERT INTO vouchers (channel, seq, amount, signature) VALUES (?,?,?,?) ON CONFLICT (channel) "
            "DO UPDATE SET seq = excluded.seq, amount = excluded.amount, signature = excluded.signature",
            (self._id(record.channel), record.seq, _sum(record.amount_nanoton), record.signature),
        )

    def voucher(self, channel: str) -> VoucherRecord | None:
        """The highest voucher, or ``None`` when there is none yet."""
        row = self._db.execute(
            "SELECT seq, amount, signature FROM vouchers WHERE channel = ?", (self._id(channel),)
        ).fetchone()
        return None if row is None else VoucherRecord(channel, *row)

    # -- agreements --------------------------------------------------------------------------------------------------

    def put_agreement(self, record: AgreementRecord) -> None:
        """Store an agreement; storing the same again changes nothing."""
        self._write(
            "INSERT INTO agreements (id, peer, body, valid_until) VALUES (?,?,?,?) ON CONFLICT (id) DO NOTHING",
            (record.agreement_id, record.peer, _blob(record.body), record.valid_until),
        )

    def agreement(self, agreement_id: bytes) -> AgreementRecord | None:
        """The agreement of this id, or ``None``."""
        row = self._db.execute(
            "SELECT id, peer, body, valid_until FROM agreements WHERE id = ?", (agreement_id,)
        ).fetchone()
        return None if row is None else AgreementRecord(*row)

    def spent_under(self, agreement_id: bytes, channel: str) -> int:
        """What the receipts of one channel charge to an agreement, in nanoTON."""
        (spent,) = self._db.execute(
            "SELECT coalesce(sum(amount), 0) FROM receipts WHERE channel = ? AND agreement = ?",
            (self._id(channel), agreement_id),
        ).fetchone()
        return int(spent)

    def drop_agreements(self, *, ended_before: int) -> int:
        """Forget agreements that ended before a time; returns how many. Receipts keep their ids."""
        return self._write("DELETE FROM agreements WHERE valid_until < ?", (ended_before,))

    # -- receipts ----------------------------------------------------------------------------------------------------

    def append_receipt(self, record: ReceiptRecord) -> None:
        """Add the next link. Adding the same again changes nothing: whoever was cancelled while he wrote writes again.
        Raises :class:`LedgerConflict` when it does not continue the chain or exceeds the deposit. Ends the job's
        reservation."""
        channel = self._id(record.channel)
        try:
            self._write(
                _INSERT_RECEIPT,
                (
                    channel, record.index, record.job_id, record.agreement_id, _sum(record.amount_nanoton),
                    _sum(record.cumulative_nanoton), record.hash, record.prev_hash, _blob(record.body),
                    record.provider_signature, record.client_signature,
                ),
            )  # fmt: skip
        except LedgerConflict:
            known = self._receipt(record.channel, record.index)
            if known is None or known.hash != record.hash:
                raise
        self._write("DELETE FROM reservations WHERE channel = ? AND job = ?", (channel, record.job_id))

    def countersign(self, channel: str, index: int, signature: bytes) -> None:
        """Store the client's signature on receipt ``index``. Repeating it changes nothing."""
        changed = self._write(
            "UPDATE receipts SET client_signature = ? WHERE channel = ? AND idx = ? AND client_signature IS NULL",
            (signature, self._id(channel), index),
        )
        if not changed and self._receipt(channel, index) is None:
            raise LedgerConflict(f"no receipt {index} on channel {channel}")

    def _receipt(self, channel: str, index: int) -> ReceiptRecord | None:
        return next(iter(self.receipts(channel, after=index - 1, limit=1, upto=index)), None)

    def receipts(
        self, channel: str, *, after: int = 0, upto: int = MAX_NANOTON, limit: int = MAX_LISTED
    ) -> list[ReceiptRecord]:
        """Receipts with ``after < index <= upto``, in order, at most ``limit``."""
        rows = self._db.execute(
            _SELECT_RECEIPTS + "WHERE channel = ? AND idx > ? AND idx <= ? ORDER BY idx LIMIT ?",
            (self._id(channel), after, upto, min(limit, MAX_LISTED)),
        )
        return [ReceiptRecord(channel, *row) for row in rows]

    def head(self, channel: str) -> ChainHead:
        """The end of the receipt chain."""
        row = self._db.execute(
            "SELECT idx, hash, cumulative FROM receipts WHERE channel = ? ORDER BY idx DESC LIMIT 1",
            (self._id(channel),),
        ).fetchone()
        return ChainHead(0, GENESIS_HASH, 0) if row is None else ChainHead(*row)

    def signed_index(self, channel: str) -> int:
        """The index of the last receipt that both parties signed, 0 for none; it covers all before it."""
        (index,) = self._db.execute(
            "SELECT coalesce(max(idx), 0) FROM receipts WHERE channel = ? AND client_signature IS NOT NULL",
            (self._id(channel),),
        ).fetchone()
        return int(index)

    def truncate_receipts(self, channel: str, *, after: int) -> int:
        """Drop the receipts after ``after``, which the client must not have signed; returns how many."""
        return self._write("DELETE FROM receipts WHERE channel = ? AND idx > ?", (self._id(channel), after))

    def prune_receipts(self, channel: str, *, keep: int) -> int:
        """Drop all but the last ``keep`` receipts, and never one that is not covered by both signatures."""
        last = min(self.signed_index(channel) - 1, self.head(channel).index - keep)
        return self._write("DELETE FROM receipts WHERE channel = ? AND idx <= ?", (self._id(channel), last))

    # -- reservations and what is at risk ----------------------------------------------------------------------------

    def reserve(self, reservation: Reservation) -> None:
        """Note that a job may cost this much."""
        self._write(
            "INSERT OR REPLACE INTO reservations (channel, job, maximum, made_at) VALUES (?,?,?,?)",
            (self._id(reservation.channel), reservation.job_id, _sum(reservation.maximum_nanoton), reservation.made_at),
        )

    def release(self, channel: str, job_id: bytes) -> None:
        """End a reservation without a receipt. Releasing an unknown one changes nothing."""
        self._write("DELETE FROM reservations WHERE channel = ? AND job = ?", (self._id(channel), job_id))

    def reservations(self, channel: str) -> list[Reservation]:
        """Open reservations."""
        rows = self._db.execute(
            "SELECT job, maximum, made_at FROM reservations WHERE channel = ? LIMIT ?", (self._id(channel), MAX_LISTED)
        )
        return [Reservation(channel, *row) for row in rows]

    def release_channel(self, channel: str) -> int:
        """End every reservation of one channel: when its tunnel is gone, no job of it runs. Returns how many there
        were."""
        return self._write("DELETE FROM reservations WHERE channel = ?", (self._id(channel),))

    def release_all(self) -> int:
        """End every reservation: at start, when no job of this process can be running. Returns how many there were."""
        return self._write("DELETE FROM reservations", ())

    def at_risk(self, channel: str) -> MoneyAtRisk:
        """The sums of one channel."""
        record = self.channel(channel)
        if record is None:
            raise LedgerConflict(f"no channel {channel} in the ledger")
        voucher = self.voucher(channel)
        (reserved,) = self._db.execute(
            "SELECT coalesce(sum(maximum), 0) FROM reservations WHERE channel = ?", (self._id(channel),)
        ).fetchone()
        return MoneyAtRisk(
            owed_nanoton=self.head(channel).cumulative_nanoton,
            promised_nanoton=0 if voucher is None else voucher.amount_nanoton,
            reserved_nanoton=int(reserved),
            paid_nanoton=record.paid_nanoton,
            written_off_nanoton=record.written_off_nanoton,
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def add_event(self, event: ChannelEvent) -> None:
        """Note something for the owner; only the last :data:`MAX_EVENTS_PER_CHANNEL` of a channel are kept."""
        channel = self._id(event.channel)
        self._write(
            "INSERT INTO events (channel, at, kind, amount, detail) VALUES (?,?,?,?,?)",
            (channel, event.at, event.kind, event.amount_nanoton, event.detail[:500]),
        )
        self._write(
            "DELETE FROM events WHERE channel = ?1 AND id <= "
            "(SELECT id FROM events WHERE channel = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (channel, MAX_EVENTS_PER_CHANNEL),
        )

    def events(self, channel: str, *, limit: int = 100) -> list[ChannelEvent]:
        """The latest events, newest first."""
        rows = self._db.execute(
            "SELECT at, kind, amount, detail FROM events WHERE channel = ? ORDER BY id DESC LIMIT ?",
            (self._id(channel), min(limit, MAX_LISTED)),
        )
        return [ChannelEvent(channel, *row) for row in rows]


def _channel_of(row: tuple[object, ...]) -> ChannelRecord:
    channel, role, peer, network_id, terms, deposit, status, opened_at, closed_at, paid, written_off = row
    return ChannelRecord(
        str(channel), Role(str(role)), str(peer), int(str(network_id)), bytes(terms),  # type: ignore[call-overload]  # BLOB column
        int(str(deposit)), ChannelStatus(str(status)), int(str(opened_at)),
        None if closed_at is None else int(str(closed_at)), int(str(paid)), int(str(written_off)),
    )  # fmt: skip
