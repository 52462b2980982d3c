"""The benchmark of the simulator, on runs that take no time: one row for each promise, its mark, its command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from overlay.cli.output import Output
from simulations.bench import sim
from simulations.bench.report import Row, document, row
from simulations.bench.stage import BenchFailed
from simulations.results import PolicyFigures, RunResult, save


class Fake:
    """Stands for `cocoon`: notes what it is asked for, and leaves what a run leaves."""

    def __init__(self, **parts: Any) -> None:
        self.asked: list[list[str]] = []
        self.seeds: list[str] = []
        self.parts = parts
        self.digests = iter(parts.pop("digests", ()))
        self.explored: dict[str, Any] = {"ran": 200, "jobs": 9, "findings": [], "stopped_because": "", "now": None}

    def __call__(self, arguments: Sequence[str], *, environ: dict[str, str] | None = None) -> dict[str, Any]:
        self.asked.append(list(arguments))
        self.seeds += (environ or {}).values()
        if arguments[1] == "run":
            fixed = {"duration_s": 60.0, "virtual_s": 60.0, "complete": True, "wall_s": 200.0, "rss_mib": 900.0}
            result = RunResult("s", "t", 1, "c", digest=next(self.digests, "d"), events=1, **(fixed | self.parts))
            out = Path(arguments[arguments.index("--out") + 1])
            out.mkdir(exist_ok=True)
            save(result, out / "result.json")
        return self.explored


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    def make(quick: bool = False, **parts: Any) -> tuple[sim.Bench, Fake]:
        fake = Fake(**parts)
        return sim.Bench(quick, tmp_path, Output(as_json=True), fake), fake

    return make


def parts(found: Row) -> dict[str, Any]:
    return {part["id"]: part for part in found.extra["parts"]}


def test_a_row_of_several_figures_is_met_when_all_that_have_a_mark_are() -> None:
    good, bad = row("a", "one", [1.0], "s", at_most=2), row("b", "two", [3.0], "s", at_most=2)
    plain = row("c", "three", [9.0], "s")
    found = sim.entry("x", "what", [good, plain], "cocoon x", quick=False)
    assert (found.ok, found.extra["met"], found.value, found.reach) == (True, True, 1.0, "≤ 2")
    found = sim.entry("x", "what", [good, bad], "cocoon x", quick=False)
    assert (found.ok, found.extra["met"], found.reach) == (False, False, "≤ 2; two ≤ 2")
    assert sim.entry("x", "what", [plain], "cocoon x", quick=False).extra["met"] is False
    (line,) = document("sim", [found])["rows"]
    assert (line["command"], line["met"], [part["met"] for part in line["parts"]]) == ("cocoon x", False, [True, False])


def test_the_large_runs_are_held_to_time_memory_and_their_end(bench: Any) -> None:
    made, fake = bench(complete=False, virtual_s=50.0, stopped_because="x", rss_mib=7000.0)
    found = sim.large(made)
    assert not found.ok
    assert {name: part["met"] for name, part in parts(found).items()} == {
        "wall": True, "whole": False, "memory": False,
    }  # fmt: skip
    assert found.extra["command"] == "cocoon sim run steady-large --seed 1"
    assert fake.asked[0][:5] == ["sim", "run", "steady-large", "--seed", "1"]


def test_a_quick_run_is_small_and_says_so(bench: Any) -> None:
    made, fake = bench(quick=True)
    found = sim.crowd(made)
    assert found.extra["quick"] is True
    assert found.ok
    assert "clients.people.count=100" in fake.asked[0]
    assert "--duration 300" in found.extra["command"]
    whole, _ = bench()
    assert not sim.crowd(whole).ok  # nobody asked for 20,000 jobs


def test_three_processes_with_other_hash_seeds_leave_one_log(bench: Any) -> None:
    made, fake = bench()
    assert sim.replay(made).ok
    assert len(set(fake.seeds)) == 3
    made, _ = bench(digests=("d", "d", "e"))
    found = sim.replay(made)
    assert (found.ok, found.value) == (False, 1)


def test_a_market_that_a_baseline_beats_does_not_meet_its_mark(bench: Any) -> None:
    def policies(golem: float) -> tuple[PolicyFigures, ...]:
        pairs = (("ours", 0.8), ("cocoon", 0.5), ("golem", golem))
        return tuple(PolicyFigures(name, "d", 10, 9, 0, 1, value, {"queue": 0.1}) for name, value in pairs)

    made, fake = bench(policies=policies(0.7))
    found = sim.world(made)
    assert found.ok
    assert parts(found)["lead"]["value"] == pytest.approx(0.1)
    assert fake.asked[0][5:7] == ["--baseline", "all"]
    assert not sim.world(bench(policies=policies(0.9))[0]).ok


def test_exploring_runs_earlier_failures_again_and_counts_those_that_fail(bench: Any) -> None:
    made, fake = bench()
    found = sim.explore(made)
    assert found.ok
    assert parts(found)["earlier"]["value"] == 0
    assert sum(arguments[1] == "replay" for arguments in fake.asked) == len(list(sim.SEEDS.glob("*.toml")))
    fake.explored["now"] = {"kind": "crash"}
    assert not sim.explore(made).ok
    fake.explored["ran"] = 3
    with pytest.raises(BenchFailed, match="only 3 of 200"):
        sim.explore(made)


def test_rows_of_the_market_alone_are_sorted_into_promises(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (*sim._EFFICIENCY, *sim._SERVICE, *sim._PRICES, "gain-markup", "gain-cartel")
    rows = [row(id, id, [0.5], "of 1", at_most=None if id.startswith(("market-re", "gain-c")) else 1) for id in ids]
    monkeypatch.setattr(sim, "_market", lambda quick: rows)
    made, _ = bench()
    assert set(parts(sim.efficiency(made))) == {*sim._EFFICIENCY, *sim._SERVICE}
    assert set(parts(sim.prices(made))) == set(sim._PRICES)
    assert set(parts(sim.gains(made))) == {"most", "gain-markup", "gain-cartel"}
    assert sim.gains(made).extra["command"] == "python -m simulations.market --json"
