from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulations.scenarios.checks import check
from simulations.scenarios.cutting import cut
from simulations.scenarios.model import (
    AttackGroup,
    ClientGroup,
    Demand,
    Expectation,
    Fault,
    ProviderGroup,
    Scenario,
)
from simulations.scenarios.registries import Registries

WHOLE = Scenario(
    title="whole",
    about="",
    duration_s=1000.0,
    providers=(ProviderGroup("a", 1, joins_s=(0.0, 500.0), behaviour="corner", options={"at_s": 700}),),
    clients=(ClientGroup("c", 1, Demand(9.0, curve=((100.0, 2.0), (900.0, 1.0))), joins_s=(400.0, 600.0)),),
    faults=(Fault("crash", 100.0), Fault("crash", 800.0)),
    attackers=(AttackGroup("sybil", 1, 700.0),),
    expect=(
        Expectation("x", at_least=1.0),
        Expectation("y", at_least=1.0, from_s=500.0),
        Expectation("z", at_most=1.0, to_s=300.0),
    ),
)


@given(st.floats(1.0, 10_000.0))
def test_a_scenario_of_any_other_length_is_still_possible(duration_s):
    other = cut(WHOLE, duration_s)
    check(other, "cut", Registries())
    assert other.duration_s == duration_s


def test_what_lies_after_the_end_goes_and_the_rest_stays():
    short = cut(WHOLE, 400.0)
    assert [fault.at_s for fault in short.faults] == [100.0]
    assert short.attackers == ()
    assert [one.measure for one in short.expect] == ["x", "z"]
    assert short.clients[0].demand.curve == ((100.0, 2.0),)
    assert short.clients[0].joins_s == (400.0, 400.0)
    assert short.providers[0].options == {"at_s": 400.0}
    assert cut(WHOLE, 1000.0) == WHOLE
