"""`cocoon swarm up --netns` as a user has it: a job on a slow network, one after a partition, chaos, nothing left."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from overlay.errors import ConfigError


@pytest.fixture
def netns() -> None:
    """Skips where this machine lets nobody make namespaces."""
    from simulations.netns import kernel

    name = f"cocoon-test-{os.getpid()}"
    try:
        kernel.may_make_networks()
        kernel.make_namespace(name)
    except ConfigError as error:
        pytest.skip(f"needs root and network namespaces: {error}")
    kernel.remove_namespace(name)
    if not kernel.has_tun():
        pytest.skip("needs /dev/net/tun")


def traces(pid: int) -> list[str]:
    """What the swarm of that process has in the kernel and on disk."""
    from simulations.netns.owner import Owner

    of = Owner(pid)
    return [*of.namespaces(), *of.links(), *([str(of.path)] if of.path.exists() else [])]


@pytest.mark.slow
@pytest.mark.usefixtures("netns")
def test_a_swarm_on_a_slow_network_serves_is_parted_healed_and_leaves_nothing(town, until):
    swarm = town.start(
        "swarm", "swarm", "up", "-n", "3", "--dir", str(town.home), "--netns", "--delay", "40ms", "--jitter", "4ms",
        "--loss", "0.5%", "--rate", "50mbit", "--nat", "1",
    )  # fmt: skip
    network = swarm.wait_for("network")
    assert (network["carrier"], network["behind_nat"]) == ("relay", ["node-3"])
    nodes = {name: swarm.wait_for("node", node=name) for name in ("node-1", "node-2", "node-3")}
    assert len(traces(swarm.pid)) == 4 + 1 + 1
    chaos = ("swarm", "chaos", "--dir", str(town.home))

    began = time.monotonic()
    said = town.cocoon("chat", "What is Cocoon?")
    assert said.code == 0, said.err
    assert time.monotonic() - began > 10 * 0.08, "a job takes more than ten round trips"

    assert town.cocoon(*chaos, "partition", "node-1,node-2,node-3").code == 0
    alone = town.cocoon("chat", "What is Cocoon?")
    assert alone.code == 3, alone.out
    assert "connected to nobody" in alone.error
    assert town.cocoon(*chaos, "heal").code == 0
    said = town.cocoon("chat", "What is Cocoon?")
    assert said.code == 0, said.err

    assert town.cocoon(*chaos, "freeze", "node-3").code == 0
    assert town.cocoon(*chaos, "kill", "node-2").code == 0
    swarm.wait_for("restarting", node="node-2")
    until(lambda: [e for e in swarm.all("node", node="node-2") if e["pid"] != nodes["node-2"]["pid"]], 60)
    refused = town.cocoon(*chaos, "kill", "devnet")
    assert refused.code == 2
    assert "there is no 'devnet' in this swarm" in refused.error

    # It ends although a node is frozen.
    began = time.monotonic()
    swarm.send(signal.SIGTERM)
    assert swarm.ended() == 0
    assert time.monotonic() - began < 30
    assert traces(swarm.pid) == []
    assert swarm.all("packets")[0]["lost"] > 0
    assert swarm.errors == ""


@pytest.mark.slow
def test_a_swarm_without_namespaces_is_killed_and_frozen_by_a_plan_and_not_parted(town, until):
    swarm = town.start("swarm", "swarm", "up", "-n", "2", "--dir", str(town.home))
    for name in ("node-1", "node-2"):
        swarm.wait_for("node", node=name)
    chaos = ("swarm", "chaos", "--dir", str(town.home))

    parted = town.cocoon(*chaos, "partition", "node-1")
    assert parted.code == 2
    assert "share one network, which cannot be parted; start it with --netns" in parted.error

    planned = town.cocoon(*chaos, "--seed", "3", "--for", "4s", "--every", "1s", "--json")
    assert planned.code == 0, planned.err
    events = [json.loads(line) for line in planned.out.splitlines()]
    steps = [(e["action"], e["nodes"]) for e in events if e["event"] == "planned"]
    assert [(e["action"], e["nodes"]) for e in events if e["event"] in ("done", "skipped")] == steps
    assert {action for action, _ in steps} <= {"kill", "freeze", "thaw"}
    done = [e for e in events if e["event"] == "done"]
    for action in ("kill", "freeze"):
        told = [e["nodes"] for e in swarm.all("chaos", action=action)]
        assert told == [e["nodes"] for e in done if e["action"] == action]
    # Thawing a node that could not be frozen, as it was being restarted, is nothing that happened.
    assert len(swarm.all("chaos", action="thaw")) == len(swarm.all("chaos", action="freeze"))

    stopped = town.cocoon("swarm", "down", "--dir", str(town.home))
    assert stopped.code == 0, stopped.err
    assert swarm.ended() == 0


def test_a_network_without_root_or_without_a_swarm_is_one_clear_error(town, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = town.cocoon("swarm", "up", "--netns", "--dir", str(town.home / "s"))
    assert refused.code == 2
    assert "needs root: run it with sudo, or leave --netns out" in refused.error
    missing = town.cocoon("swarm", "chaos", "--dir", str(town.home / "nowhere"))
    assert missing.code == 2
    assert "no swarm of yours runs in" in missing.error
    assert "need --netns" in town.cocoon("swarm", "up", "--delay", "40ms").error
    assert not (town.home / "s" / "devnet").exists()
