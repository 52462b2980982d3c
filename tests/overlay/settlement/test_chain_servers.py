"""Several liteservers: one that lies, is stale, hangs, sends garbage or dies is outvoted, named and done without."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import trio

from overlay.settlement import ChainUnavailable, ClockSkewed, ProofRejected, ServersDisagree
from overlay.settlement.chain import TonClient
from tests.overlay.settlement.faulty_server import FaultyServer, Question, answer, error, faulty_servers, with_servers

TON = 10**9


def connect(net: Any, servers: list[FaultyServer], news: list[str] | None = None, **options: Any) -> Any:
    said = [] if news is None else news
    return TonClient.connect(with_servers(net.config, servers), clock=net.clock, on_news=said.append, **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pauses, shorter, so that failures do not cost seconds."""
    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.05, 0.05))
    monkeypatch.setattr("overlay.settlement.chain.heads.CATCH_UP_S", 0.5)
    monkeypatch.setattr("overlay.settlement.chain.lite.HEAD_TIMEOUT_S", 2.0)
    monkeypatch.setattr("overlay.settlement.chain.lite.RETRY_BACKOFF_S", (0.05,))


async def invented_block(question: Question) -> bytes | None:
    """A liar at trust level 1: a masterchain block of its own making, ahead of everybody's."""
    if question.name == "getMasterchainInfo":
        fields = await question.fields_of_answer()
        fields["last"] |= {"root_hash": "ee" * 32, "seqno": fields["last"]["seqno"] + 1}
        return answer("masterchainInfo", fields)
    if question.name == "lookupBlock":
        fields = await question.fields_of_answer()
        fields["id"] |= {"root_hash": "ee" * 32}
        return answer("blockHeader", fields)
    return await question.honest()


async def forged_proof(question: Question) -> bytes | None:
    """A liar about one account: the right block, another state."""
    if question.name == "getAccountState":
        fields = await question.fields_of_answer()
        fields["state"] = fields["state"][:-40] + bytes(40)
        return answer("accountState", fields)
    return await question.honest()


async def silent(question: Question) -> bytes | None:
    return None


async def garbage(question: Question) -> bytes | None:
    return os.urandom(64)


async def refuses(question: Question) -> bytes | None:
    return error(651, "not ready")


@pytest.mark.parametrize("fault", [silent, garbage, refuses, invented_block, forged_proof])
async def test_one_bad_server_among_three_is_done_without(net: Any, fault: Any) -> None:
    async with faulty_servers(net.config, 3) as servers:
        servers[0].spoil = fault
        async with connect(net, servers) as client:
            for _ in range(2):
                state = await client.account_state(net.devnet.giver)
                assert state is not None
                assert state.balance_nanoton > 10**18
                assert await client.account_state("0:" + "5a" * 32) is None


@pytest.mark.parametrize(("fault", "said"), [(invented_block, "than the majority"), (forged_proof, "malformed|proof")])
async def test_a_liar_is_named(net: Any, fault: Any, said: str) -> None:
    async def slow(question: Question) -> bytes | None:
        await trio.sleep(0.02)  # so that the liar is the one that is asked
        return await question.honest()

    news: list[str] = []
    async with faulty_servers(net.config, 3) as servers:
        servers[0].spoil, servers[1].spoil, servers[2].spoil = slow, fault, slow
        async with connect(net, servers, news) as client:
            with trio.fail_after(10):
                while client_ok := all(report.ok for report in await client.servers()):
                    await net.call(net.devnet.seal)
                    await client.account_state(net.devnet.giver)
            assert not client_ok
            accused = [report for report in await client.servers() if not report.ok]
        assert [report.server for report in accused] == [servers[1].name]
    assert any(servers[1].name in line for line in news)
    assert any(word in line for line in news for word in said.split("|"))


async def test_two_servers_that_disagree_are_an_error_that_names_both(net: Any) -> None:
    async with faulty_servers(net.config, 2) as servers:
        servers[0].spoil = invented_block
        with pytest.raises(ServersDisagree, match="disagree about masterchain block") as caught:
            async with connect(net, servers):
                pass
        assert all(server.name in str(caught.value) for server in servers)
        assert "global config" in str(caught.value)


async def test_a_single_server_that_forges_is_an_error_not_a_state(net: Any) -> None:
    async with faulty_servers(net.config, 1) as servers:
        async with connect(net, servers) as client:
            servers[0].spoil = forged_proof
            with pytest.raises(ProofRejected):
                await client.account_state(net.devnet.giver)


async def test_too_few_servers_is_an_error_that_says_what_would_do(net: Any) -> None:
    async with faulty_servers(net.config, 2) as servers:
        await servers[0].stop()
        with pytest.raises(ChainUnavailable, match=r"only 1 of 2 .* must agree.*ton\.quorum = 1"):
            async with connect(net, servers):
                pass
        async with connect(net, servers, quorum=1) as client:
            assert await client.account_state(net.devnet.giver) is not None


