"""Discovery as the commands show it, on running processes; and the demo without gossip."""

from __future__ import annotations

import pytest


def test_market_providers_lists_both_sellers_whichever_process_is_asked(market) -> None:
    ids = {process.wait_for("ready")["peer_id"] for process in (market.anna, market.boris)}
    for name in ("client", "anna"):
        said = market.town.cocoon("market", "providers", "--data-dir", str(market.town.home / name), "--json")
        assert said.code == 0, said.err
        rows = said.json["providers"]
        assert {row["peer_id"] for row in rows} == ids
        assert [row["prices"]["prompt"] for row in rows] == sorted(row["prices"]["prompt"] for row in rows)
        assert all(row["tier"] == "plain" and row["age_s"] <= 120 and row["learned"] for row in rows)


def test_market_providers_of_a_model_that_nobody_sells_names_those_on_offer(market) -> None:
    said = market.town.cocoon(
        "market", "providers", "nonesuch", "--wait", "0.5", "--data-dir", str(market.town.home / "client")
    )
    assert said.code == 3
    assert "demo-chat" in said.err


def test_market_providers_without_a_running_node_looks_around_by_itself(market) -> None:
    bootstrap = market.anna.wait_for("ready")["addrs"][0]
    said = market.town.cocoon(
        "market", "providers", "demo-chat", "--bootstrap", bootstrap, "--data-dir", str(market.town.home / "onlooker")
    )
    assert said.code == 0, said.err
    assert said.out.count("demo-chat") == 2
    assert not (market.town.home / "onlooker" / "wallet.words").exists()


def test_status_and_peers_show_the_hash_table_and_where_the_node_is_listed(market) -> None:
    said = market.town.cocoon("node", "status", "--data-dir", str(market.town.home / "anna"), "--json")
    discovery = said.json["discovery"]
    assert discovery["dht"]["peers"] >= 1
    assert discovery["dht"]["health"] == "ok"
    assert {row["model"] for row in discovery["listed"]} >= {"demo-chat", "auto"}
    assert all(row["shard_bits"] == 0 for row in discovery["listed"])
    for name in ("anna", "client"):
        said = market.town.cocoon("node", "status", "--data-dir", str(market.town.home / name))
        assert "hash table" in said.out
        said = market.town.cocoon("node", "peers", "--data-dir", str(market.town.home / name))
        assert "direct" in said.out
        assert "hash table" in said.out


@pytest.mark.slow
def test_the_demo_discovers_through_the_hash_table_when_gossip_is_off(town, voice_text) -> None:
    said = town.cocoon("demo", "--json", timeout_s=180, process=True, COCOON_DISCOVERY_GOSSIP="false")
    assert said.code == 0, said.err
    assert said.json["jobs"][0]["text"] == voice_text
    assert said.json["conserved"] is True
