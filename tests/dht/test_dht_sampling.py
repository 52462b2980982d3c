"""Neighbours are asked for a few records, and for all only when gossip has lost something; the topic has a budget."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from dht import CapacityRecord, Directory, Offer, sign_record
from dht.announcing import due_at, interval_s
from dht.exchange import Page, PageRequest, page_of, parse_request
from dht.index import CapacityIndex
from dht.limits import (
    DEFAULT_TTL_S,
    MAX_REFRESH_S,
    MIN_ANNOUNCE_INTERVAL_S,
    PAGE_RECORDS,
    REFRESH_S,
    SAMPLE_RECORDS,
    SERVE_BURST_PAGES,
    SETTLED_AFTER_S,
    TOPIC_RECORDS_PER_S,
)
from dht.neighbours import Neighbours
from transport.identity import Identity

PROTOCOL = "/cocoon/main/capacity/1.0.0"


def selling(**changes: Any) -> CapacityRecord:
    offer = Offer("chat", "m", "plain", {"prompt": 1000}, slots=10, busy=changes.pop("busy", 0))
    return CapacityRecord("main", offers=(offer,), **{"ttl_s": 600, **changes})


class Neighbour:
    """A host that tells of ``index`` and counts what it is asked."""

    def __init__(self, net: Any, number: int) -> None:
        self.net = net
        self.host = net.host(number)
        self.index = CapacityIndex()
        self.asked: list[PageRequest] = []
        self.host.set_handler(PROTOCOL, self._serve)

    async def _serve(self, stream: Any) -> None:
        while True:
            request = parse_request(await stream.receive(1000))
            assert isinstance(request, PageRequest)
            self.asked.append(request)
            found, more = self.index.page(request.after, request.limit, now=self.net.wall())
            await stream.send(page_of([signed.envelope for signed in found], more).to_bytes())

    def hears(self, *others: CapacityIndex, numbers: range, **changes: Any) -> None:
        now = int(self.net.wall())
        for number in numbers:
            record = selling(**{"issued_at": now, "seq": now, **changes})
            signed = sign_record(Identity(number.to_bytes(32, "big")), record)
            for index in (self.index, *others):
                index.add(signed, now)


@asynccontextmanager
async def newcomer(net: Any) -> Any:
    host = net.host(1)
    async with Directory(host, host.identity, "main", clock=net.wall, rng=Random(1)) as directory:
        yield host, directory


async def test_a_market_in_which_nothing_was_lost_costs_a_sample_now_and_then_and_ever_less_often(
    net: Any, autojump_clock: MockClock
) -> None:
    neighbour = Neighbour(net, 2)
    async with newcomer(net) as (host, directory):
        neighbour.hears(directory.index, numbers=range(100, 140))
        host.meet(neighbour.host)
        for _ in range(120):  # everybody renews, and gossip loses nothing
            await trio.sleep(30)
            neighbour.hears(directory.index, numbers=range(100, 140))
    assert all(request.limit == SAMPLE_RECORDS for request in neighbour.asked)
    fewest = 3600 / (1.2 * (MAX_REFRESH_S + REFRESH_S))
    assert fewest <= len(neighbour.asked) / 2 + 1  # a sample that begins near the end asks once more
    assert len(neighbour.asked) <= 2 * 16


async def test_one_record_that_was_lost_brings_the_whole_index_and_attention(
    net: Any, autojump_clock: MockClock
) -> None:
    neighbour = Neighbour(net, 2)
    async with newcomer(net) as (host, directory):
        neighbour.hears(directory.index, numbers=range(100, 120))
        host.meet(neighbour.host)
        await trio.sleep(1)
        assert {request.limit for request in neighbour.asked} == {SAMPLE_RECORDS}
        neighbour.hears(numbers=range(120, 160))  # of these gossip brought none
        await trio.sleep(4 * REFRESH_S)
        assert len(directory.providers("chat")) == 60
        assert any(request.limit == PAGE_RECORDS for request in neighbour.asked)


async def test_what_is_newer_than_ours_for_a_moment_only_is_on_its_way(net: Any, autojump_clock: MockClock) -> None:
    neighbour = Neighbour(net, 2)
    async with newcomer(net) as (host, directory):
        neighbour.hears(directory.index, numbers=range(100, 140))
        await trio.sleep(40)
        neighbour.hears(numbers=range(100, 140), busy=5)
        host.meet(neighbour.host)
        await trio.sleep(1)
        assert {request.limit for request in neighbour.asked} == {SAMPLE_RECORDS}


async def test_two_markets_that_meet_know_each_other_at_once(net: Any, autojump_clock: MockClock) -> None:
    neighbour = Neighbour(net, 2)
    async with newcomer(net) as (host, directory):
        Neighbour(net, 3).hears(directory.index, numbers=range(100, 130))
        await trio.sleep(600)  # it has long been sampling seldom
        Neighbour(net, 4).hears(directory.index, numbers=range(100, 130))
        neighbour.hears(numbers=range(200, 230))
        host.meet(neighbour.host)
        await trio.sleep(1)
        assert len(directory.providers("chat")) == 60


async def test_a_neighbour_may_answer_a_sample_with_more_than_was_asked_for_and_none_are_counted_twice(
    net: Any, autojump_clock: MockClock
) -> None:
    neighbour = Neighbour(net, 2)
    async with newcomer(net) as (host, directory):
        neighbour.hears(directory.index, numbers=range(100, 120))

        async def tell(stream: Any) -> None:
            await stream.receive(1000)
            found, _ = neighbour.index.page("", PAGE_RECORDS, now=net.wall())
            await stream.send(Page(tuple(signed.envelope for signed in found), False).to_bytes())

        neighbour.host.handlers[PROTOCOL] = tell
        host.meet(neighbour.host)
        await trio.sleep(1)
        assert len(directory.index) == 20


def test_forty_providers_and_fewer_tell_of_changes_every_two_seconds_and_a_hundred_every_five() -> None:
    busy = replace(selling(ttl_s=DEFAULT_TTL_S), offers=selling(busy=9).offers)
    for providers, wait_s in ((1, 2.0), (40, 2.0), (100, 5.0), (400, 20.0), (4000, DEFAULT_TTL_S / 3)):
        assert due_at(selling(ttl_s=DEFAULT_TTL_S), 100.0, busy, providers) == 100.0 + wait_s


@given(st.integers(1, 100_000))
def test_all_together_they_stay_within_the_topic_s_budget(providers: int) -> None:
    assert interval_s(providers) >= MIN_ANNOUNCE_INTERVAL_S
    most = max(TOPIC_RECORDS_PER_S, 1 / MIN_ANNOUNCE_INTERVAL_S)
    assert providers / interval_s(providers) <= most + 1e-9


@pytest.mark.parametrize("renewed", [False, True])
def test_newcomers_do_not_slow_the_others_down_before_they_have_settled(renewed: bool) -> None:
    index = CapacityIndex()
    for number in range(100, 200):
        who = Identity(number.to_bytes(32, "big"))
        for at in (1000.0, 1000.0 + SETTLED_AFTER_S)[: 1 + renewed]:
            index.add(sign_record(who, selling(issued_at=int(at), seq=int(at))), at)
    assert index.settled() == (100 if renewed else 0)


async def test_a_page_is_answered_at_once_within_the_allowance_and_garbage_is_left_to_a_stream(
    autojump_clock: MockClock,
) -> None:
    index, rng = CapacityIndex(), Random(1)
    record = replace(selling(), seq=1, issued_at=1000)
    index.add(sign_record(Identity(b"p" * 32), record), 1000.0)
    neighbours = Neighbours(None, PROTOCOL, index, None, lambda: 1001.0, rng)  # type: ignore[arg-type]  # not reached
    asker = Identity(b"a" * 32).peer_id
    reply = neighbours.prompt(asker, PageRequest().to_bytes())
    assert reply is not None
    assert len(Page.from_bytes(reply).envelopes) == 1
    assert neighbours.prompt(asker, b"garbage") is None
    answered = 1
    while neighbours.prompt(asker, PageRequest().to_bytes()) is not None:
        answered += 1
    assert answered == SERVE_BURST_PAGES
    assert neighbours.prompt(Identity(b"b" * 32).peer_id, PageRequest().to_bytes()) is not None
