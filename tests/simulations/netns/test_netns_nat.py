"""What each kind of NAT maps and lets in."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.netns.limits import NAT_CLOSING_S, NAT_TCP_S, NAT_UDP_S
from simulations.netns.nat import Nat, NatKind
from simulations.netns.packets import Flow, Protocol

OUTSIDE, INSIDE = 100, 200
PORTS = st.integers(1, 65_535)
REMOTES = st.tuples(st.integers(1, 5), PORTS)


def flow(source, target, protocol=Protocol.TCP, closing=False) -> Flow:
    return Flow(protocol, source, target, closing, 20)


def answer(there: Flow, seen_as) -> Flow:
    return replace(there, source=there.target, target=seen_as, closing=False)


def inside_of(kind: NatKind) -> int:
    return INSIDE if kind.translates else OUTSIDE


@given(st.sampled_from(list(NatKind)), st.lists(st.tuples(PORTS, REMOTES), max_size=30))
def test_every_answer_comes_back_to_who_asked_and_outside_ports_tell_flows_apart(kind, dials):
    nat = Nat(kind, OUTSIDE)
    seen = {}
    for port, remote in dials:
        there = flow((inside_of(kind), port), remote)
        source = nat.outbound(0.0, there)
        assert source is not None
        assert source[0] == OUTSIDE
        assert nat.outbound(0.0, there) == source, "a flow keeps its port"
        assert nat.inbound(0.0, answer(there, source)) == there.source
        assert seen.setdefault((source[1], remote), there.source) == there.source
    assert len(nat) == len({port if kind.is_cone else (port, remote) for port, remote in dials})


@given(st.sampled_from(list(NatKind)), PORTS, REMOTES, PORTS)
def test_nobody_comes_in_where_nobody_went_out(kind, port, remote, inside_port):
    nat = Nat(kind, OUTSIDE)
    assert nat.inbound(0.0, flow(remote, (OUTSIDE, port))) is None
    source = nat.outbound(0.0, flow((inside_of(kind), inside_port), remote, Protocol.UDP))
    assert nat.inbound(0.0, flow(remote, source)) is None, "a mapping of UDP is none of TCP"


@pytest.mark.parametrize(
    ("kind", "let_in"),
    [
        (NatKind.FULL_CONE, True),
        (NatKind.RESTRICTED, False),
        (NatKind.SYMMETRIC, False),
        (NatKind.FIREWALL, False),
    ],
)
def test_only_a_full_cone_lets_in_whom_the_inside_did_not_dial(kind, let_in):
    nat = Nat(kind, OUTSIDE)
    source = nat.outbound(0.0, flow((inside_of(kind), 4001), (1, 80)))
    stranger, other_port = flow((2, 80), source), flow((1, 81), source)
    assert (nat.inbound(1.0, stranger) is not None) == let_in
    assert (nat.inbound(1.0, other_port) is not None) == let_in


def test_a_symmetric_nat_shows_each_remote_end_another_port_and_a_cone_the_same():
    dials = [flow((INSIDE, 4001), (remote, 80)) for remote in (1, 2, 3)]
    symmetric, cone = Nat(NatKind.SYMMETRIC, OUTSIDE), Nat(NatKind.FULL_CONE, OUTSIDE)
    assert len({symmetric.outbound(0.0, dial) for dial in dials}) == 3
    assert {cone.outbound(0.0, dial) for dial in dials} == {(OUTSIDE, 4001)}


def test_a_mapping_lives_as_long_as_its_protocol_says_and_a_closed_one_shorter():
    nat = Nat(NatKind.SYMMETRIC, OUTSIDE)
    udp = flow((INSIDE, 5), (1, 53), Protocol.UDP)
    seen = nat.outbound(0.0, udp)
    assert nat.inbound(NAT_UDP_S - 1, answer(udp, seen)) == udp.source
    assert nat.inbound(3 * NAT_UDP_S, answer(udp, seen)) is None

    tcp = flow((INSIDE, 6), (1, 80))
    seen = nat.outbound(0.0, tcp)
    assert nat.inbound(NAT_CLOSING_S + 1, answer(tcp, seen)) is None, "nobody answered the SYN"
    seen = nat.outbound(1000.0, tcp)
    assert nat.inbound(1000.0, answer(tcp, seen)) == tcp.source
    assert nat.inbound(1000.0 + NAT_TCP_S - 1, answer(tcp, seen)) == tcp.source, "established"
    nat.outbound(20_000.0, replace(tcp, closing=True))
    assert nat.inbound(20_000.0 + NAT_CLOSING_S + 1, answer(tcp, seen)) is None


def test_a_full_table_refuses_new_flows_keeps_old_ones_and_has_room_again_when_they_expire():
    nat = Nat(NatKind.SYMMETRIC, OUTSIDE, max_mappings=2)
    one, two, three = (flow((INSIDE, port), (1, 80)) for port in (1, 2, 3))
    first = nat.outbound(0.0, one)
    assert nat.outbound(0.0, two) is not None
    assert nat.outbound(0.0, three) is None
    assert nat.refused == 1
    assert nat.outbound(1.0, one) == first
    assert nat.outbound(2 * NAT_CLOSING_S, three) is not None
    assert len(nat) == 1


def test_an_echo_comes_back_whatever_identifier_the_nat_gave_it():
    nat = Nat(NatKind.SYMMETRIC, OUTSIDE)
    ping = flow((INSIDE, 77), (1, 77), Protocol.ICMP)
    seen = nat.outbound(0.0, ping)
    assert nat.inbound(0.1, flow((1, seen[1]), seen, Protocol.ICMP)) == (INSIDE, 77)
    assert nat.inbound(0.1, flow((2, seen[1]), seen, Protocol.ICMP)) is None
