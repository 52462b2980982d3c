"""The scheduler: order, batches, cancellation, back-pressure, failure of engines."""

from __future__ import annotations

import threading

import psutil
import pytest
import trio

from compute import (
    Capability,
    ChatRequest,
    ConsumerTooSlow,
    EngineFailure,
    EngineUnavailable,
    Finished,
    Message,
    Sampling,
    Scheduler,
    SchedulerBusy,
    Started,
    Task,
    TaskError,
    TextDelta,
    Unit,
    limits,
    total,
)
from simulations.engines import SyntheticEngine

CHAT = ChatRequest("synthetic", (Message("user", "hello there"),))


class GatedEngine:
    """Makes one token of the oldest job each time the test lets it; a test's hands on the engine's clock."""

    name = "gated"

    def __init__(self, *, max_batch: int = 1, model: str = "gated") -> None:
        self.model, self.max_batch = model, max_batch
        self.gate = threading.Semaphore(0)
        self.submitted: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False
        self.load_error: Exception | None = None
        self.step_error: Exception | None = None
        self.flood = 0
        self.jobs: list[int] = []

    def load(self) -> None:
        if self.load_error:
            raise self.load_error

    def capabilities(self):
        return [Capability(Task.CHAT, self.model, self.max_batch)]

    def submit(self, job, request) -> None:
        if request.messages[0].content == "refuse me":
            raise TaskError("not this one", param="messages")
        self.submitted.append(job)
        self.jobs.append(job)

    def step(self):
        if not self.gate.acquire(timeout=0.005):
            return []
        if self.step_error:
            raise self.step_error
        if self.flood:
            return [(self.jobs[0], TextDelta("x")) for _ in range(self.flood)]
        return [(self.jobs.pop(0), Finished("stop"))]

    def cancel(self, job) -> None:
        self.cancelled.append(job)
        if job in self.jobs:
            self.jobs.remove(job)

    def close(self) -> None:
        self.closed = True


GATED = ChatRequest("gated", (Message("user", "hello"),))


async def collect(scheduler: Scheduler, request=CHAT):
    events = []
    async with scheduler.submit(request) as batches:
        async for batch in batches:
            assert batch
            events += batch
    return events


async def until(condition) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)


async def test_events_arrive_in_order_and_end_with_finished() -> None:
    async with Scheduler.run([SyntheticEngine(chunks=20)]) as scheduler:
        events = await collect(scheduler)
    assert isinstance(events[0], Started)
    assert [e.text for e in events[1:-1]] == [f"word{i} " for i in range(1, 21)]
    assert events[-1] == Finished("stop")
    assert total(e.units for e in events).get(Unit.COMPLETION) == 20


async def test_many_jobs_run_beside_each_other_and_none_gets_anothers_events() -> None:
    results = {}

    async def one(scheduler: Scheduler, n: int) -> None:
        request = ChatRequest("synthetic", (Message("user", "hi"),), Sampling(max_tokens=n))
        results[n] = await collect(scheduler, request)

    async with Scheduler.run([SyntheticEngine(chunks=30, max_batch=4)]) as scheduler, trio.open_nursery() as nursery:
        for n in range(1, 21):
            nursery.start_soon(one, scheduler, n)
    assert {n: total(e.units for e in events).get(Unit.COMPLETION) for n, events in results.items()} == {
        n: n for n in range(1, 21)
    }


async def test_events_that_come_while_nobody_reads_arrive_as_one_list() -> None:
    async with Scheduler.run([SyntheticEngine(chunks=50)]) as scheduler, scheduler.submit(CHAT) as batches:
        await until(lambda: batches._done)
        batch = await anext(batches)
        assert len(batch) == 52
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_leaving_the_block_cancels_the_job_in_the_engine_and_starts_the_next() -> None:
    engine = GatedEngine()
    async with Scheduler.run([engine]) as scheduler:
        async with scheduler.submit(GATED) as first:
            async with scheduler.submit(GATED) as second:
                await until(lambda: engine.submitted == [first.id])
                assert scheduler.load()[Task.CHAT, "gated"].queued == 1
            await until(lambda: engine.cancelled == [second.id])
            assert scheduler.load()[Task.CHAT, "gated"].queued == 0
        await until(lambda: engine.cancelled == [second.id, first.id])
        assert scheduler.load()[Task.CHAT, "gated"].busy == 0
        engine.gate.release()
        assert await collect(scheduler, GATED) == [Finished("stop")]
    assert engine.closed


