"""Options of a swarm's network, and who gets which address."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError
from simulations.netns.addresses import free_network, node_names, plan_addresses
from simulations.netns.kernel import tbf_parameters
from simulations.netns.limits import MAX_NODES, POOL
from simulations.netns.nat import NatKind
from simulations.netns.network import Carrier
from simulations.netns.options import network_options
from simulations.netns.shape import Shape, duration_s, rate_bit_s, share

PLAIN = dict(delay="0ms", jitter="0ms", loss="0%", rate=None, nat=0, nat_kind="symmetric", carrier=None)


def options(number=3, netns=True, **changed):
    return network_options(number, netns=netns, **{**PLAIN, **changed})


def test_options_mean_what_they_say():
    found = options(delay="40ms", jitter="5ms", loss="1.5%", rate="20mbit", nat=2, nat_kind="full-cone")
    assert found.shape == Shape(0.04, 0.005, 0.015, 20_000_000)
    assert (found.behind_nat, found.nat_kind, found.carrier) == (2, NatKind.FULL_CONE, None)
    assert found.natted(3) == ("node-2", "node-3")
    assert str(found.shape) == "40 ms ± 5 ms one way, 1.5 % loss, 20 Mbit/s each way"
    assert options(carrier="relay").carrier is Carrier.RELAY
    assert options(netns=False) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delay": "40"}, "--delay: '40' is no duration"),
        ({"delay": "-1ms"}, "--delay: '-1ms' is no duration"),
        ({"delay": "1h"}, "--delay is at most 10 s"),
        ({"jitter": "5ms"}, "--jitter is at most --delay"),
        ({"loss": "0.1"}, "--loss: '0.1' is no percentage"),
        ({"loss": "100%"}, "--loss is less than 100 %"),
        ({"rate": "20"}, "--rate: '20' is no rate"),
        ({"rate": "1kbit"}, "--rate lies between"),
        ({"nat": 3}, "--nat 3 of 3 nodes: one at least must be outside"),
        ({"nat": 1, "carrier": "veth"}, "--nat is done by the relay"),
        ({"nat_kind": "cone"}, "--nat-kind: there is no 'cone'; there are full-cone, restricted, symmetric, firewall"),
        ({"delay": "1ms", "carrier": "veth"}, "plain veth pairs neither delay nor lose"),
        ({"carrier": "pigeon"}, "--carrier: there is no 'pigeon'"),
        ({"netns": False, "delay": "1ms"}, "need --netns"),
        ({"netns": False, "nat": 1}, "need --netns"),
    ],
)
def test_what_cannot_be_is_refused_with_its_option_named(changed, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        options(**changed)


@given(st.integers(1, 10**6), st.sampled_from(["us", "ms", "s"]))
def test_durations_shares_and_rates_scale_with_their_unit(number, unit):
    assert duration_s(f"{number}{unit}", "--x") == pytest.approx(number * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit])
    assert share(f"{number}%", "--x") == pytest.approx(number / 100)
    assert rate_bit_s(f"{number}kbit", "--x") == number * 1000


@given(st.text(max_size=8))
def test_no_text_makes_the_readers_fail_otherwise(text):
    for read in (duration_s, share, rate_bit_s):
        problem = ""
        try:
            read(text, "--x")
        except ConfigError as error:
            problem = str(error)
        assert not problem or "--x" in problem


@given(st.integers(1, MAX_NODES), st.integers(0, MAX_NODES), st.integers(0, 255))
def test_every_machine_has_addresses_of_its_own_in_the_swarms_network(number, behind, block):
    network = list(POOL.subnets(new_prefix=23))[block]
    translated = node_names(number)[number - min(behind, number - 1) :] if number > 1 else ()
    plan = plan_addresses(network, number, translated)
    assert len({m.address for m in plan.machines} | {m.inside for m in plan.machines if m.natted}) == (
        len(plan.machines) + len(translated)
    )
    assert all(m.address in network and m.inside in network for m in plan.machines)
    assert [m.name for m in plan.nodes if m.natted] == list(translated)


@given(st.lists(st.integers(0, 255), max_size=20), st.booleans())
def test_the_first_network_that_nobody_routes_to_is_taken(taken, foreign):
    networks = list(POOL.subnets(new_prefix=23))
    routes = [networks[index] for index in taken] + ([IPv4Network("10.0.0.0/8")] if foreign else [])
    found = free_network(routes)
    assert found == next(network for network in networks if network not in routes)


def test_a_machine_that_routes_all_of_the_pool_elsewhere_is_told():
    with pytest.raises(ConfigError, match=r"routes into all of 198\.18\.0\.0/15"):
        free_network([IPv4Network("198.0.0.0/8")])


@given(st.integers(8_000, 10_000_000_000))
def test_what_tbf_is_given_lets_whole_packets_through_and_fits_its_fields(rate):
    given_to_tbf = tbf_parameters(rate)
    assert given_to_tbf["burst"] >= 3000
    assert given_to_tbf["latency"] >= 200_000
    assert all(0 < value < 2**32 for value in given_to_tbf.values())
