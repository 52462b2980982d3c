"""The file: what it keeps, what it refuses even from SQL, and what is left of it after kill -9 at any point."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.settlement.ledger import (
    GENESIS_HASH,
    AgreementRecord,
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    LedgerConflict,
    LedgerUnavailable,
    ReceiptRecord,
    Reservation,
    Role,
    Store,
    VoucherRecord,
)

SIG = bytes(64)


def channel(name: str = "0:aa", role: Role = Role.PAYEE, deposit: int = 1000) -> ChannelRecord:
    return ChannelRecord(name, role, "peer", -3, b"terms", deposit, ChannelStatus.OPEN, 5)


def receipt(index: int, amount: int, cumulative: int, prev: bytes, name: str = "0:aa") -> ReceiptRecord:
    body = f"{index}/{amount}/{cumulative}".encode()
    job = index.to_bytes(16, "big")
    return ReceiptRecord(name, index, job, bytes(32), amount, cumulative, sha256(body).digest(), prev, body, SIG)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "ledger.db")
    with made.transaction():
        made.add_channel(channel())
    yield made
    made.close()


def test_the_file_is_for_its_owner_only_and_everything_comes_back(tmp_path):
    path = tmp_path / "ledger.db"
    first = Store(path)
    one = receipt(1, 10, 10, GENESIS_HASH)
    with first.transaction():
        first.add_channel(channel())
        first.put_voucher(VoucherRecord("0:aa", 1, 10, SIG))
        first.put_agreement(AgreementRecord(b"a" * 32, "peer", b"body", 99))
        first.append_receipt(one)
        first.countersign("0:aa", 1, b"s" * 64)
        first.reserve(Reservation("0:aa", b"j" * 16, 50, 7))
        first.add_event(ChannelEvent("0:aa", 5, "opened", 1000, ""))
    first.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Store(path)
    assert again.channel("0:aa") == channel()
    assert again.channels(role=Role.PAYEE, peer="peer") == [channel()]
    assert again.channels(role=Role.PAYER) == []
    assert again.voucher("0:aa") == VoucherRecord("0:aa", 1, 10, SIG)
    assert again.agreement(b"a" * 32) == AgreementRecord(b"a" * 32, "peer", b"body", 99)
    (stored,) = again.receipts("0:aa")
    assert stored.client_signature == b"s" * 64
    assert again.signed_index("0:aa") == 1
    assert again.spent_under(bytes(32), "0:aa") == 10
    assert [event.kind for event in again.events("0:aa")] == ["opened"]
    risk = again.at_risk("0:aa")
    assert (risk.owed_nanoton, risk.promised_nanoton, risk.reserved_nanoton) == (10, 10, 50)
    assert (risk.unpaid_nanoton, risk.unclaimed_nanoton) == (0, 10)
    with again.transaction():
        assert again.release_all() == 1
    assert again.at_risk("0:aa").reserved_nanoton == 0
    again.close()


def test_a_file_of_a_newer_program_is_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(LedgerUnavailable, match="newer program"):
        Store(path)


def test_the_disk_is_waited_for(store):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@given(steps=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1200)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_voucher_never_sinks_nor_exceeds_the_deposit_whatever_is_tried(steps):
    store = Store(":memory:")
    store.add_channel(channel())
    best: tuple[int, int] | None = None
    for seq, amount in steps:
        allowed = amount <= 1000 and (best is None or (seq, amount) == best or (seq > best[0] and amount >= best[1]))
        if allowed:
            store.put_voucher(VoucherRecord("0:aa", seq, amount, SIG))
            best = (seq, amount)
        else:
            with pytest.raises(LedgerConflict):
                store.put_voucher(VoucherRecord("0:aa", seq, amount, SIG))
        kept = store.voucher("0:aa")
        assert (None if kept is None else (kept.seq, kept.amount_nanoton)) == best
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE vouchers SET amount = 1",
        "UPDATE vouchers SET amount = 11",
        "DELETE FROM vouchers",
        "UPDATE vouchers SET seq = 9, amount = 1001",
        "UPDATE channels SET deposit = 10",
        "UPDATE receipts SET amount = 1",
        "DELETE FROM receipts",
        "UPDATE receipts SET client_signature = NULL",
        "INSERT INTO vouchers (channel, seq, amount, signature) VALUES (77, 1, 1, zeroblob(64))",
    ],
)
def test_sql_itself_refuses_to_make_the_books_wrong(store, sql):
    with store.transaction():
        store.put_voucher(VoucherRecord("0:aa", 1, 10, SIG))
        store.append_receipt(receipt(1, 10, 10, GENESIS_HASH))
        store.countersign("0:aa", 1, SIG)
    with pytest.raises(sqlite3.IntegrityError):
        store._db.execute(sql)


def test_receipts_form_a_chain(store):
    one = receipt(1, 10, 10, GENESIS_HASH)
    store.append_receipt(one)
    for wrong in (
        receipt(3, 5, 15, one.hash),
        receipt(2, 5, 16, one.hash),
        receipt(2, 5, 15, GENESIS_HASH),
        receipt(1, 9, 9, GENESIS_HASH),
        receipt(2, 2000, 2010, one.hash),
    ):
        with pytest.raises(LedgerConflict):
            store.append_receipt(wrong)
    store.append_receipt(one)
    assert [row.index for row in store.receipts("0:aa")] == [1], "the same again changes nothing"
    two = receipt(2, 5, 15, one.hash)
    store.append_receipt(two)
    store.countersign("0:aa", 1, SIG)
    with pytest.raises(LedgerConflict):
        store.countersign("0:aa", 7, SIG)
    assert store.truncate_receipts("0:aa", after=1) == 1
    assert store.head("0:aa").index == 1
    with pytest.raises(LedgerConflict, match="never deleted"):
        store.truncate_receipts("0:aa", after=0)


def test_pruning_keeps_the_signed_head(store):
    prev, total = GENESIS_HASH, 0
    for index in range(1, 11):
        total += 1
        one = receipt(index, 1, total, prev)
        store.append_receipt(one)
        prev = one.hash
    store.countersign("0:aa", 6, SIG)
    assert store.prune_receipts("0:aa", keep=1) == 5
    assert [row.index for row in store.receipts("0:aa")] == [6, 7, 8, 9, 10]


def test_a_closed_channel_stays_closed(store):
    store.set_status("0:aa", ChannelStatus.CLOSED, at=9)
    assert store.channel("0:aa").closed_at == 9
    with pytest.raises(LedgerConflict):
        store.set_status("0:aa", ChannelStatus.OPEN, at=10)


_CHILD = """
import os, signal, sys
from hashlib import sha256
from overlay.settlement.ledger import *

