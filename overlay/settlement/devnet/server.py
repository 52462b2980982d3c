"""The devnet as a running thing: TVM process, ledger, chain, liteservers and faucet behind loopback listeners."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from pytoniq_core import Account
from pytoniq_core.crypto.ciphers import Client

from overlay.settlement.cells import check_address, check_int
from overlay.settlement.devnet.chain import Chain
from overlay.settlement.devnet.config import devnet_config, global_config, with_validators
from overlay.settlement.devnet.faucet import serve_faucet
from overlay.settlement.devnet.gate import Gate
from overlay.settlement.devnet.ledger import Ledger, Totals
from overlay.settlement.devnet.limits import (
    GENESIS_SUPPLY_NANOTON,
    HEARTBEAT_S,
    MAX_FUND_NANOTON,
    MAX_LITESERVERS,
    MAX_POOL,
    MAX_TRANSACTIONS_PER_BLOCK,
    NETWORK_ID,
)
from overlay.settlement.devnet.listeners import listen, serve_client
from overlay.settlement.devnet.liteserver import LiteServer
from overlay.settlement.devnet.queries import Queries
from overlay.settlement.devnet.store import Store
from overlay.settlement.devnet.trouble import NetworkTrouble
from overlay.settlement.devnet.tvm import MessageRejected, Tvm, config_cell, open_tvm
from overlay.settlement.errors import DevnetError
from overlay.settlement.wallet import Transfer, Wallet, wallet_seqno

_GIVER_SEED = b"the giver of the cocoon devnet.."
"""Well known on purpose: the devnet's money is worth nothing, and its ledger must be the same in every run."""

_PORTS = "ports"


