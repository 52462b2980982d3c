"""A devnet with a data directory: stopped or killed anywhere, it goes on from its last block, with every nanoTON."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import HashMap, begin_cell

from overlay.settlement import ChannelTerms, DevnetError, Voucher, Wallet, channel_public_key
from overlay.settlement.chain import TonClient, WalletAccount, claim, open_channel
from overlay.settlement.devnet import Devnet, NetworkTrouble, ask_faucet, ask_totals, hashmap
from overlay.settlement.devnet.blocks import EARLIER_BLOCKS
from overlay.settlement.devnet.chain import Chain
from overlay.settlement.devnet.config import with_validators
from overlay.settlement.devnet.ledger import Ledger
from overlay.settlement.devnet.limits import NETWORK_ID
from overlay.settlement.devnet.listeners import listen
from overlay.settlement.devnet.store import FILE_NAME, BlockRow, Commit, Progress, Store, TransactionRow

TON = 10**9


async def test_a_restart_keeps_genesis_accounts_blocks_history_and_the_faucet(tmp_path: Path) -> None:
    wallet = Wallet(b"\x01" * 32, NETWORK_ID)
    async with Devnet.serve(data_dir=tmp_path) as devnet:
        before = devnet.global_config()
        await devnet.fund(wallet.address, 3 * TON)
        await devnet.rotate_validators()
        totals, last, history = devnet.totals(), devnet.chain.last, devnet.ledger.transactions(wallet.address)
        state = last.states.shard.hash if last.states else b""
    async with Devnet.serve(data_dir=tmp_path) as devnet:
        assert devnet.global_config() == before  # the same genesis, keys and ports: clients just reconnect
        assert devnet.totals() == totals
        assert devnet.chain.last.master == last.master
        assert devnet.chain.last.states is not None
        assert devnet.chain.last.states.shard.hash == state
        assert devnet.ledger.transactions(wallet.address) == history
        await devnet.fund(wallet.address, TON)
        assert devnet.chain.last.seqno > last.seqno
        assert 4 * TON - 100 < devnet.ledger.account(wallet.address).balance_nanoton <= 4 * TON  # rent, as time passes
        assert devnet.chain.last.epoch == 1
        async with TonClient.connect(devnet.global_config()) as client:
            assert len(await client.transactions(wallet.address)) == 2
        assert devnet.totals().conserved


async def test_a_port_that_somebody_took_meanwhile_is_given_up(tmp_path: Path) -> None:
    taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = taken[0].socket.getsockname()[1]
    listeners, number = await listen("127.0.0.1", 0, rather=port)
    assert number not in (0, port)
    for listener in (*taken, *listeners):
        await listener.aclose()
    listeners, number = await listen("127.0.0.1", 0, rather=port)
    assert number == port
    await listeners[0].aclose()


async def test_messages_in_flight_are_delivered_after_a_restart(tmp_path: Path) -> None:
    receiver = "0:" + "22" * 32
    async with Devnet.serve(data_dir=tmp_path, heartbeat_s=None) as devnet:
        devnet.trouble = NetworkTrouble(block_delay_s=600)
        await devnet.fund(receiver, 5 * TON)
        totals = devnet.totals()
        assert totals.in_flight_nanoton >= 5 * TON
        assert totals.conserved
    async with Devnet.serve(data_dir=tmp_path, heartbeat_s=None) as devnet:
        with trio.fail_after(10):
            while devnet.ledger.account(receiver).balance_nanoton != 5 * TON:
                await trio.sleep(0.01)
        assert devnet.totals().conserved
        assert devnet.totals().in_flight_nanoton == 0


async def test_two_devnets_cannot_share_a_directory(tmp_path: Path) -> None:
    with Store.open(tmp_path), pytest.raises(DevnetError, match=r"runs in .* already"):
        async with Devnet.serve(data_dir=tmp_path):
            raise AssertionError("started")


async def test_directories_that_are_not_this_devnets_are_refused_with_a_reason(tmp_path: Path) -> None:
    async def refused(directory: Path, reason: str) -> None:
        with pytest.raises(DevnetError, match=reason):
            async with Devnet.serve(data_dir=directory):
                raise AssertionError("started")

    (tmp_path / "file").write_text("")
    await refused(tmp_path / "file", "cannot be used")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / FILE_NAME).write_text("this is not SQLite, whatever it is called")
    await refused(tmp_path / "text", "not a database")
    for name, statement, reason in (
        ("other", "CREATE TABLE notes (text TEXT)", "no devnet's"),
        ("newer", "PRAGMA user_version = 7", "format 7"),
    ):
        (tmp_path / name).mkdir()
        database = sqlite3.connect(tmp_path / name / FILE_NAME)
        database.execute(statement)
        database.close()
        await refused(tmp_path / name, reason)
    with Store.open(tmp_path / "mainnet") as store:
        store.set_meta({"network_id": b"-239"})
    await refused(tmp_path / "mainnet", "of network -239")


def chain_in(store: Store) -> tuple[Ledger, Chain]:
    """A ledger and a chain over a store without a TVM: money can be made, not moved."""
    config = HashMap(32, value_serializer=lambda value, builder: builder.store_ref(value))
    config.map = {19: begin_cell().store_int(NETWORK_ID, 32).end_cell()}
    base = config.serialize()
    ledger = Ledger(None, store, lambda: 1_900_000_000.0)  # type: ignore[arg-type]
    chain = Chain(
        ledger, store, network_id=NETWORK_ID, validator_seed=b"v" * 32, config_of=partial(with_validators, base)
    )
    if store.progress() is None:
        chain.begin()
    else:
        chain.resume(ledger.restore())
    return ledger, chain


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_whatever_was_sealed_is_there_after_a_restart(data: st.DataObject) -> None:
    """Accounts come, validators change, the process ends between any two blocks: chain and states are the same."""
    with tempfile.TemporaryDirectory() as name:
        made = 0
        for _ in range(data.draw(st.integers(1, 3))):
            with Store.open(Path(name)) as store:
                ledger, chain = chain_in(store)
                for _ in range(data.draw(st.integers(0, 4))):
                    for _ in range(data.draw(st.integers(0, 3))):
                        made += 1
                        ledger.mint(f"0:{hashlib.sha256(bytes((made,))).hexdigest()}", made)
                    if data.draw(st.booleans()):
                        chain.rotate_validators()
                    else:
                        chain.seal()
                last, totals, epoch = chain.last, ledger.totals(), chain.validators.epoch
                if ledger._work.touched:
                    chain.seal()
                    last, totals = chain.last, ledger.totals()
            with Store.open(Path(name)) as store:
                ledger, chain = chain_in(store)
                assert replace(chain.last, states=None) == replace(last, states=None)
                assert chain.last.states is not None
                assert last.states is not None
                assert chain.last.states.master.hash == last.states.master.hash
                assert chain.last.states.shard.hash == last.states.shard.hash
                assert ledger.totals() == totals
                assert ledger.totals().conserved
                assert chain.validators.epoch == epoch


def test_books_changed_from_outside_are_noticed(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        ledger, chain = chain_in(store)
        ledger.mint("0:" + "22" * 32, TON)
        chain.seal()
    for change, reason in (("UPDATE accounts SET balance = balance + 1", "does not add up"),
                           ("UPDATE blocks SET utime = utime + 1", "damaged")):  # fmt: skip
        (copy := tmp_path / reason).mkdir()
        (copy / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes())
        database = sqlite3.connect(copy / FILE_NAME)
        database.execute(change)
        database.commit()
        database.close()
        with Store.open(copy) as store, pytest.raises(DevnetError, match=reason):
            chain_in(store)


@pytest.mark.parametrize("table", ["progress", "accounts", "queue", "blocks", "transactions"])
def test_a_block_is_written_whole_or_not_at_all(tmp_path: Path, table: str) -> None:
    tables = ("progress", "accounts", "queue", "blocks", "transactions")

    def content(store: Store) -> dict[str, Any]:
        return {name: store._db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}

    def commit(seqno: int) -> Commit:
        at = bytes((seqno,)) * 32
        block = BlockRow(seqno, 5, 6, 7, False, 0, 1, at, at, at, at, b"m", b"s", b"k")
        row = TransactionRow("0:" + "22" * 32, seqno, at, seqno, b"t")
        return Commit(block, Progress(seqno, 5, 7, 9, 0, 0, b"c"), {f"0:{seqno}": (9, b"a")}, [row], 0, [b"queued"])

    with Store.open(tmp_path) as store:
        store.commit(commit(1))
        before = content(store)
        store._db.execute(
            f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        for _ in range(2):  # and nothing is written after it, either
            with pytest.raises(DevnetError, match="the disk is full"):
                store.commit(commit(2))
            store._db.execute("DROP TRIGGER IF EXISTS t")
        assert content(store) == before
    with Store.open(tmp_path) as store:
        assert content(store) == before


def test_old_empty_blocks_are_forgotten_and_a_restart_does_not_miss_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Key blocks stay; so do blocks whose transactions are kept, until those go."""
    for module in ("store", "chain"):
        monkeypatch.setattr(f"overlay.settlement.devnet.{module}.MAX_BLOCKS_KEPT", 5)
    monkeypatch.setattr("overlay.settlement.devnet.store.MAX_TRANSACTIONS_KEPT", 2)

    def kept(store: Store) -> list[int]:
        return [row[0] for row in store._db.execute("SELECT seqno FROM blocks ORDER BY seqno")]

    for _ in range(3):
        with Store.open(tmp_path) as store:
            _, chain = chain_in(store)  # refuses a state that is not the newest block's
            for number in range(chain.last.seqno + 1, chain.last.seqno + 6):
                if number == 4:
                    chain.rotate_validators()
                else:
                    chain.seal()
    with Store.open(tmp_path) as store:
        _, chain = chain_in(store)
        assert kept(store) == [1, 4, 12, 13, 14, 15, 16, 17]
        assert chain.last.states is not None
        tree = chain.last.states.earlier_blocks
        assert [seqno for seqno in range(18) if hashmap.find(EARLIER_BLOCKS, tree, seqno)] == kept(store)[:-1]

        rows = [("0:" + "22" * 32, lt, bytes((lt,)), seqno, b"t") for lt, seqno in ((1, 13), (2, 15), (3, 19))]
        store._db.executemany("INSERT INTO transactions VALUES (?, ?, ?, ?, ?)", rows[:2])
        store._transaction_count = 2
        for _ in range(6):
            chain.seal()
        assert kept(store) == [1, 4, 13, 15, *range(18, 24)]
        store._db.execute("INSERT INTO transactions VALUES (?, ?, ?, ?, ?)", rows[2])
        store._transaction_count = 3
        chain.seal()
        assert kept(store) == [1, 4, 15, *range(19, 25)]


