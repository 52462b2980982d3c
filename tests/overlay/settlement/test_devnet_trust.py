"""What stock pytoniq proves about the devnet, at trust levels 0, 1 and 2: blocks, signatures, transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteServerError
from pytoniq_core import Address
from pytoniq_core.proof.check_proof import ProofError
from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement import Transfer, Wallet
from overlay.settlement.asyncio_bridge import AsyncThread
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.devnet import Lie, ServerTrouble
from overlay.settlement.devnet.limits import NETWORK_ID, VALIDATOR_COUNT

TON = 10**9


@pytest.fixture(autouse=True)
def own_blockstore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pytoniq keeps what it synchronised in the working directory."""
    monkeypatch.chdir(tmp_path)


async def stock(
    config: dict[str, Any], use: Callable[[Any], Awaitable[Any]], *, trust: int = 0, server: int = 0
) -> Any:
    async def body() -> Any:
        client = LiteClient.from_config(config, server, trust_level=trust, timeout=5)
        try:
            await client.connect()
            return await use(client)
        finally:
            await client.close()

    async with AsyncThread() as bridge:
        return await bridge.call(body)


async def paid(net: Any, client: TonClient) -> WalletAccount:
    """A wallet that has sent a message: so there are blocks with several accounts and transactions."""
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    await net.call(net.devnet.fund, account.address, 5 * TON)
    other = Wallet(net.fresh_seed(), NETWORK_ID).address
    await account.transfer([Transfer(other, TON, bounce=False), Transfer(other, TON, bounce=False)])
    return account


async def shard_block_of(net: Any, address: str) -> tuple[BlockIdExt, int]:
    """The shard block with the account's last transaction, and that one's logical time."""

    async def read() -> tuple[BlockIdExt, int]:
        last = net.devnet.ledger.transactions(address)[-1]
        return BlockIdExt.from_dict(net.devnet.chain.at_lt(last.lt).shard.to_tl()), last.lt

    return await net.call(read)


@pytest.mark.parametrize("trust", [0, 1, 2])
async def test_a_stock_client_follows_the_chain_at_each_trust_level(net: Any, client: TonClient, trust: int) -> None:
    account = await paid(net, client)

    async def use(lite: Any) -> None:
        state = await lite.get_account_state(Address(account.address))
        assert 2 * TON < state.balance < 3 * TON
        before = lite.last_mc_block.seqno
        await lite.update_last_blocks()
        assert lite.last_mc_block.seqno >= before
        assert (await lite.get_config_all())[19].load_int(32) == NETWORK_ID
        assert len(await lite.get_transactions(Address(account.address), 4)) >= 2

    await stock(net.config, use, trust=trust)


async def test_the_first_block_is_a_key_block_that_names_the_validators(net: Any) -> None:
    async def use(lite: Any) -> None:
        block = await lite.raw_get_block(lite.init_key_block)
        assert block.info.key_block
        assert block.info.seqno == 1
        config = block.extra.custom.config.config
        assert config[34].preload_uint(8) == 0x12
        parameters = await lite.get_config_all()
        assert parameters[34].cur_validators.main == VALIDATOR_COUNT
        assert not parameters[28].shuffle_mc_validators

    await stock(net.config, use)


async def test_trust_goes_from_validators_to_validators(net: Any) -> None:
    await net.call(net.devnet.rotate_validators)
    await net.call(net.devnet.seal)
    await net.call(net.devnet.rotate_validators)
    await net.call(net.devnet.seal)

    async def read() -> int:
        return int(net.devnet.chain.last.last_key.seqno)

    newest_key = await net.call(read)

    async def use(lite: Any) -> None:
        newest = lite.last_mc_block
        assert lite.last_key_block.seqno == newest_key < newest.seqno
        for distance in (1, 2, 3, 4, newest.seqno - 2):  # backwards, over key blocks and past them
            old, _ = await lite.lookup_block(-1, -(2**63), seqno=newest.seqno - distance)
            await lite.get_mc_block_proof(newest, old)
        await lite.get_mc_block_proof(newest, lite.init_key_block)
        old, _ = await lite.lookup_block(-1, -(2**63), seqno=newest.seqno - 2)
        await lite.get_mc_block_proof(old, newest)  # forwards from a block that is no key block: first back to one
        await lite.get_mc_block_proof(lite.init_key_block, newest)

    await stock(net.config, use)


async def test_a_block_from_another_chain_as_the_first_is_rejected(net: Any) -> None:
    config = net.config
    config["validator"]["init_block"]["root_hash"] = config["validator"]["init_block"]["file_hash"]

    async def use(lite: Any) -> None:
        raise AssertionError("connected")

    with pytest.raises(LiteServerError, match="not known"):
        await stock(config, use)


