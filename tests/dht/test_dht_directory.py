"""Directories on real hosts over loopback; their timing on a recording host under a mock clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import dht
from dht import CapacityRecord, Directory, Offer, RecordError, parse_record, sign_record
from dht.exchange import Page, PageRequest
from dht.limits import MAX_OFFERS, MAX_REPLY_BYTES, PAGE_RECORDS, SERVE_BURST_PAGES
from transport.host import EventKind, HostStream, Libp2pHost, StreamError
from transport.identity import Identity

PROTOCOL = "/cocoon/main/capacity/1.0.0"
TOPIC = "/cocoon/main/capacity/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def selling(model: str = "demo", price: int = 1000, **changes: Any) -> CapacityRecord:
    offer = Offer("chat", model, "plain", {"prompt": price, "completion": 3 * price})
    return CapacityRecord(**{"subnet": "main", "offers": (offer,), "noise_key": b"k" * 32, **changes})


@asynccontextmanager
async def node(number: int, *bootstrap: Libp2pHost, subnet: str = "main") -> AsyncIterator[tuple[Any, Directory]]:
    """A host and its directory."""
    who = identity(number)
    addrs = [addr for host in bootstrap for addr in host.addrs]
    async with Libp2pHost.open(who, [LOOPBACK], bootstrap=addrs) as host, Directory(host, who, subnet) as directory:
        yield host, directory


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event to wait for."""
    with trio.fail_after(10):
        while not condition():  # state of several hosts
            await trio.sleep(0.01)


async def test_a_newcomer_learns_the_whole_market_from_its_one_bootstrap_node() -> None:
    async with node(1) as (boot, _), node(2, boot) as (_, first), node(3, boot) as (_, second):
        await first.announce(selling("a"))
        await second.announce(selling("b"))
        await until(lambda: len(boot.peers()) == 2)
        async with node(4, boot) as (_, newcomer):
            await until(lambda: newcomer.models() == [("chat", "a"), ("chat", "b")])
            ((peer, record, offer),) = newcomer.providers("chat", "b")
            assert peer == identity(3).peer_id
            assert record.noise_key == b"k" * 32
            assert offer.prices == {"prompt": 1000, "completion": 3000}


async def test_who_is_connected_already_hears_a_new_provider_a_new_price_and_a_withdrawal() -> None:
    async with node(1) as (boot, _), node(2, boot) as (_, client):
        async with node(3, boot) as (_, provider):
            await provider.announce(selling(price=1000))
            with trio.fail_after(10):
                ((peer, _, offer),) = await client.wait_for_providers("chat", timeout_s=10)
            assert (peer, offer.prices["prompt"]) == (identity(3).peer_id, 1000)
            await provider.announce(selling(price=2000))
            await until(lambda: client.providers("chat")[0][2].prices["prompt"] == 2000)
        await until(lambda: not client.providers("chat"))


async def test_a_provider_that_returns_after_its_withdrawal_is_known_again() -> None:
    async with node(1) as (boot, known):
        async with node(2, boot) as (host, provider):
            await provider.announce(selling("a"))
            await until(known.models)
            # A withdrawal travels by gossip, so there must be gossip by then.
            await until(lambda: host._gossip._pubsub.peers and host._gossip._pubsub.peer_topics.get(TOPIC))
        await until(lambda: not known.models())
        async with node(2, boot) as (_, provider):
            await provider.announce(selling("b"))
            await until(lambda: known.models() == [("chat", "b")])


async def test_a_market_of_several_pages_is_learned_whole() -> None:
    async with node(1) as (boot, known):
        now = int(time.time())
        for number in range(1000, 1000 + 2 * PAGE_RECORDS + 20):
            known.index.add(sign_record(identity(number), selling(seq=1, issued_at=now)), now)
        async with node(2, boot) as (_, newcomer):
            await until(lambda: len(newcomer.providers("chat")) == 2 * PAGE_RECORDS + 20)


async def test_another_subnet_on_the_same_host_network_sees_nothing() -> None:
    async with node(1) as (boot, known), node(2, boot, subnet="other") as (other, stranger):
        await stranger.announce(selling("secret"))
        assert await stranger.wait_for_providers("chat", timeout_s=5)
        await until(lambda: boot.peers() and other.peers())
        with pytest.raises(StreamError, match="does not speak"):
            await (await other.open_stream(boot.peer_id, "/cocoon/other/capacity/1.0.0")).wait_opened()
        assert known.models() == []


