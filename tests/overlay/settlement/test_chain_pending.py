"""Nothing is sent twice: the signed message outlives crashes, lost answers and second attempts."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from pytoniq_core import ExternalMsgInfo, begin_cell

from overlay.settlement import ChainUnavailable, OperationFailed, SettlementError, Transfer, Wallet
from overlay.settlement.cells import address_of
from overlay.settlement.chain import TonClient, WalletAccount, open_channel, top_up
from overlay.settlement.chain.account import intent_of
from overlay.settlement.chain.pending import MemoryPendingStore, PendingExternal, PendingStore, SqlitePendingStore
from overlay.settlement.transactions import parse_message

TON = 10**9
TARGET = "0:" + "c0c0" * 16


class PowerCut(BaseException):
    """The process ends here."""


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PendingStore:
    return MemoryPendingStore() if request.param == "memory" else SqlitePendingStore(tmp_path / "outbox.sqlite3")


async def funded(net: Any, client: TonClient, store: PendingStore) -> WalletAccount:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id), store)
    await net.call(net.devnet.fund, account.address, 5 * TON)
    return account


def external(seed: int = 1, seqno: int = 0) -> PendingExternal:
    hash_ = bytes((seed,)) * 32
    return PendingExternal(TARGET, -667, seqno, 100, 5, hash_, hash_, b"boc")


def test_a_store_keeps_one_message_for_each_wallet_until_it_is_settled(store: PendingStore) -> None:
    assert store.load(TARGET, -667) is None
    store.store(external())
    store.store(external())  # the same again: a second attempt at storing
    assert store.load(TARGET, -667) == external()
    assert store.load(TARGET, -239) is None
    with pytest.raises(ValueError, match="not settled yet"):
        store.store(external(2))
    store.settle(external(2))
    assert store.load(TARGET, -667) == external()
    store.settle(external())
    assert store.load(TARGET, -667) is None
    store.store(external(2))


def test_what_was_stored_is_there_for_the_next_process_and_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    SqlitePendingStore(path).store(external())
    assert SqlitePendingStore(path).load(TARGET, -667) == external()
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(SettlementError, match="nothing is sent without it"):
        SqlitePendingStore(path).load(TARGET, -667)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=9")
    with pytest.raises(SettlementError, match="newer version"):
        SqlitePendingStore(path).store(external())


@pytest.mark.parametrize("arrived", [True, False])
async def test_after_a_crash_the_stored_message_is_finished_and_nothing_is_sent_twice(
    net: Any, client: TonClient, store: PendingStore, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    account = await funded(net, client, store)
    real = client.send_external

    async def cut(boc: bytes) -> None:
        if arrived:
            await real(boc)
        raise PowerCut

    monkeypatch.setattr(client, "send_external", cut)
    with pytest.raises(PowerCut):
        await account.transfer([Transfer(TARGET, 7, bounce=False)])
    monkeypatch.undo()
    before = len(await net.history(TARGET))
    restarted = WalletAccount(client, account.wallet, store)
    resumed = await restarted.resume()
    assert resumed is not None
    assert resumed.transaction is not None
    assert await restarted.resume() is None
    assert len(await net.history(TARGET)) == before + (0 if arrived else 1)
    assert len(await net.history(account.address)) == 2  # the gift, and one message


async def test_a_crash_before_the_message_is_stored_sends_nothing(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryPendingStore()
    account = await funded(net, client, store)

    def cut(external: PendingExternal) -> None:
        raise PowerCut

    monkeypatch.setattr(store, "store", cut)
    with pytest.raises(PowerCut):
        await account.transfer([Transfer(TARGET, 7, bounce=False)])
    assert await WalletAccount(client, account.wallet, store).resume() is None
    assert len(await net.history(account.address)) == 1


async def test_a_message_that_expired_while_we_were_down_is_given_up(
    net: Any, client: TonClient, store: PendingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await funded(net, client, store)

    async def cut(boc: bytes) -> None:
        raise PowerCut

    monkeypatch.setattr(client, "send_external", cut)
    with pytest.raises(PowerCut):
        await account.transfer([Transfer(TARGET, 7, bounce=False)])
    monkeypatch.undo()
    await net.advance(61)
    resumed = await account.resume()
    assert resumed is not None
    assert resumed.transaction is None
    await account.transfer([Transfer(TARGET, 7, bounce=False)])
    assert len(await net.history(account.address)) == 2


async def test_a_second_attempt_at_what_went_through_after_all_is_told_so_and_sends_nothing(
    parties: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network fails while the deposit is under way; whoever tries again must not deposit twice."""
    await open_channel(parties.payer, parties.terms, TON)
    client, real = parties.client, parties.client.account_state
    sent = False
    real_send = client.send_external

    async def send(boc: bytes) -> None:
        nonlocal sent
        await real_send(boc)
        sent = True

    async def fails(address: str) -> Any:
        if sent:
            raise ChainUnavailable("the cable is out")
        return await real(address)

    monkeypatch.setattr(client, "send_external", send)
    monkeypatch.setattr(client, "account_state", fails)
    with pytest.raises(ChainUnavailable):
        await top_up(parties.payer, parties.terms, TON)
    monkeypatch.undo()
    done = await top_up(parties.payer, parties.terms, TON)
    assert done.state.deposit_nanoton == 2 * TON
    # And a third one, meant as such, adds again.
    assert (await top_up(parties.payer, parties.terms, TON)).state.deposit_nanoton == 3 * TON


