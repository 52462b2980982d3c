from __future__ import annotations

import logging
import os
import signal
import sys

import pytest

from overlay.errors import ConfigError
from simulations.explore import replays, searching
from simulations.explore.searching import ClusterError, Search, explore
from simulations.scenarios.registries import Registries

ENTRY = "fake_world:run"


def test_a_search_keeps_every_failing_case_and_the_smallest_of_each_kind(fake_world, tmp_path):
    seen = []
    search = Search(range(2, 8), 1.0, tmp_path, workers=2, entry=ENTRY, make=fake_world.make)
    state = explore(search, lambda state: seen.append((state.ran, len(state.findings))))
    assert state.ran == 6
    assert state.stopped_because == ""
    assert sorted((finding.seed, finding.failure.kind) for finding in state.findings) == [
        (3, "invariant"),
        (7, "crash"),
    ]
    assert seen == sorted(seen)
    assert seen[-1] == (6, 2)
    for finding in state.findings:
        case = replays.load(tmp_path / finding.file, known=Registries())
        assert case.failure == finding.failure
        assert case.seed == finding.seed
    smallest = replays.load(tmp_path / state.smallest["invariant: money is conserved"], known=Registries())
    assert [group.count for group in smallest.scenario.clients] == [fake_world.CLIENTS_TO_BREAK]
    assert smallest.scenario.providers == ()
    assert smallest.seed == 0
    assert replays.rerun(smallest, fake_world.run).same
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {name for one in state.findings for name in (one.file, one.smallest_file)}


def test_a_failure_of_the_last_seed_is_made_small_too(fake_world, tmp_path):
    state = explore(Search([3], 1.0, tmp_path, workers=2, entry=ENTRY, make=fake_world.make))
    (finding,) = state.findings
    assert finding.smallest_file == state.smallest["invariant: money is conserved"]
    assert finding.shrink_runs > 0


def test_minutes_end_a_search_and_a_hanging_case_is_a_finding(fake_world, tmp_path):
    search = Search(range(10**9), 0.01, tmp_path, workers=1, entry=ENTRY, make=fake_world.make_slow, case_cpu_s=0.4)
    state = explore(search)
    assert 1 <= state.ran <= 2
    assert state.stopped_because == "0.01 minutes are over"
    assert {finding.failure.kind for finding in state.findings} == {"timeout"}


def test_ctrl_c_ends_a_search_with_what_was_found(fake_world, tmp_path):
    def interrupt(state):
        if state.findings:
            raise KeyboardInterrupt

    search = Search(range(3, 10**9), 1.0, tmp_path, workers=1, entry=ENTRY, make=fake_world.make)
    state = explore(search, interrupt)
    assert state.stopped_because == "interrupted"
    assert [finding.seed for finding in state.findings] == [3]


def test_without_dask_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"cocoon-node\[sim\]"):
        explore(Search(range(3), 1.0, tmp_path))


@pytest.mark.slow
def test_a_search_on_processes_of_a_cluster_survives_a_worker_that_dies(fake_world, tmp_path):
    from distributed import LocalCluster

    killed = []

    def kill_one(state):
        if state.ran == 4 and not killed:
            process = next(iter(cluster.workers.values())).process
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    quiet = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with LocalCluster(**quiet, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tcp://")
        search = Search(range(40), 2.0, tmp_path, scheduler=address, entry=ENTRY, make=fake_world.make)
        state = explore(search, kill_one)
    assert killed
    assert state.ran == 40
    found = {finding.seed: finding.failure.kind for finding in state.findings}
    assert found.pop(3) == "invariant"
    assert found.pop(7) == "crash"
    assert set(found.values()) <= {"died"}  # whether the worker had a case just then is a matter of milliseconds


@pytest.mark.slow
def test_workers_of_another_commit_are_refused(fake_world, tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(searching, "commit", lambda: "another one")
    local = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with LocalCluster(**local, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL) as cluster:
        with pytest.raises(ClusterError, match="same commit"):
            explore(Search(range(3), 1.0, tmp_path, scheduler=cluster.scheduler_address))


def test_a_scheduler_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "CONNECT_S", 0.2)
    with pytest.raises(ClusterError, match="dask scheduler"):
        explore(Search(range(3), 1.0, tmp_path, scheduler="tcp://127.0.0.1:9"))
