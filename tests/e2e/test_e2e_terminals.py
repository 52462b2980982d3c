"""Two terminals with `cocoon node run`, a third with `cocoon chat`: the first steps of the README."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory, open_town):
    """No devnet, no addresses: the first node starts a devnet in itself, the second finds the first."""
    with open_town(tmp_path_factory.mktemp("terminals")) as town:
        first = town.node("first")
        first.wait_for("ready")
        second = town.node("second")
        second.wait_for("ready")
        yield town, first, second


def test_a_node_without_a_network_starts_one_and_says_that_its_money_is_play_money(home):
    _, first, second = home
    assert "play money" in first.wait_for("devnet")["text"]
    assert first.wait_for("chain")["balance_nanoton"] == 10_000_000_000
    assert not second.all("devnet"), "the second one uses the first one's"


def test_the_second_node_finds_the_first_by_itself(home):
    town, first, second = home
    peer_id = first.wait_for("ready")["peer_id"]
    second.wait_for("peer_connected", peer_id=peer_id)
    said = town.cocoon("node", "peers", "--data-dir", str(town.home / "second"), "--json")
    assert [peer["peer_id"] for peer in said.json["peers"]] == [peer_id]


def test_a_chat_from_a_third_terminal_puts_the_answer_on_standard_output_and_the_same_sums_in_both_ledgers(home, until):
    town, first, second = home
    said = town.cocoon("chat", "What is Cocoon?", process=True)
    assert said.code == 0, said.err
    assert "Cocoon" in said.out
    assert said.out.count("\n") == 1
    note = said.err.strip().splitlines()
    assert len(note) == 1, "beside the answer, one line about what it was: " + said.err
    assert "TON" in note[0]
    assert "demo-chat" in note[0]

    ours = town.channels("client")
    assert len(ours) == 1
    (channel, row), provider = next(iter(ours.items())), None
    for name, process in (("first", first), ("second", second)):
        if process.wait_for("ready")["peer_id"] == row["peer"]:
            provider = name
    theirs = town.channels(provider)[channel]
    for mine in ("owed_nanoton", "voucher_nanoton", "deposit_nanoton"):
        assert row[mine] == theirs[mine], mine
    assert row["owed_nanoton"] == row["voucher_nanoton"] > 0
    assert row["at_risk_nanoton"] == theirs["at_risk_nanoton"] == 0


def test_the_next_chat_uses_the_same_channel_and_json_says_what_was_paid(home):
    town, *_ = home
    before = town.channels("client")
    said = town.cocoon("chat", "--json", stdin="What is Cocoon?")
    assert said.code == 0, said.err
    job = said.json
    assert job["text"].startswith("Cocoon")
    after = town.channels("client")
    assert sum(row["owed_nanoton"] for row in after.values()) == job["paid_nanoton"] + sum(
        row["owed_nanoton"] for row in before.values()
    )
    assert len(after) <= 2


def test_a_node_that_is_named_an_address_connects_to_it(home):
    town, first, _ = home
    addr = first.wait_for("ready")["addrs"][0]
    # A home of its own: nothing but the address leads to the first.
    said = town.cocoon(
        "quote", "--json", "--bootstrap", addr, "--ton", str(town.home / "devnet" / "global.config.json"),
        COCOON_HOME=str(town.home / "elsewhere"),
    )  # fmt: skip
    assert said.code == 0, said.err
    assert {quote["model"] for quote in said.json} == {"demo-chat"}
    assert len(said.json) == 2, "the one named told of the other"


@pytest.mark.parametrize("command", ["status", "peers", "doctor"])
def test_what_a_running_node_tells_is_json_when_asked_and_readable_when_not(home, command):
    town, *_ = home
    where = ("--data-dir", str(town.home / "first"))
    shown = town.cocoon("node", command, *where)
    assert shown.code in (0, 1)
    assert shown.out
    assert json.loads(town.cocoon("node", command, *where, "--json").out)


def test_the_books_of_a_running_node_and_of_one_that_is_not_are_shown_alike(home):
    town, *_ = home
    for arguments in (["channel", "list"], ["wallet", "show"]):
        for where in ([], ["--data-dir", str(town.home / "first"), "--as", "node"]):
            said = town.cocoon(*arguments, *where, "--json")
            assert said.code == 0, said.err
            assert isinstance(json.loads(said.out), list if "list" in arguments else dict)


def test_a_wallet_is_made_shown_and_carried_to_another_directory(home, tmp_path):
    town, *_ = home
    ton = ["--ton", str(town.home / "devnet" / "global.config.json")]
    one, other = ["--data-dir", str(tmp_path / "one")], ["--data-dir", str(tmp_path / "other")]
    made = town.cocoon("wallet", "new", *one, "--json").json
    shown = town.cocoon("wallet", "show", "--words", *one, *ton, "--json").json
    assert shown["address"] == made["addresses"]["devnet"] != made["addresses"]["mainnet"], (
        "an address is of one network"
    )
    taken = town.cocoon("wallet", "import", *other, "--json", stdin=shown["words"])
    assert taken.json["addresses"] == made["addresses"]
    alone = town.cocoon("wallet", "show", *other, "--ton", str(tmp_path / "none.json"), "--json").json
    assert alone["addresses"] == made["addresses"]
    assert alone["balance_nanoton"] is None
    assert "none.json" in alone["why"]
    again = town.cocoon("wallet", "new", *one)
    assert again.code == 2
    assert "already" in again.error


def test_settling_without_a_gateway_pays_the_provider_and_returns_the_rest(home):
    town, *_ = home
    open_before = [row for row in town.channels("client").values() if row["status"] == "open"]
    said = town.cocoon("channel", "settle", "--json")
    assert said.code == 0, said.err
    assert len(said.json) == len(open_before) > 0
    for entry in said.json:
        row = next(row for row in open_before if row["channel"] == entry["channel"])
        assert entry["paid_nanoton"] == row["owed_nanoton"]
        assert entry["paid_nanoton"] + entry["refund_nanoton"] == row["deposit_nanoton"]
    assert {row["status"] for row in town.channels("client").values()} == {"closed"}


def test_leaving_a_channel_alone_starts_a_refund_and_says_when_it_can_be_finished(home):
    town, *_ = home
    assert town.cocoon("chat", "What is Cocoon?").code == 0
    channel = next(row["channel"] for row in town.channels("client").values() if row["status"] == "open")
    said = town.cocoon("channel", "exit", channel, "--json")
    assert said.code == 0, said.err
    (started,) = said.json
    assert (started["action"], started["done"]) == ("refund started", False)
    again = town.cocoon("channel", "exit", channel, "--json")
    assert again.code == 0, again.err
    (left,) = again.json
    if left["done"]:  # the provider, which looks every 15 s, looked in between: it claimed its due and closed
        assert left["action"] == "was closed"
        assert left["paid_nanoton"] + left["refund_nanoton"] == 500_000_000
    else:
        assert (left["action"], left["next_at"]) == ("waiting", started["next_at"])
        assert "by the same command" in left["text"]


def test_nodes_leave_on_sigterm_with_exit_code_zero(home):
    _, first, second = home
    assert second.stop() == 0
    assert first.stop() == 0
    assert first.errors == second.errors == ""
