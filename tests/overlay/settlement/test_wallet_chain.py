"""Opening a node's place on a chain: keys, network, and what an earlier run left in flight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlay.chain import open_chain
from overlay.config import load_config
from overlay.datadir import DataDir, open_data_dir
from overlay.errors import ChainError, ConfigError
from overlay.events import EventLog, NodeEvent
from overlay.keys import KeyFiles
from overlay.settlement import Transfer, sealed
from overlay.settlement.chain import TonClient
from tests.overlay.settlement.faulty_server import Question, faulty_servers, with_servers

TON = 10**9
PASSPHRASE = "correct horse battery"
TARGET = "0:" + "c1c1" * 16


@pytest.fixture
def directory(tmp_path: Path, net: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataDir]:
    """A data directory whose network is the tests' devnet, with its clock and without its faucet."""

    async def no_faucet(*_: Any) -> None:
        return None

    monkeypatch.setattr("overlay.chain.TonClient.connect", partial(TonClient.connect, clock=net.clock))
    monkeypatch.setattr("overlay.chain.ask_faucet", no_faucet)
    monkeypatch.setattr(sealed.seal, "__kwdefaults__", {"log2_n": 4})
    (tmp_path / "global.config.json").write_text(json.dumps(net.config))
    with open_data_dir(tmp_path / "data") as opened:
        yield opened


def opened(directory: DataDir, events: list[NodeEvent] | None = None, *overrides: str) -> Any:
    config = directory.path.parent / "global.config.json"
    loaded = load_config(None, overrides=[f"ton.config={config}", *overrides], environ={})
    said = [] if events is None else events
    return open_chain(loaded, directory, EventLog(said.append, lambda: 0.0), may_start_devnet=False)


async def test_sealed_keys_open_with_the_passphrase_file_and_are_the_same_wallet(
    directory: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    async with opened(directory) as chain:
        before = chain.account.address, chain.channel_seed
    KeyFiles(directory).change(lambda: "", PASSPHRASE)
    with pytest.raises(ConfigError, match=r"is sealed and its passphrase is not given"):
        async with opened(directory):
            pass
    file = tmp_path / "passphrase"
    file.write_text("the wrong one")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="stay closed: the passphrase is wrong"):
        async with opened(directory, None, f"ton.passphrase_file={file}"):
            pass
    file.write_text(PASSPHRASE)
    async with opened(directory, None, f"ton.passphrase_file={file}") as chain:
        assert (chain.account.address, chain.channel_seed) == before


async def test_a_payment_in_flight_when_the_node_was_killed_is_finished_first_at_the_next_start(
    net: Any, directory: DataDir
) -> None:
    class Killed(BaseException):
        pass

    async with opened(directory) as chain:
        await net.call(net.devnet.fund, chain.account.address, 5 * TON)

        async def killed(boc: bytes) -> None:
            raise Killed

        chain.client.send_external = killed
        with pytest.raises(Killed):
            await chain.account.transfer([Transfer(TARGET, 7, bounce=False)])
    assert len(await net.history(TARGET)) == 0
    events: list[NodeEvent] = []
    async with opened(directory, events) as chain:
        pass
    assert len(await net.history(TARGET)) == 1
    assert [event.text for event in events if event.kind == "resumed"] == [
        "a payment that was signed before the last stop has been executed"
    ]
    async with opened(directory, events) as chain:
        assert len(await net.history(chain.account.address)) == 2
    assert len([event for event in events if event.kind == "resumed"]) == 1
    assert directory.outbox_path.stat().st_mode & 0o077 == 0


async def test_who_only_looks_sends_nothing_that_was_left_in_flight(net: Any, directory: DataDir) -> None:
    config = directory.path.parent / "global.config.json"
    loaded = load_config(None, overrides=[f"ton.config={config}"], environ={})
    log = EventLog(lambda _event: None, lambda: 0.0)
    async with open_chain(loaded, directory, log, may_start_devnet=False, may_send=False) as chain:
        await net.call(net.devnet.fund, chain.account.address, 5 * TON)

        async def lost(boc: bytes) -> None:
            raise KeyboardInterrupt

        chain.client.send_external = lost
        with pytest.raises(KeyboardInterrupt):
            await chain.account.transfer([Transfer(TARGET, 9, bounce=False)])
    before = await net.history(TARGET)
    async with open_chain(loaded, directory, log, may_start_devnet=False, may_send=False):
        pass
    assert await net.history(TARGET) == before


async def test_a_lying_server_among_three_is_a_warning_that_names_it(
    net: Any, directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.overlay.settlement.test_chain_servers import invented_block

    events: list[NodeEvent] = []
    async with faulty_servers(net.config, 3) as servers:
        servers[0].spoil = invented_block
        file = directory.path.parent / "global.config.json"
        file.write_text(json.dumps(with_servers(net.config, servers)))
        async with opened(directory, events) as chain:
            while not any("majority" in event.text for event in events):
                await net.call(net.devnet.seal)
                await chain.account.balance_nanoton()
    warnings = [event.text for event in events if event.kind == "liteserver"]
    assert any(servers[0].name in text for text in warnings if "majority" in text)
    assert all(event.level == "warning" for event in events if event.kind == "liteserver")


async def test_a_single_server_that_stops_answering_is_an_error_that_names_it(
    net: Any, directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.01,))
    monkeypatch.setattr("overlay.settlement.chain.lite.HEAD_TIMEOUT_S", 0.3)

    async def silent(question: Question) -> bytes | None:
        return None

    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = silent
        file = directory.path.parent / "global.config.json"
        file.write_text(json.dumps(with_servers(net.config, servers)))
        with pytest.raises(ChainError, match=rf"no liteserver answers.*{servers[0].name}.*in 0\.3 s"):
            async with opened(directory):
                pass


@pytest.mark.parametrize(
    ("override", "said"),
    [("ton.network=testnet", "network -3 was asked for"), ("ton.network=-667", ""), ("ton.network=x", "global_id"),
     ("ton.trust_level=5", "trust level"), ("ton.quorum=9", "quorum of 9")],
)  # fmt: skip
async def test_a_network_or_trust_that_cannot_be_had_is_said(directory: DataDir, override: str, said: str) -> None:
    if not said:
        async with opened(directory, None, override) as chain:
            assert chain.network == "devnet"
        return
    with pytest.raises(ConfigError, match=said):
        async with opened(directory, None, override):
            pass
