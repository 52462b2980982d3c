"""Commands about money: asked of the process that runs in the data directory, or done here when none does."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import trio

from compute.tasks import Task
from overlay.chain import NETWORK_NAMES, Chain, open_chain
from overlay.channels import PayeeDesk, PayerDesk, Rehearsal, open_stage, read_situation
from overlay.config import Config
from overlay.control import answers, call_control
from overlay.datadir import DataDir, open_data_dir
from overlay.errors import ChainError, CocoonError, ConfigError, DataDirBusy
from overlay.events import EventLog, Observer
from overlay.keys import KeyFiles, WalletSecret
from overlay.node import views
from overlay.passphrase import existing_passphrase, terminal_ask
from overlay.settlement import (
    ChannelTerms,
    DevnetError,
    SealError,
    SettlementError,
    Voucher,
    check_address,
    wallet_address_of_key,
)
from overlay.settlement.chain import OperationCost, OperationName, operation_cost
from overlay.settlement.devnet.limits import NETWORK_ID as DEVNET_ID
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, Role, Store, VoucherRecord, open_ledger
from overlay.settlement.limits import MAX_TRANSFERS, MIN_DEPOSIT_NANOTON
from overlay.subnet import Subnet

MORE_OFFERS_S = 0.5
"""An onlooker waits this much longer after the first offer for others to compare it with."""


class Setup(Protocol):
    """What a command runs with (:class:`overlay.cli.options.Setup`)."""

    @property
    def config(self) -> Config:
        """The checked configuration."""

    @property
    def data_dir(self) -> Path:
        """Where the ledger lies."""

    @property
    def subnet(self) -> Subnet:
        """The subnet taken part in."""

    @property
    def bootstrap(self) -> tuple[str, ...]:
        """Peers to start from."""


async def channels_of(data_dir: Path) -> list[dict[str, Any]]:
    """The channels in a data directory's ledger, newest first, whether or not a process runs there."""
    if answers(data_dir):
        rows: list[dict[str, Any]] = await call_control(data_dir, "channels")
        return rows
    path = data_dir / "ledger.sqlite3"
    if not path.exists():
        return []
    store = Store(path)
    try:
        return views.channel_rows(store)
    finally:
        store.close()