async def test_a_stale_server_cannot_hide_what_happened(net: Any) -> None:
    old: list[bytes] = []

    async def stale(question: Question) -> bytes | None:
        if question.waits:
            return error(652, "timeout")
        if question.name == "getMasterchainInfo":
            old.append(await question.honest())
            return old[0]
        return await question.honest()

    address = "0:" + net.fresh_seed().hex()
    async with faulty_servers(net.config, 3) as servers:
        servers[0].spoil = stale
        async with connect(net, servers) as client:
            await net.call(net.devnet.fund, address, TON)
            for _ in range(3):
                state = await client.account_state(address)
                assert state is not None
                assert state.balance_nanoton == TON


async def test_a_stale_server_is_named_and_a_spare_takes_its_place(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.settlement.chain.heads.STALE_AFTER_S", 0.5)
    old: list[bytes] = []

    async def stale(question: Question) -> bytes | None:
        if question.waits:
            return error(652, "timeout")
        if question.name == "getMasterchainInfo":
            old.append(await question.honest())
            return old[0]
        return await question.honest()

    news: list[str] = []
    async with faulty_servers(net.config, 4) as servers:
        servers[0].spoil = stale
        async with connect(net, servers, news) as client:
            with trio.fail_after(10):
                while not any("stale" in line for line in news):
                    await net.call(net.devnet.seal)
                    await client.account_state(net.devnet.giver)
                    await trio.sleep(0.1)
            assert servers[0].name in next(line for line in news if "stale" in line)
            before = servers[3].asked.count("getMasterchainInfo")
            await client.account_state(net.devnet.giver)
            assert servers[3].asked.count("getMasterchainInfo") > before


async def test_what_was_seen_once_is_not_unseen_through_a_server_that_is_behind(net: Any) -> None:
    old: list[bytes] = []

    async def behind(question: Question) -> bytes | None:
        if question.waits:
            return error(652, "timeout")
        if question.name == "getMasterchainInfo":
            return old[0]
        return await question.honest()

    async with faulty_servers(net.config, 2) as servers:
        old.append(await Question(bytes.fromhex("2ee6b589"), servers[0]._upstream).honest())
        async with connect(net, servers, quorum=1) as client:
            await net.call(net.devnet.fund, "0:" + net.fresh_seed().hex(), TON)
            await client.account_state(net.devnet.giver)
            for server in servers:
                server.spoil = behind
            with pytest.raises(ChainUnavailable, match="behind block"):
                await client.account_state(net.devnet.giver)
            servers[1].spoil = Question.honest
            assert await client.account_state(net.devnet.giver) is not None


async def test_a_server_that_dies_and_comes_back_is_used_again(net: Any) -> None:
    async with faulty_servers(net.config, 1) as servers:
        async with connect(net, servers) as client:
            await servers[0].stop()
            with pytest.raises(ChainUnavailable, match=servers[0].name):
                await client.account_state(net.devnet.giver)
            assert [report.ok for report in await client.servers()] == [False]
            await servers[0].start()
            assert await client.account_state(net.devnet.giver) is not None
            with trio.fail_after(5):
                while not all(report.ok for report in await client.servers()):
                    await client.account_state(net.devnet.giver)


async def test_the_quicker_server_is_preferred(net: Any) -> None:
    async def slow(question: Question) -> bytes | None:
        await trio.sleep(0.08)
        return await question.honest()

    async with faulty_servers(net.config, 2) as servers:
        servers[0].spoil = slow
        async with connect(net, servers, quorum=1) as client:
            for _ in range(6):
                await client.account_state(net.devnet.giver)
            before = servers[1].asked.count("getAccountState")
            for _ in range(5):
                await client.account_state(net.devnet.giver)
            assert servers[1].asked.count("getAccountState") == before + 5


async def test_one_operator_does_not_count_twice(net: Any) -> None:
    async with faulty_servers(net.config, 2) as servers:
        config = with_servers(net.config, [servers[0], servers[0], servers[1]])
        servers[0].spoil = invented_block
        with pytest.raises(ServersDisagree):
            async with TonClient.connect(config, clock=net.clock):
                pass


async def test_a_message_goes_to_every_server_and_one_that_takes_it_is_enough(net: Any) -> None:
    from overlay.settlement import Transfer, Wallet
    from overlay.settlement.chain import WalletAccount

    async def refuse_messages(question: Question) -> bytes | None:
        return error(0, "no") if question.name == "sendMessage" else await question.honest()

    async with faulty_servers(net.config, 3) as servers:
        servers[0].spoil = servers[1].spoil = refuse_messages
        async with connect(net, servers) as client:
            account = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
            await net.call(net.devnet.fund, account.address, TON)
            await account.transfer([Transfer("0:" + "66" * 32, 7, bounce=False)])


async def test_a_config_of_another_network_is_refused(net: Any) -> None:
    config = net.config
    wrong = copy.deepcopy(config)
    wrong["devnet"]["network_id"] = -3
    with pytest.raises(ValueError, match="mixes two networks"):
        async with TonClient.connect(wrong, clock=net.clock):
            pass
    with pytest.raises(ValueError, match="network -239 was asked for"):
        async with TonClient.connect(config, clock=net.clock, network_id=-239):
            pass
    mainnet = copy.deepcopy(config)
    del mainnet["devnet"]
    mainnet["validator"]["zero_state"]["root_hash"] = "F6OpKZKqvqeFp6CQmFomXNMfMj2EnaUSOXN+Mh+wVWk="
    with pytest.raises(ProofRejected, match="another network"):
        async with TonClient.connect(mainnet, clock=net.clock):
            pass


@pytest.mark.parametrize("skew_s", [600.0, -600.0])
async def test_a_clock_that_is_ten_minutes_off_is_refused_and_said(net: Any, skew_s: float) -> None:
    word = "ahead" if skew_s > 0 else "behind"
    with pytest.raises(ClockSkewed, match=rf"clock is (59\d|60\d) s {word}.*set the clock"):
        async with TonClient.connect(net.config, clock=lambda: net.clock() + skew_s):
            pass


async def test_a_chain_that_stands_still_is_not_mistaken_for_a_wrong_clock(net: Any) -> None:
    """The servers' own clocks are right, their newest block is two minutes old."""
    late = 120.0

    async def clocks_right(question: Question) -> bytes | None:
        if question.name == "getTime":
            return answer("currentTime", {"now": int(net.clock() + late)})
        return await question.honest()

    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = clocks_right
        with pytest.raises(ChainUnavailable, match="they are behind, or the network has stopped"):
            async with TonClient.connect(with_servers(net.config, servers), clock=lambda: net.clock() + late):
                pass


async def test_a_clock_that_is_a_little_off_is_measured_and_warned_of(net: Any) -> None:
    news: list[str] = []
    async with TonClient.connect(net.config, clock=lambda: net.clock() + 30, on_news=news.append) as client:
        for _ in range(10):
            await client.account_state(net.devnet.giver)
        assert 28 <= client.clock_skew_s <= 35
    assert len([line for line in news if "clock" in line and "ahead" in line]) == 1


async def test_a_clock_that_is_set_wrong_while_we_run_is_warned_of_and_does_not_stop_us(net: Any) -> None:
    """A payee has to claim before a deadline, whatever happened to its clock."""
    for jump_s, word in ((600.0, "600 s ahead"), (-600.0, "600 s behind")):
        offset, news = 0.0, []

        def clock() -> float:
            return float(net.clock()) + offset  # noqa: B023 — the jump is meant to be seen

        async with TonClient.connect(net.config, clock=clock, on_news=news.append) as client:
            await client.account_state(net.devnet.giver)
            offset = jump_s
            for _ in range(9):
                assert await client.account_state(net.devnet.giver) is not None
            assert [word in line or "clock is 59" in line or "clock is 60" in line for line in news] == [True]
            assert [report.ok for report in await client.servers()] == [True]


async def test_a_chain_that_stops_while_we_run_is_noticed(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    later = 0.0
    monkeypatch.setattr("overlay.settlement.chain.client._elapsed_s", lambda: trio.current_time() + later)
    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.01,))

    async def clocks_right(question: Question) -> bytes | None:
        if question.name == "getTime":
            return answer("currentTime", {"now": int(net.clock() + later)})
        return await question.honest()

    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = clocks_right
        config = with_servers(net.config, servers)
        async with TonClient.connect(config, clock=lambda: net.clock() + later) as client:
            later = 120.0
            with pytest.raises(ChainUnavailable, match="they are behind, or the network has stopped"):
                await client.account_state(net.devnet.giver)


async def test_at_trust_level_2_the_quickest_server_decides_alone_and_is_still_held_to_its_proofs(net: Any) -> None:
    async def slow(question: Question) -> bytes | None:
        await trio.sleep(0.1)
        return await question.honest()

    async with faulty_servers(net.config, 2) as servers:
        servers[0].spoil = slow
        async with connect(net, servers, trust_level=2) as client:
            for _ in range(4):
                await client.account_state(net.devnet.giver)
            servers[1].spoil = forged_proof
            state = await client.account_state(net.devnet.giver)
            assert state is not None
            assert state.balance_nanoton > 10**18
            assert [report.ok for report in await client.servers()] == [True, False]
