"""The real TVM, called directly: one account, one message, one transaction at a time, without blocks or a trio loop.

The model is held to this: tests run the same messages through both, and :mod:`overlay.settlement.model.calibrate`
takes the gas of each of the contract's paths from it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from pytoniq_core import Cell, CurrencyCollection, InternalMsgInfo, MessageAny

from overlay.settlement.cells import address_of
from overlay.settlement.devnet import tvm as devnet_tvm
from overlay.settlement.errors import DevnetError
from overlay.settlement.transactions import AccountTransaction, parse_transaction

_LT_STEP = 100


def internal_message(
    source: str, destination: str, value_nanoton: int, body: Any, *, init: Any = None, bounce: bool = True,
    bounced: bool = False, lt: int = 0, now: int = 0,
) -> Any:  # fmt: skip
    """The cell of an internal message as it arrives."""
    info = InternalMsgInfo(
        ihr_disabled=True, bounce=bounce, bounced=bounced, src=address_of(source), dest=address_of(destination),
        value=CurrencyCollection(value_nanoton), ihr_fee=0, fwd_fee=0, created_lt=lt, created_at=now,
    )  # fmt: skip
    return MessageAny(info=info, init=init, body=body).serialize()


@dataclass(frozen=True)
class ReplicaAccount:
    """One account as the TVM left it. ``data`` is its data cell, ``None`` unless it is active."""

    exists: bool = False
    balance_nanoton: int = 0
    due_nanoton: int = 0
    data: Any = None


class Replica:
    """Accounts in the real TVM, one process, no concurrency. Make one with :func:`open_replica`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._accounts: dict[str, ReplicaAccount] = {}
        self._data: tuple[str | None, Any] = (None, None)
        self._lt = 1_000_000
        self.config = Cell.one_from_boc(base64.b64decode(self._read()["config"]))
        """The blockchain configuration of ``@ton/sandbox``: mainnet's prices, ``global_id`` -239."""

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DevnetError("the TVM process has ended: run `make setup` again")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _call(self, operation: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": operation, **fields}).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _note(self, address: str, summary: dict[str, Any]) -> None:
        if summary["data"] != self._data[0]:  # parsing cells is what takes time here
            encoded = summary["data"]
            self._data = (encoded, None if encoded is None else Cell.one_from_boc(base64.b64decode(encoded)))
        self._accounts[address] = ReplicaAccount(
            summary["exists"], int(summary["balance"]), int(summary["due"]), self._data[1]
        )

    def account(self, address: str) -> ReplicaAccount:
        """The account as it stands."""
        return self._accounts.get(address, ReplicaAccount())

    def forget(self) -> None:
        """Start over with no accounts."""
        self._call("forget")
        self._accounts.clear()

    def keep(self, address: str) -> None:
        """Remember the account as it stands, for :meth:`restore`."""
        self._call("keep", address=address)

    def restore(self, address: str) -> None:
        """Put the account back as it was at :meth:`keep`."""
        self._note(address, self._call("restore", address=address)["account"])

    def run(self, address: str, message: Any, now: int) -> AccountTransaction | None:
        """Run a message (cell) as one transaction of ``address``; ``None`` when an external one is not accepted."""
        self._lt += _LT_STEP
        encoded = base64.b64encode(message.to_boc()).decode()
        answer = self._call("run", address=address, message=encoded, now=now, lt=str(self._lt))
        if not answer["success"]:
            return None
        self._note(address, answer["account"])
        return parse_transaction(Cell.one_from_boc(base64.b64decode(answer["transaction"])))


@contextmanager
def open_replica() -> Iterator[Replica]:
    """Start the emulator (0.6 s) and end it when the block is left. Raises :class:`DevnetError` without Node."""
    program = trio.run(devnet_tvm.node_program)
    script = Path(__file__).with_name("replica.js")
    process = subprocess.Popen(
        [program, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(devnet_tvm.node_modules())},
    )  # fmt: skip
    try:
        yield Replica(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()
