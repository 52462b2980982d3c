"""The emulated network in made-up time: what is delayed, lost, slowed, cut and translated."""

import random
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.netns.addresses import plan_addresses
from simulations.netns.limits import MAX_UNDERWAY_BYTES, MTU, QUEUE_S
from simulations.netns.nat import Nat, NatKind
from simulations.netns.packets import Protocol, flow_of
from simulations.netns.shape import Shape
from simulations.netns.switch import Line, Switch
from tests.simulations.netns.test_netns_packets import make_packet

NETWORK = IPv4Network("198.18.0.0/23")
PLAN = plan_addresses(NETWORK, 3)


def packet(source: str, target: str, payload: bytes = b"", plan=PLAN, port: int = 9) -> bytes:
    ends = (int(plan.machine(source).inside), port), (int(plan.machine(target).address), 9)
    return make_packet(Protocol.UDP, *ends, payload)


def make_switch(shape: Shape | None = None, seed: int = 1) -> Switch:
    return Switch(PLAN, shape or Shape(), {}, random.Random(seed))


def drain(switch: Switch) -> list[tuple[float, str, bytes]]:
    """Everything, each with the time at which it was due."""
    arrived = []
    while (next_s := switch.next_s) is not None:
        arrived += [(next_s, *item) for item in switch.due(next_s)]
    return arrived


def test_a_packet_comes_out_after_the_delay_at_its_receiver_and_unchanged():
    switch = make_switch(Shape(0.04))
    sent = packet("node-1", "node-2", b"hello")
    switch.send(1.0, "node-1", sent)
    assert switch.due(1.039) == []
    assert switch.next_s == pytest.approx(1.04)
    assert switch.due(1.0401) == [("node-2", sent)]
    assert switch.next_s is None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.05), st.sampled_from(["node-1", "node-2", "host"]), st.sampled_from(["node-3", "devnet"])
        ),
        max_size=40,
    ),
    st.integers(0, 2**32),
    st.sampled_from([None, 1_000_000]),
)
def test_packets_of_a_pair_keep_their_order_and_none_comes_before_its_time(sends, seed, rate):
    switch = make_switch(Shape(0.02, 0.015, 0.0, rate), seed)
    now, sent_at = 0.0, {}
    for index, (pause, source, target) in enumerate(sends):
        now += pause
        switch.send(now, source, packet(source, target, index.to_bytes(2, "big")))
        sent_at[index] = (now, source, target)
    last: dict[tuple[str, str], int] = {}
    times = []
    for at_s, receiver, data in drain(switch):
        index = int.from_bytes(data[-2:], "big")
        then, source, target = sent_at.pop(index)
        assert receiver == target
        assert at_s >= then + 0.005 - 1e-9
        assert index > last.get((source, target), -1)
        last[source, target] = index
        times.append(at_s)
    assert not sent_at
    assert times == sorted(times)


def test_the_share_asked_for_is_lost_and_the_same_seed_loses_the_same():
    def lost(seed: int) -> tuple[int, list[bytes]]:
        switch = make_switch(Shape(loss=0.1), seed)
        for index in range(2000):
            switch.send(0.0, "node-1", packet("node-1", "node-2", index.to_bytes(2, "big")))
        return switch.counts.lost, [data for _, _, data in drain(switch)]

    assert lost(5) == lost(5)
    assert lost(5)[0] == pytest.approx(200, abs=60)
    assert lost(5)[0] + len(lost(5)[1]) == 2000


@given(
    st.integers(8_000, 10**9), st.lists(st.tuples(st.floats(0, 0.1), st.integers(20, MTU)), min_size=1, max_size=100)
)
def test_a_line_never_carries_more_than_its_rate_nor_holds_a_packet_longer_than_its_queue(rate, arrivals):
    line, now, carried, first, last = Line(rate), 0.0, 0, None, 0.0
    for pause, size in arrivals:
        now += pause
        through = line.through_s(now, size)
        if through is None:
            continue
        assert through - now <= max(QUEUE_S, 32 * MTU * 8 / rate) + 1e-9
        assert through >= now + size * 8 / rate - 1e-9
        first = now if first is None else first
        carried, last = carried + size, through
    assert first is None or carried * 8 <= (last - first) * rate * (1 + 1e-9) + 1e-6


