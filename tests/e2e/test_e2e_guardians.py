"""A provider that is away and its watchtower; leaving alone, told beforehand: in real processes on a real TVM."""

from __future__ import annotations

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "What is Cocoon?"}]


def chat(url):
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES}, timeout=60)
    assert answer.status_code == 200, answer.text


def the_channel(town, directory, status):
    (row,) = [row for row in town.channels(directory).values() if row["status"] == status]
    return row


def start_tower(town, ton):
    tower = town.start(
        "tower", "watchtower", "run", "--preset", "local", "--data-dir", str(town.home / "tower"), "--ton", str(ton),
        "--serve", "*", "--set=watchtower.patience_s=0",
    )  # fmt: skip
    tower.wait_for("ready")
    return tower


@pytest.mark.slow
def test_a_provider_leaves_alone_as_it_was_told_and_when_it_is_away_its_watchtower_gets_its_money(place, until):
    town, ton = place
    tower = start_tower(town, ton)
    (address,) = tower.wait_for("ready")["addrs"]
    towers = f"--set=watchtower.towers={address}"
    provider = town.node("anna", towers, ton=ton)
    provider.wait_for("ready")
    gateway = town.gateway("client", ton=ton)
    url = gateway.wait_for("ready")["url"]
    chat(url)
    channel = the_channel(town, "client", "open")["channel"]
    until(lambda: (row := town.channels("anna")[channel])["voucher_nanoton"] == row["owed_nanoton"] > 0)
    client_dir = ["--data-dir", str(town.home / "client")]

    # The provider leaves alone, and is told beforehand what it will get.
    node_dir = ["--as", "node", "--data-dir", str(town.home / "anna"), "--ton", str(ton)]
    said = town.cocoon("channel", "prove-exit", channel, *node_dir, "--json")
    assert said.code == 0, said.err
    (outcome,) = said.json["outcomes"]
    assert outcome["success"]
    assert outcome["receives_nanoton"] == town.channels("anna")[channel]["voucher_nanoton"]
    told = town.cocoon("channel", "prove-exit", channel, *client_dir, "--ton", str(ton))
    assert told.code == 0, told.err
    assert "the provider claims your last voucher and closes" in told.out
    (left,) = town.cocoon("channel", "exit", channel, *node_dir, "--json").json
    assert (left["action"], left["gained_nanoton"]) == ("closed", outcome["receives_nanoton"])
    (again,) = town.cocoon("channel", "exit", channel, *node_dir, "--json").json
    assert (again["action"], again["paid_nanoton"]) == ("was closed", left["paid_nanoton"])
    (theirs,) = town.cocoon("channel", "exit", channel, *client_dir, "--json").json
    assert (theirs["action"], theirs["paid_nanoton"]) == ("was closed", left["paid_nanoton"])
    assert town.cocoon("channel", "prove-exit", channel, *node_dir).code == 2

    # Another channel. The provider stops; what it was promised lies at its tower, which is killed and comes back.
    chat(url)
    channel = the_channel(town, "client", "open")["channel"]
    until(lambda: (row := town.channels("client")[channel])["voucher_nanoton"] == row["owed_nanoton"])
    assert provider.stop() == 0
    promised = town.channels("anna")[channel]["voucher_nanoton"]
    assert promised == town.channels("client")[channel]["voucher_nanoton"] > 0
    tower_dir = ["--data-dir", str(town.home / "tower")]
    (watched,) = town.cocoon("watchtower", "status", *tower_dir, "--json").json["watching"]
    assert (watched["channel"], watched["amount_nanoton"]) == (channel, promised)
    tower.kill()
    (watched,) = town.cocoon("watchtower", "status", *tower_dir, "--json").json["watching"]
    assert watched["amount_nanoton"] == promised

    # The client leaves alone; the tower claims for the provider to the nanoTON.
    (started,) = town.cocoon("channel", "exit", channel, *client_dir, "--json").json
    assert (started["action"], started["done"]) == ("refund started", False)
    claimed = start_tower(town, ton).wait_for("claimed", channel=channel)
    assert claimed["paid_nanoton"] == promised
    said = town.cocoon("channel", "exit", channel, *client_dir, "--json")
    assert said.code == 0
    (waiting,) = said.json
    assert (waiting["action"], waiting["paid_nanoton"]) == ("waiting", promised)
    status = town.cocoon("watchtower", "status", *tower_dir, "--json").json
    assert [claim["amount_nanoton"] for claim in status["claims"]] == [promised]
    assert "refund started" in town.cocoon("watchtower", "status", *tower_dir).out

    back = town.node("anna", towers, ton=ton)
    back.wait_for("settled", channel=channel, paid_nanoton=promised)
    assert gateway.stop() == 0
    assert back.stop() == 0


def test_a_watchtowers_address_that_is_none_is_told_before_anything_starts(town):
    said = town.cocoon("node", "run", "--preset", "local", "--set=watchtower.towers=/ip4/127.0.0.1/tcp/1", process=True)
    assert said.code == 2
    assert "cocoon watchtower run" in said.error
