"""Directories that find each other through a hash table alone, in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any

import trio
from trio.testing import MockClock

from dht import CapacityIndex, CapacityRecord, Directory, Offer, Source, sign_record
from dht.limits import (
    FIRST_SURVEY_AGAIN_S,
    MAX_ALL_FETCHES,
    PROVIDER_TTL_S,
    SEARCH_S,
    SHARD_CAP,
    WALK_LOOKUPS,
    WANTED_PROVIDERS,
)
from dht.shards import Shard, Sold, key_of
from transport.host import GossipMessage
from transport.identity import Identity

TOPIC = "/cocoon/main/capacity/1"
PROTOCOL = "/cocoon/main/capacity/1.0.0"
SOLD = Sold("chat", "demo", "plain")


def selling(*models: str, **changes: Any) -> CapacityRecord:
    offers = tuple(Offer("chat", model, "plain", {"prompt": 1000}) for model in models or ("demo",))
    return CapacityRecord(**{"subnet": "main", "offers": offers, **changes})


@asynccontextmanager
async def directory(net: Any, number: int, **options: Any) -> Any:
    host = net.host(number)
    table = net.table(host)
    rng = Random(number)
    async with Directory(
        host, host.identity, "main", clock=net.wall, rng=rng, **{"providers": table, "gossip": False, **options}
    ) as made:
        yield host, table, made


@asynccontextmanager
async def market(net: Any, count: int, *models: str) -> Any:
    """``count`` providers, settled."""
    async with trio.open_nursery() as nursery:
        providers = []

        async def run(number: int, task_status: Any) -> None:
            async with directory(net, number) as (_, _, made):
                await made.announce(selling(*models))
                task_status.started(made)
                await trio.sleep_forever()

        for number in range(1000, 1000 + count):
            providers.append(await nursery.start(run, number))
        await trio.sleep(60)
        yield providers
        nursery.cancel_scope.cancel()


async def test_a_client_finds_through_the_table_alone_whoever_sells_what_it_wants(
    net: Any, autojump_clock: MockClock
) -> None:
    async with market(net, 3), directory(net, 1) as (host, table, client):
        assert client.providers("chat") == []
        found = await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)
        assert found
        await trio.sleep(2)
        assert len(client.providers("chat", "demo")) == 3
        assert len(table.asked) <= 2
        assert {client.index.heard(peer).source for peer, _, _ in client.providers("chat")} == {Source.PROVIDER}
        assert host.published == 0


async def test_it_finds_by_any_model_and_nobody_for_what_nobody_sells(net: Any, autojump_clock: MockClock) -> None:
    async with market(net, 2, "a", "b"), directory(net, 1) as (_, _, client):
        assert await client.wait_for_providers("chat", None, "plain", timeout_s=10)
        assert client.models() == [("chat", "a"), ("chat", "b")]
        started = trio.current_time()
        assert await client.wait_for_providers("chat", "c", "plain", timeout_s=10) == []
        assert trio.current_time() - started == 10
        assert await client.wait_for_providers("chat", "a", "attested-gpu", timeout_s=2) == []


async def test_a_busy_network_does_not_make_whoever_waits_search_more_often(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 1, gossip=True) as (host, table, client):

        async def chatter() -> None:
            for number in range(2000):
                who, at = Identity((5000 + number).to_bytes(32, "big")), int(net.wall())
                message = GossipMessage(TOPIC, who.peer_id, sign_record(who, selling("other", issued_at=at)).envelope)
                assert host.validators[TOPIC](message) is not False
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter)
            assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=10) == []
            assert len(table.asked) <= 2 * 14  # two look-ups each time, every second in the end
            nursery.cancel_scope.cancel()


async def test_in_a_large_market_a_client_fetches_as_many_records_as_it_wants_and_not_all(
    net: Any, autojump_clock: MockClock
) -> None:
    async with market(net, 60), directory(net, 1) as (host, table, client):
        await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)
        await trio.sleep(10)
        assert WANTED_PROVIDERS <= len(client.providers("chat", "demo")) <= WANTED_PROVIDERS + MAX_ALL_FETCHES
        assert len(table.asked) <= 6
        assert len(host.dialled) <= WANTED_PROVIDERS + MAX_ALL_FETCHES
        depths = {client.markets[SOLD].depth}
        assert depths < {1, 2, 3}


async def test_who_is_known_already_is_not_searched_for(net: Any, autojump_clock: MockClock) -> None:
    async with directory(net, 1) as (_, table, client):
        now = int(net.wall())
        for number in range(2, 2 + WANTED_PROVIDERS):
            client.index.add(sign_record(Identity(number.to_bytes(32, "big")), selling(issued_at=now)), now)
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)
        await trio.sleep(5)
        assert table.asked == []


async def test_a_client_with_few_gets_them_at_once_and_looks_for_more_behind(
    net: Any, autojump_clock: MockClock
) -> None:
    async with market(net, 5), directory(net, 1) as (_, _, client):
        now = int(net.wall())
        client.index.add(sign_record(Identity((2).to_bytes(32, "big")), selling(issued_at=now)), now)
        started = trio.current_time()
        assert len(await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)) == 1
        assert trio.current_time() == started
        await trio.sleep(5)
        assert len(client.providers("chat", "demo")) == 6


async def test_what_a_client_keeps_asking_for_stays_known_after_its_records_expire(
    net: Any, autojump_clock: MockClock
) -> None:
    async with market(net, 3), directory(net, 1) as (_, table, client):
        await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)
        for _ in range(20):
            await trio.sleep(30)
            assert len(await client.wait_for_providers("chat", "demo", "plain", timeout_s=0.1)) >= 1
        asked = len(table.asked)
        assert asked < 20
        await trio.sleep(3600)  # nobody asks any more
        assert len(table.asked) - asked < 10
        assert client.providers("chat") == []


async def test_a_provider_that_stops_is_known_to_have_stopped_although_it_is_still_listed(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 1) as (_, _, client), directory(net, 2) as (_, _, provider):
        await provider.announce(selling())
        await trio.sleep(5)
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=10)
        await provider.withdraw()
        await trio.sleep(100)
        assert client.providers("chat") == []
        assert any(listing for listing in net.listings.values())
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=10) == []


async def test_dead_listings_cost_time_and_hide_nobody(net: Any, autojump_clock: MockClock) -> None:
    async with market(net, 4), directory(net, 1) as (host, _, client):
        key = key_of("main", SOLD, Shard(0, 0))
        until = trio.current_time() + PROVIDER_TTL_S
        for number in range(16):
            net.listings[key][Identity((500 + number).to_bytes(32, "big")).peer_id] = (until, ("/memory/x",))
        started = trio.current_time()
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=30)
        assert trio.current_time() - started <= 20
        await trio.sleep(30)
        assert len(client.providers("chat", "demo")) == 4
        assert all(
            addrs in ((), ("/memory/x",), *((h.addrs[0],) for h in net.hosts.values())) for _, addrs in host.dialled
        )


async def test_a_provider_that_does_not_answer_does_not_hold_up_the_others(net: Any, autojump_clock: MockClock) -> None:
    async with market(net, 2), directory(net, 1) as (_, _, client):
        key = key_of("main", SOLD, Shard(0, 0))
        deaf = net.host(77)
        deaf.deaf = True
        net.listings[key][deaf.peer_id] = (trio.current_time() + PROVIDER_TTL_S, ())
        started = trio.current_time()
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=30)
        assert trio.current_time() - started < 2


async def test_a_listed_peer_that_sends_anothers_record_or_garbage_is_dropped_and_nothing_is_learnt(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 1) as (host, _, client):
        key = key_of("main", SOLD, Shard(0, 0))
        now = int(net.wall())
        stolen = sign_record(Identity((9).to_bytes(32, "big")), selling(issued_at=now)).envelope
        from dht.exchange import Page

        replies = [Page((stolen,), False).to_bytes(), b"\xff", Page((stolen, stolen), False).to_bytes()]
        liars = []
        for number, reply in enumerate(replies, 50):
            liar = net.host(number)

            async def lie(stream: Any, reply: bytes = reply) -> None:
                await stream.receive(1000)
                await stream.send(reply)

            liar.set_handler(PROTOCOL, lie)
            net.listings.setdefault(key, {})[liar.peer_id] = (trio.current_time() + PROVIDER_TTL_S, ())
            liars.append(liar.peer_id)
        assert await client.wait_for_providers("chat", "demo", "plain", timeout_s=10) == []
        assert sorted({peer for peer, _ in host.dropped}) == sorted(liars)


async def test_a_table_full_of_lies_ends_the_search_in_its_time(net: Any, autojump_clock: MockClock) -> None:
    async with directory(net, 1) as (host, table, client):
        table.find_providers = _endless(net)
        net.dial_timeout_s = 1000
        await client.wait_for_providers("chat", "demo", "plain", timeout_s=1)
        await trio.sleep(SEARCH_S)
        assert not client.markets[SOLD].running
        assert len(host.dialled) <= 200
        assert client.markets[SOLD].lookups <= WALK_LOOKUPS


def _endless(net: Any) -> Any:
    """Every key lists fifty others who are not there."""
    made = iter(range(10_000, 1_000_000))

    async def find(_key: bytes, _limit: int) -> list[Any]:
        await trio.sleep(0.1)
        from types import SimpleNamespace

        return [
            SimpleNamespace(peer_id=Identity(next(made).to_bytes(32, "big")).peer_id, addrs=("/memory/nowhere",) * 50)
            for _ in range(50)
        ]

    return find


async def test_a_provider_announces_at_once_soon_again_and_then_at_a_third_of_the_ttl(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 2) as (_, table, provider):
        await provider.announce(selling())
        await trio.sleep(2 * PROVIDER_TTL_S)
        key = key_of("main", SOLD, Shard(0, 0))
        times = [at for at, provided in table.provided if provided == key]
        gaps = [b - a for a, b in pairwise(times)]
        assert times[0] < 2
        assert 0.7 * FIRST_SURVEY_AGAIN_S < gaps[0] < 1.4 * FIRST_SURVEY_AGAIN_S
        assert max(gaps) <= 1.3 * PROVIDER_TTL_S / 3
        assert min(gaps[-3:]) >= 0.7 * PROVIDER_TTL_S / 3


async def test_what_is_sold_no_more_is_announced_no_more_and_what_is_new_at_once(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 2) as (_, table, provider):
        await provider.announce(selling("a"))
        await trio.sleep(100)
        assert set(provider.listed) == {Sold("chat", "a", "plain"), Sold("chat", "", "plain")}
        await provider.announce(selling("b"))
        await trio.sleep(5)
        listed_at = [at for at, key in table.provided if key == key_of("main", Sold("chat", "b", "plain"), Shard(0, 0))]
        assert 100 <= listed_at[0] <= 102
        await trio.sleep(PROVIDER_TTL_S)
        gone = key_of("main", Sold("chat", "a", "plain"), Shard(0, 0))
        assert max(at for at, key in table.provided if key == gone) < 100
        assert all(until < trio.current_time() for until, _ in net.listings[gone].values())


async def test_what_reached_nobody_is_announced_again_when_the_first_peer_comes(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 2) as (host, table, provider):
        net.works = False
        await provider.announce(selling())
        await trio.sleep(100)
        assert provider.listed[SOLD].place is None
        assert "no node" in provider.listed[SOLD].error
        net.works = True
        before = len(table.provided)
        host.meet(net.host(3))
        await trio.sleep(2)
        assert len(table.provided) > before
        assert provider.listed[SOLD].place is not None
        assert provider.listed[SOLD].error == ""


async def test_a_market_larger_than_a_shard_is_split_and_every_provider_can_be_found(
    net: Any, autojump_clock: MockClock
) -> None:
    async with market(net, SHARD_CAP + 16) as providers:
        await trio.sleep(1.2 * PROVIDER_TTL_S)
        standing = {
            key: [peer for peer, (until, _) in listed.items() if until > trio.current_time()]
            for key, listed in net.listings.items()
        }
        assert max(map(len, standing.values())) <= SHARD_CAP
        leaves = {peer for half in (0, 1) for peer in standing.get(key_of("main", SOLD, Shard(1, half)), [])}
        assert leaves >= {made._identity.peer_id for made in providers if made.listed[SOLD].place.depth == 1}
        assert sum(made.listed[SOLD].place.depth >= 1 for made in providers) == len(providers)


async def test_a_record_is_had_from_its_provider_when_it_is_not_known(net: Any, autojump_clock: MockClock) -> None:
    async with directory(net, 1) as (_, _, client), directory(net, 2) as (host, _, provider):
        await provider.announce(selling())
        await trio.sleep(1)
        record = await client.record_of(host.peer_id)
        assert record is not None
        assert record.offers[0].model == "demo"
        assert await client.record_of(Identity((3).to_bytes(32, "big")).peer_id, timeout_s=2) is None


async def test_an_eclipse_by_seven_of_eight_neighbours_that_flood_does_not_hide_what_the_eighth_knows(
    net: Any, autojump_clock: MockClock
) -> None:
    index = CapacityIndex(max_per_model=200)  # a small one fills sooner
    async with directory(net, 1, providers=None, gossip=True, index=index) as (host, _, client):
        async with directory(net, 2, providers=None, gossip=True) as (honest, _, known):
            now = int(net.wall())
            for number in range(100, 140):
                known.index.add(sign_record(Identity(number.to_bytes(32, "big")), selling(issued_at=now)), now)
            async with flooders(net, 7, 150) as attackers:
                for other in (*attackers[:3], honest, *attackers[3:]):
                    host.meet(other)
                await trio.sleep(20)
                found = {peer for peer, _, _ in client.providers("chat")}
                assert len(found) == 200
                assert sum(Identity(number.to_bytes(32, "big")).peer_id in found for number in range(100, 140)) >= 25
                assert host.dropped == []


@asynccontextmanager
async def flooders(net: Any, count: int, fakes: int) -> Any:
    """Hosts that each tell of many providers of their own making."""
    from dht.exchange import Page, parse_request

    now, hosts = int(net.wall()), []
    for number in range(count):
        made = [
            sign_record(Identity((10_000 * (number + 1) + fake).to_bytes(32, "big")), selling(issued_at=now))
            for fake in range(fakes)
        ]
        made.sort(key=lambda signed: signed.peer_id)

        async def tell(stream: Any, made: Any = tuple(made)) -> None:
            while True:
                request = parse_request(await stream.receive(1000))
                rest = [signed.envelope for signed in made if signed.peer_id > request.after]
                await stream.send(Page(tuple(rest[:64]), len(rest) > 64).to_bytes())

        host = net.host(20 + number)
        host.set_handler(PROTOCOL, tell)
        hosts.append(host)
    yield hosts


async def test_without_gossip_nothing_is_gossiped_and_neighbours_are_answered_but_not_asked(
    net: Any, autojump_clock: MockClock
) -> None:
    async with directory(net, 1) as (silent, _, one), directory(net, 2, gossip=True) as (talker, _, two):
        await one.announce(selling("a"))
        await two.announce(selling("b"))
        silent.meet(talker)
        await trio.sleep(100)
        assert silent.published == 0
        assert silent.validators == {}
        assert one.models() == [("chat", "a")]
        assert two.models() == [("chat", "a"), ("chat", "b")]
