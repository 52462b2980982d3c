"""The devnet as a running thing: TVM process, ledger, chain, liteserver and faucet behind two loopback listeners."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from pytoniq_core.crypto.ciphers import Client

from overlay.settlement.cells import check_address, check_int
from overlay.settlement.devnet.adnl import ProtocolError, Query, ServerConnection
from overlay.settlement.devnet.blocks import Chain
from overlay.settlement.devnet.config import devnet_config, global_config
from overlay.settlement.devnet.faucet import serve_faucet
from overlay.settlement.devnet.ledger import Ledger, Totals
from overlay.settlement.devnet.limits import (
    GENESIS_SUPPLY_NANOTON,
    HANDSHAKE_TIMEOUT_S,
    HEARTBEAT_S,
    IDLE_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_FUND_NANOTON,
    MAX_QUERIES_IN_FLIGHT,
    NETWORK_ID,
)
from overlay.settlement.devnet.liteserver import LiteServer
from overlay.settlement.devnet.tvm import MessageRejected, Tvm, open_tvm
from overlay.settlement.errors import DevnetError
from overlay.settlement.wallet import Transfer, Wallet

_GIVER_SEED = b"the giver of the cocoon devnet.."
"""Well known on purpose: the devnet's money is worth nothing, and its ledger must be the same in every run."""


class Devnet:
    """A TON network of one process, with real transactions and proofs. Make one with :meth:`serve`.

    ``network_id`` is its ``global_id``; ``port`` and ``faucet_port`` are where it listens.
    """

    def __init__(self, tvm: Tvm, config: Any, clock: Callable[[], float], server_seed: bytes) -> None:
        self.network_id = NETWORK_ID
        self.port = 0
        self.faucet_port = 0
        self._host = "127.0.0.1"
        self._giver = Wallet(_GIVER_SEED, NETWORK_ID)
        self._giver_seqno = 0
        self._ledger = Ledger(tvm, clock, giver=self._giver.address, supply_nanoton=GENESIS_SUPPLY_NANOTON)
        self._chain = Chain(self._ledger, config, NETWORK_ID)
        self._lock = trio.Lock()
        self._server = LiteServer(self._ledger, self._chain, tvm, self.submit)
        self._key = Client(server_seed)
        self._connections = trio.CapacityLimiter(MAX_CONNECTIONS)

    @property
    def ledger(self) -> Ledger:
        """The accounts and their transactions, to look at."""
        return self._ledger

    @property
    def giver(self) -> str:
        """The account that holds the supply at first."""
        return self._giver.address

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        faucet_port: int = 0,
        clock: Callable[[], float] = time.time,
        heartbeat_s: float = HEARTBEAT_S,
        random_bytes: Callable[[int], bytes] = os.urandom,
        data_dir: Path | None = None,
    ) -> AsyncIterator[Devnet]:
        """Start a devnet with a fresh ledger and stop it when the block is left.

        ``clock`` gives the chain's Unix time, so that a test can let months pass. Port 0 picks a free one.
        ``data_dir`` is reserved: the ledger lives in memory, and naming a directory is refused rather than ignored.
        Raises :class:`DevnetError` when Node or its packages are missing, ``OSError`` when a port is taken.
        """
        if data_dir is not None:
            raise DevnetError("the devnet keeps its ledger in memory only; start it without a data directory")
        async with open_tvm() as tvm:
            config = devnet_config(tvm.default_config, NETWORK_ID)
            await tvm.set_config(config)
            devnet = cls(tvm, config, clock, random_bytes(32))
            devnet._host = host
            # The ports are taken before the nursery opens, so that a busy one is a plain OSError.
            lite, devnet.port = await _listen(host, port)
            faucet, devnet.faucet_port = await _listen(host, faucet_port, also_close=lite)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, partial(devnet._connection, random_bytes), lite)
                give = partial(devnet._bounded, partial(serve_faucet, devnet=devnet))
                nursery.start_soon(trio.serve_listeners, give, faucet)
                nursery.start_soon(devnet._heartbeat, heartbeat_s)
                yield devnet
                nursery.cancel_scope.cancel()

    def global_config(self) -> dict[str, Any]:
        """The configuration for clients, shaped as TON's ``global.config.json`` (see :mod:`config`)."""
        return global_config(
            host=self._host, port=self.port, public_key=self._key.ed25519_public.encode(),
            first_block=self._chain.first.master, network_id=self.network_id, faucet_port=self.faucet_port,
        )  # fmt: skip

    def totals(self) -> Totals:
        """Where every nanoTON is. Exact between operations."""
        return self._ledger.totals()

    async def submit(self, boc: bytes) -> None:
        """Run an external message and everything that follows from it, sealing blocks.

        Raises :class:`MessageRejected` when it is not accepted. Once accepted, it is finished even when cancelled.
        """
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._ledger.accept_external(boc)
                await self._settle()

    async def fund(self, address: str, amount_nanoton: int) -> str:
        """Send money from the giver to a raw address; returns the giver's transaction hash in hexadecimal."""
        check_address(address)
        check_int("amount_nanoton", amount_nanoton, 1, MAX_FUND_NANOTON)
        with trio.CancelScope(shield=True):
            async with self._lock:
                self._ledger.tick()
                transfer = Transfer(address, amount_nanoton, bounce=False)
                message = self._giver.sign_transfers(
                    [transfer],
                    seqno=self._giver_seqno,
                    valid_until_s=self._ledger.now + 60,
                    deploy=self._giver_seqno == 0,
                )
                try:
                    transaction = await self._ledger.accept_external(message.to_boc())
                except MessageRejected as error:
                    raise DevnetError(f"the giver cannot pay: {error}") from error
                self._giver_seqno += 1
                await self._settle()
        return transaction.hash.hex()

    async def seal(self) -> None:
        """Seal a block now: shows the clock's time to clients."""
        async with self._lock:
            self._ledger.tick()
            self._seal()

    async def _settle(self) -> None:
        while True:
            await self._ledger.deliver()
            self._seal()
            if not self._ledger.busy:
                return

    def _seal(self) -> None:
        self._chain.seal()
        self._server.block_sealed()

    async def _heartbeat(self, every_s: float) -> None:
        while True:
            await trio.sleep(every_s)
            await self.seal()

    async def _bounded(self, handler: Callable[[trio.SocketStream], Any], stream: trio.SocketStream) -> None:
        try:
            self._connections.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            await handler(stream)
        finally:
            self._connections.release_on_behalf_of(stream)

    async def _connection(self, random_bytes: Callable[[int], bytes], stream: trio.SocketStream) -> None:
        await self._bounded(partial(_serve_client, self._key, self._server, random_bytes), stream)