async def channel_named(data_dir: Path, text: str) -> str:
    """The whole address of the channel that ``text`` names: by its address, or by an end that no other shares.

    Raises :class:`~overlay.errors.ConfigError` when none or several fit."""
    with suppress(ValueError):
        return check_address(text)  # whole: it may be older than what a listing shows
    known = [str(row["channel"]) for row in await channels_of(data_dir)]
    fitting = [channel for channel in known if channel.endswith(text.removeprefix("…"))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ConfigError(f"there is no channel {text!r}; `cocoon channel list` shows them")
    raise ConfigError(f"{len(fitting)} channels end in {text!r}; write more of the address")


async def wallet_state(setup: Setup, with_words: bool) -> dict[str, Any]:
    """Address and balance of the wallet in a data directory; with its words when asked for.

    Without a network, or without the passphrase of sealed keys, the balance is ``None``, ``why`` says so, and
    ``addresses`` has those of every network. Raises :class:`~overlay.errors.ConfigError` when there is no wallet yet.
    """
    files = KeyFiles(DataDir(setup.data_dir))
    if not files.wallet_path.exists():
        raise ConfigError(f"there is no wallet in {setup.data_dir} yet: `cocoon wallet new` makes one")
    secret = await trio.to_thread.run_sync(_wallet_secret, setup, files) if with_words else None
    if answers(setup.data_dir):
        state: dict[str, Any] = await call_control(setup.data_dir, "wallet")
    else:
        with open_data_dir(setup.data_dir) as directory:
            quiet = EventLog(lambda _event: None, time.time)
            try:
                async with open_chain(setup.config, directory, quiet, may_start_devnet=False) as chain:
                    state = await views.wallet(chain)
            except CocoonError as error:
                state = {"addresses": _known_addresses(files), "balance_nanoton": None, "why": str(error)}
    state["sealed"] = files.sealed
    if secret is not None:
        state["words"] = " ".join(secret.words)
        state["mnemonic_password"] = secret.password
    return state


def _wallet_secret(setup: Setup, files: KeyFiles) -> WalletSecret:
    def passphrase() -> str:
        what = f"the wallet in {setup.data_dir}"
        return existing_passphrase(what, setup.config.ton.passphrase_file, ask=terminal_ask())

    try:
        return files.open_wallet(passphrase)
    except SealError as error:
        raise ConfigError(f"the wallet in {setup.data_dir} stays closed: {error}") from error


def _known_addresses(files: KeyFiles) -> dict[str, str]:
    """The wallet's address on every network, from the public part of the file when it is sealed."""
    key = files.public_key()
    if key is None:
        key = WalletSecret.from_text(files.wallet_path.read_text("utf-8")).wallet(0).public_key
    return wallet_addresses(key)


def wallet_addresses(public_key: bytes) -> dict[str, str]:
    """A wallet's address on each network: a v5r1 address holds the network's id, so the same key has several."""
    networks = {**NETWORK_NAMES, DEVNET_ID: "devnet"}
    return {name: wallet_address_of_key(public_key, network_id) for network_id, name in networks.items()}


async def wallet_fees(setup: Setup) -> dict[str, Any]:
    """What each operation on a channel costs at the connected network's prices, in nanoTON. Sends nothing."""
    with open_data_dir(setup.data_dir) as directory:
        quiet = EventLog(lambda _event: None, time.time)
        async with open_chain(setup.config, directory, quiet, may_start_devnet=False, may_send=False) as chain:
            try:
                prices = await chain.client.prices()
                state = await chain.client.account_state(chain.account.address)
            except SettlementError as error:
                raise ChainError(f"TON: {error}") from error
            wallet, deposit = chain.account.wallet, setup.config.ton.deposit_nanoton

            def cost(operation: OperationName, count: int = 1, *, deploy: bool = False) -> OperationCost:
                amount = deposit if operation in ("open", "top up") else 0
                return operation_cost(prices, wallet, operation, count=count, amount_nanoton=amount, deploy=deploy)

            first_time = cost("claim", deploy=True).fees_nanoton - cost("claim").fees_nanoton

            names: list[OperationName] = [
                "open", "top up", "claim", "claim and close", "close together", "start refund", "finish refund",
            ]  # fmt: skip
            costs = [cost(name) for name in names] + [cost("claim", MAX_TRANSFERS)]
            return {
                "network": chain.network,
                "costs": [asdict(entry) for entry in costs],
                "first_time_nanoton": first_time if state is None or state.data is None else 0,
            }


async def change_channels(
    action: str, setup: Setup, observer: Observer, arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Settle or leave channels: by the process that runs there, else here."""
    if arguments.get("channel"):
        arguments = {**arguments, "channel": await channel_named(setup.data_dir, arguments["channel"])}
    if answers(setup.data_dir):
        done: list[dict[str, Any]] = await call_control(setup.data_dir, action, **arguments)
        return done
    with open_data_dir(setup.data_dir) as directory:
        if not directory.ledger_path.exists():
            raise ConfigError(f"{setup.data_dir} has no ledger: nothing was ever paid or earned there")
        if await _role(directory.ledger_path) is Role.PAYEE:
            return await _as_payee(action, setup, directory, observer, arguments)
        if action == "settle":
            return await _settle_as_payer(setup, directory, observer, arguments)
        return await _leave_as_payer(setup, directory, observer, arguments["channel"])


async def _role(path: Path) -> Role | None:
    store = Store(path)
    try:
        return next((record.role for record in store.channels()), None)
    finally:
        store.close()


class _Nobody:
    """Serves no jobs: the node is not running."""

    async def deposit_grew(self, channel: str, deposit_nanoton: int) -> None:
        """Nobody to tell."""

    async def freeze(self, channel: str) -> bool:
        """Nothing is running."""
        return True


async def _as_payee(
    action: str, setup: Setup, directory: DataDir, observer: Observer, arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    log = EventLog(observer, time.time)
    async with (
        open_chain(setup.config, directory, log, may_start_devnet=False) as chain,
        open_ledger(directory.ledger_path) as ledger,
    ):
        desk = PayeeDesk(chain, ledger, _Nobody(), log, time.time, MIN_DEPOSIT_NANOTON, 0)
        if action == "exit":
            return [views.ended(await desk.leave(arguments["channel"]))]
        done = await desk.claim(arguments.get("channel"), close=False)
        return [views.claimed(held, result) for held, result in done]


async def _leave_as_payer(setup: Setup, directory: DataDir, observer: Observer, channel: str) -> list[dict[str, Any]]:
    log = EventLog(observer, time.time)
    async with (
        open_chain(setup.config, directory, log, may_start_devnet=False) as chain,
        open_ledger(directory.ledger_path) as ledger,
    ):
        ton = setup.config.ton
        desk = PayerDesk(
            chain, ledger, None, setup.subnet.id, log, time.time, secrets.randbelow, ton.deposit_nanoton,
            ton.channel_lifetime_s, ton.challenge_period_s,
        )  # fmt: skip
        return [views.ended(await desk.leave(channel))]


async def prove_exit(setup: Setup, channel: str, observer: Observer) -> dict[str, Any]:
    """`cocoon channel prove-exit`: what leaving would bring, from the real contract run here on the real state.

    Reads the ledger beside whatever process runs there, and sends nothing. Raises
    :class:`~overlay.errors.ConfigError` when Node is missing or there is nothing to leave, and
    :class:`~overlay.errors.ChainError`.
    """
    path = setup.data_dir / "ledger.sqlite3"
    if not path.exists():
        raise ConfigError(f"{setup.data_dir} has no ledger: nothing was ever paid or earned there")
    channel = await channel_named(setup.data_dir, channel)
    store = Store(path)
    try:
        record = store.channel(channel)
        best = None if record is None else store.voucher(channel)
    finally:
        store.close()
    if record is None:
        raise ConfigError(f"there is no channel {channel}; `cocoon channel list` shows them")
    if record.status is ChannelStatus.CLOSED:
        raise ConfigError(f"the channel {channel} is closed: `cocoon channel exit` says how it ended")
    log = EventLog(observer, time.time)
    # Without the directory's lock: it is only read, whatever runs there.
    async with open_chain(setup.config, DataDir(setup.data_dir), log, may_start_devnet=False, may_send=False) as chain:
        try:
            return await _rehearse(chain, record, best)
        except DevnetError as error:
            raise ConfigError(f"the contract cannot be run here: {error}") from error
        except SettlementError as error:
            raise ChainError(f"TON: {error}") from error


async def _rehearse(chain: Chain, record: ChannelRecord, best: VoucherRecord | None) -> dict[str, Any]:
    terms = ChannelTerms.from_bytes(record.terms)
    situation = await read_situation(chain.client, terms)
    state = situation.state
    if state.status not in ("open", "closing"):
        raise ConfigError(f"the channel {record.channel} has ended on chain; `cocoon channel exit` says how")
    voucher = None if best is None else Voucher(record.channel, terms.network_id, best.seq, best.amount_nanoton)
    signature = b"" if best is None else best.signature
    if voucher is None and record.role is Role.PAYEE:
        raise ConfigError(f"no voucher was ever received on {record.channel}: all that it holds is the client's")
    now = state.utime_s
    async with open_stage(situation) as stage:
        rehearsal = Rehearsal(stage, situation, chain.account.wallet)
        if record.role is Role.PAYEE:
            assert voucher is not None
            outcomes = await rehearsal.as_payee(voucher, signature, now)
        else:
            outcomes = await rehearsal.as_payer(voucher, signature, now)
    return views.rehearsed(record, state, chain, outcomes)


async def _settle_as_payer(
    setup: Setup, directory: DataDir, observer: Observer, arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    from overlay.node.client import open_client
    from overlay.node.machine import LocalMachine

    async with open_client(setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, observer) as client:
        # The providers' records tell where to reach them.
        await client.directory.wait_for_providers("chat", timeout_s=2.0)
        done: list[dict[str, Any]] = await client.settle(arguments)
        return done


async def quotes_of(setup: Setup, task: Task, model: str, observer: Observer) -> list[dict[str, Any]]:
    """`cocoon quote`: by the gateway that runs in the data directory, else by a client of our own."""
    from overlay.node.client import open_client
    from overlay.node.machine import LocalMachine

    try:
        with open_data_dir(setup.data_dir) as directory:
            async with open_client(
                setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, observer
            ) as client:
                return await client.quotes(task, model)
    except DataDirBusy:
        found: list[dict[str, Any]] = await call_control(setup.data_dir, "quote", task=task, model=model)
        return found


async def providers_of(
    setup: Setup, task: Task, model: str, tier: str, wait_s: float, observer: Observer
) -> dict[str, Any]:
    """`cocoon market providers`: as the process that runs in the data directory knows it, else by an onlooker."""
    from overlay.node.discovery import open_onlooker
    from overlay.node.machine import LocalMachine

    try:
        with open_data_dir(setup.data_dir) as directory:
            log = EventLog(observer, time.time)
            async with open_onlooker(
                setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, log
            ) as discovery:
                found = await discovery.market(task, model, tier, timeout_s=wait_s)
                # The first answer is rarely the only one: others are on their way.
                await trio.sleep(min(wait_s, MORE_OFFERS_S))
                return await discovery.market(task, model, tier, timeout_s=0.0) or found
    except DataDirBusy:
        asked = {"task": task.value, "model": model, "tier": tier, "wait_s": wait_s}
        known: dict[str, Any] = await call_control(setup.data_dir, "providers", **asked)
        return known


async def open_channel_with(
    setup: Setup, provider: str, deposit_nanoton: int | None, observer: Observer
) -> dict[str, Any]:
    """`cocoon channel open`."""
    from overlay.node.client import open_client
    from overlay.node.machine import LocalMachine

    try:
        with open_data_dir(setup.data_dir) as directory:
            async with open_client(
                setup.config, LocalMachine(directory), setup.subnet, setup.bootstrap, observer
            ) as client:
                return await client.open_channel(provider, deposit_nanoton)
    except DataDirBusy:
        opened: dict[str, Any] = await call_control(
            setup.data_dir, "open", provider=provider, deposit_nanoton=deposit_nanoton
        )
        return opened


__all__ = [
    "change_channels",
    "channels_of",
    "open_channel_with",
    "prove_exit",
    "providers_of",
    "quotes_of",
    "wallet_addresses",
    "wallet_fees",
    "wallet_state",
]
