from __future__ import annotations

import pytest

from simulations.explore.cases import CaseRunner
from simulations.explore.failures import CRASH, DIED, DIVERGED, INVARIANT, TIMEOUT, of_exception

ENTRY = "fake_world:run"


def test_a_case_in_a_process_of_its_own_gives_what_it_gives_here(fake_world):
    here = fake_world.run(fake_world.scenario(), 4)
    with CaseRunner(ENTRY) as runner:
        there = runner.run(fake_world.scenario(), 4)
        again = runner.run_twice(fake_world.scenario(), 4)
    assert there.failure is None
    assert (there.digest, there.events) == (again.digest, again.events) == (here.digest, here.events)


def test_each_way_to_fail_is_told_apart_and_the_next_case_runs_on(fake_world):
    with CaseRunner(ENTRY) as runner:
        broken = runner.run(fake_world.scenario(fake_world.BREAKS), 1).failure
        crashed = runner.run(fake_world.scenario(fake_world.RAISES), 1).failure
        died = runner.run(fake_world.scenario(fake_world.DIES), 1).failure
        diverged = runner.run_twice(fake_world.scenario(fake_world.DIVERGES), 1).failure
        assert runner.run(fake_world.scenario(), 1).failure is None
    assert (broken.kind, broken.name, broken.at_s, broken.event) == (INVARIANT, "money is conserved", 20.0, 21)
    assert (crashed.kind, crashed.name) == (CRASH, "ValueError in fake_world.py, _trouble")
    assert "the world fell over" in crashed.what
    assert 'File "tests/simulations/explore/fake_world.py", line' in crashed.what
    assert (died.kind, died.name) == (DIED, "exit code 7")
    assert diverged.kind == DIVERGED


def test_a_crash_is_named_by_our_innermost_line_also_where_only_its_cause_has_one(fake_world):
    def fails():
        try:
            fake_world.run(fake_world.scenario(fake_world.RAISES), 1)
        except ValueError as error:
            raise BaseExceptionGroup("nursery", [wrapped(error)]) from None

    def wrapped(error):
        outer = RuntimeError("from elsewhere")
        outer.__cause__ = error
        return outer

    with pytest.raises(BaseExceptionGroup) as caught:
        fails()
    assert of_exception(caught.value).name == "RuntimeError in fake_world.py, _trouble"


def test_a_case_that_takes_too_long_is_ended_and_counts_as_failing(fake_world):
    with CaseRunner(ENTRY, cpu_s=0.3) as runner:
        assert runner.run(fake_world.scenario(fake_world.SPINS), 1).failure.kind == TIMEOUT
        assert runner.run(fake_world.scenario(), 1).failure is None
    with CaseRunner(ENTRY, wall_s=0.3) as runner:
        assert runner.run(fake_world.scenario(fake_world.WAITS), 1).failure.kind == TIMEOUT


def test_a_world_that_cannot_be_imported_is_told_with_its_last_words(fake_world):
    with CaseRunner("fake_world:nothing_of_that_name") as runner:
        failure = runner.run(fake_world.scenario(), 1).failure
    assert failure.kind == DIED
    assert "nothing_of_that_name" in failure.what
