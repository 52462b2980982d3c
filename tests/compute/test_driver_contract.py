"""One list of checks for both drivers: what the scheduler sees is the same, in a thread and in virtual time."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

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
    Scheduler,
    SchedulerBusy,
    Started,
    Task,
    TaskError,
    TextDelta,
    limits,
)
from compute.driver import MakeDriver
from compute.worker import SWITCH_INTERVAL_S, EngineThread
from simulations.determinism import run_seeded
from simulations.network.timeline import Timeline
from simulations.world.inline import inline


@dataclass
class Puppet:
    """Does in each step what the test put into ``script``: items, or an exception that it raises."""

    name: str = "puppet"
    max_batch: int = 1
    load_error: Exception | None = None
    script: deque[object] = field(default_factory=deque)
    submitted: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    closed: int = 0

    def load(self) -> None:
        if self.load_error:
            raise self.load_error

    def capabilities(self):
        return [Capability(Task.CHAT, self.name, self.max_batch)]

    def submit(self, job, request) -> None:
        if request.messages[0].content == "refuse me":
            raise TaskError("not this one", param="messages")
        if request.messages[0].content == "choke":
            raise ZeroDivisionError("cannot swallow this")
        self.submitted.append(job)

    def step(self):
        if not self.script:
            return []
        item = self.script.popleft()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, job) -> None:
        self.cancelled.append(job)

    def close(self) -> None:
        self.closed += 1
        if self.closed == 1 and self.script and isinstance(self.script[-1], OSError):
            raise self.script[-1]


def asking(text: str = "hello", model: str = "puppet") -> ChatRequest:
    return ChatRequest(model, (Message("user", text),))


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)


async def collect(scheduler: Scheduler, request: ChatRequest) -> list[object]:
    events: list[object] = []
    async with scheduler.submit(request) as batches:
        async for batch in batches:
            assert batch
            events += batch
    return events


async def a_job_runs_from_started_to_finished(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], driver=driver) as scheduler:
        async with scheduler.submit(asking()) as batches:
            await until(lambda: engine.submitted == [batches.id])
            engine.script += [
                [(batches.id, Started())],
                [],
                [(batches.id, TextDelta("a")), (batches.id, Finished("stop"))],
            ]
            events = [event async for batch in batches for event in batch]
        assert events == [Started(), TextDelta("a"), Finished("stop")]
        assert scheduler.load()[Task.CHAT, "puppet"].busy == 0
    assert engine.cancelled == []
    assert engine.closed == 1


async def nothing_is_reported_before_the_command_was_posted(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], driver=driver) as scheduler, scheduler.submit(asking("refuse me")) as batches:
        assert not batches._done
        with pytest.raises(TaskError, match="not this one"):
            await anext(batches)


async def a_crash_in_a_submission_is_that_jobs(driver: MakeDriver) -> None:
    engine = Puppet(max_batch=2)
    async with Scheduler.run([engine], driver=driver) as scheduler, scheduler.submit(asking()) as other:
        with pytest.raises(EngineFailure, match="cannot swallow this"):
            await collect(scheduler, asking("choke"))
        engine.script.append([(other.id, Finished("stop"))])
        assert await anext(other) == [Finished("stop")]


async def who_waits_begins_when_a_slot_is_free(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], max_queue=1, driver=driver) as scheduler:
        async with scheduler.submit(asking()) as first, scheduler.submit(asking()) as second:
            with pytest.raises(SchedulerBusy):
                async with scheduler.submit(asking()):
                    pytest.fail("admitted")
            await until(lambda: engine.submitted == [first.id])
            engine.script.append([(first.id, Finished("stop"))])
            await until(lambda: engine.submitted == [first.id, second.id])
        await until(lambda: engine.cancelled == [second.id])


async def leaving_the_block_cancels_in_the_engine(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], driver=driver) as scheduler:
        async with scheduler.submit(asking()) as job:
            await until(lambda: engine.submitted)
        await until(lambda: engine.cancelled == [job.id])
        engine.script.append([(job.id, TextDelta("too late"))])
        async with scheduler.submit(asking()) as another:
            engine.script.append([(another.id, Finished("stop"))])
            assert await anext(another) == [Finished("stop")]


async def a_consumer_that_does_not_read_loses_its_job(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], driver=driver) as scheduler, scheduler.submit(asking()) as job:
        half = [(job.id, TextDelta("x"))] * (limits.JOB_BUFFER_EVENTS // 2)
        engine.script += [half, half, half]
        await until(lambda: engine.cancelled == [job.id])
        assert len(await anext(job)) <= 2 * limits.JOB_BUFFER_EVENTS
        with pytest.raises(ConsumerTooSlow):
            await anext(job)


async def a_crash_fails_the_jobs_and_the_engine_gets_another_chance(driver: MakeDriver) -> None:
    engine = Puppet(max_batch=2)
    async with Scheduler.run([engine], driver=driver) as scheduler:
        async with scheduler.submit(asking()) as first, scheduler.submit(asking()) as second:
            await until(lambda: len(engine.submitted) == 2)
            engine.script.append(RuntimeError("CUDA error"))
            for job in (first, second):
                with pytest.raises(EngineFailure, match="CUDA error"):
                    await anext(job)
        async with scheduler.submit(asking()) as third:
            engine.script.append([(third.id, Finished("stop"))])
            assert await anext(third) == [Finished("stop")]


async def an_engine_that_keeps_crashing_is_given_up(driver: MakeDriver) -> None:
    engine = Puppet()
    async with Scheduler.run([engine], driver=driver) as scheduler:
        for _ in range(limits.MAX_ENGINE_CRASHES):
            engine.script.append(RuntimeError("dead"))
            with pytest.raises(EngineFailure):
                await collect(scheduler, asking())
        await until(lambda: "puppet" in scheduler.failures())
        with pytest.raises(TaskError):
            await collect(scheduler, asking())
        await until(lambda: engine.closed == 1)


async def an_engine_that_cannot_load_is_reported_and_closed(driver: MakeDriver) -> None:
    broken, crashing = (
        Puppet("broken", load_error=EngineUnavailable("pip install it")),
        Puppet("bad", load_error=KeyError()),
    )
    async with Scheduler.run([broken, crashing, Puppet()], driver=driver) as scheduler:
        assert scheduler.failures()["broken"] == "pip install it"
        assert "KeyError" in scheduler.failures()["bad"]
        assert [c.model for c in scheduler.capabilities()] == ["puppet"]
    assert broken.closed == crashing.closed == 1


async def a_crash_while_closing_ends_the_driver_all_the_same(driver: MakeDriver) -> None:
    engine = Puppet()
    engine.script.append(OSError("the card fell off"))
    async with Scheduler.run([engine], driver=driver) as scheduler:
        pass
    assert "fell off" in scheduler.failures()["puppet"]


CHECKS = [
    a_job_runs_from_started_to_finished,
    nothing_is_reported_before_the_command_was_posted,
    a_crash_in_a_submission_is_that_jobs,
    who_waits_begins_when_a_slot_is_free,
    leaving_the_block_cancels_in_the_engine,
    a_consumer_that_does_not_read_loses_its_job,
    a_crash_fails_the_jobs_and_the_engine_gets_another_chance,
    an_engine_that_keeps_crashing_is_given_up,
    an_engine_that_cannot_load_is_reported_and_closed,
    a_crash_while_closing_ends_the_driver_all_the_same,
]
Check = Callable[[MakeDriver], Awaitable[None]]
each_check = pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])


@each_check
async def test_a_thread_drives_an_engine_as_the_scheduler_expects(check: Check) -> None:
    await check(EngineThread)


@asynccontextmanager
async def virtual_driver() -> AsyncIterator[MakeDriver]:
    timeline = Timeline()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeline.run)
        try:
            yield inline(timeline)
        finally:
            nursery.cancel_scope.cancel()


@each_check
def test_virtual_time_drives_an_engine_as_the_scheduler_expects(check: Check) -> None:
    async def main() -> None:
        async with virtual_driver() as driver:
            await check(driver)

    run_seeded(1, main)


async def test_the_interpreter_switches_sooner_only_while_an_engine_has_a_thread() -> None:
    usual_s = sys.getswitchinterval()
    async with AsyncExitStack() as first:
        async with AsyncExitStack() as second:
            await first.enter_async_context(Scheduler.run([Puppet()]))
            await second.enter_async_context(Scheduler.run([Puppet(), Puppet()]))
            await first.aclose()
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert sys.getswitchinterval() == pytest.approx(usual_s)


def test_simulated_engines_leave_the_interpreter_alone() -> None:
    usual_s = sys.getswitchinterval()

    async def main() -> None:
        async with virtual_driver() as driver, Scheduler.run([Puppet()], driver=driver):
            assert sys.getswitchinterval() == usual_s

    run_seeded(1, main)


def test_who_is_stopped_while_its_engine_loads_leaves_nothing_behind() -> None:
    loaded: list[bool] = []

    class Slow(Puppet):
        load_s = 30.0

        def on_change(self) -> None:
            raise AssertionError("the driver brings its own")

        def due_s(self) -> float:
            return math.inf

        def load(self) -> None:
            loaded.append(True)

    async def main() -> None:
        engine = Slow()
        async with virtual_driver() as driver:
            with trio.move_on_after(10):
                async with Scheduler.run([engine], driver=driver):
                    pytest.fail("ready before its time")
            assert engine.closed == 1
            await trio.sleep(60)
            assert not loaded
            async with Scheduler.run([engine], driver=driver):
                assert trio.current_time() == pytest.approx(100.0)

    run_seeded(1, main)
