"""Model engines: the pace of a batch, what is counted, how jobs end, and that time alone decides."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import (
    ChatRequest,
    EmbedRequest,
    EngineFailure,
    Event,
    Finished,
    Message,
    Meter,
    Sampling,
    Scheduler,
    SchedulerBusy,
    Segment,
    Started,
    TaskError,
    TextDelta,
    TranscribeRequest,
    Unit,
    Usage,
    total,
)
from compute.engines.base import EngineJobId
from simulations.determinism import run_seeded
from simulations.network.limits import TICK_S
from simulations.network.timeline import Timeline
from simulations.world.conduct import CONDUCTS, Conduct, Ending, conduct
from simulations.world.engines import EVENTS_PER_JOB, MOST_PIECE_S, Card, ModelEngine
from simulations.world.hardware import offering
from simulations.world.inline import inline
from simulations.world.wording import is_garbage, prompt_text

CARD = offering("rtx-4090", "llama-3-8b")
SPEECH = offering("rtx-4090", "whisper-large")


def chat(answer: int = 250, prompt: int = 200, max_tokens: int | None = 2000) -> ChatRequest:
    text = prompt_text(prompt, answer)
    return ChatRequest("llama-3-8b", (Message("user", text),), Sampling(max_tokens=max_tokens))


def speech(duration_ms: int) -> TranscribeRequest:
    return TranscribeRequest("whisper-large", b"\x00", duration_ms)


@dataclass
class Bench:
    """An engine and a clock that moves to where the engine is due, as a driver would move it."""

    engine: ModelEngine
    now: float = 0.0
    told: dict[int, list[tuple[float, Event | Exception]]] = field(default_factory=dict)

    @classmethod
    def of(cls, model=CARD, **options) -> Bench:
        bench = cls.__new__(cls)
        bench.__init__(ModelEngine(model, lambda: bench.now, **options))
        bench.engine.load()
        return bench

    def submit(self, job: int, request, at: float | None = None) -> None:
        if at is not None:
            self.run(at)
        self.engine.submit(EngineJobId(job), request)

    def run(self, until: float = math.inf) -> None:
        """Step whenever the engine is due, rounded up to a tick, up to ``until``."""
        while (due := self.engine.due_s()) <= until and due != math.inf:
            self.now = max(self.now, math.ceil(due / TICK_S - 1e-6) * TICK_S)
            items = self.engine.step()
            assert items, "it was due and had nothing to tell"
            for job, item in items:
                self.told.setdefault(job, []).append((self.now, item))
        if until != math.inf:
            self.now = max(self.now, until)

    def events(self, job: int) -> list[Event | Exception]:
        return [event for _, event in self.told.get(job, [])]

    def usage(self, job: int) -> Usage:
        return total(event.units for event in self.events(job) if not isinstance(event, Exception))

    def end(self, job: int) -> float:
        return self.told[job][-1][0]


def test_one_job_takes_its_prefill_and_a_step_a_token() -> None:
    bench = Bench.of()
    bench.submit(1, chat(250, prompt=1000))
    bench.run()
    prefill = 1000 * CARD.pace.prompt_token_s
    first = bench.told[1][0][0]
    assert first == pytest.approx(prefill, abs=TICK_S)
    # The prompt makes the first token.
    assert bench.end(1) == pytest.approx(prefill + 249 * CARD.pace.step_s(1), abs=2 * TICK_S)
    assert bench.events(1)[0] == Started(Usage({Unit.PROMPT: 1000}))
    assert bench.events(1)[-1] == Finished("stop")


def test_a_full_batch_makes_more_together_and_less_each() -> None:
    alone, full = Bench.of(), Bench.of()
    alone.submit(1, chat(500, 10))
    for job in range(CARD.slots):
        full.submit(job, chat(500, 10))
    alone.run()
    full.run()
    slower = full.end(0) / alone.end(1)
    assert 1.05 < slower < 2.0
    assert CARD.slots / slower > 8
    assert 500 / full.end(CARD.slots - 1) == pytest.approx(CARD.units_per_s, rel=0.03)


def test_who_comes_later_slows_the_others_down_from_then_on() -> None:
    bench = Bench.of()
    bench.submit(0, chat(400, 10))
    for job in range(1, 16):
        bench.submit(job, chat(400, 10), at=3.0)
    bench.run(1e9)
    prefill = 10 * CARD.pace.prompt_token_s
    done = 1 + (3.0 - prefill) / CARD.pace.step_s(1)
    expected = 3.0 + 15 * prefill + (400 - done) * CARD.pace.step_s(16)
    assert bench.end(0) == pytest.approx(expected, abs=0.05)


def test_prompts_are_read_one_after_the_other_while_decoding_waits() -> None:
    bench = Bench.of()
    bench.submit(0, chat(100, 10))
    long = 4000 * CARD.pace.prompt_token_s
    bench.submit(1, chat(10, 4000), at=1.0)
    bench.submit(2, chat(10, 4000))
    bench.run()
    assert bench.told[1][0][0] == pytest.approx(1.0 + long, abs=TICK_S)
    assert bench.told[2][0][0] == pytest.approx(1.0 + 2 * long, abs=TICK_S)
    between = [at for at, _ in bench.told[0] if 1.0 < at < 1.0 + 2 * long]
    assert between == []


@settings(max_examples=40)
@given(
    answers=st.lists(st.integers(1, 1500), min_size=1, max_size=20),
    prompts=st.lists(st.integers(0, 3000), min_size=20, max_size=20),
    gaps=st.lists(st.floats(0, 5), min_size=20, max_size=20),
    events_per_job=st.integers(4, 40),
)
def test_whatever_comes_when_everything_is_counted_exactly_once(answers, prompts, gaps, events_per_job) -> None:
    bench = Bench.of(events_per_job=events_per_job)
    at = 0.0
    for job, answer in enumerate(answers):
        at += gaps[job]
        bench.submit(job, chat(answer, prompts[job]), at=at)
    bench.run()
    for job, answer in enumerate(answers):
        prompt = math.ceil(len(prompt_text(prompts[job], answer)) / 4)
        assert bench.usage(job).to_wire() == {"prompt": prompt, "completion": answer}
        events = bench.events(job)
        assert len(events) <= events_per_job + answer // int(MOST_PIECE_S * CARD.units_per_s)
        assert [type(event) for event in (events[0], events[-1])] == [Started, Finished]
        assert len("".join(e.text for e in events if isinstance(e, TextDelta))) == 4 * answer
        times = [at for at, _ in bench.told[job]]
        assert times == sorted(times)
    assert bench.engine.made.usage() == total(bench.usage(job) for job in range(len(answers)))
    assert bench.engine.due_s() == math.inf
    assert bench.engine.slot_s >= bench.engine.busy_s > 0


@settings(max_examples=40)
@given(st.lists(st.integers(1, 600_000), min_size=1, max_size=16))
def test_segments_cover_a_recording_without_gap_or_overlap(durations: Sequence[int]) -> None:
    bench = Bench.of(SPEECH)
    for job, duration_ms in enumerate(durations):
        bench.submit(job, speech(duration_ms))
    bench.run()
    for job, duration_ms in enumerate(durations):
        segments = [event for event in bench.events(job) if isinstance(event, Segment)]
        assert [s.start_ms for s in segments] == [0, *[s.end_ms for s in segments[:-1]]]
        assert segments[-1].end_ms == duration_ms
        assert bench.usage(job) == Usage({Unit.AUDIO_MS: duration_ms})
        assert len(bench.events(job)) <= EVENTS_PER_JOB


def test_a_slow_machine_is_not_silent_for_long() -> None:
    slow = offering("cpu-server", "llama-3-70b")
    bench = Bench.of(slow)
    for job in range(slow.slots):
        bench.submit(job, ChatRequest("llama-3-70b", chat(1000, 10).messages))
    bench.run()
    for job in range(slow.slots):
        times = [at for at, _ in bench.told[job]]
        assert max(b - a for a, b in pairwise(times)) < 1.6 * MOST_PIECE_S
        assert bench.usage(job).get(Unit.COMPLETION) == 1000


def test_an_answer_ends_at_its_limit_and_says_so() -> None:
    bench = Bench.of()
    bench.submit(1, chat(800, max_tokens=100))
    bench.submit(2, chat(4000, max_tokens=None))
    bench.submit(3, chat(8000, prompt=8000, max_tokens=8000))
    bench.run()
    assert [bench.usage(job).get(Unit.COMPLETION) for job in (1, 2, 3)] == [100, 1024, 192]
    assert [bench.events(job)[-1] for job in (1, 2, 3)] == [Finished("length")] * 3


def test_requests_that_it_cannot_serve_are_refused() -> None:
    bench = Bench.of()
    for wrong in (
        EmbedRequest("llama-3-8b", ("x",)),
        ChatRequest("gpt-99", chat().messages),
        speech(1000),
        chat(prompt=9000),
    ):
        with pytest.raises(TaskError):
            bench.submit(1, wrong)
    assert bench.engine.due_s() == math.inf


def test_cancelling_frees_the_place_in_the_batch() -> None:
    bench = Bench.of()
    for job in range(3):
        bench.submit(job, chat(1000, 10))
    bench.run(2.0)
    bench.engine.cancel(EngineJobId(0))
    bench.engine.cancel(EngineJobId(1))
    bench.engine.cancel(EngineJobId(99))
    seen = len(bench.events(0))
    bench.run()
    assert len(bench.events(0)) == seen
    done = (2.0 - 30 * CARD.pace.prompt_token_s) / CARD.pace.step_s(3)
    assert bench.end(2) == pytest.approx(2.0 + (999 - done) * CARD.pace.step_s(1), abs=0.1)


def test_a_machine_that_slows_down_takes_as_many_times_longer() -> None:
    slow = Bench.of()
    slow.engine.slow_down(3.0)
    slow.submit(1, chat(100))
    slow.run()
    usual = Bench.of()
    usual.submit(1, chat(100))
    usual.run()
    assert slow.end(1) == pytest.approx(3 * usual.end(1), abs=4 * TICK_S)


def test_two_models_on_one_machine_share_its_time_while_both_work() -> None:
    card, clock = Card(), [0.0]
    text = ModelEngine(CARD, lambda: clock[0], card=card)
    voice = ModelEngine(SPEECH, lambda: clock[0], card=card)
    ended: dict[str, float] = {}

    def run() -> None:
        while (due := min(text.due_s(), voice.due_s())) != math.inf:
            clock[0] = max(clock[0], due)
            for name, engine in (("text", text), ("voice", voice)):
                if engine.due_s() <= clock[0] + 1e-6:
                    for _, event in engine.step():
                        if isinstance(event, Finished):
                            ended[name] = clock[0]

    answer_s = 10 * CARD.pace.prompt_token_s + 249 * CARD.pace.step_s(1)
    voice_s = 30_000 * SPEECH.pace.step_s(1)
    text.submit(EngineJobId(1), chat(250, 10))
    voice.submit(EngineJobId(1), speech(30_000))
    run()
    # Half the speed until the shorter one is done, then all of it.
    assert voice_s < answer_s
    assert ended["voice"] == pytest.approx(2 * voice_s, abs=0.01)
    assert ended["text"] == pytest.approx(answer_s + voice_s, abs=0.01)
    assert not text.working
    assert not voice.working


# --- conduct --------------------------------------------------------------------------------------------------------


def test_fake_capacity_claims_what_the_machine_does_not_have() -> None:
    honest, fake = Bench.of(), Bench.of(conduct=CONDUCTS["fake-capacity"])
    true, claimed = honest.engine.capabilities()[0], fake.engine.capabilities()[0]
    assert (true.max_batch, true.units_per_s) == (CARD.slots, CARD.units_per_s)
    assert (claimed.max_batch, claimed.units_per_s) == (8 * CARD.slots, 4 * CARD.units_per_s)
    for job in range(claimed.max_batch):
        fake.submit(job, chat(250, 10))
    fake.run()
    # All are served, one real batch after the other.
    assert all(fake.events(job)[-1] == Finished("stop") for job in range(claimed.max_batch))
    assert fake.end(claimed.max_batch - 1) > 7 * fake.end(0)


def test_jobs_beyond_the_real_slots_can_be_cancelled_and_begin_when_one_is_free() -> None:
    bench = Bench.of(conduct=CONDUCTS["fake-capacity"])
    for job in range(CARD.slots + 2):
        bench.submit(job, chat(250, 10))
    bench.engine.cancel(EngineJobId(CARD.slots))
    bench.run(1.0)
    assert bench.events(CARD.slots + 1) == []
    bench.engine.cancel(EngineJobId(0))
    bench.run()
    assert bench.events(CARD.slots + 1)[-1] == Finished("stop")


@given(answer=st.integers(1, 1000), limit=st.integers(1, 1500), overcount=st.floats(1, 4))
def test_who_overcounts_claims_up_to_the_limit_and_no_more(answer: int, limit: int, overcount: float) -> None:
    bench = Bench.of(conduct=Conduct(overcount=overcount))
    bench.submit(1, chat(answer, max_tokens=limit))
    bench.run()
    made = min(answer, limit)
    assert bench.usage(1).get(Unit.COMPLETION) == min(limit, int(made * overcount))
    assert bench.engine.made.usage().get(Unit.COMPLETION) == made


def test_garbage_comes_quickly_and_costs_its_maker_nothing() -> None:
    honest, cheat = Bench.of(), Bench.of(conduct=CONDUCTS["garbage"])
    for bench in (honest, cheat):
        bench.submit(1, chat(250))
        bench.run()
    assert cheat.end(1) < honest.end(1) / 10
    assert cheat.usage(1) == honest.usage(1)
    assert all(is_garbage(event.text) for event in cheat.events(1) if isinstance(event, TextDelta))
    assert not any(is_garbage(event.text) for event in honest.events(1) if isinstance(event, TextDelta))
    assert not cheat.engine.made.usage()


def test_who_stops_short_says_that_it_is_done() -> None:
    bench = Bench.of(conduct=CONDUCTS["stops-short"])
    bench.submit(1, chat(250))
    bench.run()
    assert bench.usage(1).get(Unit.COMPLETION) == 75
    assert bench.events(1)[-1] == Finished("stop")


def test_who_fails_in_the_middle_raises_after_what_was_made() -> None:
    bench = Bench.of(conduct=CONDUCTS["fails"])
    bench.submit(1, chat(250))
    bench.run()
    assert bench.usage(1).get(Unit.COMPLETION) == 125
    assert isinstance(bench.events(1)[-1], EngineFailure)
    assert bench.engine.finished == 0


def test_who_stalls_keeps_its_slot_until_it_is_cancelled() -> None:
    bench = Bench.of(offering("rtx-4090", "llama-3-8b", 1), conduct=CONDUCTS["stalls"])
    bench.submit(1, chat(250))
    bench.run()
    assert bench.usage(1).get(Unit.COMPLETION) == 125
    assert isinstance(bench.events(1)[-1], TextDelta)
    bench.submit(2, chat(250), at=100.0)
    bench.run()
    assert bench.events(2) == []
    bench.engine.cancel(EngineJobId(1))
    bench.run()
    assert bench.usage(2).get(Unit.COMPLETION) == 125


def test_a_drawn_share_of_the_jobs_is_cheated() -> None:
    conduct = Conduct(ending=Ending.FAILS, odds=0.3, draw=random.Random(1).random)
    endings = [conduct.next_ending() for _ in range(1000)]
    assert 250 < endings.count(Ending.FAILS) < 350


def test_a_scenario_changes_the_numbers_of_a_conduct() -> None:
    made = conduct("fails", {"odds": 0.2, "ends_after": 1}, lambda: 0.1)
    assert (made.ending, made.odds, made.ends_after) == (Ending.FAILS, 0.2, 1.0)
    assert made.next_ending() is Ending.FAILS
    assert conduct("honest", {"garbage": True, "ending": "stalls"}, lambda: 0.1).ending is Ending.STALLS


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("evil", {}, "no conduct 'evil'; there are honest, fake-capacity"),
        ("honest", {"draw": 1}, "no option 'draw'"),
        ("honest", {"odds": "often"}, "odds is a number"),
        ("honest", {"odds": float("nan")}, "odds is a number"),
        ("honest", {"garbage": 1}, "garbage is true or false"),
        ("honest", {"ending": "happily"}, "happily"),
        ("honest", {"haste": 0}, "above zero"),
    ],
)
def test_options_that_no_conduct_has_are_refused_by_name(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        conduct(name, options, lambda: 0.0)


# --- under the scheduler --------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(*engines: ModelEngine, max_queue: int = 64) -> AsyncIterator[Scheduler]:
    timeline = Timeline()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeline.run)
        async with Scheduler.run(engines, max_queue=max_queue, driver=inline(timeline)) as scheduler:
            yield scheduler
        nursery.cancel_scope.cancel()


def _scene(seed: int) -> list[tuple[float, int, str]]:
    """Forty clients at two providers; what they got and when."""
    seen: list[tuple[float, int, str]] = []

    async def client(scheduler: Scheduler, number: int, rng: random.Random) -> None:
        await trio.sleep(rng.uniform(10, 40))
        meter = Meter()
        try:
            async with scheduler.submit(chat(rng.randrange(1, 600))) as batches:
                async for batch in batches:
                    for event in batch:
                        meter.add(event.units)
                    seen.append((trio.current_time(), number, repr(meter.usage().to_wire())))
        except SchedulerBusy as error:
            seen.append((trio.current_time(), number, f"busy {error.retry_after_s:.6f}"))

    async def main() -> None:
        rng = random.Random(seed)
        cards = [offering(name, "llama-3-8b", 2) for name in ("rtx-3060", "rtx-4090")]
        engines = [ModelEngine(card, trio.current_time) for card in cards]
        async with serving(*engines, max_queue=4) as scheduler:
            assert trio.current_time() == pytest.approx(max(card.load_s for card in cards), abs=TICK_S)
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(client, scheduler, number, random.Random(rng.random()))

    run_seeded(seed, main)
    return seen


def test_a_seed_gives_the_same_run_to_the_last_digit() -> None:
    first, second = _scene(7), _scene(7)
    assert first == second
    assert any(what.startswith("busy") for _, _, what in first)
    assert _scene(8) != first


async def _one(scheduler: Scheduler, request) -> float:
    async with scheduler.submit(request) as batches:
        async for _ in batches:
            pass
    return trio.current_time()


def test_an_idle_engine_is_never_called() -> None:
    class Counting(ModelEngine):
        calls = 0

        def due_s(self) -> float:
            self.calls += 1
            return super().due_s()

        def step(self):
            self.calls += 1
            return super().step()

    async def main() -> None:
        engine = Counting(CARD, trio.current_time)
        async with serving(engine) as scheduler:
            await _one(scheduler, chat())
            before = engine.calls
            await trio.sleep(24 * 3600)
            assert engine.calls == before
            assert before < 5 * EVENTS_PER_JOB

    run_seeded(1, main)


def test_a_machine_that_recovers_tells_at_once() -> None:
    async def main() -> None:
        engine = ModelEngine(CARD, trio.current_time)
        async with serving(engine) as scheduler, trio.open_nursery() as nursery:
            engine.slow_down(1000.0)
            began = trio.current_time()
            ended: list[float] = []

            async def client() -> None:
                ended.append(await _one(scheduler, chat(250, 10)))

            nursery.start_soon(client)
            await trio.sleep(10)
            engine.slow_down(1.0)
            await trio.sleep(10)
            assert ended
            assert ended[0] == pytest.approx(began + 10 + 250 * CARD.pace.step_s(1), abs=0.1)

    run_seeded(1, main)
