"""The host's small parts on their own: the news queue, back-off, varints, addresses, the façade."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import transport.host
from transport.host import DialError, HostError, background
from transport.host.addresses import expand_wildcard, explain, parse_addr, split_peer
from transport.host.bootstrap import keep_connected, retry_delays
from transport.host.limits import BOOTSTRAP_FIRST_RETRY_S, BOOTSTRAP_MAX_RETRY_S
from transport.host.negotiation import encode_varint
from transport.host.queues import NewsQueue
from transport.host.streams import Libp2pStream
from transport.identity import Identity, PeerId


async def test_a_slow_reader_of_news_loses_the_oldest() -> None:
    queue: NewsQueue[int] = NewsQueue(3)
    for number in range(5):
        queue.put(number)
    queue.close()
    assert [item async for item in queue] == [2, 3, 4]
    assert queue.dropped == 2


async def test_news_wakes_a_waiting_reader(autojump_clock: MockClock) -> None:
    queue: NewsQueue[str] = NewsQueue(3)
    got: list[str] = []

    async def read() -> None:
        async for item in queue:
            got.append(item)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        queue.put("a")
        await trio.sleep(1)
        assert got == ["a"]
        queue.close()


@given(st.integers(0, 2**32))
def test_back_off_doubles_to_its_cap_and_is_never_longer(seed: int) -> None:
    delays = list(islice(retry_delays(random.Random(seed)), 12))
    expected = [min(BOOTSTRAP_FIRST_RETRY_S * 2**n, BOOTSTRAP_MAX_RETRY_S) for n in range(12)]
    assert all(0.75 * most <= delay <= most for delay, most in zip(delays, expected, strict=True))


async def test_a_bootstrap_peer_is_retried_and_found_again_after_it_was_lost(autojump_clock: MockClock) -> None:
    tries: list[float] = []
    told: list[str] = []
    state = {"up": False}

    async def connect() -> None:
        tries.append(trio.current_time())
        if len(tries) < 4:
            raise DialError("nobody there")
        state["up"] = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_connected, connect, lambda: state["up"], told.append, random.Random(1))
        await trio.sleep(30)
        assert len(tries) == 4
        assert len(told) == 3
        assert told[0].startswith("nobody there; next attempt in 1 s")
        state["up"] = False
        await trio.sleep(30)
        assert len(tries) == 5
        nursery.cancel_scope.cancel()


class _Pipe:
    """The reading half of a libp2p stream, over given chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.resets = 0

    async def read(self, _n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.resets += 1


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_messages_survive_any_cut_of_the_bytes(messages: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(encode_varint(len(message)) + message for message in messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(wire) - 1)), max_size=10)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) if wire[a:b]]

    async def receive_all() -> list[bytes]:
        stream = Libp2pStream(_Pipe(chunks), PeerId("p"), lambda *_: None)
        return [await stream.receive(300) for _ in messages]

    assert trio.run(receive_all) == messages


async def test_a_length_that_never_ends_resets_the_stream() -> None:
    pipe = _Pipe([b"\xff" * 20])
    with pytest.raises(HostError, match="never ends"):
        await Libp2pStream(pipe, PeerId("p"), lambda *_: None).receive(10)
    assert pipe.resets == 1


@pytest.mark.parametrize(
    "addr", ["/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/1", "/dns4/node.example/tcp/4001", "/dns/a.example/tcp/9"]
)
def test_tcp_addresses_are_taken_apart(addr: str) -> None:
    peer = Identity(bytes(32)).peer_id
    assert split_peer(f"{addr}/p2p/{peer}") == (peer, parse_addr(addr))
    assert str(parse_addr(f"{addr}/p2p/{peer}")) == addr


@given(st.text(max_size=60))
def test_arbitrary_text_is_an_error_for_the_user_and_no_crash(text: str) -> None:
    with pytest.raises(HostError):
        parse_addr(text)
    with pytest.raises(DialError):
        split_peer(text)


def test_the_root_of_an_error_is_explained_without_its_wrapping() -> None:
    root = ConnectionRefusedError(111, "Error connecting to ('127.0.0.1', 1): Connection refused")
    wrapped = RuntimeError("fail to open connection")
    wrapped.__cause__ = ExceptionGroup("attempts", [root])
    assert explain(wrapped) == "connection refused"
    assert explain(trio.TooSlowError()) == "no answer in time"


async def test_background_tasks_end_with_the_block_and_its_error_comes_out_bare() -> None:
    ended: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("task")

    with pytest.raises(KeyError):  # the block is what is tested
        async with background() as nursery:
            nursery.start_soon(task)
            await trio.lowlevel.checkpoint()
            raise KeyError
    assert ended == ["task"]


async def test_a_failing_background_task_ends_the_block() -> None:
    async def fail() -> None:
        raise ValueError("task")

    with pytest.raises(ExceptionGroup) as caught:  # the block is what is tested
        async with background() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
    assert caught.group_contains(ValueError)


def test_the_facade_offers_what_it_names_and_is_sorted() -> None:
    names: Any = transport.host.__all__
    assert names == sorted(names)
    assert all(getattr(transport.host, name) is not None for name in names)
    with pytest.raises(AttributeError):
        _ = transport.host.Nonsense


def test_the_interface_is_imported_without_libp2p() -> None:
    code = "import sys, transport.host; sys.exit('libp2p' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wildcard_becomes_our_addresses_public_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    from types import SimpleNamespace

    found = ["127.0.0.1", "172.17.0.1", "8.8.4.4", "10.0.0.5"]
    interfaces = {"all": [SimpleNamespace(family=socket.AF_INET, address=address) for address in found]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: interfaces)
    names = [str(addr).split("/")[2] for addr in expand_wildcard(parse_addr("/ip4/0.0.0.0/tcp/9"))]
    assert names == ["8.8.4.4", "10.0.0.5", "172.17.0.1"]
    interfaces["all"] = interfaces["all"][:1]
    assert [str(addr) for addr in expand_wildcard(parse_addr("/ip4/0.0.0.0/tcp/9"))] == ["/ip4/127.0.0.1/tcp/9"]
    assert expand_wildcard(parse_addr("/ip4/1.2.3.4/tcp/9")) == [parse_addr("/ip4/1.2.3.4/tcp/9")]
