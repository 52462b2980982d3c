"""The devnet against its marks: from a message sent to the new state read and proved; what a crowd of accounts costs.

The real client (:class:`TonClient`, ``WalletAccount.transfer``) sends a payment to the real devnet over a socket:
wallet state read and proved, message signed and sent, run by the TVM, sealed into a block, written down, the new state
read and proved and the wallet's transaction found. The devnet is a process of its own, as ``cocoon devnet run`` is; it
shares the cores with the client. ``sqlite`` rows have the chain on disk. Beside them, in the same run: what sealing a
block costs beside so many accounts, in this process.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from overlay.settlement import Transfer, Wallet
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.devnet import Devnet, ask_faucet
from simulations.bench.report import Row, percentile, row
from simulations.bench.stage import BenchFailed

_TON = 10**9
_CROWD = 10_000
_REACH_MS = 100.0
_REACH_CROWD_MS = 150.0
_START_S = 120.0


async def devnet_rows(quick: bool = False) -> dict[str, Row]:
    """The rows by their ids; ``quick`` takes fewer samples."""
    samples = 15 if quick else 60
    found = {}
    for accounts, reach in ((0, _REACH_MS), (_CROWD, _REACH_CROWD_MS)):
        for kept in (False, True):
            taken = await _payments(accounts, samples, kept)
            name = f"devnet-{accounts}-accounts" + ("-sqlite" if kept else "")
            found[name] = row(
                name, f"message sent to new state proved, {accounts} accounts" + (", chain on disk" if kept else ""),
                taken, "ms", at_most=reach, p95=round(percentile(taken, 95), 2),
            )  # fmt: skip
    seals = {accounts: await _seals(accounts, samples) for accounts in (100, 1000, _CROWD)}
    for accounts, taken in seals.items():
        name = f"devnet-seal-{accounts}"
        found[name] = row(name, f"seal a block of one new account beside {accounts}", taken, "ms")
    return found


def crowd(count: int) -> dict[str, int]:
    """``count`` accounts with a little money, spread over all addresses."""
    return {f"0:{hashlib.sha256(index.to_bytes(4, 'big')).hexdigest()}": _TON for index in range(count)}


async def _payments(accounts: int, samples: int, kept: bool) -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        async with _devnet_process(accounts, Path(directory), kept) as config, TonClient.connect(config) as client:
            account = WalletAccount(client, Wallet(b"b" * 32, client.network_id))
            await ask_faucet(config, account.address, 1000 * _TON)
            payment = Transfer(f"0:{'11' * 32}", _TON, bounce=False)
            for _ in range(3):
                await account.transfer([payment])
            return [await _timed(account, payment) for _ in range(samples)]


@asynccontextmanager
async def _devnet_process(accounts: int, directory: Path, kept: bool) -> AsyncIterator[dict[str, Any]]:
    """A devnet with a crowd of accounts, in a process that ends with the block. Yields its global config."""
    path = directory / "global.config.json"
    command = [sys.executable, "-m", __name__, str(accounts), str(path), *(["kept"] if kept else [])]
    child = await trio.lowlevel.open_process(command)
    try:
        with trio.fail_after(_START_S):
            while not path.exists():
                if child.poll() is not None:
                    raise BenchFailed("the devnet's process ended before it was ready")
                await trio.sleep(0.05)
        yield json.loads(path.read_text())
    finally:
        child.terminate()
        with trio.CancelScope(shield=True):
            await child.wait()


async def _serve(accounts: int, path: Path, kept: bool) -> None:
    """The child's part."""
    async with Devnet.serve(data_dir=path.parent if kept else None) as devnet:
        if accounts:
            await devnet.create_accounts(crowd(accounts))
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(devnet.global_config()))
        temporary.replace(path)
        await trio.sleep_forever()


async def _timed(account: WalletAccount, payment: Transfer) -> float:
    started = time.perf_counter()
    await account.transfer([payment])
    return (time.perf_counter() - started) * 1000


async def _seals(accounts: int, samples: int) -> list[float]:
    async with Devnet.serve(heartbeat_s=None) as devnet:
        await devnet.create_accounts(crowd(accounts))
        taken = []
        for index in range(samples):
            started = time.perf_counter()
            await devnet.create_accounts({f"0:{hashlib.sha256(b'new' + bytes((index,))).hexdigest()}": _TON})
            taken.append((time.perf_counter() - started) * 1000)
        return taken


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), Path(sys.argv[2]), "kept" in sys.argv[3:])
