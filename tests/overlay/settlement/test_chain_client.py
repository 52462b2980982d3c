"""The chain client against honest, lying, silent and dead liteservers, and the wallet that sends through it."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import trio
from pytoniq_core import Cell
from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement import (
    ChainUnavailable,
    InsufficientFunds,
    OperationFailed,
    ProofRejected,
    Transfer,
    Wallet,
)
from overlay.settlement.cells import address_of
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.chain.blockproof import check_block_proof
from overlay.settlement.chain.proved import check_account_answer
from overlay.settlement.devnet.proofs import merkle_proof, to_boc
from tests.overlay.settlement.validators import MasterBlock, Validators, bomb

TON = 10**9
NOBODY = "0:" + "5a" * 32


async def answer_about(client: TonClient, address: str) -> tuple[dict[str, Any], BlockIdExt]:
    """The raw answer of the liteserver, to be tampered with."""

    async def ask() -> tuple[dict[str, Any], BlockIdExt]:
        link = client._pool.links[0]
        master = await link.fetch_head()
        request = {"id": master.to_dict(), "account": address_of(address).to_tl_account_id()}
        return await link.request("getAccountState", request), master

    return await client._bridge.call(ask)


async def test_an_account_and_its_absence_are_both_proved(net: Any, client: TonClient) -> None:
    state = await client.account_state(net.devnet.giver)
    assert state is not None
    assert state.balance_nanoton > 10**18
    assert await client.account_state(NOBODY) is None


async def test_a_server_cannot_hide_an_account(net: Any, client: TonClient) -> None:
    answer, master = await answer_about(client, net.devnet.giver)
    with pytest.raises(ProofRejected, match="did not deliver"):
        check_account_answer({**answer, "state": b""}, master, net.devnet.giver)
    elsewhere, _ = await answer_about(client, NOBODY)
    with pytest.raises(ProofRejected):
        check_account_answer({**elsewhere, "state": b""}, master, net.devnet.giver)


async def test_a_server_cannot_make_up_an_account(net: Any, client: TonClient) -> None:
    real, master = await answer_about(client, net.devnet.giver)
    absent, master = await answer_about(client, NOBODY)
    with pytest.raises(ProofRejected):
        check_account_answer({**absent, "state": real["state"]}, master, NOBODY)
    with pytest.raises(ProofRejected):
        check_account_answer(real, master, NOBODY)


async def test_a_server_cannot_answer_about_another_block(net: Any, client: TonClient) -> None:
    old, master = await answer_about(client, net.devnet.giver)
    await net.call(net.devnet.seal)
    _, newer = await answer_about(client, net.devnet.giver)
    with pytest.raises(ProofRejected, match="another block"):
        check_account_answer(old, newer, net.devnet.giver)
    with pytest.raises(ProofRejected):
        check_account_answer({**old, "id": newer.to_dict()}, newer, net.devnet.giver)
    assert check_account_answer(old, master, net.devnet.giver).account is not None


async def test_a_server_cannot_stop_us_with_cells_that_take_forever_to_parse(net: Any, client: TonClient) -> None:
    honest, master = await answer_about(client, net.devnet.giver)
    roots = [merkle_proof(bomb()), Cell.from_boc(honest["shard_proof"])[1]]
    with pytest.raises(ProofRejected):
        check_account_answer({**honest, "shard_proof": to_boc(roots)}, master, net.devnet.giver)
    with pytest.raises(ProofRejected):
        check_account_answer({**honest, "shard_proof": to_boc(roots[::-1])}, master, net.devnet.giver)
    known = MasterBlock(7, Validators.make(1)).id
    steps = [{"from": known.to_dict(), "to": MasterBlock(8).id.to_dict(), "config_proof": to_boc(roots[:1])}]
    with pytest.raises(ProofRejected):
        check_block_proof({"steps": steps}, known, MasterBlock(8).id)


@pytest.mark.parametrize("part", ["proof", "shard_proof", "state"])
async def test_a_proof_with_any_byte_changed_is_rejected(net: Any, client: TonClient, part: str) -> None:
    answer, master = await answer_about(client, net.devnet.giver)
    honest = check_account_answer(answer, master, net.devnet.giver)
    data = answer[part]
    for index in range(0, len(data), max(len(data) // 40, 1)):
        bent = copy.deepcopy(answer)
        bent[part] = data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]
        try:
            result = check_account_answer(bent, master, net.devnet.giver)
        except ProofRejected:
            continue
        assert result == honest, f"byte {index} of {part}"  # a bit of the BoC's own framing that carries no meaning


async def test_a_lost_connection_is_made_again(net: Any, client: TonClient) -> None:
    async def cut() -> None:
        client._pool.links[0]._client.writer.transport.abort()

    balances: list[int] = []

    async def ask() -> None:
        state = await client.account_state(net.devnet.giver)
        assert state is not None
        balances.append(state.balance_nanoton)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await client._bridge.call(cut)
    await ask()
    assert len(balances) == 6


async def test_no_server_at_all_is_a_clear_error(net: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.01,))
    config = net.config
    config["liteservers"][0]["port"] = 1
    with pytest.raises(ChainUnavailable, match=r"127\.0\.0\.1:1"):
        async with connect(config):
            pass


@pytest.mark.parametrize(
    "config", [{}, {"liteservers": []}, {"liteservers": [{"ip": "x", "port": 1, "id": {"key": ""}}]}]
)
async def test_a_malformed_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="global config"):
        async with TonClient.connect(config):
            pass


async def test_a_change_is_seen_when_it_happens(net: Any, client: TonClient) -> None:
    wallet = Wallet(net.fresh_seed(), client.network_id)
    seen: list[int] = []

    async def watch() -> None:
        state = await client.wait_for_change(wallet.address, 0, timeout_s=10)
        assert state is not None
        seen.append(state.balance_nanoton)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await net.call(net.devnet.fund, wallet.address, TON)
    assert seen == [TON]
    with pytest.raises(trio.TooSlowError):
        await client.wait_for_change(NOBODY, 0, timeout_s=0.2)


async def test_the_block_updater_outlives_the_servers_timeouts(net: Any, client: TonClient) -> None:
    from pytoniq.liteclient.client import LiteServerError

    async def provoke() -> bool:
        lite = client._pool.links[0]._client
        original, calls = lite.wait_masterchain_seqno, []

        async def failing(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 1:
                raise LiteServerError(652, "timeout")
            return await original(*args, **kwargs)

        lite.wait_masterchain_seqno = failing
        lite.updater.cancel()
        lite.updater = asyncio.create_task(lite.block_updater())
        await asyncio.wait_for(client._pool.heads._new_block.wait(), 10)
        return bool(len(calls) > 1 and not lite.updater.done())

    assert await client._bridge.call(provoke)


async def test_a_wallet_deploys_itself_with_its_first_transfer(net: Any, client: TonClient) -> None:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    target = Wallet(net.fresh_seed(), client.network_id).address
    await net.call(net.devnet.fund, account.address, 5 * TON)
    assert await account.wait_until_funded(5 * TON) == 5 * TON
    first = await account.transfer([Transfer(target, TON, bounce=False), Transfer(target, 2, bounce=False)])
    second = await account.transfer([Transfer(target, 3, bounce=False)])
    assert second.lt > first.lt
    received = [entry.in_message.value_nanoton for entry in await net.history(target)]
    assert received == [TON, 2, 3]
    assert await account.balance_nanoton() == 5 * TON + first.balance_change_nanoton + second.balance_change_nanoton


async def test_transfers_of_concurrent_tasks_queue_up_and_all_arrive(net: Any, client: TonClient) -> None:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    target = Wallet(net.fresh_seed(), client.network_id).address
    await net.call(net.devnet.fund, account.address, 5 * TON)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(account.transfer, [Transfer(target, 11, bounce=False)])
    assert [entry.in_message.value_nanoton for entry in await net.history(target)] == [11] * 4


async def test_a_message_lost_on_the_way_is_sent_again_and_counts_once(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    target = Wallet(net.fresh_seed(), client.network_id).address
    await net.call(net.devnet.fund, account.address, 5 * TON)
    monkeypatch.setattr("overlay.settlement.chain.account.RESEND_INTERVAL_S", 0.05)
    real, sent = client.send_external, []

    async def lossy(boc: bytes) -> None:
        sent.append(boc)
        if len(sent) == 1:
            return  # taken, and lost
        if len(sent) == 2:
            await real(boc)
            raise ChainUnavailable("the answer was lost")
        await real(boc)

    monkeypatch.setattr(client, "send_external", lossy)
    await account.transfer([Transfer(target, 7, bounce=False)])
    assert len(sent) >= 2
    assert len(set(sent)) == 1
    assert [entry.in_message.value_nanoton for entry in await net.history(target)] == [7]


async def test_a_message_that_never_arrives_expires_and_says_so(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    await net.call(net.devnet.fund, account.address, 5 * TON)

    async def lost(boc: bytes) -> None:
        await net.advance(61)

    monkeypatch.setattr(client, "send_external", lost)
    with pytest.raises(OperationFailed, match="nothing was sent"):
        await account.transfer([Transfer(NOBODY, 7, bounce=False)])


async def test_an_empty_wallet_says_what_is_missing(net: Any, client: TonClient) -> None:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    with pytest.raises(InsufficientFunds, match=r"holds 0 nanoTON.*more"):
        await account.transfer([Transfer(NOBODY, TON)])


async def test_a_wallet_of_another_network_is_refused(client: TonClient) -> None:
    with pytest.raises(ValueError, match="another address"):
        WalletAccount(client, Wallet(bytes(32), -239))


def test_a_wallets_repr_shows_no_secret() -> None:
    wallet = Wallet(b"\x17" * 32, -239)
    assert "seed" not in repr(wallet)
    assert wallet.seed.hex() not in repr(wallet)
    assert repr(wallet.seed) not in repr(wallet)
