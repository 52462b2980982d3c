"""Our host against go-libp2p: the daemon ``p2pd``, which PyPI's wheel ``hivemind`` carries as one static binary.

It is no dependency of ours. Put it on PATH, name it in ``$COCOON_P2PD``, or install hivemind without its dependencies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import base58
import pytest
import trio
from multiaddr import Multiaddr

from transport.host import Libp2pHost
from transport.host.negotiation import encode_varint
from transport.identity import Identity

TOPIC = "/cocoon/interop/capacity/1"


def _p2pd() -> str | None:
    for found in (os.environ.get("COCOON_P2PD"), shutil.which("p2pd")):
        if found:
            return found
    spec = find_spec("hivemind")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "hivemind_cli" / "p2pd"
    return str(binary) if os.access(binary, os.X_OK) else None


pytestmark = pytest.mark.skipif(_p2pd() is None, reason="go's p2pd is neither on PATH nor in $COCOON_P2PD")


def _field(number: int, value: bytes | int) -> bytes:
    """One protobuf field: a varint or a byte string."""
    if isinstance(value, int):
        return encode_varint(number << 3) + encode_varint(value)
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


class Daemon:
    """p2pd and its control socket (go-libp2p-daemon, p2pd.proto)."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self.peer_id = ""
        self.addr = ""

    async def open(self, request: bytes) -> tuple[trio.SocketStream, bytes]:
        """Send one request; the stream and the first answer. The answer begins with its type: 0 for success."""
        stream = await trio.open_unix_socket(str(self._control))
        await stream.send_all(encode_varint(len(request)) + request)
        return stream, await self.read(stream)

    async def read(self, stream: trio.SocketStream) -> bytes:
        """One message with a length of up to two bytes."""
        with trio.fail_after(10):
            length, shift = 0, 0
            while True:
                (byte,) = await self._some(stream, 1)
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            data = b""
            while len(data) < length:
                data += await self._some(stream, length - len(data))
            return data

    async def _some(self, stream: trio.SocketStream, most: int) -> bytes:
        chunk = await stream.receive_some(most)
        assert chunk, "p2pd closed its control socket"
        return bytes(chunk)


@asynccontextmanager
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    control = tmp_path / "p2pd.sock"
    binary = _p2pd()
    assert binary is not None
    command = [binary, "-listen", f"/unix{control}", "-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-pubsub"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        go, output = Daemon(control), b""
        with trio.fail_after(10):
            while b"/ip4/127.0.0.1/tcp/" not in output or not output.endswith(b"\n"):
                output += await process.stdout.receive_some(4096)
        for line in output.decode().splitlines():
            if line.startswith("Peer ID:"):
                go.peer_id = line.split()[-1]
            elif "/ip4/127.0.0.1/tcp/" in line:
                go.addr = f"{line.split()[-1].partition('/p2p/')[0]}/p2p/{go.peer_id}"
        yield go
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await trio.aclose_forcefully(process.stdout)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Libp2pHost]]:
    async with daemon(tmp_path) as go, Libp2pHost.open(Identity(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"]) as ours:
        yield go, ours


async def connect_from_go(go: Daemon, ours: Libp2pHost) -> None:
    addr, _, peer = ours.addrs[0].partition("/p2p/")
    request = _field(1, base58.b58decode(peer)) + _field(2, Multiaddr(addr).to_bytes())
    stream, answer = await go.open(_field(1, 1) + _field(2, request))
    await stream.aclose()
    assert answer[:2] == b"\x08\x00", answer


async def test_we_dial_go_identify_it_and_ping_it(pair: Any) -> None:
    go, ours = pair
    assert await ours.connect(go.addr) == go.peer_id
    with trio.fail_after(10):
        while go.addr.partition("/p2p/")[0] not in ours._book.addrs(go.peer_id):
            await trio.sleep(0.02)
    stream: Any = await ours.open_stream(go.peer_id, "/ipfs/ping/1.0.0")
    payload = os.urandom(32)
    await stream.send_bytes(payload)
    with trio.fail_after(5):
        assert await stream.receive_bytes(32) == payload


async def test_go_dials_us(pair: Any) -> None:
    go, ours = pair
    await connect_from_go(go, ours)
    assert [(info.peer_id, info.inbound) for info in ours.peers()] == [(go.peer_id, True)]


async def test_gossip_with_go_is_heard_both_ways(pair: Any) -> None:
    go, ours = pair
    async with ours.subscribe(TOPIC, lambda _: True) as inbox:
        topic = _field(2, TOPIC.encode())
        inbound, answer = await go.open(_field(1, 8) + _field(8, _field(1, 3) + topic))
        assert answer[:2] == b"\x08\x00", answer
        await ours.connect(go.addr)
        with trio.fail_after(10):
            while not ours._gossip._pubsub.peer_topics.get(TOPIC):
                await trio.sleep(0.02)
            await trio.sleep(1.5)  # a heartbeat of go's builds its mesh
            publish = _field(1, 2) + topic + _field(3, b"from go")
            stream, answer = await go.open(_field(1, 8) + _field(8, publish))
            await stream.aclose()
            assert answer[:2] == b"\x08\x00", answer
            message = await anext(inbox)
            assert (message.origin, message.data) == (go.peer_id, b"from go")
            await ours.publish(TOPIC, b"from us")
            while b"from us" not in await go.read(inbound):
                pass
        await inbound.aclose()
