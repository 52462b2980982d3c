"""What strangers on the devnet's ports can do: cost little, hold little, shut nobody out."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Builder, begin_cell
from pytoniq_core.crypto.ciphers import Client, Server, create_aes_ctr_cipher, get_shared_key

from overlay.settlement.cells import address_of
from overlay.settlement.chain import TonClient
from overlay.settlement.devnet import limits
from overlay.settlement.devnet.adnl import constructor, tl_bytes
from overlay.settlement.devnet.gate import Gate, Place
from overlay.settlement.devnet.ledger import read_external
from overlay.settlement.devnet.listeners import serve_client
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.devnet.tvm import MessageRejected
from overlay.settlement.wallet import Transfer, Wallet


def hello(public_key: bytes) -> tuple[bytes, Any]:
    """The client's half of the handshake, and the cipher of what it sends afterwards."""
    server, me = Server("", 0, public_key), Client(b"m" * 32)
    streams = bytes(range(160))
    checksum = hashlib.sha256(streams).digest()
    shared = get_shared_key(me.x25519_private.encode(), server.x25519_public.encode())
    cipher = create_aes_ctr_cipher(shared[:16] + checksum[16:32], checksum[:4] + shared[20:32])
    head = server.get_key_id() + me.ed25519_public.encode() + checksum + cipher.encrypt(streams)
    return head, create_aes_ctr_cipher(streams[32:64], streams[80:96])


def packet(cipher: Any, payload: bytes) -> bytes:
    body = b"n" * 32 + payload
    raw: bytes = cipher.encrypt((len(body) + 32).to_bytes(4, "little") + body + hashlib.sha256(body).digest())
    return raw


def query(number: int) -> bytes:
    request = constructor("liteServer.query") + tl_bytes(constructor("liteServer.getTime"))
    return constructor("adnl.message.query") + number.to_bytes(32, "big") + tl_bytes(request)


# ---- the gate ----


@asynccontextmanager
async def entered(gate: Gate, log: list[str], name: str, nursery: trio.Nursery) -> AsyncIterator[Place]:
    places: list[Place] = []
    ready = trio.Event()

    async def stay() -> None:
        async with gate.place() as place:
            places.append(place)
            ready.set()
            await trio.sleep_forever()
        log.append(name)

    nursery.start_soon(stay)
    await ready.wait()
    yield places[0]


@given(st.lists(st.tuples(st.sampled_from(["come", "show", "again"]), st.integers(0, 30)), max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_oldest_silent_connection_goes_first_and_then_the_client_idle_longest(steps: list[tuple[str, int]]) -> None:
    half_limit, client_limit = 3, 2

    async def run() -> None:
        gate, gone = Gate(half_limit, client_limit), list[str]()
        half: list[str] = []
        clients: list[str] = []
        places: dict[str, Place] = {}
        async with trio.open_nursery() as nursery:
            for number, (step, which) in enumerate(steps):
                if step == "come":
                    half = half[1 - half_limit :] if len(half) >= half_limit else half
                    async with entered(gate, gone, str(number), nursery) as place:
                        places[str(number)] = place
                    half.append(str(number))
                elif step == "show" and half:
                    name = half.pop(which % len(half))
                    clients = clients[1 - client_limit :] if len(clients) >= client_limit else clients
                    clients.append(name)
                    places[name].seen()
                elif step == "again" and clients:
                    name = clients.pop(which % len(clients))
                    clients.append(name)
                    places[name].seen()
                await trio.testing.wait_all_tasks_blocked()
                assert set(places) - set(gone) == {*half, *clients}
                assert gate.counts == (len(half), len(clients))
            nursery.cancel_scope.cancel()

    trio.run(run)


# ---- one connection, on virtual time ----


class Asked:
    """Stands where the liteserver is: counts what it is asked and answers at once, or never."""

    def __init__(self, answers: bool) -> None:
        self.key = Client(b"k" * 32)
        self.count = 0
        self._answers = answers

    async def answer(self, request: bytes) -> bytes:
        self.count += 1
        if not self._answers:
            await trio.sleep_forever()
        return b"\x00" * 40_000


@asynccontextmanager
async def connection(server: Any) -> AsyncIterator[Any]:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_client, server, Gate(), lambda count: bytes(count)), theirs)
        yield ours
        nursery.cancel_scope.cancel()


async def test_who_does_not_finish_the_handshake_is_dropped(autojump_clock: Any) -> None:
    server = Asked(answers=True)
    head, _ = hello(server.key.ed25519_public.encode())
    async with connection(server) as stream:
        start = trio.current_time()
        await stream.send_all(head[:200])
        assert await stream.receive_some() == b""
        assert trio.current_time() - start <= limits.HANDSHAKE_TIMEOUT_S


async def test_who_falls_silent_is_dropped(autojump_clock: Any) -> None:
    server = Asked(answers=True)
    head, _ = hello(server.key.ed25519_public.encode())
    async with connection(server) as stream:
        await stream.send_all(head)
        assert len(await stream.receive_some()) > 0
        start = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(limits.IDLE_TIMEOUT_S)


