"""`cocoon sim` on a world that takes milliseconds: what is said, what is written, which exit code."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import pytest

from overlay.cli.app import run
from simulations import files, results, runs
from simulations.explore import replays, searching
from simulations.scenarios.registries import Registries

CHECK_DRAWING = runs.check_drawing
FAKES = str(Path(__file__).parents[2] / "simulations" / "explore")
SCENARIO = """
title = "A test"
about = "Ten seconds of nothing."
duration_s = 60
warmup_s = 0
[[providers]]
name = "gpus"
count = 1
[[clients]]
name = "people"
count = 5
demand = { jobs_per_hour = 60 }
"""


@pytest.fixture(autouse=True)
def fake(tmp_path, monkeypatch):
    """The fake world, a report of one line, and scenario files in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (FAKES, os.environ.get("PYTHONPATH")))))
    world = importlib.import_module("fake_world")
    monkeypatch.setattr(runs, "world", lambda: world.run)
    monkeypatch.setattr(
        searching, "Search", functools.partial(searching.Search, entry="fake_world:run", make=world.make)
    )
    monkeypatch.setattr(Registries, "of_the_world", classmethod(lambda cls: cls()))
    report = types.ModuleType("simulations.report")
    report.write_report = lambda result, path, compare=None: path.write_text(f"{result.title} {compare is not None}")
    report.write_pictures = write_pictures
    monkeypatch.setattr(runs, "check_drawing", lambda: None)
    monkeypatch.setitem(sys.modules, "simulations.report", report)
    progress = types.ModuleType("simulations.report.progress")
    progress.Progress = Progress
    monkeypatch.setitem(sys.modules, "simulations.report.progress", progress)
    Path("well.toml").write_text(SCENARIO)
    Path("missed.toml").write_text(SCENARIO + "[[expect]]\nmeasure = 'efficiency'\nat_least = 0.9\n")
    Path("broken.toml").write_text(SCENARIO + f"[[faults]]\nkind = '{world.BREAKS}'\nat_s = 20\n")
    Path("crash.toml").write_text(SCENARIO + f"[[faults]]\nkind = '{world.RAISES}'\nat_s = 20\n")
    return world


def write_pictures(result, directory):
    directory.mkdir()
    (directory / "price.png").write_bytes(b"a picture")