@pytest.mark.parametrize("request_bytes", [b"", b"\xff" * 20, b"\x01", PageRequest().to_bytes() + b"\x00"])
async def test_a_neighbour_that_asks_in_garbage_is_dropped(request_bytes: bytes) -> None:
    async with node(1) as (server, _), Libp2pHost.open(identity(2)) as attacker, server.events() as events:
        stream = await attacker.open_stream(server.peer_id, PROTOCOL, addrs=server.addrs)
        await stream.send(request_bytes)
        with trio.fail_after(10):
            async for event in events:
                if event.kind is EventKind.DROPPED:
                    assert event.peer_id == attacker.peer_id
                    break
        async with node(3, server):
            await until(lambda: [info.peer_id for info in server.peers()] == [identity(3).peer_id])


def _forged() -> bytes:
    envelope = bytearray(sign_record(identity(9), selling(seq=1, issued_at=int(time.time()))).envelope)
    envelope[-1] ^= 1
    return bytes(envelope)


def _of_another_subnet() -> bytes:
    return sign_record(identity(9), replace(selling(), subnet="other", issued_at=int(time.time()))).envelope


def _out_of_order() -> Page:
    now = int(time.time())
    signed = sorted(
        (sign_record(identity(number), selling(seq=1, issued_at=now)) for number in (7, 8)), key=lambda s: s.peer_id
    )
    return Page((signed[1].envelope, signed[0].envelope), False)


@pytest.mark.parametrize(
    "reply",
    [
        lambda: b"\xff\xff",
        lambda: Page((b"not a record",), False).to_bytes(),
        lambda: Page((_forged(),), False).to_bytes(),
        lambda: Page((_of_another_subnet(),), False).to_bytes(),
        lambda: _out_of_order().to_bytes(),
    ],
)
async def test_a_neighbour_that_answers_with_bad_records_is_dropped(reply: Callable[[], bytes]) -> None:
    async def lie(stream: HostStream) -> None:
        await stream.receive(1000)
        await stream.send(reply())
        await trio.sleep_forever()

    async with Libp2pHost.open(identity(2), [LOOPBACK]) as liar:
        liar.set_handler(PROTOCOL, lie)
        async with node(1, liar) as (client, directory), client.events() as events:
            with trio.fail_after(10):
                async for event in events:
                    if event.kind is EventKind.DROPPED:
                        assert event.peer_id == liar.peer_id
                        break
            assert identity(9).peer_id not in {peer for peer, _, _ in directory.providers("chat")}


