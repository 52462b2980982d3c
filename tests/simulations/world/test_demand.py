"""Demand: rates, sizes and order of what clients ask for."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute import ChatRequest, CompletionRequest, Task, TranscribeRequest, Unit, check_request, estimate_usage
from simulations.scenarios.model import Demand, Size
from simulations.world.demand import DAILY, day, draw, pause_s, request, session_jobs, session_starts
from simulations.world.wording import BYTES_PER_TOKEN, answer_text, is_garbage, prompt_text, read_prompt

SEEDS = st.integers(0, 1 << 32).map(random.Random)
FACTORS = st.floats(0, 5)
CURVES = st.lists(st.tuples(st.floats(0, 10_000), FACTORS), max_size=6, unique_by=lambda step: step[0]).map(
    lambda steps: tuple(sorted(steps))
)


def expected_jobs(demand: Demand, until_s: float) -> float:
    """The integral of the demand's rate."""
    edges = [(0.0, 1.0), *demand.curve, (until_s, 0.0)]
    seconds = sum((min(b, until_s) - min(a, until_s)) * factor for (a, factor), (b, _) in pairwise(edges))
    return demand.jobs_per_hour / 3600 * seconds


@given(rng=SEEDS, curve=CURVES, rate=st.floats(0, 400), from_s=st.floats(0, 5000), length_s=st.floats(0, 5000))
def test_sessions_begin_in_order_within_the_time_and_never_where_the_curve_is_zero(
    rng: random.Random, curve, rate: float, from_s: float, length_s: float
) -> None:
    demand = Demand(rate, curve=curve)
    starts = list(session_starts(demand, rng, from_s, from_s + length_s))
    assert starts == sorted(starts)
    assert all(from_s <= at < from_s + length_s for at in starts)
    for at in starts:
        factor = next((f for second, f in reversed(curve) if second <= at), 1.0)
        assert factor > 0


