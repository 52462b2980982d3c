"""The bound, what was reached of it, and by what the rest was lost: on results made by hand."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.results import Job, Provider, RunResult
from simulations.world.bound import Fluid, least
from simulations.world.efficiency import CAUSES, TAIL_S, Reached, reached
from simulations.world.hardware import offering

CARD = offering("rtx-3060", "llama-3-8b")
BIG = offering("rtx-4090", "llama-3-8b")
FASTEST_S = CARD.pace.step_s(1) * 1000
SECONDS = 1000 / CARD.most_units_per_s
"""Of the machine, that a job of 1,000 tokens takes with all slots busy."""
COST = CARD.unit_costs.per_million[list(CARD.unit_costs.per_million)[-1]] / 1000


def job(at_s: float, *, value: int = 10**9, seconds: float = FASTEST_S, outcome: str = "done", **more: Any) -> Job:
    """A job of 1,000 tokens, read and begun at once."""
    done = outcome == "done"
    more = {"sent_at_s": at_s if done else None, "provider": 0 if done else None, **more}
    return Job(
        0, "g", "chat", at_s, outcome, first_token_at_s=at_s if done else None,
        ended_at_s=at_s + seconds, units=1000 if done else 0, value_nanoton=value // 1000 if done else 0, wanted=1000,
        value_per_million=value, **more,
    )  # fmt: skip


def provider(
    number: int = 0, what: Any = CARD, shifts: tuple[tuple[float, float], ...] = ((0.0, 20_000.0),), floor: float = 1.0
) -> Provider:
    return Provider(number, "g", what.hardware, "honest", what.slots, what.units_per_s,
                    sells=((what.model, what.slots),), shifts=shifts, floor=floor)  # fmt: skip


def result(jobs: list[Job], *providers: Provider, until_s: float = 10_000.0) -> RunResult:
    return RunResult("s", "t", 1, "c", until_s, until_s, True, "d", 1, jobs=tuple(jobs),
                     providers=providers or (provider(),))  # fmt: skip


def of(jobs: list[Job], *providers: Provider, until_s: float = 10_000.0) -> Reached:
    found = reached(result(jobs, *providers, until_s=until_s))
    assert found is not None
    assert found.share + sum(found.losses.values()) == pytest.approx(1.0, abs=1e-9)
    assert tuple(found.losses) == CAUSES
    return found


def lost(found: Reached) -> dict[str, float]:
    """Causes that matter."""
    return {cause: round(part, 3) for cause, part in found.losses.items() if abs(part) > 0.004}


def test_all_that_is_worth_its_cost_done_at_once_is_all_that_there_was() -> None:
    jobs = [job(10.0 * n) for n in range(200)]
    jobs += [job(10.0 * n, value=1, outcome="refused", error="TooExpensive") for n in range(200)]
    found = of(jobs)
    assert found.share == pytest.approx(1.0, abs=0.002)
    assert found.gained_nanoton == pytest.approx(200 * (10**6 - COST), rel=1e-3)
    assert not lost(found)


def test_the_answers_of_a_provider_that_cheats_gain_nothing_however_quick_they_are() -> None:
    cheat = msgspec.structs.replace(provider(1), behaviour="cheating")
    jobs = [job(10.0 * n, provider=n % 2, seconds=FASTEST_S if n % 2 == 0 else 0.1) for n in range(200)]
    found = of(jobs, provider(), cheat)
    assert found.gained_nanoton == pytest.approx(100 * 10**6 - 200 * COST, rel=1e-3), "half of the work was for nothing"
    assert lost(found) == {"cheated": round(1 - found.share, 3)}


@pytest.mark.parametrize(
    ("outcome", "error", "cause"),
    [("failed", "ProviderGone: x", "failed"), ("refused", "TooExpensive", "too_dear"),
     ("refused", "NoProvider", "no_room"), ("refused", "Busy", "no_room"), ("running", "", "unfinished")],
)  # fmt: skip
def test_a_job_that_is_not_done_is_missing_by_its_reason(outcome: str, error: str, cause: str) -> None:
    half = [job(10.0 * n) if n % 2 else job(10.0 * n, outcome=outcome, error=error) for n in range(200)]
    found = of(half)
    assert found.share == pytest.approx(0.5, abs=0.002)
    assert lost(found) == {cause: pytest.approx(0.5, abs=0.002)}


def test_waiting_is_lost_by_where_it_was_waited() -> None:
    # A second is worth 1,000 nanoTON: ten of each are 40,000 of some 940,000 that a job could have gained.
    jobs = [
        job(10.0 * n, seconds=FASTEST_S + 30, value_of_time=1000, sent_at_s=10.0 * n + 10) for n in range(200)
    ]  # fmt: skip
    late = [Job(*(getattr(j, name) for name in j.__struct_fields__)) for j in jobs]
    late = [_with(j, first_token_at_s=j.asked_at_s + 20) for j in late]
    part = pytest.approx(10_000 / (10**6 - COST), rel=0.02)
    found = of(late)
    assert found.losses["queue"] == part
    assert found.losses["sharing"] == part
    assert found.losses["channel"] + found.losses["dealing"] == part
    assert found.losses["channel"] == pytest.approx(float(part.expected) / 200, rel=0.1)  # the first


def _with(old: Job, **changes: Any) -> Job:
    return msgspec.structs.replace(old, **changes)


def test_time_of_machines_that_stand_still_while_others_would_pay_is_idle_and_so_is_no_time_that_nobody_wants() -> None:
    room = int(1000.0 / SECONDS)
    wanted = [job(n * 880.0 / (3 * room), outcome="refused", error="NoProvider") for n in range(3 * room)]
    found = of(wanted, until_s=1000.0)
    assert found.losses["idle"] > 0.9
    assert found.losses["no_room"] < 0.1
    assert "idle" not in lost(of([job(10.0 * n) for n in range(200)]))


def test_a_slower_machine_than_the_best_is_a_loss_of_its_own() -> None:
    slow = FASTEST_S - BIG.pace.step_s(1) * 1000
    jobs = [job(30.0 * n, value_of_time=10_000) for n in range(200)]
    found = of(jobs, provider(), provider(1, BIG))
    assert lost(found).keys() == {"machine"}
    assert found.lost_nanoton["machine"] > 200 * slow * 10_000


def test_a_machine_whose_owner_wants_more_than_another_is_a_loss_too() -> None:
    jobs = [job(30.0 * n, provider=1) for n in range(200)]
    found = of(jobs, provider(), provider(1, floor=3.0))
    assert lost(found).keys() == {"dear"}
    assert found.lost_nanoton["dear"] == pytest.approx(200 * 2 * COST, rel=0.02)


def test_no_more_is_expected_than_the_machines_have_time_for() -> None:
    room = 880.0 / SECONDS
    jobs = [
        job(n * 880.0 / (3 * room), **({} if n % 3 == 0 else {"outcome": "refused", "error": "NoProvider"}))
        for n in range(3 * int(room))
    ]
    found = of(jobs, until_s=1000.0)
    assert 0.85 < found.share <= 1.001


def test_what_comes_in_a_rush_is_not_expected_to_be_done_in_the_quiet_after_it() -> None:
    quiet = [job(600.0 + 30.0 * n) for n in range(100)]
    rush = [job(300.0 + n / 10, outcome="refused", error="NoProvider") for n in range(600)]
    # The rush is 600 jobs of ten seconds of the machine: three minutes do eighteen, and the quiet would do them all.
    found = of([*quiet, *rush])
    most = (100 + 180 / SECONDS + 1) * (10**6 - COST)
    assert found.bound_nanoton <= most


def test_a_machine_that_is_off_has_no_time() -> None:
    on = of([job(30.0 * n) for n in range(200)])
    off = of([job(30.0 * n) for n in range(200)], provider(shifts=((0.0, 3000.0),)))
    assert off.bound_nanoton < 0.6 * on.bound_nanoton


def test_a_span_of_a_run_is_held_against_its_own_jobs() -> None:
    jobs = [job(10.0 * n, **({} if n < 200 else {"outcome": "failed", "error": "x"})) for n in range(400)]
    run = result(jobs)
    first, second = reached(run, 0.0, 2000.0), reached(run, 2000.0, 4000.0)
    assert first is not None
    assert second is not None
    assert first.share == pytest.approx(1.0, abs=0.002)
    assert second.share == pytest.approx(0.0, abs=0.002)


def test_a_handful_of_jobs_says_nothing() -> None:
    assert reached(result([job(1.0)] * 99)) is None
    assert reached(result([job(9_999.0 - TAIL_S / 2)] * 200)) is None
    assert reached(result([job(1.0)] * 200, until_s=10_000.0), 5_000.0) is None


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_assignment_is_worth_more_than_the_bound(data: st.DataObject) -> None:
    jobs, places = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    numbers = st.floats(0.1, 10.0)

    def draw(*shape: int) -> Any:
        size = math.prod(shape)
        return np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)

    worth, seconds, rate, capacity = draw(jobs, places) * 10, draw(jobs, places), draw(places), draw(places)
    options = np.tile(np.arange(places), (jobs, 1))
    program = Fluid(worth, seconds, options, np.arange(places), capacity, rate, places)
    bound = least(program).surplus_nanoton
    left, gained = capacity.copy(), 0.0
    for number in range(jobs):  # greedily, each whole
        gains = worth[number] - rate * seconds[number]
        for place in np.argsort(-gains):
            if gains[place] > 0 and seconds[number, place] <= left[place]:
                left[place] -= seconds[number, place]
                gained += gains[place]
                break
    assert gained <= bound + 1e-6


def test_the_bound_of_jobs_that_do_not_compete_is_what_they_gain() -> None:
    program = Fluid(np.array([[10.0, 4.0], [2.0, 9.0]]), np.ones((2, 2)), np.array([[0, 1], [0, 1]]),
                    np.arange(2), np.full(2, 5.0), np.full(2, 1.0), 2)  # fmt: skip
    assert least(program).surplus_nanoton == pytest.approx(17.0, rel=1e-3)
