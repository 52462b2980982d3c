"""Peers that send rubbish to a running node: it stays up, serves honest clients at once and does not swell."""

from __future__ import annotations

import os
import random
import socket
import time
from contextlib import suppress

import httpx
import psutil
import pytest
import trio

from dht import Directory
from transport.host import HostError, Libp2pHost
from transport.identity import Identity
from transport.tunnel import TunnelEndpoint, TunnelError, dial

SEED = 20_240_417
MAX_GROWTH_BYTES = 48 << 20
"""What the second half of an attack may add to a node that has been through the first: caches and the allocator."""

REQUEST = {"model": "auto", "messages": [{"role": "user", "content": "What is Cocoon?"}], "max_tokens": 8}


class Target:
    """A provider, and an honest gateway that uses it."""

    def __init__(self, node, url):
        self.node, self.url = node, url
        ready = node.wait_for("ready")
        self.peer_id, self.addr, self.tunnel = ready["peer_id"], ready["addrs"][0], ready["tunnel_addrs"][0]

    @staticmethod
    def port(addr):
        return int(addr.split("/")[4])

    def serves(self):
        """An honest request is answered, and soon."""
        started = time.monotonic()
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=REQUEST, timeout=30)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - started < 10
        assert self.node.exit_code is None
        assert "Traceback" not in self.node.errors, self.node.errors

    def memory(self):
        return psutil.Process(self.node.pid).memory_info().rss


@pytest.fixture(scope="module")
def target(tmp_path_factory, open_town, chain):
    with open_town(tmp_path_factory.mktemp("garbage")) as town:
        node = town.node("node", "--serve=chat", ton=chain)
        node.wait_for("ready")
        gateway = town.gateway("client", ton=chain)
        found = Target(node, gateway.wait_for("ready")["url"])
        found.serves()
        yield found
        assert gateway.stop() == 0
        assert node.stop() == 0
        assert node.errors == "", "no library wrote to standard error"


def shapes(rng):
    """Rubbish of many kinds: noise, almost-protocols, headers that promise too much, and nothing at all."""
    yield b""
    yield rng.randbytes(1)
    yield rng.randbytes(64)
    yield rng.randbytes(70_000)
    yield b"\x00" * 5000
    yield b"\xff" * 5000
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\x13/multistream/1.0.0\n\x07/noise\n" + rng.randbytes(300)
    yield b"\x13/multistream/1.0.0\n" + b"\xff\xff\xff\xff\x0f" + rng.randbytes(300)
    yield b"cocoon-tunnel/1" + rng.randbytes(200)
    yield b"\x00\x60" + rng.randbytes(96) + b"\xff\xff" + rng.randbytes(100)


@pytest.mark.parametrize("which", ["libp2p", "tunnel"])
def test_rubbish_on_a_port(target, which):
    rng = random.Random(SEED)
    port = target.port(target.addr if which == "libp2p" else target.tunnel)

    def attack(rounds):
        for _ in range(rounds):
            for data in shapes(rng):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                    raw.sendall(data)
                    if rng.random() < 0.5:
                        raw.shutdown(socket.SHUT_WR)

    attack(2)
    target.serves()
    before = target.memory()
    attack(4)
    target.serves()
    assert target.memory() - before < MAX_GROWTH_BYTES


def test_connections_that_say_nothing_do_not_keep_others_out(target):
    """Slow ones are cut off by a deadline; meanwhile there is room."""
    with suppress(OSError):
        idle = []
        for addr in (target.addr, target.tunnel):
            for _ in range(40):
                idle.append(socket.create_connection(("127.0.0.1", target.port(addr)), timeout=5))
    try:
        target.serves()
    finally:
        for raw in idle:
            raw.close()


def messages(rng):
    """Rubbish as messages of our own protocols."""
    yield b""
    yield rng.randbytes(32)
    yield rng.randbytes(2000)
    yield rng.randbytes(200_000)
    yield b"\x82\x68announce\xa0"
    yield b"\x83\x65close\x80\x58\x40" + bytes(64)
    yield b"\x9f" + b"\x80" * 500
    yield b"\x81" * 1900 + b"\x00"
    yield b"\xa1\x61t\x61r"


async def test_rubbish_on_every_protocol_of_the_control_plane(target):
    rng = random.Random(SEED)
    names = [f"/cocoon/main/{name}/1.0.0" for name in ("market", "channel", "capacity")]

    async def attack():
        async with Libp2pHost.open(Identity(os.urandom(32))) as host:
            peer = await host.connect(target.addr)
            for name in names:
                for data in messages(rng):
                    # The node may drop us for it: then so be it, we are back with another identity.
                    with suppress(HostError), trio.move_on_after(5):
                        stream = await host.open_stream(peer, name, addrs=[target.addr])
                        await stream.send(data)
                        if rng.random() < 0.5:
                            with trio.move_on_after(0.2):
                                await stream.receive(1 << 20)
                        await (stream.aclose() if rng.random() < 0.5 else stream.reset())

    with trio.fail_after(90):
        await attack()
        await trio.to_thread.run_sync(target.serves)
        before = target.memory()
        for _ in range(2):
            await attack()
        await trio.to_thread.run_sync(target.serves)
    assert target.memory() - before < MAX_GROWTH_BYTES


async def test_rubbish_in_gossip(target):
    rng = random.Random(SEED)
    topic = "/cocoon/main/capacity/1"
    with trio.fail_after(60):
        async with Libp2pHost.open(Identity(os.urandom(32))) as host, host.subscribe(topic, lambda _message: True):
            await host.connect(target.addr)
            await trio.sleep(1.2)  # a heartbeat of gossipsub: until it, there is no mesh to publish into
            for _ in range(30):
                for data in (rng.randbytes(10), rng.randbytes(1024), rng.randbytes(60_000), b"\xa0", b""):
                    with suppress(HostError):
                        await host.publish(topic, data)
            await trio.to_thread.run_sync(target.serves)


async def record_of(target, host, identity):
    async with Directory(host, identity, "main") as directory:
        await host.connect(target.addr)
        await directory.wait_for_providers("chat", timeout_s=10)
        found = directory.index.get(target.peer_id, time.time())
        assert found is not None
        return found


async def test_rubbish_inside_a_tunnel_whose_handshake_was_right(target):
    """Whoever asks gets a tunnel; what comes through it is not believed for that."""
    rng = random.Random(SEED)
    identity = Identity(os.urandom(32))
    endpoint = TunnelEndpoint.of(identity, subnet="main", psk=None)
    with trio.fail_after(90):
        async with Libp2pHost.open(identity) as host:
            record = await record_of(target, host, identity)

        async def attack():
            for data in messages(rng):
                with suppress(TunnelError):
                    tunnel = await dial(endpoint, target.tunnel, target.peer_id, static_key=record.noise_key)
                    async with tunnel:
                        for _ in range(4):
                            stream = await tunnel.open_stream()
                            await stream.send_messages([data[:16_000], data[:100]])
                            with trio.move_on_after(0.1):
                                await stream.receive_messages()
                            stream.reset()

        await attack()
        await trio.to_thread.run_sync(target.serves)
        before = target.memory()
        await attack()
        await trio.to_thread.run_sync(target.serves)
        assert target.memory() - before < MAX_GROWTH_BYTES
        # A tunnel under the wrong static key does not come about.
        with pytest.raises(TunnelError):
            wrong = await dial(endpoint, target.tunnel, target.peer_id, static_key=os.urandom(32), deadline_s=5)
            async with wrong:
                pass
