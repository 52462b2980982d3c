"""Nodes in one process, on real sockets, that discover each other as configured; and what commands show of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dht import CapacityRecord, Offer, Source
from overlay.config import load_config
from overlay.datadir import open_data_dir
from overlay.errors import ConfigError, NoProvider, UnknownModel
from overlay.node import views
from overlay.node.discovery import Discovery, open_discovery, table_text
from overlay.node.machine import LocalMachine
from overlay.subnet import load_subnet
from transport.host import Libp2pHost
from transport.identity import Identity

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@asynccontextmanager
async def node(
    path: Path, number: int, *bootstrap: Libp2pHost, listen: bool = True, **section: bool
) -> AsyncIterator[Discovery]:
    settings = [f"discovery.{key}={str(value).lower()}" for key, value in section.items()]
    config = load_config(None, overrides=settings, environ={})
    identity = Identity(number.to_bytes(32, "big"))
    with open_data_dir(path / str(number)) as directory:
        async with Libp2pHost.open(identity, [LOOPBACK] if listen else []) as host:
            async with open_discovery(config, LocalMachine(directory), identity, load_subnet(None), host) as discovery:
                for other in bootstrap:
                    await host.connect(other.addrs[0])
                yield discovery


def selling(model: str, price: int) -> CapacityRecord:
    return CapacityRecord("main", offers=(Offer("chat", model, "plain", {"prompt": price}, slots=4, busy=1),))


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


async def test_without_gossip_a_client_finds_providers_through_the_hash_table_alone(tmp_path: Path) -> None:
    async with (
        node(tmp_path, 1, gossip=False) as boot,
        node(tmp_path, 2, boot.host, gossip=False) as dear,
        node(tmp_path, 3, boot.host, gossip=False) as cheap,
    ):
        await dear.directory.announce(selling("demo", 2000))
        await cheap.directory.announce(selling("demo", 1000))
        for seller in (dear, cheap):
            await until(lambda seller=seller: all(entry.place for entry in seller.directory.listed.values()))
        assert boot.directory.models() == []
        async with node(tmp_path, 4, boot.host, listen=False, gossip=False) as client:
            found = await client.market("chat", "demo", "plain", timeout_s=15)
            assert [row["prices"]["prompt"] for row in found["providers"]] == [1000, 2000]
            first = found["providers"][0]
            assert first["peer_id"] == cheap.host.peer_id
            assert (first["learned"], first["path"], first["busy"], first["slots"]) == ("provider", "direct", 1, 4)
            assert 0 <= first["age_s"] <= 30
            assert client.directory.index.heard(cheap.host.peer_id).source is Source.PROVIDER  # type: ignore[union-attr]
            # Whoever listens nowhere is asked by nobody: it is in no table.
            assert client.host.peer_id not in {peer.peer_id for peer in boot.table.peers()}  # type: ignore[union-attr]
            with pytest.raises(UnknownModel, match="on offer: demo"):
                await client.market("chat", "other", "plain", timeout_s=0.5)


async def test_a_provider_that_is_named_is_reached_without_gossip(tmp_path: Path) -> None:
    async with node(tmp_path, 1, gossip=False) as boot, node(tmp_path, 2, boot.host, gossip=False) as seller:
        await seller.directory.announce(selling("demo", 1000))
        await until(lambda: boot.table.peers())  # type: ignore[union-attr]
        async with node(tmp_path, 3, boot.host, listen=False, gossip=False) as client:
            assert await client.reach(seller.host.peer_id, timeout_s=10)
            assert client.directory.providers("chat", "demo")
            assert not await client.reach(Identity(b"x" * 32).peer_id, timeout_s=1)


async def test_neighbours_that_met_before_both_were_ready_know_each_other_in_the_table_soon(tmp_path: Path) -> None:
    config, subnet = load_config(None, environ={}), load_subnet(None)
    identities = [Identity(number.to_bytes(32, "big")) for number in (1, 2)]
    with open_data_dir(tmp_path / "1") as first, open_data_dir(tmp_path / "2") as second:
        async with Libp2pHost.open(identities[0], [LOOPBACK]) as early, Libp2pHost.open(identities[1]) as late:
            await late.connect(early.addrs[0])
            async with open_discovery(config, LocalMachine(second), identities[1], subnet, late) as asked_in_vain:
                await trio.sleep(0.3)
                assert asked_in_vain.table is not None
                assert asked_in_vain.table.peers() == []
                async with open_discovery(config, LocalMachine(first), identities[0], subnet, early):
                    await until(asked_in_vain.table.peers)


async def test_a_restarted_node_finds_its_network_by_what_its_table_remembers(tmp_path: Path) -> None:
    async with node(tmp_path, 1, gossip=False) as boot:
        async with node(tmp_path, 2, boot.host, gossip=False) as other:
            await until(lambda: other.table.peers())  # type: ignore[union-attr]
        assert (tmp_path / "2" / "kad-main.sqlite3").exists()
        async with node(tmp_path, 2, gossip=False) as other:
            await until(lambda: other.host.peers())
            assert {info.peer_id for info in other.host.peers()} == {boot.host.peer_id}


async def test_without_the_hash_table_there_is_gossip_and_commands_say_so(tmp_path: Path) -> None:
    async with node(tmp_path, 1, dht=False) as boot, node(tmp_path, 2, boot.host, dht=False) as seller:
        await seller.directory.announce(selling("demo", 1000))
        found = await boot.market("chat", "auto", "plain", timeout_s=15)
        assert found["providers"][0]["learned"] in ("gossip", "neighbour")
        state = boot.state()
        assert state["dht"] is None
        assert state["providers_known"] == 1
        assert table_text(state["dht"]) == "off (discovery.dht)"


async def test_what_a_node_shows_of_its_table_its_listing_and_its_peers(tmp_path: Path) -> None:
    async with node(tmp_path, 1) as boot:
        alone = boot.state()["dht"]
        assert (alone["peers"], alone["health"]) == (0, "poor")
        assert "--bootstrap" in table_text(alone)
        with pytest.raises(NoProvider, match="connected to nobody"):
            await boot.market("chat", "auto", "plain", timeout_s=0.1)
        async with node(tmp_path, 2, boot.host) as seller:
            await seller.directory.announce(selling("demo", 1000))
            await until(lambda: all(entry.place for entry in seller.directory.listed.values()))
            state: dict[str, Any] = seller.state()
            assert state["dht"]["health"] == "ok"
            assert sum(state["dht"]["buckets"]) == state["dht"]["peers"] == 1
            assert [(row["model"], row["shard_bits"], row["providers_there"]) for row in state["listed"]] == [
                ("demo", 0, 1),
                ("auto", 0, 1),
            ]
            shown = views.peers(seller)
            assert [(peer["peer_id"], peer["relayed"]) for peer in shown["peers"]] == [(boot.host.peer_id, False)]
            assert [(offer["model"], offer["learned"]) for offer in shown["offers"]] == [("demo", "own")]


def test_with_neither_gossip_nor_table_a_node_is_told_to_choose_one() -> None:
    with pytest.raises(ConfigError, match="set one of them to true"):
        load_config(None, overrides=["discovery.gossip=false", "discovery.dht=false"], environ={})


async def test_a_damaged_memory_of_the_table_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "kad-main.sqlite3").write_bytes(b"no database at all, but long enough to be read as one" * 50)
    with pytest.raises(ConfigError, match="may be deleted"):
        async with node(tmp_path, 1):
            pass