async def test_a_refusal_of_what_may_have_been_sent_before_is_not_believed_until_it_has_expired(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may refuse a copy because the message was executed in a block that we have not seen yet."""
    account = await funded(net, client, MemoryPendingStore())
    real, calls = client.send_external, []

    async def late(boc: bytes) -> None:
        calls.append(boc)
        if len(calls) == 1:
            raise ChainUnavailable("no answer")
        if len(calls) == 2:
            raise OperationFailed("bad sequence number")
        await real(boc)

    monkeypatch.setattr(client, "send_external", late)
    monkeypatch.setattr("overlay.settlement.chain.account.RESEND_INTERVAL_S", 0.01)
    await account.transfer([Transfer(TARGET, 7, bounce=False)])
    assert len(set(calls)) == 1
    assert len(calls) >= 3


async def test_our_message_is_known_by_its_signed_body_in_whatever_envelope_it_is_executed(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await funded(net, client, MemoryPendingStore())
    await account.transfer([Transfer(TARGET, 1, bounce=False)])  # deploys
    real = client.send_external

    async def rewrapped(boc: bytes) -> None:
        from pytoniq_core import Cell

        body = parse_message(Cell.one_from_boc(boc)).body
        info = ExternalMsgInfo(None, address_of(account.address), 0).serialize()
        envelope = begin_cell().store_cell(info).store_bit(0).store_bit(1).store_ref(body).end_cell()
        assert envelope.hash != Cell.one_from_boc(boc).hash
        await real(envelope.to_boc())

    monkeypatch.setattr(client, "send_external", rewrapped)
    transaction = await account.transfer([Transfer(TARGET, 2, bounce=False)])
    assert [message.value_nanoton for message in transaction.out_messages] == [2]


async def test_cancelling_a_transfer_leaves_it_to_be_finished(net: Any, client: TonClient, store: PendingStore) -> None:
    account = await funded(net, client, store)
    with trio.CancelScope() as scope:

        async def cut(boc: bytes) -> None:
            scope.cancel()
            await trio.sleep_forever()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "send_external", cut)
            await account.transfer([Transfer(TARGET, 9, bounce=False)])
    before = len(await net.history(TARGET))
    await account.transfer([Transfer(TARGET, 9, bounce=False)])
    assert len(await net.history(TARGET)) == before + 1


def test_an_intent_is_what_is_done_not_the_query_id_it_is_done_under() -> None:
    def body(query_id: int, amount: int) -> Any:
        return begin_cell().store_uint(1, 32).store_uint(query_id, 64).store_coins(amount).end_cell()

    first = intent_of([Transfer(TARGET, 5, body(1, 7))])
    assert first == intent_of([Transfer(TARGET, 5, body(2, 7))])
    others = [
        [Transfer(TARGET, 5, body(1, 8))],
        [Transfer(TARGET, 6, body(1, 7))],
        [Transfer("0:" + "78" * 32, 5, body(1, 7))],
        [Transfer(TARGET, 5, body(1, 7)), Transfer(TARGET, 5, body(1, 7))],
        [Transfer(TARGET, 5)],
    ]
    assert len({first, *map(intent_of, others)}) == 6


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_fails_and_however_often_it_is_tried_again_each_payment_arrives_exactly_once(
    net: Any, client: TonClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Messages are lost, answers are lost, servers refuse, reads fail and the process is killed, at random."""
    chance = random.Random(seed)
    monkeypatch.setattr("overlay.settlement.chain.account.RESEND_INTERVAL_S", 0.02)
    store = SqlitePendingStore(tmp_path / "outbox.sqlite3")
    account = await funded(net, client, store)
    target = f"0:{seed + 1:02x}{'c3' * 31}"
    real_send, real_read = client.send_external, client.account_state
    fault = ""

    async def send(boc: bytes) -> None:
        nonlocal fault
        fault, now = "", fault
        if now == "killed before it left":
            raise PowerCut
        if now == "lost":
            return
        if now == "refused":
            raise OperationFailed("a server that does not like it")
        await real_send(boc)
        if now == "killed after it left":
            raise PowerCut
        if now == "answer lost":
            raise ChainUnavailable("no answer")
        if now == "reads fail":
            fault = now

    async def read(address: str) -> Any:
        nonlocal fault
        if fault == "reads fail":
            fault = ""
            raise ChainUnavailable("the cable is out")
        return await real_read(address)

    monkeypatch.setattr(client, "send_external", send)
    monkeypatch.setattr(client, "account_state", read)
    faults = ["killed before it left", "lost", "refused", "killed after it left", "answer lost", "reads fail", ""]
    amounts = [1000 + index for index in range(6)]
    for amount in amounts:
        while True:
            fault = chance.choice(faults)
            try:
                await account.transfer([Transfer(target, amount, bounce=False)])
                break
            except PowerCut:
                account = WalletAccount(client, account.wallet, SqlitePendingStore(tmp_path / "outbox.sqlite3"))
            except (ChainUnavailable, OperationFailed):
                continue
    assert [entry.in_message.value_nanoton for entry in await net.history(target)] == amounts