async def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    engine = GatedEngine()
    async with Scheduler.run([engine], max_queue=1) as scheduler:
        async with scheduler.submit(GATED), scheduler.submit(GATED):
            with pytest.raises(SchedulerBusy) as caught:
                async with scheduler.submit(GATED):
                    pytest.fail("admitted")
        assert caught.value.retry_after_s >= 0


async def test_a_consumer_that_does_not_read_loses_its_job_not_our_memory() -> None:
    engine = GatedEngine()
    engine.flood = limits.JOB_BUFFER_EVENTS // 2
    async with Scheduler.run([engine]) as scheduler, scheduler.submit(GATED) as batches:
        for _ in range(4):
            engine.gate.release()
        await until(lambda: engine.cancelled == [batches.id])
        events = await anext(batches)
        assert len(events) <= 2 * limits.JOB_BUFFER_EVENTS
        with pytest.raises(ConsumerTooSlow):
            await anext(batches)


async def test_a_request_the_engine_refuses_raises_its_task_error() -> None:
    async with Scheduler.run([GatedEngine()]) as scheduler:
        with pytest.raises(TaskError, match="not this one"):
            await collect(scheduler, ChatRequest("gated", (Message("user", "refuse me"),)))


async def test_an_unknown_model_is_a_task_error_that_names_it() -> None:
    async with Scheduler.run([SyntheticEngine()]) as scheduler:
        with pytest.raises(TaskError, match="gpt-99") as caught:
            await collect(scheduler, ChatRequest("gpt-99", CHAT.messages))
    assert caught.value.param == "model"


async def test_a_crashing_step_fails_the_engines_jobs_and_leaves_other_engines_alone() -> None:
    engine = GatedEngine(max_batch=2)
    engine.step_error = RuntimeError("CUDA error")
    async with Scheduler.run([engine, SyntheticEngine()]) as scheduler:
        engine.gate.release()
        with pytest.raises(EngineFailure, match="CUDA error"):
            await collect(scheduler, GATED)
        assert (await collect(scheduler))[-1] == Finished("stop")
        engine.step_error = None
        engine.gate.release()
        assert await collect(scheduler, GATED) == [Finished("stop")]


async def test_an_engine_that_keeps_crashing_is_given_up_and_reported() -> None:
    engine = GatedEngine()
    engine.step_error = RuntimeError("dead")
    async with Scheduler.run([engine]) as scheduler:
        for _ in range(limits.MAX_ENGINE_CRASHES):
            engine.gate.release()
            with pytest.raises(EngineFailure):
                await collect(scheduler, GATED)
        await until(lambda: "gated" in scheduler.failures())
        assert scheduler.capabilities() == []
        with pytest.raises(TaskError):
            await collect(scheduler, GATED)


@pytest.mark.parametrize("error", [EngineUnavailable("pip install it"), ZeroDivisionError("oops")])
async def test_an_engine_that_cannot_load_is_skipped_and_reported(error) -> None:
    broken = GatedEngine(model="broken")
    broken.load_error = error
    async with Scheduler.run([broken, SyntheticEngine()]) as scheduler:
        assert str(error) in scheduler.failures()["gated"]
        assert {c.model for c in scheduler.capabilities()} == {"synthetic"}
        assert (await collect(scheduler))[-1] == Finished("stop")


async def test_cancelling_a_reader_loses_no_event() -> None:
    engine = GatedEngine()
    async with Scheduler.run([engine]) as scheduler, scheduler.submit(GATED) as batches:
        with trio.move_on_after(0.02):
            await anext(batches)
        engine.gate.release()
        assert await anext(batches) == [Finished("stop")]


async def test_an_idle_scheduler_uses_no_processor() -> None:
    async with Scheduler.run([SyntheticEngine(), GatedEngine()]) as scheduler:
        await collect(scheduler)
        process = psutil.Process()
        before = process.cpu_times()
        await trio.sleep(0.5)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        assert used_s <= 0.03
