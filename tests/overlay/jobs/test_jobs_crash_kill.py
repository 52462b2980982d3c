"""The same crashes with real processes, real tunnels and a real SIGKILL: at every write and every send of either side.

`crash_party.py` has the two parties. For n = 0, 1, 2 … one of them kills itself at its n-th point, is started again on
the ledger file that it left, and the client goes on until its jobs are done and settled; until a run ends without
reaching the n-th point.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overlay.jobs.limits import WRITTEN_OFF_PAID_DIVISOR
from overlay.settlement.ledger import Role, Store
from transport.identity import Identity

CLIENT, PROVIDER = Identity(b"c" * 32), Identity(b"p" * 32)
WINDOW = 60
DEADLINE_S = 60.0


class Nursery:
    """Starts parties and hears of their ends."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("crash_party.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def start(self, role: str, folder: Path, port: int, kill_at: int | None) -> int:
        spec = {
            "role": role, "ledger": str(folder / f"{role}.db"), "log": str(folder / f"{role}.log"), "port": port,
            "kill_at": kill_at,
        }  # fmt: skip
        return int(self._ask(json.dumps(spec)))

    def ended(self) -> dict[int, int]:
        return dict(json.loads(self._ask("")))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture
def nursery():
    made = Nursery()
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(nursery: Nursery, folder: Path, victim: str, kill_at: int) -> bool:
    """One run to its end; whether ``victim`` was killed on the way."""
    port = free_port()
    pids = {
        role: nursery.start(role, folder, port, kill_at if role == victim else None) for role in ("provider", "client")
    }
    killed = client_done = False
    deadline = time.monotonic() + DEADLINE_S
    while pids:
        assert time.monotonic() < deadline, f"{sorted(pids)} did not end"
        for pid, status in nursery.ended().items():
            role = next(role for role, known in pids.items() if known == pid)
            del pids[role]
            if status == -signal.SIGKILL and role == victim and not killed:
                killed = True
                if role == "client" or not client_done:
                    pids[role] = nursery.start(role, folder, port, None)
                continue
            # Our own word to a provider that was started again too late to listen for it.
            told_early = role == "provider" and client_done and status == -signal.SIGTERM
            assert status == 0 or told_early, f"the {role} ended with {status}"
            client_done = client_done or role == "client"
            if role == "client" and "provider" in pids:
                os.kill(pids["provider"], signal.SIGTERM)
        time.sleep(0.005)
    return killed


def words(folder: Path, side: str, kind: str) -> list[list[int]]:
    lines = (folder / f"{side}.log").read_text().splitlines()
    return [[int(word) for word in line.split()[1:]] for line in lines if line.startswith(kind + " ")]


def check(kit, folder: Path) -> None:
    ends = []
    for side in ("client", "provider"):
        store = Store(folder / f"{side}.db")
        with store.transaction():
            store.release_all()  # as a start does: a provider that dies after its client has left is not started here
        head, voucher = store.head(kit.CHANNEL), store.voucher(kit.CHANNEL)
        ends.append((head, voucher))
        store.close()
    (head, voucher), theirs = ends
    assert (head, voucher) == theirs
    amount = voucher.amount_nanoton
    assert head.cumulative_nanoton == amount
    assert kit.verify_voucher(voucher.seq, amount, voucher.signature)
    came = sum(sum(row) for row in words(folder, "client", "came"))
    sent = sum(sum(row) for row in words(folder, "provider", "sent"))
    assert amount <= came, "the client paid for what never came"
    assert sent - amount <= WINDOW + amount // WRITTEN_OFF_PAID_DIVISOR, "the provider lost more than a window"
    vouchers: dict[int, int] = {}
    for side in ("client", "provider"):
        for seq, promised in words(folder, side, "voucher"):
            assert vouchers.setdefault(seq, promised) == promised, "one number, two sums"
    assert max(vouchers) == voucher.seq
    assert max(seq for (seq,) in words(folder, "provider", "ack")) <= voucher.seq


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["client", "provider"])
def test_sigkill_at_every_write_and_every_send_loses_nothing_that_was_paid(tmp_path, kit, nursery, victim):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name, role, peer in (("client", Role.PAYER, PROVIDER), ("provider", Role.PAYEE, CLIENT)):
        store = Store(fresh / f"{name}.db")
        with store.transaction():
            store.add_channel(kit.channel_record(role, peer.peer_id))
        store.close()
    deaths = 0
    for kill_at in range(1000):
        folder = tmp_path / str(kill_at)
        shutil.copytree(fresh, folder)
        killed = run(nursery, folder, victim, kill_at)
        check(kit, folder)
        shutil.rmtree(folder)
        deaths += killed
        if not killed and kill_at > 20:
            break
    print(f"{victim}: {deaths} deaths")
    assert deaths >= 20
