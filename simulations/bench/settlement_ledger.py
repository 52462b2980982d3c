"""What the books cost: vouchers a second, with group commit and one at a time, beside bare fsyncs of the same disk.

A voucher's way is the same in both: the payer signs it and stores it, the payee verifies it and stores it; each stores
with ``synchronous=FULL`` in a ledger file of its own, and nobody goes on before his disk has it.

- group: 256 channels at once through two :class:`~overlay.settlement.ledger.GroupCommit`, in one process that is bound
  to one core, threads included. The rate is by the clock; beside it, what a second of CPU time does.
- alone: one channel, one voucher after the other, each of its two commits with an fsync of its own. In turns with it,
  in the same file system: a record of one page appended to a file, ``fdatasync`` after each, which is the peer of the
  mark. The same in place, in a file that has its size already, is shown beside it: a file system then has no metadata
  to write and is up to twice as quick. SQLite's log grows up to its first checkpoint and is overwritten in place from
  then on; the measure begins after that.

`python -m simulations.bench.settlement_ledger group|alone [--quick]` runs one part and prints JSON; a process of its
own for each, since a process that is bound to a core stays so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import trio

from overlay.settlement import Voucher, channel_public_key
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, GroupCommit, Role, Store, VoucherRecord, open_ledger
from simulations.bench.report import Row, row
from simulations.bench.settlement_risk import risk_rows

CHANNELS = 256
"""That pay at once. A node with many clients has groups of about this size."""

PAGE_BYTES = 4096
IN_PLACE_PAGES = 1024
WARM_UP_COMMITS = 1200
"""More than the 1000 pages after which SQLite checkpoints its log and begins to overwrite it."""

GROUP_REACH = 8_000
ALONE_REACH = 0.4
_SEED = bytes(range(32))
_NETWORK = -667


async def ledger_rows(quick: bool) -> dict[str, Row]:
    """The rows of this module and those of :mod:`~simulations.bench.settlement_risk`, by name."""
    group = await _measure("group", quick)
    alone = await _measure("alone", quick)
    ratios = [ours / peer for ours, peer in zip(alone["vouchers"], alone["appended"], strict=True)]
    in_place = [ours / peer for ours, peer in zip(alone["vouchers"], alone["in_place"], strict=True)]
    return {
        "voucher_group": row(
            "voucher_group", "voucher signed, stored, verified, stored: group commit, one core",
            group["rates"], "vouchers/s", at_least=GROUP_REACH, per_cpu_second=_median(group["by_cpu"]),
            channels=CHANNELS, commits_per_voucher=round(group["commits_per_voucher"], 4),
            file_system=group["file_system"],
        ),
        "voucher_alone": row(
            "voucher_alone", "the same, one at a time, to bare fsyncs of appended pages",
            ratios, "ratio", at_least=ALONE_REACH, vouchers_per_s=_median(alone["vouchers"]),
            fsyncs_per_s=_median(alone["appended"]), fsyncs_in_place_per_s=_median(alone["in_place"]),
            ratio_in_place=round(statistics.median(in_place), 3), file_system=alone["file_system"],
        ),
        **await risk_rows(quick),
    }  # fmt: skip


def _median(samples: list[float]) -> int:
    return round(statistics.median(samples))


async def _measure(part: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "simulations.bench.settlement_ledger", part, *(["--quick"] if quick else [])]
    done = await trio.run_process(command, capture_stdout=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _names(count: int) -> list[str]:
    return [f"0:{number:064x}" for number in range(1, count + 1)]


def _prepare(path: Path, role: Role, names: list[str]) -> None:
    store = Store(path)
    with store.transaction():
        for name in names:
            store.add_channel(ChannelRecord(name, role, "peer", _NETWORK, b"", 1 << 60, ChannelStatus.OPEN, 0))
    store.close()


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` is on: on a ``tmpfs`` an fsync says nothing."""
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else ""


# ---- group commit ----


