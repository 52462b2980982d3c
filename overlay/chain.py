"""Which TON network a node uses, its wallet there, and the local devnet when there is no other.

With `[ton] config` set, that file names the network: mainnet, testnet or anybody's devnet. Without it the local devnet
of this user serves (`cocoon devnet run`). A node that finds none starts one inside
itself, with play money, and says so.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from overlay.config import Config
from overlay.datadir import DataDir, home
from overlay.errors import ChainError, ConfigError, Unfunded
from overlay.events import EventLog, Observer, ton
from overlay.keys import KeyFiles, Keys
from overlay.passphrase import existing_passphrase, terminal_ask
from overlay.settlement import SealError, SettlementError, channel_public_key
from overlay.settlement.chain import NETWORK_IDS, FileBlockStore, SqlitePendingStore, TonClient, WalletAccount
from overlay.settlement.devnet import DevnetConfig, ask_faucet, run_devnet

NETWORK_NAMES = {network_id: name for name, network_id in NETWORK_IDS.items()}

CONFIG_NAME = "global.config.json"
DEVNET_START_S = 30.0
"""Node starts in under a second; a cold disk may take a few."""

PLAY_MONEY_NANOTON = 10_000_000_000
"""What a new wallet gets from the devnet's faucet."""


@dataclass(frozen=True)
class Chain:
    """A node's place on a TON network."""

    network: str
    """`mainnet`, `testnet` or `devnet`, for people."""
    config: dict[str, Any]
    client: TonClient
    account: WalletAccount
    channel_seed: bytes
    """Signs vouchers as payer and close agreements as either; never money itself."""

    @property
    def channel_key(self) -> bytes:
        """The public key (32 bytes) of :attr:`channel_seed`."""
        return channel_public_key(self.channel_seed)

    @property
    def is_devnet(self) -> bool:
        """Whether the money is play money."""
        return "devnet" in self.config


@asynccontextmanager
async def open_chain(
    config: Config, data_dir: DataDir, log: EventLog, *, may_start_devnet: bool, may_send: bool = True
) -> AsyncIterator[Chain]:
    """Connect to the configured network, or the local devnet, for the length of the block.

    A message that an earlier run left in flight is finished first. A wallet without money is funded on a devnet;
    elsewhere a line says where to send Toncoin. ``may_send=False`` does neither, for who only looks. Raises
    :class:`~overlay.errors.ConfigError` and :class:`~overlay.errors.ChainError`.
    """
    keys = await _open_keys(config, data_dir)
    expected = _expected_network(config.ton.network)
    async with AsyncExitStack() as stack:
        document = await _network_config(config, log, stack, may_start_devnet)
        try:
            client = await stack.enter_async_context(
                TonClient.connect(
                    document,
                    trust_level=config.ton.trust_level,
                    quorum=config.ton.quorum,
                    network_id=expected,
                    blocks=FileBlockStore(data_dir.trusted_block_path),
                    on_news=partial(log.warning, "liteserver"),
                )
            )
            wallet = await trio.to_thread.run_sync(keys.wallet.wallet, client.network_id)
            account = WalletAccount(client, wallet, SqlitePendingStore(data_dir.outbox_path))
            network = "devnet" if "devnet" in document else NETWORK_NAMES.get(client.network_id, str(client.network_id))
            chain = Chain(network, document, client, account, keys.channel_seed)
            if may_send:
                await _resume(chain, log)
                await _fund(chain, log)
        except SettlementError as error:
            raise ChainError(f"TON: {error}") from error
        except ValueError as error:
            raise ConfigError(f"TON: {error}") from error
        yield chain


async def _open_keys(config: Config, data_dir: DataDir) -> Keys:
    def passphrase() -> str:
        what = f"the wallet in {data_dir.path}"
        return existing_passphrase(what, config.ton.passphrase_file, ask=terminal_ask())

    try:
        return await trio.to_thread.run_sync(KeyFiles(data_dir).open, passphrase)
    except SealError as error:
        raise ConfigError(f"the keys in {data_dir.path} stay closed: {error}") from error


def _expected_network(name: str) -> int | None:
    """The ``global_id`` that `ton.network` asks for."""
    if not name:
        return None
    if name in NETWORK_IDS:
        return NETWORK_IDS[name]
    try:
        return int(name)
    except ValueError:
        known = ", ".join(NETWORK_IDS)
        raise ConfigError(f"ton.network = {name!r}: write {known}, or a network's global_id") from None


async def _resume(chain: Chain, log: EventLog) -> None:
    """Finish what an earlier run left in flight, before anything is decided from the chain's state."""
    resumed = await chain.account.resume()
    if resumed is None:
        return
    if resumed.transaction is None:
        log.info("resumed", "a payment that was signed before the last stop was never executed and has expired")
    else:
        log.info(
            "resumed", "a payment that was signed before the last stop has been executed",
            hash=resumed.transaction.hash.hex(),
        )  # fmt: skip