async def _listen(
    host: str, port: int, *, also_close: list[trio.SocketListener] | None = None
) -> tuple[list[trio.SocketListener], int]:
    """Open a port; returns its listeners and its number. ``also_close`` is closed when that fails."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        for listener in also_close or []:
            await listener.aclose()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from error
    return listeners, listeners[0].socket.getsockname()[1]


async def _serve_client(
    key: Client, server: LiteServer, random_bytes: Callable[[int], bytes], stream: trio.SocketStream
) -> None:
    """One liteserver client: decode, answer each query in a task of its own, drop it on any protocol error."""
    connection = ServerConnection(key, random_bytes)
    sending = trio.Lock()
    slots = trio.Semaphore(MAX_QUERIES_IN_FLIGHT)

    async def flush() -> None:
        async with sending:
            if output := connection.take_output():
                await stream.send_all(output)

    async def reply(query: Query) -> None:
        try:
            connection.answer(query.query_id, await server.answer(query.request))
            await flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()
        finally:
            slots.release()

    async with stream:
        try:
            async with trio.open_nursery() as nursery:
                deadline = trio.current_time() + HANDSHAKE_TIMEOUT_S
                while True:
                    if connection.ready:
                        deadline = trio.current_time() + IDLE_TIMEOUT_S
                    with trio.fail_at(deadline):
                        data = await stream.receive_some(65536)
                    queries = connection.receive(data) if data else []
                    await flush()
                    for query in queries:
                        await slots.acquire()
                        nursery.start_soon(reply, query)
                    if not data:
                        break
                nursery.cancel_scope.cancel()
        except* (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass


@dataclass(frozen=True)
class DevnetConfig:
    """How ``cocoon devnet run`` starts. ``config_path`` is where the global config is written, when given."""

    host: str = "127.0.0.1"
    port: int = 0
    faucet_port: int = 0
    config_path: Path | None = None


async def run_devnet(
    config: DevnetConfig, *, task_status: trio.TaskStatus[dict[str, Any]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a devnet until cancelled. Starts with the global config, which is also written to ``config.config_path``."""
    async with Devnet.serve(config.host, config.port, faucet_port=config.faucet_port) as devnet:
        document = devnet.global_config()
        if config.config_path is not None:
            temporary = config.config_path.with_suffix(".tmp")
            await trio.Path(temporary).write_text(json.dumps(document, indent=2) + "\n")
            await trio.Path(temporary).replace(config.config_path)
        task_status.started(document)
        await trio.sleep_forever()
