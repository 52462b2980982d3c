"""Attackers in simulated worlds: each runs, replays, and gets no more than the protocols let it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
import pytest

from simulations.results import Attacker, RunResult
from simulations.scenarios.model import AttackGroup, ClientGroup, Demand, ProviderGroup, Scenario, Size
from simulations.world import attackers, run

WINDOW = 40_000
PRICE = 250_000_000
SMALL_WINDOW = {"ton.credit_window_nanoton": WINDOW}
TALK = Demand(jobs_per_hour=240, answer_tokens=Size(100), prompt_tokens=Size(50), value=Size(PRICE))
LONG = msgspec.structs.replace(TALK, jobs_per_hour=1200, answer_tokens=Size(1500))


def world(
    *, providers: tuple[ProviderGroup, ...] = (), clients: tuple[ClientGroup, ...] = (),
    attacks: tuple[AttackGroup, ...] = (), honest: int = 3, duration_s: float = 90.0,
) -> Scenario:  # fmt: skip
    """Some honest providers and two honest clients, with others beside them."""
    return Scenario(
        title="attack", about="", duration_s=duration_s, warmup_s=0.0,
        providers=(ProviderGroup("honest", honest, floor=1.3, hardware="rtx-3060", config=SMALL_WINDOW), *providers),
        clients=(ClientGroup("people", 2, TALK, joins_s=(5.0, 10.0)), *clients), attackers=attacks,
    )  # fmt: skip


@dataclass
class Seen:
    """A run and its attackers."""

    result: RunResult
    by_kind: dict[str, Attacker]

    def outcomes(self, group: str) -> Counter[str]:
        return Counter(job.outcome for job in self.result.jobs if job.group == group)


def seen(scenario: Scenario, seed: int = 1) -> Seen:
    result = run(scenario, seed)
    assert result.complete, (result.stopped_because, result.violations)
    return Seen(result, {attacker.kind: attacker for attacker in result.attackers})


def test_who_never_pays_gets_one_credit_window_of_each_channel_and_the_others_are_served() -> None:
    spongers = (
        ClientGroup("spongers", 1, LONG, behaviour="non-paying", joins_s=(5.0, 6.0)),
        ClientGroup("riders", 1, LONG, behaviour="free-rider", joins_s=(5.0, 6.0)),
        ClientGroup("doubles", 1, TALK, behaviour="double-spending", joins_s=(5.0, 6.0)),
    )
    found = seen(world(clients=spongers))
    for kind in ("non-paying", "free-rider"):
        attacker = found.by_kind[kind]
        assert attacker.harm["jobs_cut_off"] > 0
        # The window, and what the last piece of an answer exceeds it by at the client, which counts what arrives.
        assert 0 < attacker.harm["most_unpaid_to_one_nanoton"] <= 1.5 * WINDOW
        assert attacker.gained_nanoton <= attacker.harm["channels"] * 1.5 * WINDOW
        assert attacker.cost_nanoton > 0
    assert found.by_kind["free-rider"].harm["channels"] >= 2
    doubles = found.by_kind["double-spending"]
    assert doubles.harm["channels_shown_to_others"] > 0
    assert doubles.harm["channels_taken_by_others"] == 0
    people = found.outcomes("people")
    assert people["done"] > 0
    assert people["failed"] == 0


@pytest.mark.slow
def test_an_eclipsed_newcomer_sees_the_party_alone_and_one_with_an_honest_peer_everybody() -> None:
    party = ProviderGroup("party", 1, floor=2.0, floor_sigma=0.0, hardware="rtx-3060", config=SMALL_WINDOW)
    victims = tuple(ClientGroup(name, 1, TALK, joins_s=(30.0, 31.0)) for name in ("lost", "lucky"))
    attacks = (
        AttackGroup("eclipse", 4, 10.0, {"victims": "lost", "shows": "party"}),
        AttackGroup("eclipse", 4, 10.0, {"victims": "lucky", "shows": "party", "honest": 1}),
    )
    result = seen(world(providers=(party,), clients=victims, attacks=attacks, duration_s=120.0)).result
    of = {name: {job.provider for job in result.jobs if job.group == name} - {None} for name in ("lost", "lucky")}
    assert of["lost"] == {3}
    assert of["lucky"]
    assert 3 not in of["lucky"]


def zoo() -> Scenario:
    """One of each kind."""
    selling = tuple(
        ProviderGroup(kind, 2 if kind == "sybil" else 1, floor=1.3, behaviour=kind, hardware="rtx-3060")
        for kind in attackers.PROVIDERS
        if kind != "honest"
    )
    buying = tuple(
        ClientGroup(kind, 1, TALK, behaviour=kind, joins_s=(3.0, 6.0)) for kind in attackers.CLIENTS if kind != "honest"
    )
    options = {
        "hit-and-run": {"each_s": 20.0}, "eclipse": {"victims": "hoarder", "shows": "bait", "honest": 1},
        "sybil-dht": {"ground": 5}, "index-flood": {"records": 20, "per_s": 1.0},
    }  # fmt: skip
    attacks = tuple(AttackGroup(kind, 2, 2.0, options.get(kind, {})) for kind in attackers.ATTACKS)
    return world(providers=selling, clients=buying, attacks=attacks, honest=2, duration_s=45.0)


@pytest.mark.slow
def test_every_kind_of_attacker_runs_is_accounted_for_and_replays_to_the_byte() -> None:
    found = seen(zoo())
    kinds = {*attackers.PROVIDERS, *attackers.CLIENTS, *attackers.ATTACKS} - {"honest", "hit-and-run"}
    assert kinds <= {kind.split(":")[0] for kind in found.by_kind}
    assert "non-paying: hit-and-run" in found.by_kind
    assert run(zoo(), 1).digest == found.result.digest


def test_the_honest_pair_of_a_scenario_has_the_same_nodes_and_no_attacker() -> None:
    pair = attackers.honest(zoo())
    assert [(group.name, group.count) for group in pair.providers] == [(g.name, g.count) for g in zoo().providers]
    assert {group.behaviour for group in (*pair.providers, *pair.clients)} == {"honest"}
    assert not pair.attackers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vanishes", "stalls"])
def test_a_provider_that_lets_go_of_jobs_is_left_out_before_its_clients_have_lost_many(kind: str) -> None:
    options = {"jobs": 1, "after_s": 1.0, "away_s": 5.0} if kind == "vanishes" else {}
    bad = ProviderGroup("bad", 1, floor=0.3, floor_sigma=0.0, behaviour=kind, hardware="rtx-3060", options=options)
    result = seen(world(providers=(bad,), duration_s=200.0), seed=2).result
    theirs = [job for job in result.jobs if job.provider == 3 and job.outcome != "done"]
    assert theirs
    # Two or three that had begun when the first was lost, and one at each later try.
    assert all(sum(job.client == client for job in theirs) <= 4 for client in range(2))
    assert len(theirs) <= len(result.jobs) / 3