async def _fund(chain: Chain, log: EventLog) -> None:
    balance = await chain.account.balance_nanoton()
    if chain.is_devnet and balance < PLAY_MONEY_NANOTON // 2:
        await ask_faucet(chain.config, chain.account.address, PLAY_MONEY_NANOTON)
        balance = await chain.account.balance_nanoton()
    address = chain.account.wallet.friendly_address()
    log.info(
        "chain", f"TON {chain.network}: wallet {address} holds {ton(balance)}",
        network=chain.network, wallet=chain.account.address, balance_nanoton=balance,
    )  # fmt: skip
    if balance == 0:
        log.warning("unfunded", f"the wallet is empty: send Toncoin to {address} before opening a channel")


def unfunded(chain: Chain, error: Exception) -> Unfunded:
    """The error for a wallet that cannot pay for an operation."""
    address = chain.account.wallet.friendly_address()
    return Unfunded(f"{error}; fund {address} on {chain.network}, or lower ton.deposit_nanoton")


# ---- which network ----


def load_network_config(path: Path) -> dict[str, Any]:
    """Read a `global.config.json`. Raises :class:`~overlay.errors.ConfigError`."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; --ton takes the path of a TON global.config.json") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no TON global.config.json: {error}") from error
    if not isinstance(document, dict) or not document.get("liteservers"):
        raise ConfigError(f"{path} is no TON global.config.json: it lists no liteservers")
    return document


def local_devnet() -> dict[str, Any] | None:
    """The configuration of this user's running devnet, or ``None``."""
    try:
        document = load_network_config(home() / "devnet" / CONFIG_NAME)
        server = document["liteservers"][0]
        address = socket.inet_ntoa(struct.pack(">i", server["ip"]))
        with socket.create_connection((address, server["port"]), timeout=1.0):
            return document
    except (ConfigError, OSError, KeyError, TypeError, struct.error):
        return None


async def _network_config(
    config: Config, log: EventLog, stack: AsyncExitStack, may_start_devnet: bool
) -> dict[str, Any]:
    if config.ton.config:
        return load_network_config(Path(config.ton.config))
    running = local_devnet()
    if running is not None:
        return running
    if not may_start_devnet:
        raise ConfigError(
            "no TON network: start a local one with `cocoon node run` or `cocoon devnet run`, or name the "
            "global.config.json of one with --ton"
        )
    return await stack.enter_async_context(_embedded_devnet(log))


@asynccontextmanager
async def _embedded_devnet(log: EventLog) -> AsyncIterator[dict[str, Any]]:
    """A devnet inside this process; when another process of this user is just starting one, wait for that instead."""
    directory = home() / "devnet"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield await _wait_for_devnet()
            return
        path = directory / CONFIG_NAME
        async with trio.open_nursery() as nursery:
            try:
                document = await nursery.start(run_devnet, DevnetConfig(config_path=path))
            except SettlementError as error:
                raise ChainError(str(error)) from error
            log.info(
                "devnet",
                "no TON network is configured: started a devnet in this process, with play money "
                "(--ton FILE for a real network)",
                config=str(path),
            )
            try:
                yield document
            finally:
                path.unlink(missing_ok=True)
                nursery.cancel_scope.cancel()


async def _wait_for_devnet() -> dict[str, Any]:
    with trio.move_on_after(DEVNET_START_S):
        while True:
            document = await trio.to_thread.run_sync(local_devnet)
            if document is not None:
                return document
            await trio.sleep(0.2)
    raise ChainError(
        "another process is starting a local devnet and has not finished; try again, or name one with --ton"
    )


async def _devnet_task(config: DevnetConfig, *, task_status: trio.TaskStatus[dict[str, Any]]) -> None:
    """A devnet whose failures, at the start or later, are the command line's errors."""
    try:
        await run_devnet(config, task_status=task_status)
    except SettlementError as error:
        raise ChainError(str(error)) from error
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from error


@dataclass(frozen=True)
class DevnetOptions:
    """What `cocoon devnet run` was told. Without `data_dir` the chain is kept in memory; `trouble` names a script."""

    host: str
    port: int
    directory: Path
    data_dir: Path | None = None
    liteservers: int = 1
    trouble: Path | None = None


async def run_local_devnet(options: DevnetOptions, observer: Observer, clock: Callable[[], float] = time.time) -> None:
    """`cocoon devnet run`: until SIGINT or SIGTERM."""
    log = EventLog(observer, clock)
    host, directory, kept = options.host, options.directory, options.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used: {error.strerror}; name another with --dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"a devnet runs in {directory} already; stop it, or name another with --dir") from None
        path = directory / CONFIG_NAME
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                config = DevnetConfig(
                    host, options.port, config_path=path, data_dir=kept, liteservers=options.liteservers,
                    trouble=options.trouble,
                )  # fmt: skip
                document = await nursery.start(_devnet_task, config)
                server = document["liteservers"][0]
                keeping = "" if kept is None else f"; its chain is kept in {kept}"
                log.info(
                    "ready", f"TON devnet on {host}:{server['port']}, play money; its configuration is {path}{keeping}",
                    config=str(path), port=server["port"],
                )  # fmt: skip
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
        path.unlink(missing_ok=True)
        end = "the devnet is gone, and its money with it" if kept is None else f"the devnet rests in {kept}"
        log.info("stopped", end)
