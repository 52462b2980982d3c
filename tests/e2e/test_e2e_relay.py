"""A provider behind a router that lets nobody in: processes that find, ask, tunnel and pay through a relay."""

from __future__ import annotations

import json


def test_a_provider_that_nobody_can_dial_sells_through_the_relay_that_it_names(place, until):
    town, chain = place
    relay = town.node("relay", "--serve=transcribe", "--set=relay.serve=true", ton=chain)
    way = relay.wait_for("ready")["addrs"][0]
    # As others see it: listening on IPv4, told to be at an IPv6 address where nobody is; no tunnel address at all.
    hidden = town.node(
        "hidden", "--serve=chat", "--bootstrap", way, f"--set=relay.use={json.dumps([way])}",
        '--set=node.announce=["/ip6/::1/tcp/1"]', "--set=node.tunnel_host=0.0.0.0", ton=chain,
    )  # fmt: skip
    ready = hidden.wait_for("ready")
    assert ready["tunnel_addrs"] == []

    def status():
        return town.cocoon("node", "status", "--data-dir", str(town.home / "hidden"), "--json").json

    (circuit,) = until(lambda: status()["reachable"]["relays"])
    assert circuit == f"{way}/p2p-circuit/p2p/{ready['peer_id']}"

    def known() -> list[str]:
        said = town.cocoon("market", "providers", "demo-chat", "--data-dir", str(town.home / "relay"), "--json")
        return said.json["providers"][0]["addrs"] if said.code == 0 else []

    until(lambda: circuit in known())  # its record of before it had the place is replaced
    said = town.cocoon("chat", "What is Cocoon?", "--bootstrap", way, "--ton", str(chain), "--json")
    assert said.code == 0, said.err
    assert said.json["provider"] == ready["peer_id"]
    assert said.json["relayed"] is True
    assert said.json["text"].startswith("Cocoon")
    assert said.json["paid_nanoton"] > 0
    shown = town.cocoon("node", "status", "--data-dir", str(town.home / "hidden"))
    assert "through 1 relay; somebody last came" in shown.out
    assert until(lambda: status()["money"]["earned_nanoton"]) >= said.json["paid_nanoton"]
    assert hidden.stop() == relay.stop() == 0
