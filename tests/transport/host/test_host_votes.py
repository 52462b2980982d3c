"""The rules of AutoNAT and of the search for relays, without a network."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from transport.host import Reach, StreamError
from transport.host.addresses import plain_ip
from transport.host.autonat import AutonatClient, DialBackRates, Server, dialled_back
from transport.host.autonat.messages import answer, question, read_answer, read_question
from transport.host.limits import (
    AUTONAT_ANSWER_TTL_S,
    AUTONAT_IN_ALL,
    AUTONAT_MAX_ADDRS,
    AUTONAT_MAX_VOICES,
    AUTONAT_PER_ADDRESS,
    AUTONAT_WINDOW_S,
    MAX_AVOIDED_RELAYS,
    RELAY_AVOID_MAX_S,
    RELAY_AVOID_S,
)
from transport.host.relay import Candidate
from transport.host.relay.finder import Avoided, choose
from transport.host.relay.service import Pace
from transport.host.votes import Votes
from transport.identity import Identity, PeerId

OWN = Identity(b"o" * 32).peer_id


def network(number: int) -> str:
    return f"198.51.{number}.0/24"


def test_two_networks_decide_and_one_does_not() -> None:
    votes = Votes()
    assert votes.count(network(1), True, 0.0) is Reach.UNKNOWN
    assert votes.count(network(2), True, 1.0) is Reach.PUBLIC
    votes = Votes()
    votes.count(network(1), False, 0.0)
    assert votes.count(network(1), False, 1.0) is Reach.PRIVATE, "where there is but one network, it may say it twice"


def test_a_verdict_is_not_turned_by_a_lost_answer_nor_by_one_network_that_insists() -> None:
    votes = Votes()
    for number in range(3):
        votes.count(network(number), True, 0.0)
        votes.count(network(number), True, 1.0)
    for second in range(50):
        assert votes.count(network(9), False, 2.0 + second) is Reach.PUBLIC
    assert votes.count(network(0), False, 60.0) is Reach.PUBLIC


def test_a_verdict_turns_when_most_networks_say_so() -> None:
    votes = Votes()
    for number in range(4):
        votes.count(network(number), True, 0.0)
    seen = [votes.count(network(number), False, 1.0) for number in range(4)]
    assert seen == [Reach.PUBLIC, Reach.PUBLIC, Reach.PRIVATE, Reach.PRIVATE]


def test_answers_grow_old_and_the_question_is_open_again() -> None:
    votes = Votes()
    votes.count(network(1), False, 0.0)
    votes.count(network(2), False, 10.0)
    assert votes.expire(AUTONAT_ANSWER_TTL_S + 5) is Reach.PRIVATE
    assert votes.expire(AUTONAT_ANSWER_TTL_S + 15) is Reach.UNKNOWN
    assert len(votes) == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.floats(0, 600)), max_size=80))
def test_the_verdict_follows_a_lead_and_is_kept_without_one(answers: list[tuple[int, bool, float]]) -> None:
    votes, now = Votes(), 0.0
    for number, reached, after_s in answers:
        now += after_s
        before = votes.verdict
        verdict = votes.count(network(number), reached, now)
        assert len(votes) <= AUTONAT_MAX_VOICES
        assert verdict is votes.verdict
        if votes.score >= 2:
            assert verdict is Reach.PUBLIC
        elif votes.score <= -2:
            assert verdict is Reach.PRIVATE
        else:
            assert verdict is before


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30)), max_size=200))
def test_no_window_of_a_minute_has_more_dials_back_than_are_allowed(asked: list[tuple[str, float]]) -> None:
    rates, now = DialBackRates(), 0.0
    answered: list[tuple[float, str]] = []
    for address, after_s in asked:
        now += after_s
        if rates.take(address, now):
            answered.append((now, address))
        recent = [where for at, where in answered if now - at < AUTONAT_WINDOW_S]
        assert len(recent) <= AUTONAT_IN_ALL
        assert recent.count(address) <= AUTONAT_PER_ADDRESS


@given(st.lists(st.sampled_from(["ip4/192.0.2.1", "ip4/192.0.2.2", "ip6/2001:db8::1", "dns4/example.org"])), st.data())
def test_only_the_address_that_asks_is_dialled(hosts: list[str], data: st.DataObject) -> None:
    addrs = [Multiaddr(f"/{host}/tcp/{data.draw(st.integers(0, 65535))}") for host in hosts]
    chosen = dialled_back(addrs, "192.0.2.1")
    assert len(chosen) <= AUTONAT_MAX_ADDRS
    assert all(plain_ip(addr) == "192.0.2.1" and not str(addr).endswith("/tcp/0") for addr in chosen)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_stream_error(data: bytes) -> None:
    for read in (read_question, read_answer):
        try:
            read(data)
        except StreamError:
            continue


def test_messages_come_back_as_they_were_sent() -> None:
    addrs = [Multiaddr("/ip4/192.0.2.1/tcp/4001"), Multiaddr("/ip6/2001:db8::1/tcp/4001")]
    assert read_question(question(OWN, addrs)) == (OWN, addrs)
    assert read_answer(answer(0, addr=addrs[1])) == (0, addrs[1])
    assert read_answer(answer(100, "no answer there")) == (100, None)
    # By hand, from the schema in autonat-v1.md: type, then dial { peer { id, addrs } }.
    peer = ID.from_string(OWN).to_bytes()
    about = b"\x0a" + bytes([len(peer)]) + peer + b"\x12\x08\x04\xc0\x00\x02\x01\x06\x0f\xa1"
    dial = b"\x0a" + bytes([len(about)]) + about
    assert question(OWN, addrs[:1]) == b"\x08\x00\x12" + bytes([len(dial)]) + dial


def client(servers: list[Server]) -> AutonatClient:
    async def nobody(_: Server) -> None:
        return None

    return AutonatClient(
        OWN, lambda: servers, nobody, lambda _: [1], lambda: 0, lambda: 0, lambda: None, random.Random(1)
    )


def test_who_has_not_been_heard_is_asked_before_others() -> None:
    first, again, other = (
        Server(PeerId("a"), "ip4", network(1)), Server(PeerId("b"), "ip4", network(1)),
        Server(PeerId("c"), "ip4", network(2)),
    )  # fmt: skip
    asks = client([first, again, other])
    assert asks.next_server() == first
    asks._votes["ip4"].count(network(1), True, 0.0)
    assert asks.next_server() == other
    assert client([]).next_server() is None


async def test_an_address_that_is_not_reached_any_more_is_not_told(autojump_clock: object) -> None:
    servers = [Server(PeerId(str(number)), "ip4", network(number)) for number in range(4)]
    asks, addr = client(servers), Multiaddr("/ip4/192.0.2.1/tcp/4001")
    asks.count(servers[0], addr)
    assert asks.confirmed() == [], "one does not decide"
    asks.count(servers[1], addr)
    assert asks.confirmed() == [addr]
    for server in servers:
        asks.count(server, False)
    assert asks.verdict("ip4") is Reach.PRIVATE
    assert asks.confirmed() == []


def test_an_avoided_relay_is_avoided_longer_each_time() -> None:
    avoided, relay, now = Avoided(), PeerId("r"), 0.0
    pauses = []
    for _ in range(9):
        pauses.append(avoided.add(relay, now))
        assert avoided.has(relay, now + pauses[-1] - 1)
        assert not avoided.has(relay, now + pauses[-1])
        now += pauses[-1]
    assert pauses[:3] == [RELAY_AVOID_S, 2 * RELAY_AVOID_S, 4 * RELAY_AVOID_S]
    assert pauses[-1] == RELAY_AVOID_MAX_S
    avoided.forgive(relay)
    assert avoided.add(relay, now) == RELAY_AVOID_S
    for number in range(2 * MAX_AVOIDED_RELAYS):
        avoided.add(PeerId(str(number)), now)
    assert len(avoided._until) == MAX_AVOIDED_RELAYS


@pytest.mark.parametrize("seed", range(5))
def test_the_second_relay_is_of_another_network(seed: int) -> None:
    addr = Multiaddr("/ip4/192.0.2.1/tcp/1")
    near = [Candidate(PeerId(f"near{number}"), addr, network(1)) for number in range(20)]
    far = Candidate(PeerId("far"), addr, network(2))
    rng, avoided = random.Random(seed), Avoided()
    first = near[seed]
    assert choose([*near, far], [first.peer], avoided, 0.0, rng) == far
    avoided.add(far.peer, 0.0)
    fallback = choose([*near, far], [first.peer], avoided, 0.0, rng)
    assert fallback is not None
    assert fallback.network == network(1)
    assert fallback.peer != first.peer
    assert choose([first], [first.peer], avoided, 0.0, rng) is None


@given(st.lists(st.tuples(st.integers(1, 16384), st.floats(0, 0.1)), max_size=100))
def test_what_a_relay_carries_keeps_its_pace(chunks: list[tuple[int, float]]) -> None:
    pace, now, carried = Pace(10_000, 40_000), 0.0, 0
    for count, after_s in chunks:
        now += after_s
        carried += count
        now += pace.delay_s(count, now)
        assert carried <= 40_000 + 10_000 * now + 1
