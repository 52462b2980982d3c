"""The ledger's tables and the rules that SQLite itself holds them to.

The rules stand here as well as in Python because the file outlives the process and may be opened by a newer or older
program: no voucher sinks or is signed twice for one number, no receipt breaks its chain, no sum exceeds the deposit.
``PRAGMA user_version`` counts the migrations applied; a file newer than this program is refused.
"""

from __future__ import annotations

import sqlite3

from overlay.settlement.ledger.errors import LedgerUnavailable

_V1 = """
CREATE TABLE channels (
  id INTEGER PRIMARY KEY,
  channel TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('payer', 'payee')),
  peer TEXT NOT NULL,
  network_id INTEGER NOT NULL,
  terms BLOB NOT NULL,
  deposit INTEGER NOT NULL CHECK (deposit >= 0),
  status TEXT NOT NULL CHECK (status IN ('opening', 'open', 'disputed', 'closing', 'closed')),
  opened_at INTEGER NOT NULL,
  closed_at INTEGER,
  paid INTEGER NOT NULL DEFAULT 0 CHECK (paid >= 0 AND paid <= deposit),
  written_off INTEGER NOT NULL DEFAULT 0 CHECK (written_off >= 0),
  CHECK ((status = 'closed') = (closed_at IS NOT NULL))
) STRICT;
CREATE INDEX channels_by_peer ON channels (peer, role);

CREATE TRIGGER channels_only_move_forward BEFORE UPDATE ON channels
WHEN NEW.deposit < OLD.deposit OR NEW.paid < OLD.paid OR NEW.written_off < OLD.written_off
  OR NEW.role <> OLD.role OR NEW.channel <> OLD.channel OR NEW.network_id <> OLD.network_id
  OR (OLD.status = 'closed' AND NEW.status <> 'closed')
BEGIN SELECT RAISE(ABORT, 'a channel''s deposit and payments never shrink and a closed channel stays closed'); END;

CREATE TABLE vouchers (
  channel INTEGER PRIMARY KEY REFERENCES channels (id),
  seq INTEGER NOT NULL CHECK (seq > 0),
  amount INTEGER NOT NULL CHECK (amount >= 0),
  signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;

CREATE TRIGGER voucher_within_deposit_insert BEFORE INSERT ON vouchers
WHEN NEW.amount > (SELECT deposit FROM channels WHERE id = NEW.channel)
BEGIN SELECT RAISE(ABORT, 'a voucher never exceeds the deposit'); END;
CREATE TRIGGER voucher_within_deposit_update BEFORE UPDATE ON vouchers
WHEN NEW.amount > (SELECT deposit FROM channels WHERE id = NEW.channel)
BEGIN SELECT RAISE(ABORT, 'a voucher never exceeds the deposit'); END;
CREATE TRIGGER voucher_never_sinks BEFORE UPDATE ON vouchers
WHEN NEW.seq < OLD.seq OR NEW.amount < OLD.amount OR (NEW.seq = OLD.seq AND NEW.amount <> OLD.amount)
BEGIN SELECT RAISE(ABORT, 'a voucher never sinks, and one number stands for one sum'); END;
CREATE TRIGGER voucher_never_goes BEFORE DELETE ON vouchers
BEGIN SELECT RAISE(ABORT, 'a voucher is never deleted'); END;

CREATE TABLE agreements (
  id BLOB PRIMARY KEY CHECK (length(id) = 32),
  peer TEXT NOT NULL,
  body BLOB NOT NULL,
  valid_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX agreements_by_end ON agreements (valid_until);

CREATE TABLE receipts (
  channel INTEGER NOT NULL REFERENCES channels (id),
  idx INTEGER NOT NULL CHECK (idx > 0),
  job BLOB NOT NULL CHECK (length(job) = 16),
  agreement BLOB NOT NULL CHECK (length(agreement) = 32),
  amount INTEGER NOT NULL CHECK (amount >= 0),
  cumulative INTEGER NOT NULL CHECK (cumulative >= amount),
  hash BLOB NOT NULL CHECK (length(hash) = 32),
  prev BLOB NOT NULL CHECK (length(prev) = 32),
  body BLOB NOT NULL,
  provider_signature BLOB NOT NULL CHECK (length(provider_signature) = 64),
  client_signature BLOB CHECK (client_signature IS NULL OR length(client_signature) = 64),
  PRIMARY KEY (channel, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipts_by_agreement ON receipts (agreement);

CREATE TRIGGER receipts_form_a_chain BEFORE INSERT ON receipts
WHEN NOT EXISTS (
  SELECT 1 FROM (
    SELECT * FROM (SELECT idx, hash, cumulative FROM receipts WHERE channel = NEW.channel ORDER BY idx DESC LIMIT 1)
    UNION ALL SELECT 0, zeroblob(32), 0
  ) AS head
  WHERE head.idx + 1 = NEW.idx AND head.hash = NEW.prev AND head.cumulative + NEW.amount = NEW.cumulative
    AND (head.idx > 0 OR NOT EXISTS (SELECT 1 FROM receipts WHERE channel = NEW.channel))
)
BEGIN SELECT RAISE(ABORT, 'a receipt continues the chain of its channel'); END;
CREATE TRIGGER receipts_within_deposit BEFORE INSERT ON receipts
WHEN NEW.cumulative > (SELECT deposit FROM channels WHERE id = NEW.channel)
BEGIN SELECT RAISE(ABORT, 'receipts never exceed the deposit'); END;
CREATE TRIGGER receipts_only_gain_a_signature BEFORE UPDATE ON receipts
WHEN OLD.client_signature IS NOT NULL OR NEW.hash <> OLD.hash OR NEW.idx <> OLD.idx OR NEW.channel <> OLD.channel
  OR NEW.amount <> OLD.amount OR NEW.cumulative <> OLD.cumulative OR NEW.job <> OLD.job OR NEW.prev <> OLD.prev
  OR NEW.body <> OLD.body OR NEW.provider_signature <> OLD.provider_signature
BEGIN SELECT RAISE(ABORT, 'a receipt never changes; it gains the client''s signature once'); END;
CREATE TRIGGER receipts_signed_head_stays BEFORE DELETE ON receipts
WHEN OLD.client_signature IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM receipts WHERE channel = OLD.channel AND idx > OLD.idx AND client_signature IS NOT NULL
)
BEGIN SELECT RAISE(ABORT, 'the last receipt that the client signed is never deleted'); END;

CREATE TABLE reservations (
  channel INTEGER NOT NULL REFERENCES channels (id),
  job BLOB NOT NULL CHECK (length(job) = 16),
  maximum INTEGER NOT NULL CHECK (maximum >= 0),
  made_at INTEGER NOT NULL,
  PRIMARY KEY (channel, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  channel INTEGER NOT NULL REFERENCES channels (id),
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  amount INTEGER NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_channel ON events (channel, id);
"""

MIGRATIONS: tuple[str, ...] = (_V1,)
"""Applied in order; position + 1 is the version each leads to. Never edited once released: only appended to."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to this program's version, each step in one transaction.

    Raises :class:`LedgerUnavailable` when a newer program wrote it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise LedgerUnavailable(
            f"this ledger has format {version}, and this program knows up to {len(MIGRATIONS)}: use the newer program"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