class Progress:
    def __init__(self, console, title, duration_s):
        assert title.startswith(("A test", "fake"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, sample, wall_s):
        assert 0 <= wall_s < 100


def told(capsys, line, code):
    assert run([*line.split(), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_run_that_holds_leaves_its_result_report_and_scenario(capsys):
    assert run(["sim", "run", "well.toml", "--seed", "7"]) == 0
    out = capsys.readouterr().out
    directory = Path("sim-runs/well-7")
    assert sorted(path.name for path in directory.iterdir()) == ["report.html", "result.json", "scenario.toml"]
    result = results.load(directory / "result.json")
    assert (result.seed, result.complete, result.scenario) == (7, True, "well")
    assert result.digest in out
    assert "60 jobs asked for: 60 done" in out
    assert (
        run(
            [
                "sim",
                "run",
                "sim-runs/well-7/scenario.toml",
                "--out",
                "again",
                "--seed",
                "7",
                "--no-report",
                "--pictures",
            ]
        )
        == 0
    )
    assert sorted(path.name for path in Path("again").iterdir()) == ["pictures", "result.json", "scenario.toml"]


def test_seeds_settings_and_duration_change_the_run(capsys):
    one = told(capsys, "sim run well.toml --seed 1", 0)
    same = told(capsys, "sim run well.toml --seed 1", 0)
    other = told(capsys, "sim run well.toml --seed 2", 0)
    more = told(capsys, "sim run well.toml --seed 1 --set clients.people.count=2", 0)
    short = told(capsys, "sim run well.toml --seed 1 --duration 0.5m", 0)
    assert one["digest"] == same["digest"]
    assert len({document["digest"] for document in (one, other, more, short)}) == 4
    assert (one["virtual_s"], short["virtual_s"]) == (60, 30)


def test_an_expectation_that_is_missed_gives_exit_code_1(capsys):
    assert run(["sim", "run", "missed.toml"]) == 1
    out = capsys.readouterr().out
    assert "efficiency\t0.5\t≥ 0.9\tMISSED" in out
    document = told(capsys, "sim run missed.toml", 1)
    assert not document["held"]
    assert document["marks"] == [
        {"name": "efficiency", "measured": 0.5, "holds": False, "at_least": 0.9, "at_most": None}
    ]


def test_a_broken_invariant_gives_exit_code_3_and_a_replay_that_breaks_again(capsys):
    assert run(["sim", "run", "broken.toml", "--out", "o"]) == 3
    out = capsys.readouterr().out
    assert "BROKEN at 20 s, event 21: money is conserved: 1 nanoTON too many" in out
    assert "STOPPED at 20 of 60 s" in out
    assert not results.load(Path("o/result.json")).complete
    assert run(["sim", "replay", "o/replay.toml"]) == 3
    assert "the same happened: same failure, same event, same digest" in capsys.readouterr().out
    before = told(capsys, "sim replay o/replay.toml --until-before", 0)
    assert before["stopped_before"]
    assert before["events"] == 20
    assert len(before["log"]) == 20
    assert told(capsys, "sim replay o/replay.toml --until 5", 0)["events"] == 5


def test_a_crash_gives_exit_code_3_and_a_replay_that_crashes_again(capsys):
    assert run(["sim", "run", "crash.toml", "--out", "o"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        "ValueError in fake_world.py, _trouble: ValueError: the world fell over; `cocoon sim replay o/replay.toml`"
        in err
    )
    assert not Path("o/result.json").exists()
    assert run(["sim", "replay", "o/replay.toml"]) == 3
    out = capsys.readouterr().out
    assert "Traceback" in out
    assert "the same happened: crash: ValueError in fake_world.py, _trouble (which keeps no digest)" in out
    assert run(["sim", "replay", "o/replay.toml", "--until-before"]) == 2
    assert "does not know at which event" in capsys.readouterr().err


def test_a_replay_of_another_commit_is_refused_and_one_that_differs_gives_1(capsys, fake):
    assert run(["sim", "run", "broken.toml", "--out", "o"]) == 3
    path = Path("o/replay.toml")
    case = replays.load(path)
    replays.save(replays.Replay(case.scenario, case.seed, "d" * 40, case.failure), path)
    assert run(["sim", "replay", str(path)]) == 2
    assert "git checkout dddddddddddd" in capsys.readouterr().err
    assert run(["sim", "replay", str(path), "--anyway"]) == 3
    assert "warning: it failed with commit dddddddddddd" in capsys.readouterr().err
    scenario = fake.scenario(fake.RAISES)
    replays.save(replays.Replay(scenario, 0, case.commit, case.failure), path)
    assert told(capsys, "sim replay o/replay.toml", 1)["verdict"] == "it failed differently"
    replays.save(replays.Replay(fake.scenario(), 0, case.commit, case.failure), path)
    assert told(capsys, "sim replay o/replay.toml", 0)["verdict"] == "it did not fail this time"


def test_ctrl_c_writes_what_there_is_and_says_so(capsys, fake, monkeypatch):
    def interrupted(scenario, seed, *, on_sample):
        def stop_at_30(sample):
            on_sample(sample)
            if sample.at_s >= 30:
                raise BaseExceptionGroup("nursery", [KeyboardInterrupt()])

        return fake.run(scenario, seed, on_sample=stop_at_30)

    monkeypatch.setattr(runs, "world", lambda: interrupted)
    assert run(["sim", "run", "well.toml", "--out", "o"]) == 130
    assert "STOPPED at 30 of 60 s: interrupted" in capsys.readouterr().out
    result = results.load(Path("o/result.json"))
    assert not result.complete
    assert [sample.at_s for sample in result.samples] == [10.0, 20.0, 30.0]


def test_an_earlier_run_stands_beside_this_one(capsys):
    assert run(["sim", "run", "well.toml", "--out", "a"]) == 0
    assert run(["sim", "run", "well.toml", "--out", "b", "--compare", "a"]) == 0
    assert Path("b/report.html").read_text() == "A test True"
    assert run(["sim", "run", "well.toml", "--out", "b", "--compare", "a/scenario.toml"]) == 2
    assert "--compare a/scenario.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("sim run nothing.toml", "no such file"),
        ("sim run no-such-scenario", "there is no scenario"),
        ("sim run well.toml --set clients.people.cuont=3", "did you mean 'count'?"),
        ("sim run well.toml --set clients.nobody.count=3", "people"),
        ("sim run well.toml --duration soon", "10m"),
        ("sim run well.toml --duration 0", "duration_s"),
        ("sim run well.toml --out well.toml", "--out well.toml"),
        ("sim run well.toml --out /proc/nowhere", "--out /proc/nowhere"),
        ("sim run well.toml --compare nothing", "--compare nothing"),
        ("sim replay nothing.toml", "no such file"),
        ("sim replay well.toml", "cocoon sim run well.toml"),
        ("sim show nothing.toml", "no such file"),
        ("sim explore --out well.toml", "--out well.toml"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_runs(line, word, capsys, monkeypatch):
    monkeypatch.setattr(runs, "world", lambda: pytest.fail("it ran"))
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert word in err


def test_too_little_room_is_told_before_work_starts(capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1 << 20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(runs, "world", lambda: pytest.fail("it ran"))
    assert run(["sim", "run", "well.toml", "--out", "o"]) == 2
    assert "1 MiB are free there and up to" in capsys.readouterr().err


@pytest.mark.parametrize(("part", "kept"), [("result.json", []), ("report.html", ["result.json"])])
def test_a_disk_that_gets_full_leaves_no_part_that_passes_for_a_whole(part, kept, capsys, monkeypatch):
    assert run(["sim", "run", "well.toml", "--out", "o"]) == 0  # an older run's files must not pass for this one's
    module, name = (
        (runs.results, "save") if part == "result.json" else (sys.modules["simulations.report"], "write_report")
    )

    def full(result, path, **_):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, name, full)
    assert run(["sim", "run", "well.toml", "--out", "o"]) == 2
    err = capsys.readouterr().err
    assert f"o/{part}: No space left on device; of this run {', '.join(kept) or 'nothing'} was written whole" in err
    assert sorted(path.name for path in Path("o").iterdir()) == [*kept, "scenario.toml"]


def test_without_matplotlib_it_says_so_before_work_starts(capsys, monkeypatch):
    monkeypatch.setattr(runs, "check_drawing", CHECK_DRAWING)
    monkeypatch.setattr(runs, "world", lambda: pytest.fail("it ran"))
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    assert run(["sim", "run", "well.toml"]) == 2
    assert "--no-report" in capsys.readouterr().err


def test_list_and_show_print_scenarios(capsys):
    assert run(["sim", "list"]) == 0
    assert isinstance(told(capsys, "sim list", 0) if capsys.readouterr() else None, list)
    assert run(["sim", "show", "well.toml"]) == 0
    assert capsys.readouterr().out == SCENARIO
    assert run(["sim", "show", "well.toml", "--set", "clients.people.count=9"]) == 0
    assert "count = 9" in capsys.readouterr().out
    assert told(capsys, "sim show well.toml", 0)["title"] == "A test"


def test_exploring_tells_what_failed_and_where_its_smallest_case_is(capsys):
    assert (
        run(["sim", "explore", "--first", "3", "--seeds", "2", "--minutes", "1", "--workers", "1", "--out", "found"])
        == 3
    )
    out, err = capsys.readouterr()
    assert "2 of 2 seeds" in out
    assert "invariant: money is conserved: 1 seeds (3)" in out
    assert "seed 3: invariant: money is conserved at 20 s, event 21" in err
    replay = out.strip().rpartition("cocoon ")[2].split()
    assert run(replay) == 3
    assert "the same happened" in capsys.readouterr().out


def test_baselines_run_beside_ours_on_the_same_scenario_and_seed(capsys):
    plain = told(capsys, "sim run well.toml --seed 3", 0)
    document = told(capsys, "sim run well.toml --seed 3 --baseline golem --baseline cocoon --baseline golem", 0)
    assert document["digest"] == plain["digest"]
    assert (plain["efficiency"], plain["policies"]) == ({"ours": 0.9}, [])
    assert plain["losses"] == {"queue": 0.08, "idle": 0.02}
    assert document["efficiency"] == {"ours": 0.9, "cocoon": 0.6, "golem": 0.6}
    assert [row["policy"] for row in document["policies"]] == ["ours", "cocoon", "golem"]
    assert document["policies"][1]["digest"] != document["digest"]
    kept = results.load(Path("sim-runs/well-3/result.json"))
    assert [row.policy for row in kept.policies] == ["ours", "cocoon", "golem"]
    assert len(told(capsys, "sim run well.toml --baseline all", 0)["policies"]) == 4


def test_people_are_shown_policies_side_by_side(capsys):
    assert run(["sim", "run", "well.toml", "--baseline", "golem"]) == 0
    out = capsys.readouterr().out
    assert "ours\t90.0 %\t0 of 0" in out
    assert "golem\t60.0 %" in out
    assert "queue 8.0 %, idle 2.0 %" in out
    assert run(["sim", "run", "well.toml"]) == 0
    assert "90.0 % of what a perfect market would have gained; lost: queue 8.0 %, idle 2.0 %" in capsys.readouterr().out


def test_an_unknown_baseline_is_told_with_the_nearest_before_anything_runs(capsys):
    assert run(["sim", "run", "well.toml", "--baseline", "golme"]) == 2
    assert "--baseline: there is none 'golme'; did you mean 'golem'?" in capsys.readouterr().err
    assert not Path("sim-runs").exists()


def test_a_baseline_that_is_cut_off_is_left_out(capsys, monkeypatch, fake):
    def cut_off(scenario, seed, *, baseline="ours", **more):
        if baseline == "golem":
            raise KeyboardInterrupt
        return fake.run(scenario, seed, baseline=baseline, **more)

    monkeypatch.setattr(runs, "world", lambda: cut_off)
    assert run(["sim", "run", "well.toml", "--baseline", "all", "--json"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["complete"]
    assert [row["policy"] for row in document["policies"]] == ["ours", "cocoon"]