async def test_who_asks_and_never_reads_holds_a_bounded_number_of_answers_for_a_bounded_time(
    autojump_clock: Any,
) -> None:
    server = Asked(answers=True)
    head, cipher = hello(server.key.ed25519_public.encode())
    async with connection(server) as stream:
        await stream.send_all(head)
        assert len(await stream.receive_some()) > 0
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for number in range(10_000):
                await stream.send_all(packet(cipher, query(number)))
        assert server.count <= limits.MAX_QUERIES_IN_FLIGHT + 1
        assert trio.current_time() - start <= limits.SEND_TIMEOUT_S + 1


async def test_queries_that_are_not_answered_yet_hold_up_the_next_ones(autojump_clock: Any) -> None:
    server = Asked(answers=False)
    head, cipher = hello(server.key.ed25519_public.encode())
    async with connection(server) as stream:
        await stream.send_all(head)
        assert len(await stream.receive_some()) > 0
        with trio.move_on_after(5):
            for number in range(10_000):
                await stream.send_all(packet(cipher, query(number)))
        assert server.count == limits.MAX_QUERIES_IN_FLIGHT


@pytest.mark.parametrize("length", [0, 63, limits.MAX_PACKET_BYTES + 1, 2**32 - 1])
async def test_a_packet_of_an_impossible_size_ends_the_connection_before_its_bytes_are_taken(
    length: int, autojump_clock: Any
) -> None:
    server = Asked(answers=True)
    head, cipher = hello(server.key.ed25519_public.encode())
    async with connection(server) as stream:
        await stream.send_all(head)
        assert len(await stream.receive_some()) > 0
        await stream.send_all(cipher.encrypt(length.to_bytes(4, "little") + b"x" * 8))
        assert await stream.receive_some() == b""


# ---- a running devnet ----


async def test_half_open_connections_shut_nobody_out_and_are_bounded(net: Any) -> None:
    streams = []
    try:
        for _ in range(3 * limits.MAX_HALF_OPEN):
            streams.append(await trio.open_tcp_stream("127.0.0.1", net.devnet.port))
        started = time.monotonic()
        async with TonClient.connect(net.config, clock=net.clock) as client:
            assert await client.account_state(net.devnet.giver) is not None
            assert time.monotonic() - started < 5

        dropped = 0

        async def wait(stream: trio.SocketStream) -> None:
            nonlocal dropped
            with contextlib.suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
            dropped += 1

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(wait, stream)
            with trio.fail_after(5):
                while dropped < 2 * limits.MAX_HALF_OPEN:
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    finally:
        for stream in streams:
            await stream.aclose()


def bomb(depth: int) -> Any:
    """A cell that is reached in 4 ** ``depth`` ways and made of ``depth`` cells."""
    cell = begin_cell().end_cell()
    for _ in range(depth):
        builder: Builder = begin_cell()
        for _ in range(4):
            builder.store_ref(cell)
        cell = builder.end_cell()
    return cell


def carrying(net: Any, body: Any) -> bytes:
    message = begin_cell().store_uint(2, 2).store_uint(0, 2).store_address(address_of(net.devnet.giver))
    message.store_coins(0).store_bit(0).store_bit(1).store_ref(body)
    return to_boc([message.end_cell()])


async def test_a_message_of_cells_that_are_reached_in_endless_ways_costs_what_its_bytes_cost(net: Any) -> None:
    started = time.monotonic()
    with pytest.raises(MessageRejected, match="not accepted"):
        await net.call(net.devnet.submit, carrying(net, bomb(limits.MAX_CELL_DEPTH - 1)))
    assert time.monotonic() - started < 5
    assert (await net.totals()).conserved


async def test_cells_deeper_than_the_emulator_bears_are_refused(net: Any) -> None:
    with pytest.raises(MessageRejected, match=f"{limits.MAX_CELL_DEPTH} are allowed"):
        await net.call(net.devnet.submit, carrying(net, bomb(limits.MAX_CELL_DEPTH)))


def test_a_wallets_message_with_as_many_transfers_as_it_takes_is_not_too_deep() -> None:
    wallet = Wallet(b"\x01" * 32, limits.NETWORK_ID)
    transfers = [Transfer(f"0:{number:064x}", 1, begin_cell().store_uint(0, 32).end_cell()) for number in range(255)]
    message = wallet.sign_transfers(transfers, seqno=1, valid_until_s=2**31, deploy=False)
    assert message.get_depth(0) > 255
    read_external(to_boc([message]))


async def test_an_emulator_that_was_broken_by_its_input_is_replaced(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.settlement.devnet.ledger.MAX_CELL_DEPTH", 1000)
    with pytest.raises(MessageRejected, match="memory access"):
        await net.call(net.devnet.submit, carrying(net, bomb(600)))
    monkeypatch.undo()
    await net.call(net.devnet.fund, "0:" + "31" * 32, 10**9)
    assert (await net.totals()).conserved


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_whatever_is_sent_as_a_message_is_refused_with_a_reason(data: bytes) -> None:
    for boc in (data, b"\xb5\xee\x9c\x72" + data):
        with pytest.raises(MessageRejected):
            read_external(boc)


async def test_an_oversized_message_is_refused(net: Any) -> None:
    with pytest.raises(MessageRejected, match="65536 are allowed"):
        await net.call(net.devnet.submit, b"\x00" * (limits.MAX_EXTERNAL_BYTES + 1))