def test_a_rate_holds_up_and_down_and_what_the_queue_cannot_take_is_dropped():
    switch = make_switch(Shape(rate_bit_s=1_200_000))  # 100 full packets a second
    for _ in range(200):
        switch.send(0.0, "node-1", packet("node-1", "node-2", bytes(MTU - 28)))
    arrived = drain(switch)
    assert len(arrived) == 32  # the queue's least length: more than 0.2 s at this rate
    assert switch.counts.queue_full == 200 - 32
    # One after another on the way up, and the last one once more on the way down.
    assert arrived[-1][0] == pytest.approx(0.33)

    switch = make_switch(Shape(rate_bit_s=1_200_000))
    for sender in ("node-1", "node-3"):
        for _ in range(20):
            switch.send(0.0, sender, packet(sender, "node-2", bytes(MTU - 28)))
    assert drain(switch)[-1][0] == pytest.approx(0.41, abs=0.02), "two senders share the receiver's line"


def test_the_relay_holds_no_more_than_its_memory():
    switch = make_switch(Shape(10.0))
    sent = packet("node-1", "node-2", bytes(MTU - 28))
    for _ in range(MAX_UNDERWAY_BYTES // MTU + 5):
        switch.send(0.0, "node-1", sent)
    assert switch.counts.queue_full == 5
    assert len(switch.due(11.0)) == MAX_UNDERWAY_BYTES // MTU
    switch.send(12.0, "node-1", sent)
    assert switch.next_s is not None


def test_parts_do_not_reach_each_other_but_both_reach_the_devnet_until_healed():
    switch = make_switch()

    def reaches(source: str, target: str) -> bool:
        switch.send(0.0, source, packet(source, target))
        return bool(switch.due(0.0))

    switch.cut([["node-1"], ["node-2", "node-3", "host"]])
    assert not reaches("node-1", "node-2")
    assert not reaches("host", "node-1")
    assert reaches("node-2", "node-3")
    assert reaches("node-1", "devnet")
    assert reaches("devnet", "node-2")
    assert switch.counts.cut == 2
    switch.cut([])
    assert reaches("node-1", "node-2")


def test_what_is_for_nobody_or_no_ipv4_goes_astray():
    switch = make_switch()
    for stray in (b"", b"\x60" + bytes(40), packet("node-1", "node-1"), make_packet(Protocol.UDP, (1, 1), (2, 2))):
        switch.send(0.0, "node-1", stray)
    assert switch.counts.astray == 4
    assert switch.next_s is None


def test_a_node_behind_a_nat_dials_out_and_is_answered_and_cannot_be_dialled():
    plan = plan_addresses(NETWORK, 2, ["node-2"])
    hidden = plan.machine("node-2")
    assert hidden.natted
    nat = Nat(NatKind.SYMMETRIC, int(hidden.address))
    switch = Switch(plan, Shape(0.01), {"node-2": nat}, random.Random(1))

    switch.send(0.0, "node-1", packet("node-1", "node-2", plan=plan))
    assert switch.due(1.0) == []
    assert switch.counts.refused == 1

    switch.send(2.0, "node-2", packet("node-2", "node-1", b"hi", plan=plan))
    [(receiver, seen)] = switch.due(3.0)
    flow = flow_of(seen)
    assert receiver == "node-1"
    assert flow.source[0] == int(hidden.address)
    switch.send(3.0, "node-1", make_packet(Protocol.UDP, flow.target, flow.source, b"ho"))
    [(receiver, back)] = switch.due(4.0)
    assert receiver == "node-2"
    assert flow_of(back).target == (int(hidden.inside), 9)
    # Its inside address is nobody's outside.
    switch.send(5.0, "node-1", make_packet(Protocol.UDP, flow.target, (int(hidden.inside), 9)))
    assert switch.counts.astray == 1
