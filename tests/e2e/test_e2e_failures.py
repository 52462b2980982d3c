"""What goes wrong in real life: each told in words that help, none paid for, and the node lives on."""

from __future__ import annotations

import json
import signal
import socket
import time

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]


class Stream:
    """A streamed chat, read as far as a test wants."""

    def __init__(self, url, **body):
        self._client = httpx.Client(base_url=url, timeout=60)
        request = self._client.build_request(
            "POST", "/v1/chat/completions", json={"model": "auto", "messages": MESSAGES, "stream": True, **body}
        )
        self._answer = self._client.send(request, stream=True)
        self.status = self._answer.status_code
        self._lines = self._answer.iter_lines()
        self.text = ""
        self.error = None
        self.done = False

    def read(self, words=10_000):
        """Read until ``words`` words are there, the stream ends, or it breaks."""
        while len(self.text.split()) < words:
            line = next(self._lines, None)
            if line is None or line == "data: [DONE]":
                self.done = line is not None
                break
            if not line.startswith("data: "):
                continue
            document = json.loads(line[6:])
            if "error" in document:
                self.error = document["error"]
                break
            for choice in document["choices"]:
                self.text += choice["delta"].get("content") or ""
        return self.text.split()

    def close(self):
        self._answer.close()
        self._client.close()


@pytest.fixture
def stream():
    made = []

    def start(url, **body):
        made.append(Stream(url, **body))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_a_provider_killed_in_the_middle_of_a_stream(place, slow_model, stream, until):
    town, ton = place
    slow_model.tokens = 30
    # boris, whose price is far higher, is second choice for whoever pays.
    anna = town.node("k-anna", *slow_model.options, ton=ton)
    anna.wait_for("ready")
    gateway = town.gateway("k-client", ton=ton)
    url = gateway.wait_for("ready")["url"]
    slow_model.release(12)
    running = stream(url)
    assert len(running.read(words=10)) >= 10
    boris = town.node(
        "k-boris", *slow_model.options, "--set=price.prompt=60000000", "--set=price.completion=180000000", ton=ton
    )
    boris.wait_for("ready")
    until(lambda: models(url)["slow-1"] == 2)

    anna.kill()
    delivered = running.read()
    assert running.error is not None, "the client is told"
    assert running.error["code"] == "provider_gone"
    assert not running.done

    # The next request goes to the other one, without a word from us.
    slow_model.release(1000)
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES}, timeout=60).json()
    assert answer["usage"]["cocoon"]["provider"] == boris.wait_for("ready")["peer_id"]

    # Only what was delivered is ever promised; the prompt is counted at the end, so at most the words that came.
    channel = next(
        row for row in town.channels("k-client").values() if row["peer"] != answer["usage"]["cocoon"]["provider"]
    )
    price = gateway.wait_for("agreed", provider=channel["peer"])["prices"]["completion"]
    assert channel["voucher_nanoton"] <= -(-price * len(delivered) // 1_000_000)

    # The one that was killed comes back, finds its books whole, and the client pays for what it had delivered.
    back = town.node("k-anna", *slow_model.options, ton=ton)
    back.wait_for("ready")
    assert town.channels("k-anna")[channel["channel"]]["voucher_nanoton"] <= channel["voucher_nanoton"]
    boris.stop()
    until(lambda: works(url), 60)
    ours = until(lambda: settled_row(town, "k-client", channel["channel"]))
    theirs = until(lambda: settled_row(town, "k-anna", channel["channel"]))
    assert ours == theirs
    assert gateway.stop() == 0
    assert back.stop() == 0


def models(url):
    listed = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    return {model["id"]: model["cocoon"]["providers"] for model in listed}


def works(url):
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES}, timeout=60)
    return answer.status_code == 200


def settled_row(town, directory, channel):
    row = town.channels(directory)[channel]
    return (row["owed_nanoton"], row["voucher_nanoton"]) if row["owed_nanoton"] == row["voucher_nanoton"] else None


def test_a_client_killed_in_the_middle_of_a_stream_continues_on_its_channel(place, slow_model, stream, until):
    town, ton = place
    provider = town.node("c-anna", *slow_model.options, ton=ton)
    provider.wait_for("ready")
    gateway = town.gateway("c-client", ton=ton)
    slow_model.release(12)
    running = stream(gateway.wait_for("ready")["url"])
    running.read(words=10)
    gateway.kill()

    # The provider notices, stops computing and waits for more with its books open.
    slow_model.release(1000)
    again = town.gateway("c-client", ton=ton)
    url = again.wait_for("ready")["url"]
    assert until(lambda: works(url), 60)
    assert not again.all("channel_opened"), "the channel of before is used"
    channel = next(iter(town.channels("c-client")))
    ours = until(lambda: settled_row(town, "c-client", channel))
    theirs = until(lambda: settled_row(town, "c-anna", channel))
    assert ours == theirs
    assert again.stop() == 0
    assert provider.stop() == 0