class Devnet:
    """A TON network of one process, with real transactions and proofs. Make one with :meth:`serve`.

    ``network_id`` is its ``global_id``; ``port`` (the first liteserver's) and ``faucet_port`` are where it listens.
    ``trouble`` may be replaced at any time, as may that of each of ``liteservers``.
    """

    def __init__(self, tvm: Tvm, store: Store, clock: Callable[[], float], meta: dict[str, bytes]) -> None:
        self.network_id = NETWORK_ID
        self.faucet_port = 0
        self._trouble = NetworkTrouble()
        self._trouble_changed = trio.Event()
        self.liteservers: list[LiteServer] = []
        self._host = "127.0.0.1"
        self._tvm = tvm
        self._giver = Wallet(_GIVER_SEED, NETWORK_ID)
        self._ledger = Ledger(tvm, store, clock)
        base = config_cell(meta["config"])
        self._chain = Chain(
            self._ledger, store, network_id=NETWORK_ID, validator_seed=meta["validator_seed"],
            config_of=partial(with_validators, base),
        )  # fmt: skip
        self._queries = Queries(self._ledger, self._chain, store, tvm, self.submit)
        self._lock = trio.Lock()
        self._pool: deque[bytes] = deque()
        self._work = trio.Event()
        self._failure: DevnetError | None = None
        if store.progress() is None:
            self._ledger.mint(self._giver.address, GENESIS_SUPPLY_NANOTON)
            self._chain.begin()
        else:
            self._chain.resume(self._ledger.restore())
        if self._ledger.busy:
            self._work.set()

    @property
    def ledger(self) -> Ledger:
        """The accounts and their transactions, to look at."""
        return self._ledger

    @property
    def chain(self) -> Chain:
        """The blocks, to look at."""
        return self._chain

    @property
    def port(self) -> int:
        """Where the first liteserver listens."""
        return self.liteservers[0].port

    @property
    def trouble(self) -> NetworkTrouble:
        """What is wrong with the network. Setting it counts from now on, for what waits already too."""
        return self._trouble

    @trouble.setter
    def trouble(self, trouble: NetworkTrouble) -> None:
        self._trouble = trouble
        self._trouble_changed.set()
        self._trouble_changed = trio.Event()

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
        heartbeat_s: float | None = HEARTBEAT_S,
        random_bytes: Callable[[int], bytes] = os.urandom,
        data_dir: Path | None = None,
        liteservers: int = 1,
    ) -> AsyncIterator[Devnet]:
        """Start a devnet and stop it when the block is left.

        ``clock`` gives the chain's Unix time, so that a test can let months pass. Port 0 picks a free one, the one of
        the last run if it can be had. ``heartbeat_s`` is how often an idle chain seals a block (``None``: only when
        something happens, or :meth:`seal` is called). With ``data_dir`` the chain is kept there and goes on from where
        the last run was stopped or killed; without, it begins anew and is gone afterwards. ``liteservers`` is how many
        servers show the one chain.

        Raises :class:`DevnetError` when Node or its packages are missing, the directory cannot be used or holds
        something else, and ``OSError`` when a port is taken.
        """
        if not 1 <= liteservers <= MAX_LITESERVERS:
            raise ValueError(f"between 1 and {MAX_LITESERVERS} liteservers")
        async with AsyncExitStack() as stack:
            store = stack.enter_context(Store.open(data_dir))
            # The ports come before the TVM and the nursery, so that a busy one is a plain OSError, at once.
            last = json.loads(store.meta().get(_PORTS, b"{}"))
            sockets = []
            for name, wanted in _ports(liteservers, port, faucet_port).items():
                listeners, number = await listen(host, wanted, rather=last.get(name, 0))
                for listener in listeners:
                    stack.push_async_callback(listener.aclose)
                sockets.append((name, listeners, number))
            tvm = await stack.enter_async_context(open_tvm())
            meta = _meta(store, tvm, random_bytes)
            store.set_meta({_PORTS: json.dumps({name: number for name, _, number in sockets}).encode()})
            devnet = cls(tvm, store, clock, meta)
            await tvm.set_config(devnet._chain.config)
            devnet._host = host
            *lite, (_, faucet_listeners, devnet.faucet_port) = sockets
            listening = [(partial(_serve_faucet, devnet, Gate()), faucet_listeners)]
            for index, (_, listeners, number) in enumerate(lite):
                server = LiteServer(devnet._queries, _server_key(meta["server_seed"], index), number)
                devnet.liteservers.append(server)
                listening.append((partial(serve_client, server, Gate(), random_bytes), listeners))
            async with trio.open_nursery() as nursery:
                for handler, listeners in listening:
                    nursery.start_soon(trio.serve_listeners, handler, listeners)
                nursery.start_soon(devnet._guard, devnet._produce, nursery.cancel_scope)
                if heartbeat_s is not None:
                    heartbeat = partial(devnet._heartbeat, heartbeat_s)
                    nursery.start_soon(devnet._guard, heartbeat, nursery.cancel_scope)
                yield devnet
                nursery.cancel_scope.cancel()
            if devnet._failure is not None:
                raise devnet._failure

    def global_config(self) -> dict[str, Any]:
        """The configuration for clients, shaped as TON's ``global.config.json`` (see :mod:`config`)."""
        first = self._chain.at(1)
        assert first is not None
        return global_config(
            host=self._host, servers=[(server.port, server.public_key) for server in self.liteservers],
            first_block=first.master, network_id=self.network_id, faucet_port=self.faucet_port,
        )  # fmt: skip

    def totals(self) -> Totals:
        """Where every nanoTON is. Exact between operations."""
        return self._ledger.totals()

    async def submit(self, boc: bytes) -> None:
        """Run an external message and everything that follows from it, sealing blocks; on a slow network, have it wait.

        Raises :class:`MessageRejected` when it is not accepted. Once accepted, it is finished even when cancelled.
        """
        with trio.CancelScope(shield=True):
            async with self._lock:
                if self.trouble.slow:
                    if len(self._pool) >= MAX_POOL:
                        raise MessageRejected("too many external messages are waiting", None)
                    await self._ledger.check_external(boc)
                    self._pool.append(boc)
                    self._work.set()
                    return
                await self._ledger.accept_external(boc)
                await self._settle()

    async def fund(self, address: str, amount_nanoton: int) -> str:
        """Send money from the giver to a raw address; returns the giver's transaction hash in hexadecimal."""
        check_address(address)
        check_int("amount_nanoton", amount_nanoton, 1, MAX_FUND_NANOTON)
        with trio.CancelScope(shield=True):
            async with self._lock:
                self._ledger.tick()
                seqno = self._giver_seqno()
                message = self._giver.sign_transfers(
                    [Transfer(address, amount_nanoton, bounce=False)], seqno=seqno or 0,
                    valid_until_s=self._ledger.now + 60, deploy=seqno is None,
                )  # fmt: skip
                try:
                    transaction = await self._ledger.accept_external(message.to_boc())
                except MessageRejected as error:
                    raise DevnetError(f"the giver cannot pay: {error}") from error
                await self._settle()
        return transaction.hash.hex()

    def _giver_seqno(self) -> int | None:
        """``None`` while the giver has no code."""
        state = Account.deserialize(self._ledger.account(self.giver).root.begin_parse()).storage.state
        return wallet_seqno(state.state_init.data) if state.type_ == "account_active" else None

    async def seal(self) -> None:
        """Seal a block now: shows the clock's time to clients."""
        async with self._lock:
            self._ledger.tick()
            self._seal()

    async def create_accounts(self, balances: dict[str, int]) -> None:
        """Make accounts (raw addresses) with money out of nothing, in one block: a crowd for tests and benchmarks."""
        async with self._lock:
            self._ledger.tick()
            for address, balance in balances.items():
                self._ledger.mint(check_address(address), balance)
            self._seal()

    async def rotate_validators(self) -> None:
        """Put new validators in office: seals a key block that announces them, signed by the old ones."""
        async with self._lock:
            self._ledger.tick()
            self._chain.rotate_validators()
            await self._tvm.set_config(self._chain.config)
            self._announce()

    async def _settle(self) -> None:
        """Seal blocks until nothing waits; on a slow network, leave what follows to :meth:`_produce`."""
        if self.trouble.slow:
            self._work.set()
            self._seal()
            return
        while True:
            await self._ledger.deliver()
            self._seal()
            if not self._ledger.busy:
                return

    async def _produce(self) -> None:
        """Seal blocks while messages wait: those of a slow network, or those that a killed run left behind."""
        while True:
            await self._work.wait()
            await self._block_delay()
            async with self._lock:
                await self._fill_block(self.trouble.messages_per_block or MAX_TRANSACTIONS_PER_BLOCK)
                if not self._ledger.busy and not self._pool:
                    self._work = trio.Event()

    async def _block_delay(self) -> None:
        """Wait as long as the trouble says, anew when it changes."""
        while True:
            changed = self._trouble_changed
            with trio.move_on_after(self._trouble.block_delay_s):
                await changed.wait()
                continue
            return

    async def _fill_block(self, limit: int) -> None:
        """Internal messages first, as collators do, then the pool's, then what follows from them."""
        room = limit - await self._ledger.deliver(limit)
        while room > 0 and self._pool:
            try:
                await self._ledger.accept_external(self._pool.popleft())
                room -= 1
            except MessageRejected:  # it was acceptable when it came, and is not any more: nobody is told
                continue
        if room > 0:
            await self._ledger.deliver(room)
        self._seal()

    def _seal(self) -> None:
        self._chain.seal()
        self._announce()

    def _announce(self) -> None:
        for server in self.liteservers:
            server.block_sealed()

    async def _heartbeat(self, every_s: float) -> None:
        while True:
            await trio.sleep(every_s)
            await self.seal()

    async def _guard(self, task: Callable[[], Any], scope: trio.CancelScope) -> None:
        """Run a background task; its failure ends the devnet, with a plain error."""
        try:
            await task()
        except DevnetError as error:
            self._failure = error
            scope.cancel()


