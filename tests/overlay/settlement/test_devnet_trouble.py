"""Trouble on demand, and what the production client makes of it: it never takes a lie for the truth."""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from overlay.settlement import DevnetError, SettlementError, Transfer, Wallet
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.devnet import Devnet, Lie, NetworkTrouble, ServerTrouble, read_script
from overlay.settlement.devnet.run import follow
from overlay.settlement.devnet.tvm import MessageRejected

TON = 10**9
NOBODY = f"0:{hashlib.sha256(b'the liar knows').hexdigest()}"
HONEST = 2
"""The first servers are honest, each of the others tells one lie."""

LIES = list(Lie)

ASKS_SEVERAL = "quorum" in inspect.signature(TonClient.connect).parameters
needs_quorum = pytest.mark.skipif(
    not ASKS_SEVERAL, reason="this client takes one server's word for a masterchain block"
)


class Servers:
    """A devnet with a liteserver for each lie, in a thread: clients of several trio loops ask it."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="liars", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def clock(self) -> float:
        return time.time() + self._offset_s

    def _main(self) -> None:
        async def run() -> None:
            count = HONEST + len(LIES)
            async with Devnet.serve(clock=self.clock, heartbeat_s=1.0, liteservers=count) as devnet:
                self.devnet, self.token, self._stop = devnet, trio.lowlevel.current_trio_token(), trio.Event()
                for lie, server in zip(LIES, devnet.liteservers[HONEST:], strict=True):
                    forged: dict[str, int | None] = {NOBODY: 123 * TON, devnet.giver: None}
                    server.trouble = ServerTrouble(
                        lies=frozenset({lie}), forged_accounts=forged if lie is Lie.FORGED_CHAIN else {}
                    )
                self._ready.set()
                await self._stop.wait()

        try:
            trio.run(run)
        except BaseException as error:
            self._failure = error
            self._ready.set()

    def stop(self) -> None:
        self.token.run_sync_soon(self._stop.set)
        self._thread.join()

    async def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await trio.to_thread.run_sync(partial(trio.from_thread.run, function, *args, trio_token=self.token))

    async def later(self, seconds: float) -> None:
        self._offset_s += seconds
        await self.call(self.devnet.seal)

    def config(self, *lies: Lie, honest: int = 0) -> dict[str, Any]:
        """A network of the servers that tell these lies, and of so many honest ones."""
        config = self.devnet.global_config()
        liars = [config["liteservers"][HONEST + LIES.index(lie)] for lie in lies]
        config["liteservers"] = liars + config["liteservers"][:honest]
        return config

    async def truth(self) -> int:
        async def read() -> int:
            return self.devnet.ledger.account(self.devnet.giver).balance_nanoton

        return int(await self.call(read))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    running = Servers()
    yield running
    running.stop()


async def read(servers: Servers, config: dict[str, Any], **options: Any) -> tuple[int, Any]:
    """What a client believes: the giver's balance, and the account that does not exist."""
    async with TonClient.connect(config, clock=servers.clock, **options) as client:
        giver = await client.account_state(servers.devnet.giver)
        return 0 if giver is None else giver.balance_nanoton, await client.account_state(NOBODY)


DETECTED = [Lie.HANG_UP, Lie.WRONG_STATE, Lie.BROKEN_PROOF, Lie.FORGED_ABSENCE]
"""What one server's answers give away."""


async def test_from_a_liar_alone_the_client_gets_an_error_and_never_a_false_state(servers: Servers) -> None:
    outcomes: dict[Lie, str] = {}

    async def ask(lie: Lie) -> None:
        try:
            outcomes[lie] = f"believed {await read(servers, servers.config(lie))}"
        except SettlementError as error:
            outcomes[lie] = type(error).__name__

    async with trio.open_nursery() as nursery:
        for lie in [*DETECTED, *([Lie.REFUSAL, Lie.GARBAGE] if ASKS_SEVERAL else [])]:
            nursery.start_soon(ask, lie)
    assert set(outcomes.values()) <= {"ProofRejected", "ChainUnavailable"}, outcomes
    for lie in (Lie.WRONG_STATE, Lie.BROKEN_PROOF, Lie.FORGED_ABSENCE):
        assert outcomes[lie] == "ProofRejected"


