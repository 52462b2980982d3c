"""Tasks that a host keeps to serve its inbound streams: waking a parked one costs a fifth of starting one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from simulations.network.limits import IDLE_WORKERS

Job = Callable[[Any], Awaitable[None]]


class Workers:
    """Runs jobs, each in a task that runs nothing else meanwhile, in ``nursery``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[_Worker] = []

    def start(self, job: Job, argument: Any) -> None:
        """Run ``job(argument)`` soon. It must not raise."""
        if self._idle:
            worker = self._idle.pop()
            worker.todo = (job, argument)
            trio.lowlevel.reschedule(worker.task)
        else:
            self._nursery.start_soon(self._work, job, argument)

    async def _work(self, job: Job, argument: Any) -> None:
        await job(argument)
        worker = _Worker(trio.lowlevel.current_task())

        def abort(_: RaiseCancelT) -> Abort:
            if worker in self._idle:
                self._idle.remove(worker)
            return Abort.SUCCEEDED

        while len(self._idle) < IDLE_WORKERS:
            self._idle.append(worker)
            await trio.lowlevel.wait_task_rescheduled(abort)
            job, argument = worker.todo
            await job(argument)


class _Worker:
    __slots__ = ("task", "todo")
    todo: tuple[Job, Any]

    def __init__(self, task: Task) -> None:
        self.task = task