def _ports(liteservers: int, port: int, faucet_port: int) -> dict[str, int]:
    """What each listener is called in the data directory, the faucet last, and the port that was asked for."""
    ports = {f"liteserver {index}": port if index == 0 else 0 for index in range(liteservers)}
    return ports | {"faucet": faucet_port}


def _server_key(seed: bytes, index: int) -> Client:
    return Client(hashlib.sha256(seed + index.to_bytes(4, "big")).digest())


def _meta(store: Store, tvm: Tvm, random_bytes: Callable[[int], bytes]) -> dict[str, bytes]:
    """What this devnet is for ever: made when it is new. Raises :class:`DevnetError` for another network's."""
    meta = store.meta()
    network = str(NETWORK_ID).encode()
    if not meta.keys() - {_PORTS}:
        config: bytes = devnet_config(tvm.default_config, NETWORK_ID).to_boc()
        seeds = {"server_seed": random_bytes(32), "validator_seed": random_bytes(32)}
        meta = {"network_id": network, "config": config, **seeds}
        store.set_meta(meta)
    if meta.get("network_id") != network:
        raise DevnetError(
            f"the data directory is of network {meta.get('network_id', b'?').decode(errors='replace')}, this program "
            f"runs network {NETWORK_ID}: take another directory"
        )
    return meta


async def _serve_faucet(devnet: Devnet, gate: Gate, stream: trio.SocketStream) -> None:
    async with gate.place():
        await serve_faucet(stream, devnet)