async def test_a_disk_that_fails_stops_the_devnet_before_it_shows_what_is_not_written(tmp_path: Path) -> None:
    receiver = "0:" + "22" * 32
    with pytest.raises(DevnetError, match="cannot be written"):
        async with Devnet.serve(data_dir=tmp_path, heartbeat_s=0.1) as devnet:
            await devnet.fund(receiver, TON)
            last = devnet.chain.last.seqno
            devnet.chain._store._db.execute("PRAGMA query_only = ON")
            with pytest.raises(DevnetError, match="cannot be written"):
                await devnet.fund(receiver, TON)
            assert devnet.chain.last.seqno == last
            await trio.sleep(10)
    with Store.open(tmp_path) as store:
        ledger, _ = chain_in(store)
        assert ledger.account(receiver).balance_nanoton == TON
        assert ledger.totals().conserved


# ---- kill -9 ----

_RUN = """
import sys, trio
from pathlib import Path
from overlay.settlement.devnet import DevnetConfig, run_devnet
at = Path(sys.argv[1])
trio.run(run_devnet, DevnetConfig(data_dir=at, config_path=at / "config.json", trouble=at / "trouble.json"))
"""


@asynccontextmanager
async def process(directory: Path, trouble: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A devnet in a process of its own, killed with SIGKILL when the block is left. Yields its global config."""
    (directory / "trouble.json").write_text(json.dumps({"steps": [{"at_s": 0, "network": trouble}]}))
    config = directory / "config.json"
    config.unlink(missing_ok=True)
    command = [sys.executable, "-c", _RUN, str(directory)]
    child = await trio.lowlevel.open_process(command, start_new_session=True)
    try:
        with trio.fail_after(60):
            while not config.exists():
                assert child.poll() is None
                await trio.sleep(0.02)
        yield json.loads(config.read_text())
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await child.wait()


async def test_killed_in_the_middle_of_a_settlement_it_goes_on_and_every_nanoton_is_there(tmp_path: Path) -> None:
    payer_seed, payee_seed = b"p" * 32, b"q" * 32
    async with process(tmp_path, {}) as config, TonClient.connect(config) as client:
        payer, payee = (WalletAccount(client, Wallet(seed * 32, client.network_id)) for seed in (b"1", b"2"))
        for account in (payer, payee):
            await ask_faucet(config, account.address, 50 * TON)
        terms = ChannelTerms(
            payer=payer.address, payee=payee.address, payer_key=channel_public_key(payer_seed),
            payee_key=channel_public_key(payee_seed), network_id=client.network_id, nonce=1,
            expiry_s=await client.chain_time_s() + 3600, challenge_period_s=600,
        )  # fmt: skip
        await open_channel(payer, terms, 10 * TON)
        opened = await ask_totals(config)
        paid_before = await payee.balance_nanoton()
    voucher = Voucher(terms.address(), terms.network_id, 1, 4 * TON)
    signature = voucher.sign(payer_seed)

    # One message a block, and a block every 0.3 s: the claim takes several blocks, and is cut short after the first.
    async with process(tmp_path, {"messages_per_block": 1, "block_delay_s": 0.3}) as config:
        async with TonClient.connect(config) as client, trio.open_nursery() as nursery:
            payee = WalletAccount(client, payee.wallet)

            async def settle() -> None:
                await claim(payee, terms, voucher, signature)

            nursery.start_soon(settle)
            with trio.fail_after(20):
                while (middle := await ask_totals(config))["in_flight_nanoton"] == 0:
                    await trio.sleep(0.02)
            assert middle["conserved"]
            nursery.cancel_scope.cancel()

    async with process(tmp_path, {}) as config, TonClient.connect(config) as client:
        payee = WalletAccount(client, payee.wallet)
        with trio.fail_after(20):
            while (await client.channel_state(terms)).paid_nanoton == 0 or (await ask_totals(config))[
                "in_flight_nanoton"
            ]:
                await trio.sleep(0.05)
        state, ended = await client.channel_state(terms), await ask_totals(config)
        gained = await payee.balance_nanoton() - paid_before
    assert state.paid_nanoton == 4 * TON
    assert 4 * TON - TON // 50 < gained < 4 * TON  # the voucher less the claim's fees
    assert ended["conserved"]
    assert ended["minted_nanoton"] == opened["minted_nanoton"]


@pytest.mark.slow
async def test_killed_again_and_again_while_it_writes_it_always_starts_with_books_that_add_up(tmp_path: Path) -> None:
    receiver, asked = "0:" + "33" * 32, 0
    for round_number in range(8):
        async with process(tmp_path, {}) as config:

            async def ask(config: dict[str, Any] = config) -> None:
                nonlocal asked
                while True:
                    asked += 1
                    await ask_faucet(config, receiver, TON)

            with trio.move_on_after(0.15 + 0.07 * round_number):
                await ask()
    async with Devnet.serve(data_dir=tmp_path) as devnet:
        totals = devnet.totals()
        assert totals.conserved
        assert totals.in_flight_nanoton == 0
        received = devnet.ledger.account(receiver).balance_nanoton
        assert asked - 8 <= (received + 1000) // TON <= asked  # less some nanoTON of rent; each kill may cut one gift
