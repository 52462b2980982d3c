"""Whom a client asks for quotes: not only strangers, whatever they claim; and when it asks again."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
import trio

from compute.tasks import ChatRequest, Message, Sampling, Task
from compute.usage import Prices, Unit
from dht import CapacityIndex, CapacityRecord, Offer, sign_record
from dht.limits import SETTLED_AFTER_S
from overlay.config import MarketSection
from overlay.events import EventLog
from overlay.market import Tier
from overlay.market.limits import SHORTLIST
from overlay.node.deals import CROWDED_WAIT_MS, SILENT_S, Deals
from overlay.node.reputation import Served
from transport.identity import Identity

REQUEST = ChatRequest("m", (Message("user", "hello"),), Sampling(max_tokens=256))


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


class Directory:
    """As much of one as is asked here."""

    def __init__(self) -> None:
        self.index = CapacityIndex()

    def hear(
        self, number: int, at: float, *, price: int = 80_000_000, speed: int = 25, wait_ms: int = 0, model: str = "m"
    ) -> None:
        asks = {"prompt": price // 4, "completion": price}
        offer = Offer("chat", model, "plain", asks, units_per_s=speed, queue_wait_ms=wait_ms)
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


async def test_news_is_old_where_many_announce_whatever_they_sell(market):
    directory, deals = market
    for at in range(0, int(SETTLED_AFTER_S) + 61, 60):
        for number in range(1, 11):
            directory.hear(number, float(at), price=45_000_000 * number)
    now, cheapest = SETTLED_AFTER_S + 60, identity(1).peer_id
    alone = sum(asked(directory, deals, now)[0] == cheapest for _ in range(100))
    assert len(asked(directory, deals, now)) == SHORTLIST
    for at in (now - SETTLED_AFTER_S, now):
        for number in range(100, 500):
            directory.hear(number, float(at), model="another")
    assert sum(asked(directory, deals, now)[0] == cheapest for _ in range(100)) < alone
    assert len(asked(directory, deals, now)) == 10


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


# --- whether a standing agreement is still the best -------------------------------------------------------------------


def standing(deals, number, *, price=80_000_000):
    """An agreement with a provider at a price, as far as it is looked at here."""
    body = SimpleNamespace(
        provider=identity(number).peer_id, task=Task.CHAT, model="m", tier=Tier.PLAIN,
        prices=Prices({Unit.PROMPT: price // 4, Unit.COMPLETION: price}), max_amount_nanoton=10**9,
    )  # fmt: skip
    return SimpleNamespace(agreement=SimpleNamespace(body=body))


class Links:
    """Whom a channel pays."""

    def __init__(self, *numbers: int) -> None:
        self.peers = {identity(number).peer_id for number in numbers}

    def without_chain(self, peer, spendable_nanoton):
        return peer in self.peers


@pytest.mark.parametrize(
    ("rival_price", "paid", "worse"),
    [
        (40_000_000, (1, 2), True),
        (75_000_000, (1, 2), False),  # in money and time together by less than announcements are off
        (40_000_000, (1,), False),  # a channel would have to be opened first
        (90_000_000, (1, 2), False),
    ],
)
async def test_an_agreement_is_outdone_by_who_can_be_paid_at_once_and_asks_clearly_less(
    market, rival_price, paid, worse
):
    directory, deals = market
    deals.links = Links(*paid)
    directory.hear(1, 0.0)
    directory.hear(2, 0.0, price=rival_price)
    deal = standing(deals, 1)
    # Others are drawn at random, with repetition: each look sees eight of two.
    assert deals._is_worse(REQUEST, deal) is worse


async def test_a_provider_that_failed_or_is_silent_outdoes_nobody(market):
    directory, deals = market
    deals.links = Links(1, 2)
    directory.hear(1, 0.0)
    directory.hear(2, 0.0, price=40_000_000)
    deal, rival = standing(deals, 1), identity(2).peer_id
    assert deals._is_worse(REQUEST, deal)
    deals.running(rival)[b"job"] = SimpleNamespace(waits_since_s=trio.current_time() - SILENT_S - 1)
    assert not deals._is_worse(REQUEST, deal)
    deals.over(rival, b"job")
    assert deals._is_worse(REQUEST, deal)
    deals.reputation.failed(rival, trio.current_time())
    assert not deals._is_worse(REQUEST, deal)


async def test_an_agreement_is_left_for_a_queue_and_kept_while_nothing_is_known(market):
    directory, deals = market
    deals.links = Links(1)
    deal = standing(deals, 1)
    assert not deals._is_worse(REQUEST, deal)
    directory.hear(1, 0.0, wait_ms=CROWDED_WAIT_MS)
    assert not deals._is_worse(REQUEST, deal)
    directory.hear(1, 1.0, wait_ms=CROWDED_WAIT_MS + 1)
    assert deals._is_worse(REQUEST, deal)
