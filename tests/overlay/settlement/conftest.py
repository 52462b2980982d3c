"""One devnet for the whole session, in a thread with a trio loop of its own: starting Node once is enough."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pytest
import trio

from overlay.settlement import ChannelTerms, Wallet, channel_public_key
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.devnet import Devnet

TON = 10**9
T = TypeVar("T")


class DevnetThread:
    """A running devnet whose clock the tests move. Its methods may be awaited from any trio loop."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="devnet", daemon=True)
        self._numbers = itertools.count(1)

    def clock(self) -> float:
        return time.time() + self._offset_s

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self.token.run_sync_soon(self._stop.set)
        self._thread.join()

    def _main(self) -> None:
        async def run() -> None:
            async with Devnet.serve(clock=self.clock, heartbeat_s=2.0) as devnet:
                self.devnet, self.token, self._stop = devnet, trio.lowlevel.current_trio_token(), trio.Event()
                self._ready.set()
                await self._stop.wait()

        try:
            trio.run(run)
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await trio.to_thread.run_sync(partial(trio.from_thread.run, function, *args, trio_token=self.token))

    async def totals(self) -> Any:
        async def read() -> Any:
            return self.devnet.totals()

        return await self.call(read)

    async def history(self, address: str) -> Any:
        """The account's transactions, from the ledger itself: also when the account is gone."""

        async def read() -> Any:
            return self.devnet.ledger.transactions(address)

        return await self.call(read)

    async def advance(self, seconds: float) -> None:
        """Let the chain's time go on, and show it in a block."""
        self._offset_s += seconds
        await self.call(self.devnet.seal)

    @property
    def config(self) -> dict[str, Any]:
        return self.devnet.global_config()

    def fresh_seed(self) -> bytes:
        return next(self._numbers).to_bytes(32, "big")


@dataclass
class Parties:
    """A payer and a payee with funded wallets, and channel terms between them."""

    net: DevnetThread
    client: TonClient
    payer: WalletAccount
    payee: WalletAccount
    payer_seed: bytes
    payee_seed: bytes
    terms: ChannelTerms


async def make_parties(
    net: DevnetThread, client: TonClient, *, lifetime_s: int = 3600, challenge_s: int = 600
) -> Parties:
    seeds = [net.fresh_seed() for _ in range(4)]
    payer, payee = (WalletAccount(client, Wallet(seed, client.network_id)) for seed in seeds[:2])
    await net.call(net.devnet.fund, payer.address, 100 * TON)
    await net.call(net.devnet.fund, payee.address, 2 * TON)
    terms = ChannelTerms(
        payer=payer.address,
        payee=payee.address,
        payer_key=channel_public_key(seeds[2]),
        payee_key=channel_public_key(seeds[3]),
        network_id=client.network_id,
        nonce=1,
        expiry_s=await client.chain_time_s() + lifetime_s,
        challenge_period_s=challenge_s,
    )
    return Parties(net, client, payer, payee, seeds[2], seeds[3], terms)


@pytest.fixture(scope="session")
def net() -> Iterator[DevnetThread]:
    thread = DevnetThread()
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
async def client(net: DevnetThread) -> AsyncIterator[TonClient]:
    async with TonClient.connect(net.config, clock=net.clock) as connected:
        yield connected


@pytest.fixture
async def parties(net: DevnetThread, client: TonClient) -> Parties:
    return await make_parties(net, client)


@pytest.fixture
def make() -> Callable[..., Awaitable[Parties]]:
    return make_parties


@asynccontextmanager
async def connected(net: DevnetThread, config: dict[str, Any]) -> AsyncIterator[TonClient]:
    async with TonClient.connect(config, clock=net.clock) as other:
        yield other


@pytest.fixture
def connect(net: DevnetThread) -> Callable[[dict[str, Any]], Any]:
    return partial(connected, net)