def test_no_provider_under_the_cap_says_what_the_cheapest_asks(place):
    town, ton = place
    node = town.node("dear", "--serve=chat", ton=ton)
    node.wait_for("ready")
    said = town.cocoon("chat", "hello", "--ton", str(ton), "--set=market.max_completion=100", "--data-dir",
                       str(town.home / "thrifty"))  # fmt: skip
    assert said.code == 3
    assert "--set market.max_completion=60000000" in said.error
    assert "0.06 TON/M" in said.error
    assert not town.channels("thrifty"), "nothing was opened, so nothing is at stake"
    assert node.stop() == 0


def test_no_provider_at_all_says_how_to_get_one_and_who_did_not_answer(place, dead_address):
    town, ton = place
    said = town.cocoon("chat", "x", "--bootstrap", dead_address, "--ton", str(ton))
    assert said.code == 3
    assert "--bootstrap" in said.error
    assert "cocoon node run" in said.error
    assert f"{dead_address} is not reachable" in said.err


@pytest.fixture
def dead_address():
    """Nobody listens there, and nobody will: the port is taken, not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.slow
def test_a_bootstrap_peer_that_does_not_answer_is_told_and_lived_with(place, dead_address):
    town, ton = place
    node = town.node("u", "--bootstrap", dead_address, "--serve=chat", ton=ton)
    assert dead_address in node.wait_for("unreachable")["text"]
    node.wait_for("ready")
    assert town.cocoon("node", "status", "--data-dir", str(town.home / "u"), "--json").code == 0
    assert node.stop() == 0


def test_a_wallet_without_money_is_told_its_address(place):
    """On a network without a faucet, as every real one is."""
    town, ton = place
    document = json.loads(ton.read_text())
    del document["devnet"]
    real = town.home / "no-faucet.json"
    real.write_text(json.dumps(document))
    seller = town.node("s", "--serve=chat", ton=ton)
    seller.wait_for("ready")
    where = ["--ton", str(real), "--data-dir", str(town.home / "poor")]
    said = town.cocoon("chat", "hello", *where)
    assert said.code == 4
    address = town.cocoon("wallet", "show", *where, "--json").json["address"]
    assert address in said.error
    assert "ton.deposit_nanoton" in said.error
    poor = town.start("poor", "gateway", "run", "--port", "0", *where)
    url = poor.wait_for("ready")["url"]
    assert poor.wait_for("unfunded")["level"] == "warning"
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES}, timeout=60)
    assert answer.status_code == 402
    assert answer.json()["error"]["code"] == "insufficient_funds"
    assert poor.stop() == 0
    assert seller.stop() == 0


def test_one_data_directory_serves_one_process(place):
    town, ton = place
    first = town.node("twice", "--serve=chat", ton=ton)
    first.wait_for("ready")
    said = town.cocoon("node", "run", "--preset", "local", "--data-dir", str(town.home / "twice"), "--ton", str(ton))
    assert said.code == 2
    assert str(first.pid) in said.error
    assert "--data-dir" in said.error

    # Addresses in use: asked for by name, so not silently replaced.
    addr = first.wait_for("ready")["addrs"][0].rpartition("/p2p/")[0]
    port = first.wait_for("ready")["tunnel_addrs"][0].rpartition("/")[2]
    for flags, word in ((["--listen", addr], addr.rpartition("/")[2]), ([f"--set=node.tunnel_port={port}"], port)):
        said = town.cocoon("node", "run", "--preset", "local", "--serve=chat", "--data-dir", str(town.home / "b"),
                           "--ton", str(ton), *flags)  # fmt: skip
        assert said.code == 2, said.err
        assert word in said.error
        assert "in use" in said.error
    said = town.cocoon("gateway", "run", "--port", port, "--data-dir", str(town.home / "g"), "--ton", str(ton))
    assert said.code == 2
    assert f"port {port}" in said.error
    assert first.stop() == 0


@pytest.mark.slow
def test_a_devnet_that_was_restarted_leaves_no_one_stranded(place, until):
    """Its channels are gone with it: both sides notice, say so, and open another."""
    town, _ = place
    first = town.start("devnet-r1", "devnet", "run", "--dir", str(town.home / "devnet-r"))
    ton = first.wait_for("ready")["config"]
    where = ["--ton", ton, "--data-dir", str(town.home / "r-client")]
    node = town.node("r-node", "--serve=chat", ton=ton)
    node.wait_for("ready")
    assert town.cocoon("chat", "hello", *where).code == 0
    assert node.stop() == 0
    assert first.stop() == 0

    second = town.start("devnet-r2", "devnet", "run", "--dir", str(town.home / "devnet-r"))
    assert second.wait_for("ready")["config"] == ton
    node = town.node("r-node", "--serve=chat", ton=ton)
    node.wait_for("ready")
    said = town.cocoon("chat", "hello", *where)
    assert said.code == 0, said.err
    assert "not on this chain any more" in said.err
    statuses = sorted(row["status"] for row in town.channels("r-client").values())
    assert statuses == ["closed", "open"]
    until(lambda: sorted(row["status"] for row in town.channels("r-node").values()) == ["closed", "open"])
    assert node.stop() == 0
    assert second.stop() == 0


@pytest.mark.slow
def test_a_node_outlives_its_liteserver(place):
    town, _ = place
    devnet = town.start("devnet-l", "devnet", "run", "--dir", str(town.home / "devnet-l"))
    ton = devnet.wait_for("ready")["config"]
    node = town.node("l-node", "--serve=chat", ton=ton)
    node.wait_for("ready")
    gateway = town.gateway("l-client", ton=ton)
    url = gateway.wait_for("ready")["url"]
    assert works(url)
    devnet.kill()
    # The channel is open and vouchers need no chain: jobs go on.
    assert works(url)
    said = town.cocoon("channel", "settle", "--data-dir", str(town.home / "l-client"))
    assert said.code == 5
    assert "TON" in said.error
    assert works(url)
    for command in ("status", "peers"):
        assert town.cocoon("node", command, "--data-dir", str(town.home / "l-node"), "--json").code == 0
    assert node.stop() == 0
    assert gateway.stop() == 0


def test_a_damaged_identity_stops_the_node_before_anything_else(town):
    (town.home / "node").mkdir(mode=0o700)
    (town.home / "node" / "identity.key").write_text("zz")
    started = time.monotonic()
    said = town.cocoon("node", "run", "--preset", "local")
    assert said.code == 2
    assert "identity.key is damaged" in said.error
    assert "backup" in said.error
    assert time.monotonic() - started < 30


def test_a_stream_that_is_running_when_the_provider_is_told_to_stop_is_finished(place, slow_model, stream):
    town, ton = place
    node = town.node("t-node", *slow_model.options, ton=ton)
    node.wait_for("ready")
    gateway = town.gateway("t-client", ton=ton)
    slow_model.release(5)
    running = stream(gateway.wait_for("ready")["url"])
    running.read(words=4)
    node.send(signal.SIGTERM)
    assert node.wait_for("draining")["jobs"] == 1
    slow_model.release(1000)
    assert len(running.read()) == slow_model.tokens
    assert running.done
    assert running.error is None
    assert node.ended() == 0
    assert gateway.stop() == 0


@pytest.mark.slow
def test_a_second_sigterm_is_impatient(place, slow_model, stream):
    town, ton = place
    node = town.node("i-node", *slow_model.options, ton=ton)
    node.wait_for("ready")
    gateway = town.gateway("i-client", ton=ton)
    slow_model.release(5)
    running = stream(gateway.wait_for("ready")["url"])
    running.read(words=4)
    node.send(signal.SIGTERM)
    node.wait_for("draining")
    node.send(signal.SIGTERM)
    assert node.ended(15) == 0, "at once, not after the drain timeout"
    running.read()
    assert running.error is not None
    # The gateway, too, may be told to stop in the middle of an answer.
    assert gateway.stop() == 0


def test_a_gateway_told_to_stop_finishes_a_short_answer(place, slow_model, stream):
    town, ton = place
    node = town.node("g-node", *slow_model.options, ton=ton)
    node.wait_for("ready")
    gateway = town.gateway("g-client", ton=ton)
    slow_model.release(5)
    running = stream(gateway.wait_for("ready")["url"])
    running.read(words=4)
    gateway.send(signal.SIGTERM)
    gateway.wait_for("draining")
    slow_model.release(1000)
    assert len(running.read()) == slow_model.tokens
    assert running.done
    assert gateway.ended() == 0
    channel, ours = next(iter(town.channels("g-client").items()))
    theirs = town.channels("g-node")[channel]
    assert ours["owed_nanoton"] == theirs["owed_nanoton"] == ours["voucher_nanoton"] == theirs["voucher_nanoton"] > 0
    assert node.stop() == 0