async def test_with_honest_servers_beside_it_a_liar_changes_nothing(servers: Servers) -> None:
    truth = await servers.truth()
    believed: dict[Lie, Any] = {}

    async def ask(lie: Lie) -> None:
        believed[lie] = await read(servers, servers.config(lie, honest=2))

    async with trio.open_nursery() as nursery:
        for lie in LIES if ASKS_SEVERAL else DETECTED:
            nursery.start_soon(ask, lie)
    assert believed == dict.fromkeys(believed, (truth, None))


async def test_a_server_that_stays_behind_is_noticed_by_the_age_of_its_block(servers: Servers) -> None:
    await servers.later(300.0)
    with pytest.raises(SettlementError):
        await read(servers, servers.config(Lie.STALE))


@needs_quorum
async def test_at_trust_level_0_signatures_decide_and_a_forged_chain_is_refused(servers: Servers) -> None:
    truth = await servers.truth()
    believed: list[Any] = []

    async def ask(*lies: Lie, honest: int = 0) -> None:
        try:
            believed.append(await read(servers, servers.config(*lies, honest=honest), trust_level=0))
        except SettlementError:
            assert honest == 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, Lie.FORGED_CHAIN)
        nursery.start_soon(ask, Lie.WRONG_SIGNATURES)
        nursery.start_soon(partial(ask, honest=1))
        nursery.start_soon(partial(ask, Lie.FORGED_CHAIN, honest=2))
    assert believed == [(truth, None)] * 2


@needs_quorum
async def test_trust_level_0_follows_a_change_of_validators(servers: Servers) -> None:
    async with TonClient.connect(servers.config(honest=1), clock=servers.clock, trust_level=0) as client:
        for _ in range(2):
            await servers.call(servers.devnet.rotate_validators)
            await servers.call(servers.devnet.seal)
            assert await client.account_state(servers.devnet.giver) is not None


# ---- a network that is slow, full, or loses messages ----


async def funded(net: Any, client: TonClient) -> WalletAccount:
    account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    await net.call(net.devnet.fund, account.address, 10 * TON)
    return account


async def set_trouble(net: Any, network: NetworkTrouble | None = None, server: ServerTrouble | None = None) -> None:
    async def change() -> None:
        net.devnet.trouble = network or NetworkTrouble()
        net.devnet.liteservers[0].trouble = server or ServerTrouble()

    await net.call(change)


