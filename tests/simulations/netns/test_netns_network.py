"""Real namespaces, and the two carriers that every kernel has: who reaches whom, how late, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from overlay.errors import CocoonError, ConfigError
from simulations.netns import kernel, owner
from simulations.netns.nat import NatKind
from simulations.netns.network import Carrier, NetworkOptions, SwarmNetwork, open_network
from simulations.netns.owner import Owner, remove_leftovers
from simulations.netns.shape import Shape

pytestmark = pytest.mark.usefixtures("real_network")

PORT = 4001
LISTEN = """
import socket
server = socket.create_server(("", 4001), backlog=64)
print("up", flush=True)
while True: server.accept()
"""
DIAL = """
import socket, sys
for address in sys.argv[1:]:
    s = socket.socket(); s.settimeout(0.4)
    try: s.connect((address, 4001)); print("yes")
    except OSError as error: print(type(error).__name__)
    s.close()
"""


def python(network: SwarmNetwork, machine: str, *arguments: str) -> list[str]:
    return network.command(machine, [sys.executable, "-I", "-S", *arguments])


@contextmanager
def listening(network: SwarmNetwork, *machines: str):
    servers = [
        subprocess.Popen(python(network, machine, "-c", LISTEN), stdout=subprocess.PIPE, text=True)
        for machine in machines
    ]
    try:
        for server in servers:
            assert server.stdout.readline() == "up\n"
        yield
    finally:
        for server in servers:
            server.kill()
            server.communicate()


async def dialled(network: SwarmNetwork, machine: str, *targets: str) -> dict[str, str]:
    addresses = [str(network.plan.machine(target).address) for target in targets]
    done = await trio.run_process(python(network, machine, "-c", DIAL, *addresses), capture_stdout=True)
    return dict(zip(targets, done.stdout.decode().split(), strict=True))


async def connect_s(network: SwarmNetwork, target: str) -> float:
    """The time that a TCP connection from this machine takes: one round trip."""
    began = time.perf_counter()
    async with await trio.open_tcp_stream(str(network.plan.machine(target).address), PORT):
        return time.perf_counter() - began


def left() -> list[str]:
    """What bears the name of this process."""
    of = Owner(os.getpid())
    return [*of.namespaces(), *of.links(), *([str(of.path)] if of.path.exists() else [])]


@asynccontextmanager
async def opened(number: int, **options):
    with trio.fail_after(30):
        async with open_network(number, NetworkOptions(**options), Path("a test")) as network:
            yield network
    assert left() == []


@pytest.mark.parametrize("carrier", [Carrier.VETH, pytest.param(Carrier.RELAY, marks=pytest.mark.slow)])
async def test_parts_do_not_reach_each_other_but_the_devnet_until_healed_whatever_carries(carrier):
    async with opened(3, carrier=carrier) as network:
        with listening(network, "node-1", "node-2", "node-3", "devnet"):
            everybody = {"node-1": "yes", "node-3": "yes", "devnet": "yes"}
            assert await dialled(network, "node-2", *everybody) == everybody
            assert await connect_s(network, "node-2") < 0.4

            await network.partition(["node-1"])
            assert network.cut_off == ("node-1",)
            apart = {"node-1": "TimeoutError", "node-3": "yes", "devnet": "yes"}
            assert await dialled(network, "node-2", *apart) == apart
            assert await dialled(network, "node-1", "node-2", "devnet") == {"node-2": "TimeoutError", "devnet": "yes"}
            with pytest.raises((trio.TooSlowError, OSError)), trio.fail_after(0.3):
                await connect_s(network, "node-1")

            await network.heal()
            assert await dialled(network, "node-2", *everybody) == everybody
            assert await connect_s(network, "node-1") < 2


async def test_the_relay_delays_a_round_trip_by_twice_what_was_asked_and_the_host_is_a_machine_like_others():
    async with opened(2, shape=Shape(0.03), carrier=Carrier.RELAY) as network:
        with listening(network, "node-1"):
            times = [await connect_s(network, "node-1") for _ in range(5)]
            assert min(times) >= 0.06
            assert min(times) < 0.09
            assert network.counts()["carried"] >= 15


async def test_a_node_behind_a_nat_dials_and_is_not_dialled():
    async with opened(2, behind_nat=1, nat_kind=NatKind.SYMMETRIC) as network:
        assert network.carrier is Carrier.RELAY
        with listening(network, "node-1", "node-2"):
            assert await dialled(network, "node-2", "node-1") == {"node-1": "yes"}
            assert await dialled(network, "node-1", "node-2") == {"node-2": "TimeoutError"}


@pytest.mark.slow
async def test_two_swarms_at_once_have_networks_of_their_own(tmp_path):
    async with opened(1, carrier=Carrier.VETH) as network:
        with other_swarm(tmp_path) as (_, other):
            assert other != str(network.plan.network)
            with listening(network, "node-1"):
                assert await connect_s(network, "node-1") < 2


HOLD = """
import sys, trio
from pathlib import Path
from simulations.netns.network import Carrier, NetworkOptions, open_network
import subprocess
async def main():
    async with open_network(1, NetworkOptions(carrier=Carrier(sys.argv[1])), Path("a test")) as network:
        there = network.command("node-1", ["sh", "-c", "echo there; exec sleep 60"])
        sleeper = subprocess.Popen(there, stdout=subprocess.PIPE)
        sleeper.stdout.readline()
        print(network.plan.network, sleeper.pid, flush=True)
        try:
            await trio.sleep_forever()
        finally:
            sleeper.kill()
            sleeper.wait()
