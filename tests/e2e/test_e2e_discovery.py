"""Discovery as the commands show it, on running processes; and the demo without gossip."""

from __future__ import annotations

from typing import Any

import pytest


def test_market_providers_lists_what_the_running_process_knows_the_cheapest_first(market) -> None:
    ids = {process.wait_for("ready")["peer_id"] for process in (market.anna, market.boris)}
    said = market.town.cocoon("market", "providers", "--data-dir", str(market.town.home / "client"), "--json")
    assert said.code == 0, said.err
    rows = said.json["providers"]
    assert {row["peer_id"] for row in rows} == ids
    assert [row["prices"]["prompt"] for row in rows] == sorted(row["prices"]["prompt"] for row in rows)
    assert all(row["tier"] == "plain" and row["age_s"] <= 120 and row["path"] == "direct" for row in rows)
    said = market.town.cocoon("market", "providers", "--data-dir", str(market.town.home / "anna"), "--json")
    assert "own" in {row["learned"] for row in said.json["providers"]}


def test_market_providers_of_a_model_that_nobody_sells_names_those_on_offer(market) -> None:
    said = market.town.cocoon(
        "market", "providers", "nonesuch", "--wait", "0.5", "--data-dir", str(market.town.home / "client")
    )
    assert said.code == 3
    assert "demo-chat" in said.err


def test_market_providers_without_a_running_node_looks_around_by_itself(market) -> None:
    peers = [process.wait_for("ready")["addrs"][0] for process in (market.anna, market.boris)]
    options = [f"--bootstrap={peer}" for peer in peers]
    said = market.town.cocoon(
        "market", "providers", "demo-chat", *options, "--data-dir", str(market.town.home / "onlooker")
    )
    assert said.code == 0, said.err
    assert said.out.count("demo-chat") == 2
    assert not (market.town.home / "onlooker" / "wallet.words").exists()


def test_status_and_peers_show_the_hash_table_and_where_the_node_is_listed(market, until) -> None:
    def state_of(name: str) -> dict[str, Any]:
        said = market.town.cocoon("node", "status", "--data-dir", str(market.town.home / name), "--json")
        return said.json["discovery"]

    # The client is connected to both sellers; these two need not be to each other.
    assert until(lambda: state_of("client")["dht"]["peers"]) == 2
    assert state_of("client")["dht"]["health"] == "ok"
    assert state_of("client")["listed"] == []
    assert {row["model"] for row in state_of("anna")["listed"]} >= {"demo-chat", "auto"}
    for name in ("anna", "client"):
        for command in ("status", "peers"):
            said = market.town.cocoon("node", command, "--data-dir", str(market.town.home / name))
            assert said.code == 0
            assert "hash table" in said.out
    assert "direct" in said.out


@pytest.mark.slow
def test_the_demo_discovers_through_the_hash_table_when_gossip_is_off(town, voice_text) -> None:
    said = town.cocoon("demo", "--json", timeout_s=180, process=True, COCOON_DISCOVERY_GOSSIP="false")
    assert said.code == 0, said.err
    assert said.json["jobs"][0]["text"] == voice_text
    assert said.json["conserved"] is True
