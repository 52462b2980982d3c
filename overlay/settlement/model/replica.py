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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from pytoniq_core import Cell, CurrencyCollection, InternalMsgInfo, MessageAny, ShardAccount, begin_cell

from overlay.settlement.cells import address_of
from overlay.settlement.devnet import tvm as devnet_tvm
from overlay.settlement.errors import DevnetError
from overlay.settlement.transactions import AccountTransaction, parse_transaction

_NOBODY = begin_cell().store_ref(begin_cell().store_bit(0).end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()
_LT_STEP = 100


def _base64(cell: Any) -> str:
    return base64.b64encode(cell.to_boc()).decode()


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


@dataclass
class ReplicaAccount:
    """One account: its ``ShardAccount`` as the TVM gave it back, read when asked."""

    encoded: str
    _parsed: Any = field(default=None, repr=False)

    def _account(self) -> Any:
        if self._parsed is None:
            cell = Cell.one_from_boc(base64.b64decode(self.encoded))
            self._parsed = (ShardAccount.deserialize(cell.begin_parse()).account,)
        return self._parsed[0]

    @property
    def balance_nanoton(self) -> int:
        """What the account holds."""
        account = self._account()
        return 0 if account is None else int(account.storage.balance.grams or 0)

    @property
    def data(self) -> Any:
        """The data cell, ``None`` unless the account is active."""
        account = self._account()
        if account is None or account.storage.state.type_ != "account_active":
            return None
        return account.storage.state.state_init.data

    @property
    def exists(self) -> bool:
        """Whether there is an account at all."""
        return self._account() is not None

    @property
    def due_nanoton(self) -> int:
        """Rent that the account could not pay."""
        account = self._account()
        return 0 if account is None else int(account.storage_stat.due_payment or 0)


class Replica:
    """Accounts in the real TVM, one process, no concurrency. Make one with :func:`open_replica`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._number = 0
        self._accounts: dict[str, ReplicaAccount] = {}
        self.lt = 1_000_000
        self.transactions = 0
        """How many ran."""
        hello = self._read()
        self.config = Cell.one_from_boc(base64.b64decode(hello["config"]))
        """The blockchain configuration of ``@ton/sandbox``: mainnet's prices, ``global_id`` -239."""
        self._call("config", config=_base64(self.config))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DevnetError("the TVM process has ended: run `make setup` again")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _call(self, operation: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._number += 1
        self._process.stdin.write(json.dumps({"id": self._number, "op": operation, **fields}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._read()
        assert answer["id"] == self._number
        return answer

    def account(self, address: str) -> ReplicaAccount:
        """The account as it stands."""
        found = self._accounts.get(address)
        return ReplicaAccount(_base64(_NOBODY)) if found is None else found

    def forget(self) -> None:
        """Start over with no accounts."""
        self._accounts.clear()

    def run(self, address: str, message: Any, now: int) -> AccountTransaction | None:
        """Run a message (cell) as one transaction of ``address``; ``None`` when an external one is not accepted."""
        self.lt += _LT_STEP
        answer = self._call(
            "transaction", shardAccount=self.account(address).encoded, message=_base64(message), now=now,
            lt=str(self.lt), seed=bytes(32).hex(),
        )  # fmt: skip
        if not answer.get("success"):
            return None
        self.transactions += 1
        self._accounts[address] = ReplicaAccount(str(answer["shardAccount"]))
        return parse_transaction(Cell.one_from_boc(base64.b64decode(answer["transaction"])))


@contextmanager
def open_replica() -> Iterator[Replica]:
    """Start the emulator (0.6 s) and end it when the block is left. Raises :class:`DevnetError` without Node."""
    program = trio.run(devnet_tvm.node_program)
    script = Path(devnet_tvm.__file__).with_name("tvm.js")
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