trio.run(main)
"""


@contextmanager
def other_swarm(tmp_path, carrier="veth"):
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    command = [sys.executable, str(script), carrier]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    try:
        network, sleeper = process.stdout.readline().split()
        process.sleeper = int(sleeper)
        yield process, network
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@pytest.mark.parametrize("carrier", ["veth", pytest.param("relay", marks=pytest.mark.slow)])
def test_what_a_killed_swarm_left_is_removed_and_what_a_living_one_has_is_not(tmp_path, carrier):
    with other_swarm(tmp_path, carrier) as (process, _):
        of = Owner(process.pid)
        assert of.namespaces() == [of.namespace("devnet"), of.namespace("node-1")]
        assert process.pid not in {removed.owner.pid for removed in remove_leftovers()}, "it lives"
        assert len(of.namespaces()) == 2

        process.kill()
        process.wait()
        assert len(of.namespaces()) == 2
        assert os.path.exists(f"/proc/{process.sleeper}")
        [removed] = [removed for removed in remove_leftovers() if removed.owner == of]
        assert removed.processes == [process.sleeper]
        assert not os.path.exists(f"/proc/{process.sleeper}")
        assert [*of.namespaces(), *of.links()] == []
        assert not of.path.exists()
        assert of not in [removed.owner for removed in remove_leftovers()]


def test_namespaces_and_links_without_a_file_of_a_dead_owner_are_nobodys_to_remove():
    of = Owner(4_194_305)  # more than any process id (PID_MAX_LIMIT)
    kernel.make_namespace(of.namespace("node-1"))
    try:
        assert of not in [removed.owner for removed in remove_leftovers()]
        assert of.namespaces() == [of.namespace("node-1")]
    finally:
        of.remove()
    assert of.namespaces() == []


async def test_a_network_whose_interface_somebody_removes_ends_with_one_error():
    with pytest.RaisesGroup(pytest.RaisesExc(CocoonError, match="network is gone"), flatten_subgroups=True):
        async with opened(1, carrier=Carrier.RELAY) as network:
            assert network.counts()["carried"] == 0
            kernel.remove_link(Owner(os.getpid()).link("up"))
            await trio.sleep_forever()
    assert left() == []


async def test_what_fails_half_way_leaves_nothing(monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(kernel, "open_tun", refuse)
    with pytest.raises(ConfigError, match="does not let us make TUN devices"):
        async with opened(2, carrier=Carrier.RELAY):
            raise AssertionError
    assert left() == []
    assert owner.RUN.exists()
