"""Whom a client asks for quotes: not only strangers, whatever they claim."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
import trio

from compute.tasks import ChatRequest, Message, Sampling
from dht import CapacityIndex, CapacityRecord, Offer, sign_record
from dht.limits import SETTLED_AFTER_S
from overlay.config import MarketSection
from overlay.events import EventLog
from overlay.market.limits import SHORTLIST
from overlay.node.deals import Deals
from overlay.node.reputation import Served
from transport.identity import Identity

REQUEST = ChatRequest("m", (Message("user", "hello"),), Sampling(max_tokens=256))


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


class Directory:
    """As much of one as is asked here."""

    def __init__(self) -> None:
        self.index = CapacityIndex()

    def hear(self, number: int, at: float, *, price: int = 80_000_000, speed: int = 25) -> None:
        offer = Offer("chat", "m", "plain", {"prompt": price // 4, "completion": price}, units_per_s=speed)
        record = CapacityRecord("test", noise_key=b"k" * 32, offers=(offer,), seq=int(at * 1000) + 1, issued_at=int(at))
        self.index.add(sign_record(identity(number), record), at)


@pytest.fixture
async def market(autojump_clock):
    directory = Directory()
    unused: object = None
    deals = Deals(
        unused, directory, unused, MarketSection(), 500_000_000, unused, unused, EventLog(lambda _: None, lambda: 0.0),
        lambda: 0.0, Random(1),
    )  # fmt: skip
    return directory, deals


def asked(directory, deals, now):
    rows = directory.index.providers("chat", "m", "plain", now=now)
    return [
        candidate.provider
        for candidate in deals._choice.shortlist(rows, deals._want(REQUEST, "m"), deals._policy(), ())
    ]


async def test_a_flood_of_strangers_that_ask_next_to_nothing_takes_half_of_the_shortlist_at_most(market):
    directory, deals = market
    for at in range(0, int(SETTLED_AFTER_S) + 61, 60):
        for number in range(1, 7):
            directory.hear(number, float(at))
    now = SETTLED_AFTER_S + 60
    for number in range(100, 400):
        directory.hear(number, now, price=4)
    honest = {identity(number).peer_id for number in range(1, 7)}
    for _ in range(20):
        found = asked(directory, deals, now)
        assert len(found) == SHORTLIST
        assert sum(peer in honest for peer in found) >= SHORTLIST // 2


async def test_a_flood_of_strangers_does_not_make_those_known_look_alike(market):
    directory, deals = market
    for at in range(0, int(SETTLED_AFTER_S) + 61, 60):
        for number in range(1, 11):
            directory.hear(number, float(at), price=45_000_000 * number)
    now = SETTLED_AFTER_S + 60
    for number in range(100, 1000):
        directory.hear(number, now, price=450_000_000)
    cheapest = identity(1).peer_id
    assert sum(cheapest in asked(directory, deals, now) for _ in range(50)) >= 30


async def test_who_has_served_us_is_no_stranger(market):
    directory, deals = market
    directory.hear(1, 0.0)
    for number in range(100, 400):
        directory.hear(number, 0.0, price=4)
    served = identity(1).peer_id
    deals.reputation.served(served, Served("m", 100, 400, 0.0, 0.5, 4.5), trio.current_time())
    assert all(served in asked(directory, deals, 1.0) for _ in range(20))


async def test_a_speed_that_nobody_has_seen_counts_as_the_middle_one_in_seven_of_eight_negotiations(market):
    directory, deals = market
    for number in range(1, 10):
        directory.hear(number, 0.0, speed=25)
    directory.hear(10, 0.0, speed=1000)
    boaster = identity(10).peer_id
    rows = directory.index.providers("chat", "m", "plain", now=1.0)
    want = deals._want(REQUEST, "m")
    place = [row[0] for row in rows].index(boaster)
    believed = sum(deals._choice.speeds(rows, want)[place] > 25 for _ in range(800))
    assert 60 <= believed <= 140
    deals.reputation.served(boaster, Served("m", 2000, 8000, 0.0, 0.5, 2.5), trio.current_time())
    assert all(deals._choice.speeds(rows, want)[place] > 900 for _ in range(20))


async def test_while_the_chain_is_away_only_those_count_who_can_be_paid_without_it_as_far_as_there_are_any(market):
    directory, deals = market
    for number in (1, 2, 3):
        directory.hear(number, 0.0)
    rows = directory.index.providers("chat", "m", "plain", now=1.0)
    payable = {identity(2).peer_id}
    deals.links = SimpleNamespace(chain_is_away=True, without_chain=lambda peer, nanoton: peer in payable)
    assert [peer for peer, _, _ in deals._payable(rows, REQUEST)] == [identity(2).peer_id]
    payable.clear()
    assert deals._payable(rows, REQUEST) == rows
    payable.add(identity(2).peer_id)
    deals.links.chain_is_away = False
    assert deals._payable(rows, REQUEST) == rows
