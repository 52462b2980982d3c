"""What a node does now and then, whatever its role: forget what is over, tell of its jobs without drowning anybody."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar

import trio

from compute.tasks import Task
from compute.usage import NO_USAGE, Usage
from overlay.events import EventLog, ton
from overlay.jobs import JobReport
from overlay.settlement.ledger import GroupCommit, LedgerError, Store

KEEP_AGREEMENTS_S = 7 * 86_400
"""Ended agreements are kept this long, for questions about a receipt."""

KEEP_RECEIPTS = 10_000
"""Receipts kept of each channel, beyond those that are not yet covered by both signatures."""

FIRST_CLEANING_S = 60.0
CLEANING_INTERVAL_S = 3600.0

TELL_INTERVAL_S = 1.0
"""Jobs that end within the same second share one line when there are several."""


def settle_memory() -> None:
    """Take what is in memory after the start (modules, mostly) out of the garbage collector's sight: a full collection
    would otherwise walk through all of it, and every token in flight would wait for some milliseconds."""
    gc.collect()
    gc.freeze()


async def clean_ledger(ledger: GroupCommit, clock: Callable[[], float]) -> None:
    """Forget old agreements and receipts, for ever, once an hour. ``clock`` gives Unix seconds."""
    await trio.sleep(FIRST_CLEANING_S)
    while True:
        # A full disk or a busy ledger is no reason to stop the node: the next pass tries again.
        with suppress(LedgerError):
            await ledger.run(partial(_clean, now=int(clock())))
        await trio.sleep(CLEANING_INTERVAL_S)


def _clean(store: Store, now: int) -> None:
    store.drop_agreements(ended_before=now - KEEP_AGREEMENTS_S)
    for record in store.channels():
        store.prune_receipts(record.channel, keep=KEEP_RECEIPTS)


T = TypeVar("T")


class Tally(ABC, Generic[T]):
    """Turns what ends into lines: one each while they are few, one a second when they are many."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: list[T] = []
        self._some = trio.Event()
        self._quiet_until = 0.0

    def add(self, ended: T) -> None:
        """Something has ended. Quick, whatever the load."""
        self._waiting.append(ended)
        self._some.set()

    async def run(self) -> None:
        """Tell of them as they end, for ever; on cancellation, of those that are left."""
        try:
            while True:
                await self._some.wait()
                await trio.sleep_until(self._quiet_until)
                self._some = trio.Event()
                self._quiet_until = trio.current_time() + TELL_INTERVAL_S
                self._tell()
        finally:
            self._tell()

    def _tell(self) -> None:
        ended, self._waiting = self._waiting, []
        if len(ended) == 1:
            self._tell_one(ended[0])
        elif ended:
            self._tell_many(ended)

    @abstractmethod
    def _tell_one(self, ended: T) -> None:
        """The line of one."""

    @abstractmethod
    def _tell_many(self, ended: Sequence[T]) -> None:
        """The line of several, at least two."""


class Used(Protocol):
    """A job that has ended, as either side counts it."""

    @property
    def task(self) -> Task:
        """What was done."""

    @property
    def usage(self) -> Usage:
        """How much of it."""


def all_of(ended: Sequence[Used]) -> tuple[Usage, str]:
    """What several jobs used together, and how many of each kind they are, for people."""
    usage: Usage = NO_USAGE
    for job in ended:
        usage += job.usage
    return usage, ", ".join(f"{count} {task}" for task, count in Counter(job.task.value for job in ended).items())


class JobTally(Tally[JobReport]):
    """Jobs that a provider served."""

    def _tell_one(self, ended: JobReport) -> None:
        units = ", ".join(f"{count} {unit}" for unit, count in ended.usage.to_wire().items()) or "nothing"
        self._log.info(
            "job_done", f"served {ended.task} to …{ended.client[-8:]}: {units}, {ton(ended.amount_nanoton)}",
            task=ended.task.value, model=ended.model, client=ended.client, units=ended.usage.to_wire(),
            amount_nanoton=ended.amount_nanoton, jobs=1,
        )  # fmt: skip

    def _tell_many(self, ended: Sequence[JobReport]) -> None:
        usage, tasks = all_of(ended)
        amount = sum(report.amount_nanoton for report in ended)
        clients = len({report.client for report in ended})
        self._log.info(
            "job_done", f"served {tasks} to {clients} client{'s' if clients > 1 else ''}: {ton(amount)}",
            jobs=len(ended), units=usage.to_wire(), amount_nanoton=amount,
        )  # fmt: skip
