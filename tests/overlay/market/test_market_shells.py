"""The trio shells over streams: several providers, deadlines, fallbacks, garbage."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import pytest
import trio
import trio.testing

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.errors import NoProvider, TooExpensive
from overlay.market import (
    Agreed,
    Asked,
    Buyer,
    Candidate,
    ClientPolicy,
    Countered,
    Declined,
    Listing,
    Load,
    MarketServer,
    Payer,
    PaymentTerms,
    PriceController,
    Quoted,
    QuoteDesk,
    Reason,
    Want,
    collect_quotes,
    limits,
    negotiate,
    run_controllers,
)
from overlay.market.negotiation import ClientNegotiation, State
from transport.host.interface import DialError, StreamError
from transport.identity import Identity

U = Unit.COMPLETION
ME = Identity(b"c" * 32)
BUYER = Buyer(ME, "main", Payer(address="0:" + "a" * 64, key=b"p" * 32), -3)
WANT = Want(Task.CHAT, "demo", Usage({U: 1_000_000}), 10**9)
RNG = Random(7)
# One generator for all purchases: a nonce that comes twice is a replay.
EPOCH = 1_800_000_000.0


def clock():
    return EPOCH + trio.current_time()


class MemoryStream:
    """One end of a stream of messages in this process."""

    def __init__(self, peer_id, outgoing, incoming):
        self.peer_id, self._out, self._in = peer_id, outgoing, incoming

    async def send(self, message):
        try:
            await self._out.send(bytes(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamError("the stream is closed") from error

    async def receive(self, max_bytes):
        try:
            message = await self._in.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise StreamError("the stream has ended") from error
        if len(message) > max_bytes:
            await self.reset()
            raise StreamError("too long a message")
        return message

    async def aclose(self):
        self._out.close()
        self._in.close()

    async def reset(self):
        await self.aclose()


def pair(left, right):
    a_out, b_in = trio.open_memory_channel(4)
    b_out, a_in = trio.open_memory_channel(4)
    return MemoryStream(right, a_out, a_in), MemoryStream(left, b_out, b_in)


class MemoryHost:
    """Opens streams to handlers in this process."""

    def __init__(self, nursery):
        self.nursery, self.handlers, self.peer_id, self.opened = nursery, {}, ME.peer_id, []

    async def open_stream(self, peer, protocol, *, addrs=()):
        await trio.lowlevel.checkpoint()
        if (peer, protocol) not in self.handlers:
            raise DialError("nobody answers at /ip4/127.0.0.1/tcp/1")
        mine, theirs = pair(self.peer_id, peer)
        self.nursery.start_soon(self._serve, self.handlers[peer, protocol], theirs)
        self.opened.append(mine)
        return mine

    async def _serve(self, handler, stream):
        try:
            await handler(stream)
        finally:
            await stream.aclose()


class Provider:
    """A production server with a price that the test sets."""

    def __init__(self, host, n, price, *, floor=1, wait_ms=0, server=MarketServer, min_deposit=0):
        self.identity = Identity(bytes([n]) * 32)
        self.listing = Listing(Prices({U: price}), Prices({U: floor}), wait_ms, 4)
        self.stored = []
        terms = PaymentTerms("0:" + "b" * 64, b"q" * 32, -3, min_deposit, 10**6)
        self.desk = QuoteDesk(self.identity, "main", terms, lambda *_: self.listing, Random(n).randbytes)
        self.server = server(self.desk, clock, self.store)
        host.handlers[self.identity.peer_id, "/cocoon/main/market/1.0.0"] = self.server.handle
        self.candidate = Candidate(self.identity.peer_id, Prices({U: price}), wait_ms, 0.0)

    async def store(self, agreement):
        await trio.lowlevel.checkpoint()
        self.stored.append(agreement)


@asynccontextmanager
async def market():
    async with trio.open_nursery() as nursery:
        yield MemoryHost(nursery)
        nursery.cancel_scope.cancel()


async def never(_agreement):
    await trio.sleep_forever()


async def buy(host, candidates, cap=1000, observer=lambda _: None, **changes):
    policy = ClientPolicy(Prices({U: cap}), **changes)
    return await negotiate(host, BUYER, candidates, WANT, policy, clock=clock, rng=RNG, observer=observer)


async def test_the_cheapest_is_awarded_and_both_hold_the_same_agreement(autojump_clock):
    async with market() as host:
        sellers = [Provider(host, n, price) for n, price in ((1, 900), (2, 700), (3, 800))]
        events = []
        agreement = await buy(host, [s.candidate for s in sellers], observer=events.append)
        assert agreement.body.provider == sellers[1].identity.peer_id
        assert agreement.body.prices == Prices({U: 700})
        assert sellers[1].stored == [agreement]
        assert not sellers[0].stored
        kinds = [type(event) for event in events]
        assert kinds.count(Asked) == kinds.count(Quoted) == 3
        assert events[-1] == Agreed(agreement)
        assert Countered not in kinds


async def test_a_start_that_comes_sooner_wins_when_time_is_worth_more_than_the_difference(autojump_clock):
    async with market() as host:
        cheap, quick = Provider(host, 1, 700, wait_ms=5000), Provider(host, 2, 800)
        held = [cheap.candidate, quick.candidate]
        assert (await buy(host, held)).body.provider == cheap.identity.peer_id
        patient = await buy(host, held, value_of_time_nanoton_per_s=100)
        assert patient.body.provider == quick.identity.peer_id


async def test_only_when_all_are_too_dear_are_the_best_three_countered(autojump_clock):
    async with market() as host:
        sellers = [Provider(host, n, 1000 + n * 20) for n in range(1, 6)]
        events = []
        agreement = await buy(host, [s.candidate for s in sellers], cap=950, observer=events.append)
        countered = [event.provider for event in events if isinstance(event, Countered)]
        assert set(countered) == {s.identity.peer_id for s in sellers[:3]}
        assert len(countered) == 3
        assert agreement.body.prices == Prices({U: 918})


async def test_too_expensive_names_the_best_price_and_what_to_do(autojump_clock):
    async with market() as host:
        sellers = [Provider(host, n, 2000 + n) for n in range(1, 4)]
        with pytest.raises(TooExpensive, match="raise the price cap") as caught:
            await buy(host, [s.candidate for s in sellers], cap=100)
        assert caught.value.best == Prices({U: 1801})
        assert not any(s.stored for s in sellers)


async def test_the_next_best_is_awarded_when_the_first_slips(autojump_clock):
    async with market() as host:
        first, second = Provider(host, 1, 700), Provider(host, 2, 800)

        def slip(event):
            if isinstance(event, Quoted) and event.provider == first.identity.peer_id:
                first.listing = dataclasses.replace(first.listing, wait_ms=5000)

        events = []
        agreement = await buy(host, [first.candidate, second.candidate], observer=lambda e: (slip(e), events.append(e)))
        assert agreement.body.provider == second.identity.peer_id
        assert [e.reason for e in events if isinstance(e, Declined)] == [Reason.START_SLIPPED]


async def test_the_next_best_is_awarded_when_the_first_never_acknowledges(autojump_clock):
    async with market() as host:
        first, second = Provider(host, 1, 700), Provider(host, 2, 800)
        first.server.store = never
        start = trio.current_time()
        agreement = await buy(host, [first.candidate, second.candidate])
        assert agreement.body.provider == second.identity.peer_id
        assert trio.current_time() - start < limits.AWARD_DEADLINE_S + 1


async def test_a_silent_provider_holds_a_job_up_by_the_grace_only(autojump_clock):
    async with market() as host:
        good, silent = Provider(host, 1, 700), Provider(host, 2, 100)

        async def say_nothing(stream):
            await trio.sleep_forever()

        host.handlers[silent.identity.peer_id, "/cocoon/main/market/1.0.0"] = say_nothing
        start = trio.current_time()
        events = []
        agreement = await buy(host, [silent.candidate, good.candidate], observer=events.append)
        assert agreement.body.provider == good.identity.peer_id
        assert trio.current_time() - start < limits.QUOTE_GRACE_S + 0.1
        assert [e.reason for e in events if isinstance(e, Declined)] == [Reason.NO_ANSWER]


async def test_the_unreachable_and_the_garbled_are_named_when_nobody_is_left(autojump_clock):
    async with market() as host:
        garbled = Provider(host, 1, 700)
        gone = Candidate(Identity(b"g" * 32).peer_id, Prices({U: 1}), 0, 0.0)

        async def talk_nonsense(stream):
            await stream.receive(limits.MAX_MESSAGE_BYTES)
            await stream.send(b"nonsense")

        host.handlers[garbled.identity.peer_id, "/cocoon/main/market/1.0.0"] = talk_nonsense
        with pytest.raises(NoProvider, match=r"broke the protocol.*nobody answers|nobody answers.*broke the protocol"):
            await buy(host, [garbled.candidate, gone])


async def test_without_candidates_the_error_says_what_to_do(autojump_clock):
    async with market() as host:
        with pytest.raises(NoProvider, match="raise the cap"):
            await buy(host, [])


async def test_a_deposit_above_the_limit_is_not_accepted(autojump_clock):
    async with market() as host:
        seller = Provider(host, 1, 700, min_deposit=10**9)
        with pytest.raises(NoProvider, match="deposit"):
            await buy(host, [seller.candidate], max_deposit_nanoton=10**8)


async def test_quotes_can_be_collected_without_buying(autojump_clock):
    async with market() as host:
        sellers = [Provider(host, n, 1000 - n) for n in (1, 2)]
        policy = ClientPolicy(Prices({U: 1}))
        offers = await collect_quotes(
            host, BUYER, [s.candidate for s in sellers], WANT, policy, clock=clock, rng=Random(1)
        )
        assert [offer.cost_nanoton for offer in offers] == [998, 999]
        assert not any(s.stored for s in sellers)


async def test_every_stream_is_closed_when_the_buyer_is_cancelled(autojump_clock):
    async with market() as host:
        seller = Provider(host, 1, 700)

        async def say_nothing(stream):
            await trio.sleep_forever()

        host.handlers[seller.identity.peer_id, "/cocoon/main/market/1.0.0"] = say_nothing
        with trio.move_on_after(0.5) as scope:
            await buy(host, [seller.candidate])
        assert scope.cancelled_caught
        (stream,) = host.opened
        with pytest.raises(StreamError):
            await stream.send(b"x")


async def test_a_peer_that_sends_garbage_is_dropped_and_the_server_lives_on(autojump_clock):
    async with market() as host:
        seller = Provider(host, 1, 700)
        stream = await host.open_stream(seller.identity.peer_id, "/cocoon/main/market/1.0.0")
        await stream.send(b"\xff" * 100)
        with pytest.raises(StreamError):
            await stream.receive(limits.MAX_MESSAGE_BYTES)
        assert (await buy(host, [seller.candidate])).verify()


async def test_a_silent_client_is_let_go_and_one_peer_cannot_take_every_session(autojump_clock):
    async with market() as host:
        seller = Provider(host, 1, 700)
        peer = seller.identity.peer_id
        streams = [
            await host.open_stream(peer, "/cocoon/main/market/1.0.0") for _ in range(limits.MAX_SESSIONS_PER_PEER + 1)
        ]
        await trio.testing.wait_all_tasks_blocked()
        assert seller.server._sessions.total() == limits.MAX_SESSIONS_PER_PEER
        with pytest.raises(StreamError):
            await streams[-1].receive(10)
        await trio.sleep(limits.SESSION_IDLE_S + 0.1)
        assert not seller.server._sessions


async def test_controllers_take_a_step_a_second_at_a_phase_of_their_own(autojump_clock):
    controller = PriceController(Prices({U: 1000}), level=2.0)
    times = []
    with trio.move_on_after(10.5):
        await run_controllers(
            lambda: [(controller, Load(4, 4, 8.0))], Random(3), after_update=lambda: times.append(trio.current_time())
        )
    assert len(times) in (10, 11)
    assert {round(b - a, 6) for a, b in pairwise(times)} == {1.0}
    assert times[0] % 1 == pytest.approx(Random(3).random())
    assert controller.level > 2.0


async def test_quotes_are_answered_at_once_and_awards_are_left_to_a_stream(autojump_clock):
    async with market() as host:
        seller = Provider(host, 1, 700)
        now_ms = int(clock() * 1000)
        machine = ClientNegotiation(ME, seller.identity.peer_id, "main", -3, RNG.randbytes)
        request = machine.request(WANT, now_ms)
        quote = seller.server.prompt(ME.peer_id, request)
        assert quote is not None
        machine.receive(quote, now_ms)
        assert machine.state is State.QUOTED
        assert seller.server.prompt(ME.peer_id, request) is None, "a replay"
        assert seller.server.prompt(ME.peer_id, b"garbage") is None
        assert seller.server.prompt(seller.identity.peer_id, request) is None, "of somebody else"
        award = machine.award(BUYER.payer, now_ms)
        assert seller.server.prompt(ME.peer_id, award) is None
        assert seller.desk.handle(ME.peer_id, award, now_ms).agreement is not None, "it was not used up"