async def test_a_lost_message_is_sent_again_and_paid_once(
    net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.settlement.chain.account.RESEND_INTERVAL_S", 0.2)
    account, receiver = await funded(net, client), Wallet(net.fresh_seed(), client.network_id).address
    await set_trouble(net, server=ServerTrouble(lose_externals=2))
    try:
        await account.transfer([Transfer(receiver, TON, bounce=False)])
    finally:
        await set_trouble(net)
    assert len(await net.history(receiver)) == 1
    assert (await net.totals()).conserved


async def test_in_a_full_network_messages_wait_for_later_blocks_and_none_is_lost(net: Any, client: TonClient) -> None:
    account = await funded(net, client)
    receivers = [Wallet(net.fresh_seed(), client.network_id).address for _ in range(5)]
    await set_trouble(net, network=NetworkTrouble(block_delay_s=0.02, messages_per_block=2))
    try:
        await account.transfer([Transfer(each, TON, bounce=False) for each in receivers])
        with trio.fail_after(20):
            while not all([await client.account_state(each) for each in receivers]):
                assert (await net.totals()).conserved
                await client.next_block()
    finally:
        await set_trouble(net)
    blocks = [(await net.history(address))[-1].lt for address in (account.address, *receivers)]

    async def crowded() -> list[int]:
        store = net.devnet.chain._store
        seqnos = {net.devnet.chain.at_lt(lt).seqno for lt in blocks}
        return [len(store.block_transactions(seqno, after=None, limit=9, reverse=False)) for seqno in sorted(seqnos)]

    counts = await net.call(crowded)
    assert max(counts) <= 2
    assert len(counts) >= 3
    assert (await net.totals()).in_flight_nanoton == 0


async def test_a_message_that_nobody_accepts_is_refused_also_where_messages_wait(net: Any) -> None:
    await set_trouble(net, network=NetworkTrouble(block_delay_s=600))
    wallet = Wallet(net.fresh_seed(), net.devnet.network_id)  # without money: its account does not exist
    message = wallet.sign_transfers([Transfer(NOBODY, 1)], seqno=0, valid_until_s=int(net.clock()) + 60, deploy=True)
    try:
        with pytest.raises(MessageRejected):
            await net.call(net.devnet.submit, message.to_boc())
    finally:
        await set_trouble(net)


async def test_only_so_many_messages_wait(net: Any, client: TonClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.settlement.devnet.server.MAX_POOL", 2)
    account = await funded(net, client)
    message = account.wallet.sign_transfers(
        [Transfer(NOBODY, TON, bounce=False)], seqno=0, valid_until_s=int(net.clock()) + 60, deploy=True
    ).to_boc()
    await set_trouble(net, network=NetworkTrouble(block_delay_s=600))
    try:
        for _ in range(2):
            await net.call(net.devnet.submit, message)
        with pytest.raises(MessageRejected, match="too many"):
            await net.call(net.devnet.submit, message)
    finally:
        await set_trouble(net)
    state = await client.wait_for_change(NOBODY, 0)
    assert state is not None
    assert state.balance_nanoton == TON  # the same message twice counts once


async def test_slow_answers_are_waited_for(net: Any, client: TonClient) -> None:
    await set_trouble(net, server=ServerTrouble(answer_delay_s=0.3))
    try:
        started = time.monotonic()
        assert await client.account_state(net.devnet.giver) is not None
        assert time.monotonic() - started > 0.3
    finally:
        await set_trouble(net)


# ---- scripts ----


def written(path: Path, document: Any) -> Path:
    file = path / "trouble.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


async def test_a_script_makes_its_trouble_at_its_times(tmp_path: Path, autojump_clock: Any) -> None:
    script = read_script(written(tmp_path, {"steps": [
        {"at_s": 1, "network": {"block_delay_s": 2.5, "messages_per_block": 3}},
        {"at_s": 2, "servers": [{"server": 1, "lies": ["stale", "broken-proof"], "lose_externals": 4}]},
        {"at_s": 60, "network": {}, "servers": [{"server": 1}, {"answer_delay_s": 0.5}]},
    ]}))  # fmt: skip
    assert script.servers == 2
    devnet: Any = SimpleNamespace(
        trouble=None, liteservers=[SimpleNamespace(trouble=ServerTrouble()) for _ in range(2)]
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, script, devnet)
        await trio.sleep(0.5)
        assert devnet.trouble is None
        await trio.sleep(1)
        assert devnet.trouble == NetworkTrouble(block_delay_s=2.5, messages_per_block=3)
        await trio.sleep(1)
        assert devnet.liteservers[1].trouble == ServerTrouble(
            lies=frozenset({Lie.STALE, Lie.BROKEN_PROOF}), lose_externals=4
        )
        await trio.sleep(60)
        assert devnet.trouble == NetworkTrouble()
        assert [server.trouble for server in devnet.liteservers] == [
            ServerTrouble(answer_delay_s=0.5), ServerTrouble()
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "truncated"),
        ({}, "steps"),
        ({"steps": [{"at_s": 1, "netwrok": {}}]}, "netwrok"),
        ({"steps": [{"at_s": -1}]}, "at_s"),
        ({"steps": [{"at_s": 1, "servers": [{"lies": ["white"]}]}]}, "white"),
        ({"steps": [{"at_s": 1, "network": {"messages_per_block": 0}}]}, "messages_per_block"),
        ({"steps": [{"at_s": 2}, {"at_s": 1}]}, "order"),
    ],
)
def test_a_script_with_a_mistake_is_refused_with_its_place(tmp_path: Path, document: Any, reason: str) -> None:
    with pytest.raises(DevnetError, match=reason):
        read_script(written(tmp_path, document))


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_a_script_fail_otherwise(tmp_path_factory: Any, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any-script.json"
    file.write_bytes(data)
    try:
        read_script(file)
    except DevnetError:
        return