async def test_a_neighbour_that_answers_for_ever_or_not_at_all_costs_one_question(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    async with Directory(host, identity(1), "main") as directory:
        with trio.fail_after(60):
            await directory._neighbours.ask(identity(2).peer_id)
        assert host.opened[0].closed


async def test_nobody_is_served_more_than_his_allowance() -> None:
    async with node(1) as (server, _), Libp2pHost.open(identity(2)) as greedy, node(3, server) as (_, honest):
        served = 0
        with trio.fail_after(20), pytest.raises(StreamError):  # which one fails depends on the clock
            while served < 3 * SERVE_BURST_PAGES:
                stream = await greedy.open_stream(server.peer_id, PROTOCOL, addrs=server.addrs)
                await stream.send(PageRequest().to_bytes())
                await stream.receive(MAX_REPLY_BYTES)
                await stream.aclose()
                served += 1
        assert SERVE_BURST_PAGES <= served < 3 * SERVE_BURST_PAGES
        assert honest.models() == []
        await until(lambda: identity(3).peer_id in {info.peer_id for info in server.peers()})


async def test_gossip_of_a_record_that_is_not_ones_own_is_refused(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    now = 5000
    async with Directory(host, identity(1), "main", clock=lambda: now) as directory:
        signed = sign_record(identity(2), selling(seq=7, issued_at=now))
        assert host.hear(identity(3), signed.envelope) is False
        assert directory.models() == []
        assert host.hear(identity(2), signed.envelope) is True
        assert host.hear(identity(2), signed.envelope) is True
        assert directory.models() == [("chat", "demo")]


async def test_stale_records_and_double_ones_are_ignored_and_bad_ones_rejected(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    now = 5000
    async with Directory(host, identity(1), "main", clock=lambda: now):
        who = identity(2)
        host.hear(who, sign_record(who, selling(seq=7, issued_at=now)).envelope)
        assert host.hear(who, sign_record(who, selling(seq=6, issued_at=now)).envelope) is None
        assert host.hear(who, sign_record(who, selling("other", seq=7, issued_at=now)).envelope) is None
        assert host.hear(who, sign_record(who, selling(seq=8, issued_at=now - 1000)).envelope) is None
        assert host.hear(who, sign_record(who, selling(seq=9, issued_at=now + 1000)).envelope) is None
        assert host.hear(who, b"garbage") is False
        assert host.hear(who, bytes(5000)) is False
        assert host.hear(who, sign_record(who, selling(seq=9, issued_at=now, subnet="other")).envelope) is False


async def test_an_unchanged_record_is_renewed_each_third_of_its_ttl(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    async with Directory(host, identity(1), "main", clock=wall) as directory:
        await directory.announce(selling(ttl_s=120))
        await trio.sleep(100)
        assert [round(at) for at, _ in host.sent] == [0, 40, 80]
        records = [parse_record(data).record for _, data in host.sent]
        assert [record.issued_at for record in records] == [1_000_000, 1_000_040, 1_000_080]
        assert records[0].seq < records[1].seq < records[2].seq
        assert directory.models() == [("chat", "demo")]


async def test_a_price_that_jumps_without_end_is_announced_every_two_seconds(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    async with Directory(host, identity(1), "main", clock=wall) as directory:
        for step in range(100):
            await directory.announce(selling(price=1000 * (1 + step % 2)))
            await trio.sleep(0.1)
        gaps = [b[0] - a[0] for a, b in zip(host.sent, host.sent[1:], strict=False)]
        assert 4 <= len(host.sent) <= 6
        assert min(gaps) >= 2.0


async def test_a_small_move_waits_for_the_renewal(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    async with Directory(host, identity(1), "main", clock=wall) as directory:
        await directory.announce(selling(price=1000))
        await trio.sleep(5)
        await directory.announce(selling(price=1050))
        await trio.sleep(30)
        assert len(host.sent) == 1
        await trio.sleep(10)
        assert parse_record(host.sent[1][1]).record.offers[0].prices["prompt"] == 1050


async def test_leaving_the_block_withdraws_what_was_announced_and_nothing_else(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    async with Directory(host, identity(1), "main", clock=wall) as directory:
        await directory.announce(selling())
        await trio.sleep(1)
    assert [parse_record(data).record.withdrawn for _, data in host.sent] == [False, True]
    silent = RecordingHost()
    async with Directory(silent, identity(1), "main", clock=wall):
        await trio.sleep(1)
    assert silent.sent == []


async def test_a_record_too_long_is_the_announcers_error_and_is_not_sent(autojump_clock: MockClock) -> None:
    host = RecordingHost()
    long = tuple(Offer("chat", f"{n}" + "m" * 95, "plain", {"prompt": 1}) for n in range(MAX_OFFERS))
    async with Directory(host, identity(1), "main", clock=wall) as directory:
        with pytest.raises(RecordError, match="announce fewer"):
            await directory.announce(selling(offers=long))
        await trio.sleep(60)
    assert host.sent == []


async def test_waiting_for_providers_ends_empty_at_its_timeout(autojump_clock: MockClock) -> None:
    async with Directory(RecordingHost(), identity(1), "main", clock=wall) as directory:
        start = trio.current_time()
        assert await directory.wait_for_providers("chat", timeout_s=2) == []
        assert trio.current_time() - start == pytest.approx(2)


def test_the_facade_offers_what_it_names_and_is_sorted() -> None:
    names: Any = dht.__all__
    assert names == sorted(names)
    assert all(getattr(dht, name) is not None for name in names)


# --- a host that records what is published, for tests about time --------------------------------------------------


def wall() -> float:
    return 1_000_000 + trio.current_time() - RecordingHost.epoch


class _SilentStream:
    """A peer that accepts a stream and never answers."""

    def __init__(self) -> None:
        self.closed = False

    async def send(self, _message: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self, _max_bytes: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True


class RecordingHost:
    epoch = 0.0

    def __init__(self) -> None:
        RecordingHost.epoch = trio.current_time()
        self.sent: list[tuple[float, bytes]] = []
        self.opened: list[_SilentStream] = []
        self._validator: Any = None

    def hear(self, origin: Identity, data: bytes) -> bool | None:
        from transport.host import GossipMessage

        return self._validator(GossipMessage(TOPIC, origin.peer_id, data))

    def set_handler(self, _protocol: str, _handler: Any) -> None: ...

    def peers(self) -> list[Any]:
        return []

    async def open_stream(self, _peer: str, _protocol: str, **_: Any) -> _SilentStream:
        self.opened.append(_SilentStream())
        return self.opened[-1]

    async def publish(self, topic: str, data: bytes) -> None:
        assert topic == TOPIC
        self.sent.append((trio.current_time() - self.epoch, data))

    async def drop(self, peer: str, reason: str) -> None:
        raise AssertionError(reason)

    @asynccontextmanager
    async def subscribe(self, _topic: str, validator: Any) -> AsyncIterator[Any]:
        self._validator = validator
        yield _never()

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Any]:
        yield _never()


async def _never() -> AsyncIterator[Any]:
    await trio.sleep_forever()
    yield
