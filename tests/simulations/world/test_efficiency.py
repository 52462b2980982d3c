import pytest

from simulations.results import Job
from simulations.world.efficiency import TAIL_S, efficiency
from simulations.world.hardware import offering

CARD = offering("rtx-3060", "llama-3-8b")
FASTEST_S = CARD.pace.step_s(1) * 1000


def job(at_s: float, *, value: int = 10**9, seconds: float = FASTEST_S, outcome: str = "done", hurry: int = 0) -> Job:
    """A job of 1,000 tokens."""
    done = outcome == "done"
    return Job(
        0, "g", "chat", at_s, outcome, 0 if done else None, at_s, at_s + seconds, units=1000 if done else 0,
        value_nanoton=value // 1000 if done else 0, wanted=1000, value_per_million=value, value_of_time=hurry,
    )  # fmt: skip


def reached(jobs: list[Job], until_s: float = 10_000.0) -> float | None:
    return efficiency(jobs, {0: [(CARD, 1.0)]}, 0.0, until_s)


def test_all_that_is_worth_its_cost_done_at_once_is_all_that_there_was() -> None:
    jobs = [job(10.0 * n) for n in range(200)] + [job(10.0 * n, value=1, outcome="refused") for n in range(200)]
    assert reached(jobs) == pytest.approx(1.0, abs=0.002)


def test_what_is_left_undone_is_missing_from_it_and_waiting_costs() -> None:
    half = [job(10.0 * n, outcome="done" if n % 2 else "failed") for n in range(200)]
    assert reached(half) == pytest.approx(0.5, abs=0.002)
    late = [job(10.0 * n, hurry=1000, seconds=FASTEST_S + 100) for n in range(200)]
    prompt = [job(10.0 * n, hurry=1000) for n in range(200)]
    assert (reached(late) or 0) < (reached(prompt) or 0) == pytest.approx(1.0, abs=0.002)


def test_no_more_is_expected_than_the_machines_have_time_for() -> None:
    room = CARD.most_units_per_s * (1000.0 - TAIL_S) / 1000
    jobs = [
        job(n * (1000.0 - TAIL_S) / (3 * room), outcome="done" if n % 3 == 0 else "refused")
        for n in range(3 * int(room))
    ]
    assert 0.95 < (reached(jobs, 1000.0) or 0) <= 1.001


def test_a_handful_of_jobs_says_nothing() -> None:
    assert reached([job(1.0)] * 99) is None
