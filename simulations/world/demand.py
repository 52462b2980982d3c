"""What clients ask for, and when: drawn from a scenario's :class:`~simulations.scenarios.model.Demand`.

Everything is a function of the demand and of a generator, and asks it for as much as is needed: two runs whose demand
begins to differ at some second are the same before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from compute.limits import MAX_AUDIO_MS, MAX_MAX_TOKENS
from compute.tasks import ChatRequest, CompletionRequest, Message, Request, Sampling, Task, TranscribeRequest
from simulations.scenarios.model import Demand, Size
from simulations.world.wording import prompt_text

TASKS = frozenset((Task.CHAT, Task.COMPLETION, Task.TRANSCRIBE))
"""What simulated clients can ask for."""

MOST_JOBS_OF_SESSION = 1000
"""A session with more than this is a scenario's mistake, not a conversation."""

LEAST_LIMIT_TOKENS = 64
"""The smallest ``max_tokens`` that a client sets."""

VOICE = b"\x00voice message"
"""Stands for a recording. Model engines look at its length in milliseconds alone, and nobody measures it: the gateway
and the command line do, from real files, before a request is made. Its bytes do not burden the simulated lines."""

DAILY: Mapping[str, tuple[float, ...]] = {
    "voice": (
        0.45, 0.25, 0.15, 0.10, 0.10, 0.15, 0.40, 0.80, 1.05, 1.00, 1.00, 1.05,
        1.15, 1.10, 1.05, 1.10, 1.20, 1.45, 1.75, 2.00, 2.05, 1.90, 1.70, 1.05,
    ),
    "chat": (
        0.60, 0.40, 0.25, 0.20, 0.20, 0.25, 0.45, 0.75, 1.10, 1.30, 1.35, 1.30,
        1.20, 1.30, 1.35, 1.35, 1.30, 1.25, 1.25, 1.45, 1.60, 1.55, 1.35, 0.90,
    ),
}  # fmt: skip
"""A factor for each hour of the day from midnight on, 1 in the mean. Assumptions in the shape that messengers,
telephone and web traffic share: least before dawn, most after supper; chats with models also have the working day."""


def draw(size: Size, rng: Random) -> float:
    """One log-normal quantity, at most ``size.most``."""
    if size.sigma == 0:
        return min(size.median, size.most)
    return min(size.median * math.exp(rng.normalvariate(0.0, size.sigma)), size.most)


def session_starts(demand: Demand, rng: Random, from_s: float, until_s: float) -> Iterator[float]:
    """When sessions of one client begin, in order: a Poisson process that follows the demand's curve.

    By inversion: a unit exponential is the expected number of sessions until the next one, which the curve turns into
    seconds (Çinlar, "Introduction to Stochastic Processes", 1975, section 4.7).
    """
    per_s = demand.jobs_per_hour / 3600 / max(1.0, demand.session)
    if per_s <= 0:
        return
    now = from_s
    steps = [(at_s, factor) for at_s, factor in demand.curve if at_s > from_s]
    factor = next((factor for at_s, factor in reversed(demand.curve) if at_s <= from_s), 1.0)
    left = rng.expovariate(1.0)
    following = 0
    while True:
        rate = per_s * factor
        until_change_s = steps[following][0] if following < len(steps) else math.inf
        at_s = now + left / rate if rate > 0 else math.inf
        if at_s < until_change_s:
            if at_s >= until_s:
                return
            yield at_s
            now, left = at_s, rng.expovariate(1.0)
        else:
            if until_change_s >= until_s:
                return
            left -= (until_change_s - now) * rate
            now, factor = until_change_s, steps[following][1]
            following += 1


def session_jobs(demand: Demand, rng: Random) -> int:
    """How many jobs a session has: geometric, at least one, ``demand.session`` in the mean."""
    ends = 1 / max(1.0, demand.session)
    jobs = 1
    while jobs < MOST_JOBS_OF_SESSION and rng.random() >= ends:
        jobs += 1
    return jobs


def pause_s(demand: Demand, rng: Random) -> float:
    """Between the end of an answer and the session's next question."""
    return rng.expovariate(1 / demand.pause_s) if demand.pause_s > 0 else 0.0


def request(demand: Demand, rng: Random) -> Request:
    """The next job. Raises ``ValueError`` for a task that is not among :data:`TASKS`.

    A prompt tells the engine how long its answer is to be (:mod:`simulations.world.wording`). The client only knows
    roughly: it sets ``max_tokens`` to the next power of two.
    """
    task = Task(demand.task)
    if task is Task.TRANSCRIBE:
        duration_ms = round(1000 * draw(demand.audio_s, rng))
        return TranscribeRequest(demand.model, VOICE, min(max(1, duration_ms), MAX_AUDIO_MS))
    if task not in TASKS:
        raise ValueError(f"simulated clients ask for {', '.join(sorted(TASKS))}, not {task}")
    prompt = max(1, round(draw(demand.prompt_tokens, rng)))
    answer = max(1, round(draw(demand.answer_tokens, rng)))
    limit = Sampling(max_tokens=min(max(LEAST_LIMIT_TOKENS, 1 << (answer - 1).bit_length()), MAX_MAX_TOKENS))
    text = prompt_text(prompt, answer)
    if task is Task.COMPLETION:
        return CompletionRequest(demand.model, text, limit)
    return ChatRequest(demand.model, (Message("user", text),), limit)


def day(hours: Sequence[float], *, from_hour: int = 0, hour_s: float = 3600.0) -> tuple[tuple[float, float], ...]:
    """A curve for :attr:`Demand.curve` from one factor an hour, beginning at ``from_hour``; ``hour_s`` seconds stand
    for an hour. It ends a day later with the last factor."""
    count = len(hours)
    return tuple((hour * hour_s, hours[(from_hour + hour) % count]) for hour in range(count))
