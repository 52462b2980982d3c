"""`cocoon swarm up`: nodes that stay up until told to stop."""

from __future__ import annotations

import os
import signal

import psutil
import pytest


@pytest.mark.slow
def test_a_swarm_restarts_a_node_that_was_killed_and_stops_on_ctrl_c(town, until):
    swarm = town.start("swarm", "swarm", "up", "-n", "2", "--dir", str(town.home))
    first = swarm.wait_for("node", node="node-1")
    swarm.wait_for("node", node="node-2")

    os.kill(first["pid"], signal.SIGKILL)
    swarm.wait_for("restarting", node="node-1")
    again = until(lambda: next((e for e in swarm.all("node", node="node-1") if e["pid"] != first["pid"]), None), 60)
    assert again["peer_id"] == first["peer_id"], "it is the same node, with the same books"

    said = town.cocoon("chat", "What is Cocoon?")
    assert said.code == 0, said.err
    children = psutil.Process(swarm.pid).children(recursive=True)
    assert len(children) >= 3
    swarm.send(signal.SIGINT)
    assert swarm.ended() == 0
    assert not any(child.is_running() for child in children)
    assert swarm.errors == ""
