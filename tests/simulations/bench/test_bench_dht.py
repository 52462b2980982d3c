"""The benchmark of the hash table: its scenarios at a small size, its rows, its picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from simulations.bench.dht import _rows, plan
from simulations.bench.dht_plot import growth_svg
from simulations.bench.dht_scenarios import SCENARIOS, simulate

SMALL: dict[str, dict[str, Any]] = {
    "store": {"nodes": 24, "keys": 24},
    "churn": {"nodes": 36, "keys": 24, "duration_s": 30.0},
    "sybil": {"nodes": 32, "lookups": 8},
    "market": {"nodes": 12, "readers": 6},
    "gossip": {"nodes": 40, "changes": 2},
}


def test_every_scenario_has_a_small_run_here() -> None:
    assert SMALL.keys() == SCENARIOS.keys()


def test_what_is_stored_is_found_by_those_who_do_not_hold_it_and_a_seed_replays() -> None:
    first, again = (simulate("store", {**SMALL["store"], "seed": 5}) for _ in range(2))
    assert first["found"] == 1.0
    assert first["hops"] >= 1
    assert first["holders_median"] >= 10
    assert first["digest"] == again["digest"]
    assert simulate("store", {**SMALL["store"], "seed": 6})["digest"] != first["digest"]


def test_a_swarm_in_which_everybody_holds_everything_is_refused() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        simulate("store", {"nodes": 8, "keys": 2, "seed": 5})
    assert raised.group_contains(ValueError, match="more than twenty nodes")


def test_nodes_that_leave_and_come_back_take_little_with_them() -> None:
    result = simulate("churn", {**SMALL["churn"], "seed": 5})
    assert result["found"] >= 0.9
    assert result["left"] == 11
    assert result["up"] == 36


def test_liars_are_nearer_to_the_key_than_anybody_and_honest_values_of_others_are_found() -> None:
    result = simulate("sybil", {**SMALL["sybil"], "seed": 5})
    assert result["liars"] == 8
    assert result["liars_among_the_20_nearest"] == 8
    assert 0 < result["right"] <= 1
    assert result["other_keys"] >= 0.75


def test_a_market_is_listed_and_found() -> None:
    result = simulate("market", {**SMALL["market"], "seed": 5})
    assert (result["listed"], result["unlisted"]) == (1.0, 0)
    assert result["found_least"] >= 4


def test_by_the_rules_alone_a_larger_market_leaves_each_node_a_smaller_share() -> None:
    small, large = (simulate("placement", {"nodes": nodes, "readers": 40, "seed": 5}) for nodes in (60, 300))
    assert large["holds_most"] < small["holds_most"] <= 1
    assert large["found_least"] >= 8
    assert 0 < large["serves_most"] < 0.2


def test_a_price_is_heard_everywhere_within_seconds() -> None:
    result = simulate("gossip", {**SMALL["gossip"], "seed": 5})
    assert result["missed"] == 0.0
    assert 0 < result["median_s"] <= result["p95_s"] < 3


@pytest.mark.parametrize("quick", [True, False])
def test_the_plan_has_three_seeds_but_for_quick_runs_and_one_seed_twice(quick: bool) -> None:
    for run in plan(quick):
        if run.name == "replay":
            assert run.seeds[0] == run.seeds[1]
        else:
            assert len(set(run.seeds)) == (1 if quick else 3)
        assert run.scenario in {*SCENARIOS, "placement"}


def _results(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    fields = [
        "found", "hops", "hops_p95", "requests", "failures", "p50_s", "p95_s", "round_trip_s", "p95_ratio",
        "holders_median", "holders_min", "join_cpu_s", "virtual_s", "messages", "dials", "wall_s", "cpu_s", "rss_mib",
        "left", "up", "holds_most", "serves_most", "providers", "listed", "unlisted", "found_median", "found_least",
        "keys", "lookups_of_a_reader", "right", "other_keys", "liars_among_the_20_nearest", "median_s", "missed",
    ]  # fmt: skip
    base = {**dict.fromkeys(fields, 1.0), "seed": 1, "digest": "d", "nodes": 10_000, **changes}
    results = {run.name: [dict(base) for _ in run.seeds] for run in plan(quick=False)}
    for name, nodes, requests in (("size 100", 100, 10.0), ("size 1000", 1000, 14.0), ("large", 10_000, 18.0)):
        results[name] = [{**base, "nodes": nodes, "requests": requests} for _ in range(3)]
    return results


def test_a_row_is_its_worst_seed_held_against_the_mark() -> None:
    results = _results()
    results["store"][1]["found"] = 0.5
    results["store"][2]["hops"] = 6.0
    rows = {row.id: row for row in _rows(results, quick=False)}
    assert (rows["found"].value, rows["found"].ok, rows["found"].samples) == (0.5, False, [1.0, 0.5, 1.0])
    assert (rows["hops"].value, rows["hops"].ok) == (6.0, False)
    assert rows["churn"].ok is True
    assert rows["sybil-spread"].ok is None


def test_growth_holds_when_a_tenfold_adds_and_not_when_it_multiplies() -> None:
    results = _results()
    growth = {row.id: row for row in _rows(results, quick=False)}["growth"]
    assert growth.ok is True
    assert growth.extra["nodes"] == [100, 1000, 10_000]
    results["large"][0]["requests"] = 500.0
    assert {row.id: row for row in _rows(results, quick=False)}["growth"].ok is False


def test_runs_of_one_seed_that_differ_are_told() -> None:
    results = _results()
    results["replay"][1]["digest"] = "other"
    assert {row.id: row for row in _rows(results, quick=False)}["replay"].ok is False


def test_the_picture_is_well_formed_and_has_every_point() -> None:
    picture = ElementTree.fromstring(growth_svg({100: 10.0, 1000: 14.0, 10_000: 18.0}))
    texts = {node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"10.0", "14.0", "18.0", "100", "1,000", "10,000"} <= texts
    with pytest.raises(ValueError, match="two sizes"):
        growth_svg({100: 1.0})
