from __future__ import annotations

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.explore import mixes
from simulations.explore.mixes import Pool, mix
from simulations.scenarios.checks import expected_jobs
from simulations.scenarios.model import AttackGroup, ClientGroup, Demand, Fault, ProviderGroup, Scenario
from simulations.scenarios.reading import from_tree, to_tree
from simulations.scenarios.registries import Registries

ANY = Registries()
POOL = Pool.of(
    (
        Scenario(
            title="large",
            about="",
            duration_s=3600.0,
            providers=(ProviderGroup("a", 500), ProviderGroup("b", 100, behaviour="corner", options={"at_s": 1800.0})),
            clients=(
                ClientGroup("c", 900, Demand(500.0, curve=((1800.0, 3.0), (2700.0, 1.0)))),
                ClientGroup("h", 9, Demand(500.0), behaviour="hoarder", options={"spares": "b"}),
            ),
            faults=(Fault("crash", 1800.0, 900.0, "a", 0.5), Fault("chain-outage", 1000.0, 1000.0)),
            attackers=(AttackGroup("eclipse", 900, 3000.0, {"victims": "c", "shows": "a", "honest": 1}),),
        ),
    )
)


@settings(max_examples=12)
@given(st.integers(0, 2**63 - 1))
def test_a_mix_of_any_seed_is_valid_small_and_the_same_every_time(seed):
    made = mix(seed, POOL, ANY)
    assert made == mix(seed, POOL, ANY)
    assert made == from_tree(to_tree(made), "mix", known=ANY)
    assert 1 <= sum(group.count for group in made.providers) <= mixes.MAX_PROVIDERS
    assert 1 <= sum(group.count for group in made.clients) <= mixes.MAX_CLIENTS
    assert sum(attack.count for attack in made.attackers) <= 3 * mixes.MAX_SYBILS
    assert expected_jobs(made) <= mixes.MAX_JOBS * 1.001
    assert made.duration_s <= max(mixes.DURATIONS_S)


def test_mixes_differ_and_reach_every_part_of_the_pool():
    made = [mix(seed, POOL, ANY) for seed in range(50)]
    assert len({repr(one) for one in made}) == len(made)
    assert {fault.kind for one in made for fault in one.faults} == {"crash", "chain-outage"}
    assert {fault.options.get("silent", False) for one in made for fault in one.faults} == {False, True}
    assert any(one.attackers for one in made)
    assert any(not one.faults for one in made)
    assert any(group.behaviour == "corner" for one in made for group in one.providers)
    assert any(group.demand.curve for one in made for group in one.clients)


def test_options_name_groups_of_the_mix_and_seconds_of_it():
    made = [mix(seed, POOL, ANY) for seed in range(50)]
    corners = [(one, group) for one in made for group in one.providers if group.behaviour == "corner"]
    assert all(group.options["at_s"] == one.duration_s / 2 for one, group in corners)
    hoarders = [(one, group) for one in made for group in one.clients if group.behaviour == "hoarder"]
    assert all(group.options["spares"] in {p.name for p in one.providers} for one, group in hoarders)
    attacks = [(one, attack) for one in made for attack in one.attackers]
    assert all(attack.options["victims"] in {c.name for c in one.clients} for one, attack in attacks)
    assert all(attack.options["honest"] == 1 for _, attack in attacks)
    assert corners
    assert hoarders
    assert attacks


def test_what_the_world_can_do_and_no_scenario_shows_is_tried_too():
    known = Registries(
        hardware=("rtx-4090", "tiny"),
        fit=lambda machine, model, slots: "too small" if machine == "tiny" else None,
        provider_behaviours=("honest", "corner", "liar"),
        client_behaviours=("honest", "hoarder", "non-paying"),
        faults=("crash", "clock-skew", "chain-outage"),
        attacks=("eclipse", "flood"),
    )
    made = [mix(seed, POOL.completed(known), known) for seed in range(50)]
    assert {group.behaviour for one in made for group in one.providers} == {"honest", "corner", "liar"}
    assert {group.behaviour for one in made for group in one.clients} == {"honest", "hoarder", "non-paying"}
    assert {fault.kind for one in made for fault in one.faults} == {"crash", "clock-skew", "chain-outage"}
    assert {attack.kind for one in made for attack in one.attackers} == {"eclipse", "flood"}
    assert {group.hardware for one in made for group in one.providers} == {"rtx-4090"}


def test_another_process_makes_the_same_mix():
    code = "from simulations.explore.mixes import mix; print(repr(mix(17)))"
    told = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    ).stdout
    assert told == f"{mix(17)!r}\n"
    assert "Mix 17" in told