async def _group(folder: Path, rounds: int, each: int) -> dict[str, Any]:
    names = _names(CHANNELS)
    _prepare(folder / "payer", Role.PAYER, names)
    _prepare(folder / "payee", Role.PAYEE, names)
    rates, by_cpu = [], []
    async with open_ledger(folder / "payer") as payer, open_ledger(folder / "payee") as payee:
        for number in range(rounds + 1):
            before, commits = time.perf_counter(), payer.commits + payee.commits
            cpu = time.process_time()
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(_pay, payer, payee, name, number * each, each)
            if number:  # the first warms up
                rates.append(CHANNELS * each / (time.perf_counter() - before))
                by_cpu.append(CHANNELS * each / (time.process_time() - cpu))
                made = payer.commits + payee.commits - commits
    return {"rates": rates, "by_cpu": by_cpu, "commits_per_voucher": made / (CHANNELS * each)}


async def _pay(payer: GroupCommit, payee: GroupCommit, name: str, seq: int, count: int) -> None:
    public = channel_public_key(_SEED)
    for number in range(seq + 1, seq + count + 1):
        signature = Voucher(name, _NETWORK, number, 10 * number).sign(_SEED)
        record = VoucherRecord(name, number, 10 * number, signature)
        await payer.run(lambda store, record=record: store.put_voucher(record))  # type: ignore[misc]  # binds now
        if not Voucher(name, _NETWORK, number, 10 * number).verify(public, record.signature):
            raise AssertionError("our own signature does not verify")
        await payee.run(lambda store, record=record: store.put_voucher(record))  # type: ignore[misc]  # binds now


# ---- one at a time ----


def _alone(folder: Path, rounds: int, each: int) -> dict[str, Any]:
    (name,) = _names(1)
    _prepare(folder / "payer", Role.PAYER, [name])
    _prepare(folder / "payee", Role.PAYEE, [name])
    payer, payee, public = Store(folder / "payer"), Store(folder / "payee"), channel_public_key(_SEED)
    seq = 0

    def voucher() -> None:
        nonlocal seq
        seq += 1
        signature = Voucher(name, _NETWORK, seq, 10 * seq).sign(_SEED)
        record = VoucherRecord(name, seq, 10 * seq, signature)
        with payer.transaction():
            payer.put_voucher(record)
        if not Voucher(name, _NETWORK, seq, 10 * seq).verify(public, record.signature):
            raise AssertionError("our own signature does not verify")
        with payee.transaction():
            payee.put_voucher(record)

    page = os.urandom(PAGE_BYTES)
    appended, in_place = _create(folder / "appended"), _create(folder / "in_place")
    os.write(in_place, page * IN_PLACE_PAGES)
    os.fsync(in_place)
    at = 0

    def append() -> None:
        os.write(appended, page)
        os.fdatasync(appended)

    def overwrite() -> None:
        nonlocal at
        at = (at + 1) % IN_PLACE_PAGES
        os.pwrite(in_place, page, at * PAGE_BYTES)
        os.fdatasync(in_place)

    for _ in range(WARM_UP_COMMITS):
        voucher()
    found: dict[str, Any] = {"vouchers": [], "appended": [], "in_place": []}
    for _ in range(rounds):
        found["appended"].append(_rate(append, each))
        found["vouchers"].append(_rate(voucher, each))
        found["in_place"].append(_rate(overwrite, each))
    for descriptor in (appended, in_place):
        os.close(descriptor)
    payer.close()
    payee.close()
    return found


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _rate(work: Callable[[], None], count: int) -> float:
    before = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - before)


def main() -> None:
    """Run one part and print its samples as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["group", "alone"])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    # Before any thread is made: threads inherit the core of whoever makes them.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as name:
        folder = Path(name)
        if arguments.part == "group":
            found = trio.run(_group, folder, 3 if arguments.quick else 9, 10 if arguments.quick else 40)
        else:
            found = _alone(folder, 9 if arguments.quick else 31, 50 if arguments.quick else 100)
        print(json.dumps({**found, "file_system": _file_system(folder)}))


if __name__ == "__main__":
    main()