async def test_signatures_of_somebody_else_are_rejected(net: Any) -> None:
    async def use(lite: Any) -> None:
        raise AssertionError("connected")

    async def lie(lies: frozenset[Lie]) -> None:
        net.devnet.liteservers[0].trouble = ServerTrouble(lies=lies)

    await net.call(lie, frozenset({Lie.WRONG_SIGNATURES}))
    try:
        with pytest.raises((ProofError, LiteServerError), match="signature"):
            await stock(net.config, use)
    finally:
        await net.call(lie, frozenset())


async def test_the_transactions_of_a_block_are_proved(net: Any, client: TonClient) -> None:
    account = await paid(net, client)
    block, lt = await shard_block_of(net, account.address)

    async def use(lite: Any) -> None:
        listed = await lite.raw_get_block_transactions(block)
        assert len(listed) == 3  # the wallet's, and two at the receiver
        mine = [each for each in listed if each["account"] == Address(account.address)]
        assert [each["lt"] for each in mine] == [lt]
        paged = await lite.raw_get_block_transactions(block, count=1)
        assert [each["hash"] for each in paged] == [each["hash"] for each in listed]
        whole = await lite.raw_get_block_transactions_ext(block)
        assert [each.cell.hash for each in whole] == [each["hash"] for each in listed]
        one = await lite.get_one_transaction(Address(account.address), lt, block)
        assert one.cell.hash == mine[0]["hash"]
        assert await lite.get_one_transaction(Address(account.address), lt + 1, block) is None
        _, ids = await lite.raw_get_transactions(Address(account.address), 1, lt, mine[0]["hash"])
        assert ids == [block]

    for trust in (0, 1, 2):
        await stock(net.config, use, trust=trust)


async def test_a_whole_block_is_what_its_hashes_say_and_its_money_adds_up(net: Any, client: TonClient) -> None:
    account = await paid(net, client)
    block_id, _ = await shard_block_of(net, account.address)

    async def use(lite: Any) -> None:
        block = await lite.raw_get_block(block_id)
        assert block.info.seqno == block_id.seqno
        assert block.info.start_lt < block.info.end_lt
        assert len(block.extra.account_blocks[0]) == 2
        flow = block.value_flow
        into = flow.from_prev_blk.grams + flow.imported.grams + flow.minted.grams
        assert into == flow.to_next_blk.grams + flow.exported.grams + flow.fees_collected.grams
        assert flow.fees_collected.grams > 0
        newest = lite.last_mc_block  # it moves on meanwhile
        master = await lite.raw_get_block(newest)
        assert master.extra.custom.shard_hashes[0].list[0].seq_no == newest.seqno

    await stock(net.config, use)


async def test_blocks_are_looked_up_by_number_and_by_either_time(net: Any, client: TonClient) -> None:
    account = await paid(net, client)
    block_id, lt = await shard_block_of(net, account.address)
    await net.advance(5.0)

    async def use(lite: Any) -> None:
        by_number, header = await lite.lookup_block(0, -(2**63), seqno=block_id.seqno)
        assert by_number == block_id
        by_lt, _ = await lite.lookup_block(0, -(2**63), lt=lt)
        assert by_lt == block_id
        by_utime, found = await lite.lookup_block(-1, -(2**63), utime=header.info.gen_utime + 1)
        assert found.info.gen_utime > header.info.gen_utime
        assert by_utime.seqno > block_id.seqno
        for wrong in ({"seqno": 10**6}, {"lt": 2**62}, {"utime": 2**31 - 1}):
            with pytest.raises(LiteServerError, match="not known"):
                await lite.lookup_block(-1, -(2**63), **wrong)
        assert await lite.get_libraries([b"\x01" * 32]) == {"01" * 32: None}
        before = lite.last_mc_block.seqno
        assert before <= (await lite.raw_get_shard_info()).seq_no <= lite.last_mc_block.seqno + 1

    await stock(net.config, use)


async def test_stock_pytoniq_believes_a_forged_chain_even_at_trust_level_0(net: Any) -> None:
    """The flaw that our client must close: 0.1.43 does not hold the validators to the block that it trusts."""
    nobody = "0:" + "cd" * 32

    async def use(lite: Any) -> int:
        return int((await lite.get_account_state(Address(nobody))).balance)

    async def lie(trouble: ServerTrouble) -> None:
        net.devnet.liteservers[0].trouble = trouble

    await net.call(lie, ServerTrouble(lies=frozenset({Lie.FORGED_CHAIN}), forged_accounts={nobody: 123 * TON}))
    try:
        assert await stock(net.config, use, trust=1) == 123 * TON
        assert await stock(net.config, use, trust=0) == 123 * TON
    finally:
        await net.call(lie, ServerTrouble())
    assert await stock(net.config, use, trust=0) == 0