path, point, countdown = sys.argv[1], sys.argv[2], int(sys.argv[3])
left = [countdown]

def fault(name):
    if name == point:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

store = Store(path, fault=fault)
if store.channel("0:aa") is None:
    with store.transaction():
        store.add_channel(ChannelRecord("0:aa", Role.PAYER, "peer", -3, b"t", 10**9, ChannelStatus.OPEN, 5))
with store.transaction():
    store.release_all()
voucher, head = store.voucher("0:aa"), store.head("0:aa")
seq, index, prev, total = (voucher.seq if voucher else 0), head.index, head.hash, head.cumulative_nanoton
while True:
    with store.transaction():
        store.reserve(Reservation("0:aa", (index + 1).to_bytes(16, "big"), 7, 0))
    seq, index, total = seq + 1, index + 1, total + 7
    body = str(index).encode()
    with store.transaction():
        store.append_receipt(ReceiptRecord("0:aa", index, index.to_bytes(16, "big"), bytes(32), 7, total,
                                           sha256(body).digest(), prev, body, bytes(64)))
        store.countersign("0:aa", index, bytes(64))
        store.put_voucher(VoucherRecord("0:aa", seq, total, bytes(64)))
    prev = sha256(body).digest()
    os.write(1, f"{seq} {total}\\n".encode())
"""


@pytest.mark.parametrize("point", ["begin", "written", "committed"])
def test_kill_minus_9_at_any_point_loses_nothing_that_was_acknowledged(tmp_path, point):
    path = tmp_path / "ledger.db"
    acknowledged = (0, 0)
    for countdown in (3, 8):
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, str(path), point, str(countdown)],
            capture_output=True,
            timeout=60,
            cwd=Path(__file__).parents[3],
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        for line in child.stdout.decode().splitlines():
            acknowledged = tuple(map(int, line.split()))  # type: ignore[assignment]  # two numbers a line
        store = Store(path)
        voucher, head = store.voucher("0:aa"), store.head("0:aa")
        promised = 0 if voucher is None else voucher.amount_nanoton
        assert promised == head.cumulative_nanoton, "a voucher and the receipts it pays for are written together"
        assert (0 if voucher is None else voucher.seq) >= acknowledged[0]
        assert promised >= acknowledged[1]
        with store.transaction():
            store.release_all()
        assert store.at_risk("0:aa").reserved_nanoton == 0
        store.close()
    assert acknowledged[0] > 0
    assert os.path.exists(path)


@pytest.mark.parametrize("tail", ["missing", "zeros", "noise"])
def test_a_torn_write_leaves_the_books_as_they_were_before_it(tmp_path, tail):
    """A power cut may leave any part of what the disk was writing, and anything in place of the rest."""
    path, rng = tmp_path / "ledger.db", random.Random(1)
    store = Store(path)
    with store.transaction():
        store.add_channel(channel())
    synced = [(os.path.getsize(f"{path}-wal"), 0)]
    for seq in range(1, 6):
        with store.transaction():
            store.put_voucher(VoucherRecord("0:aa", seq, 10 * seq, SIG))
            store.reserve(Reservation("0:aa", seq.to_bytes(16, "big"), 10 * seq, 0))
        synced.append((os.path.getsize(f"{path}-wal"), seq))
    base, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    store.close()
    lengths = {size + step for size, _ in synced for step in (-1, 0, 1, 100)} | set(range(synced[0][0], len(log), 1500))
    for length in sorted(lengths):
        if not synced[0][0] <= length <= len(log):
            continue
        rest = len(log) - length
        after = {"missing": b"", "zeros": bytes(rest), "noise": rng.randbytes(rest)}[tail]
        path.write_bytes(base)
        Path(f"{path}-wal").write_bytes(log[:length] + after)
        again = Store(path)
        expected = max(seq for size, seq in synced if size <= length)
        voucher = again.voucher("0:aa")
        assert (0 if voucher is None else voucher.seq) == expected, length
        assert len(again.reservations("0:aa")) == expected, "the whole transaction or nothing of it"
        again.close()