@pytest.mark.parametrize("session", [1.0, 4.0])
def test_jobs_come_at_the_rate_that_the_curve_says(session: float) -> None:
    demand = Demand(200.0, session=session, curve=((1000.0, 3.0), (2000.0, 0.0), (3000.0, 0.5)))
    rng = random.Random(5)
    counts = [0, 0, 0, 0, 0]
    for _ in range(400):
        for at in session_starts(demand, rng, 0.0, 5000.0):
            counts[int(at // 1000)] += session_jobs(demand, rng)
    per_segment = 400 * 200 * 1000 / 3600
    for count, factor in zip(counts, (1, 3, 0, 0.5, 0.5), strict=True):
        # Four standard deviations of a compound Poisson sum: a geometric number has a second moment of (2m − 1)·m.
        assert abs(count - per_segment * factor) <= 4 * math.sqrt(per_segment * factor * (2 * session - 1))
    assert sum(counts) / 400 == pytest.approx(expected_jobs(demand, 5000.0), rel=0.05)


@given(seed=st.integers(0, 1 << 32), change_s=st.floats(0, 3000), factor=FACTORS)
def test_what_changes_at_a_second_changes_nothing_before_it(seed: int, change_s: float, factor: float) -> None:
    usual, changed = Demand(60.0), Demand(60.0, curve=((change_s, factor),))
    before, after = (list(session_starts(d, random.Random(seed), 0.0, 3600.0)) for d in (usual, changed))
    assert [at for at in before if at < change_s] == [at for at in after if at < change_s]


def test_a_client_that_joins_late_meets_the_curve_where_it_is() -> None:
    demand = Demand(3600.0, curve=((10.0, 0.0), (100.0, 1.0)))
    starts = list(session_starts(demand, random.Random(1), 50.0, 200.0))
    assert 100.0 <= starts[0] < 110.0


def test_nobody_asks_at_a_rate_of_zero() -> None:
    assert list(session_starts(Demand(0.0), random.Random(1), 0.0, 1e9)) == []


@given(rng=SEEDS, median=st.floats(0.01, 1e9), sigma=st.floats(0, 3), most=st.floats(0.01, 1e9))
def test_a_size_is_positive_and_no_larger_than_the_most(rng, median: float, sigma: float, most: float) -> None:
    assert 0 < draw(Size(median, sigma, most), rng) <= most


def test_half_of_the_sizes_lie_below_the_median_and_without_sigma_all_are_it() -> None:
    rng = random.Random(2)
    size = Size(200.0, 0.8, 4000.0)
    draws = sorted(draw(size, rng) for _ in range(4001))
    assert draws[2000] == pytest.approx(200.0, rel=0.08)
    # 84 % of a log-normal lies below median·e^sigma.
    assert draws[3366] == pytest.approx(200.0 * math.exp(0.8), rel=0.1)
    assert draw(Size(7.0), rng) == 7.0


@given(rng=SEEDS, session=st.floats(0, 10_000))
def test_a_session_has_a_job_and_an_end(rng: random.Random, session: float) -> None:
    assert 1 <= session_jobs(Demand(1.0, session=session), rng) <= 1000


def test_sessions_and_pauses_have_their_means() -> None:
    rng = random.Random(3)
    demand = Demand(1.0, session=5.0, pause_s=20.0)
    assert sum(session_jobs(demand, rng) for _ in range(4000)) / 4000 == pytest.approx(5.0, rel=0.06)
    assert sum(pause_s(demand, rng) for _ in range(4000)) / 4000 == pytest.approx(20.0, rel=0.06)
    assert pause_s(Demand(1.0, pause_s=0.0), rng) == 0.0


@given(
    rng=SEEDS,
    prompt=st.floats(0.1, 20_000),
    answer=st.floats(0.1, 20_000),
    task=st.sampled_from(["chat", "completion"]),
)
def test_a_request_has_the_lengths_that_were_drawn_and_room_for_its_answer(rng, prompt, answer, task) -> None:
    demand = Demand(1.0, task=task, prompt_tokens=Size(prompt), answer_tokens=Size(answer))
    asked = request(demand, rng)
    check_request(asked)
    assert asked.task == task
    prompt_tokens, answer_tokens = read_prompt(asked)
    assert answer_tokens == max(1, round(answer))
    # No prompt is shorter than its instruction.
    assert max(1, round(prompt)) <= prompt_tokens <= max(8, round(prompt))
    limit = asked.sampling.max_tokens
    assert answer_tokens <= limit
    assert limit < 2 * answer_tokens or limit == 64
    bound = estimate_usage(asked)
    assert prompt_tokens <= bound.get(Unit.PROMPT)
    assert bound.get(Unit.COMPLETION) == limit


@given(rng=SEEDS, median=st.floats(0.0001, 100_000))
def test_a_voice_message_has_the_length_that_was_drawn(rng: random.Random, median: float) -> None:
    asked = request(Demand(1.0, task="transcribe", model="whisper-large", audio_s=Size(median)), rng)
    check_request(asked)
    assert isinstance(asked, TranscribeRequest)
    assert asked.duration_ms == min(max(1, round(median * 1000)), 2 * 3600 * 1000)


def test_a_task_that_nobody_asks_for_is_refused() -> None:
    with pytest.raises(ValueError, match="not embed"):
        request(Demand(1.0, task="embed"), random.Random(1))
    with pytest.raises(ValueError, match="cooking"):
        request(Demand(1.0, task="cooking"), random.Random(1))


@pytest.mark.parametrize("name", sorted(DAILY))
def test_a_day_has_its_mean_and_is_busiest_in_the_evening(name: str) -> None:
    hours = DAILY[name]
    assert len(hours) == 24
    assert sum(hours) / 24 == pytest.approx(1.0, abs=1e-9)
    assert 19 <= max(range(24), key=hours.__getitem__) <= 21
    curve = day(hours, from_hour=18, hour_s=60.0)
    assert curve[0] == (0.0, hours[18])
    assert curve[7] == (420.0, hours[1])
    assert expected_jobs(Demand(24.0, curve=curve), 24 * 60.0) == pytest.approx(24.0 * 24 / 60)


def test_the_same_seed_asks_for_the_same() -> None:
    demand = Demand(60.0)
    one, other = (
        [(at, request(demand, rng)) for rng in [random.Random(9)] for at in session_starts(demand, rng, 0, 3600)]
        for _ in range(2)
    )
    assert one == other
    assert len(one) > 30
    assert all(isinstance(asked, ChatRequest) and asked.task is Task.CHAT for _, asked in one)


@given(tokens=st.integers(0, 5000), answer=st.integers(1, 1 << 20))
def test_what_a_prompt_says_can_be_read_back(tokens: int, answer: int) -> None:
    text = prompt_text(tokens, answer)
    assert text.isascii()
    assert not is_garbage(text)
    assert len(answer_text(tokens)) == BYTES_PER_TOKEN * tokens


@given(st.lists(st.sampled_from(["Answer in ", " tokens: ", "7", "٣", "-", " ", "é"]), max_size=6).map("".join))
def test_a_prompt_that_says_nothing_gets_an_answer_all_the_same(text: str) -> None:
    tokens, answer = read_prompt(CompletionRequest("m", text))
    assert tokens == math.ceil(len(text) / 4)
    assert answer >= 1
