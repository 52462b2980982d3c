"""One engine in one thread: commands go in from trio, events come out in batches.

The thread sleeps while it has no jobs. Whatever several steps produce before trio gets round to it crosses over in one
hop, so a busy loop sees fewer, larger batches and the number of wake-ups never exceeds the number of steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import trio

from compute import limits
from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId, EngineUnavailable, Wakeable
from compute.tasks import Event, Finished, Request, TaskError

Item = tuple[EngineJobId, Event | Exception]
Command = tuple[Literal["submit"], EngineJobId, Request] | tuple[Literal["cancel"], EngineJobId, None]


class EngineThread:
    """Drives ``engine``. ``on_items`` is called in trio with what happened, ``on_dead`` when it is given up."""

    def __init__(
        self,
        engine: Engine,
        token: trio.lowlevel.TrioToken,
        on_items: Callable[[list[Item]], None],
        on_dead: Callable[[str], None],
    ) -> None:
        self.engine = engine
        # Looked up once: checking against a protocol is slow, and every job passes here.
        self._wake_engine = engine.wake if isinstance(engine, Wakeable) else None
        self.capabilities: Sequence[Capability] = ()
        self.failure = ""
        self.ready, self.ended = trio.Event(), trio.Event()
        self._token = token
        self._on_items, self._on_dead = on_items, on_dead
        self._condition = threading.Condition()
        self._commands: list[Command] = []
        self._stopping = False
        self._outbox: list[Item] = []
        self._outbox_lock = threading.Lock()
        self._hop_pending = False
        self._active: dict[EngineJobId, None] = {}
        self._thread = threading.Thread(target=self._main, name=f"engine-{engine.name}", daemon=True)

    def start(self) -> None:
        """Start the thread; :attr:`ready` is set once the engine has loaded or failed to (:attr:`failure`)."""
        self._thread.start()

    def post(self, command: Command) -> None:
        """Hand a command to the thread (from trio)."""
        with self._condition:
            self._commands.append(command)
            self._condition.notify()
        if self._wake_engine is not None:
            self._wake_engine()

    def stop(self) -> None:
        """Ask the thread to close the engine and end; :attr:`ended` is set when it has."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._wake_engine is not None:
            self._wake_engine()

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self.engine.load()
            self.capabilities = tuple(self.engine.capabilities())
        except EngineUnavailable as error:
            self.failure = str(error)
        except Exception as error:  # any driver may raise anything; the node goes on without this engine
            self.failure = f"the engine crashed while loading: {type(error).__name__}: {error}"
        self._call_trio(self.ready.set)
        try:
            if not self.failure:
                self._serve()
        finally:
            self._close()
            self._call_trio(self.ended.set)

    def _close(self) -> None:
        try:
            self.engine.close()
        except Exception as error:  # there is nobody left to tell but the report
            self.failure = self.failure or f"the engine crashed while closing: {type(error).__name__}: {error}"

    def _serve(self) -> None:
        crashes = 0
        while (commands := self._take_commands()) is not None:
            for command in commands:
                self._obey(command)
            if not self._active:
                continue
            began = time.perf_counter()
            try:
                items = self.engine.step()
                crashes = 0
            except Exception as error:  # the jobs fail, the engine gets another chance
                crashes += 1
                items = self._fail_all(error)
            self._report(items)
            if crashes == limits.MAX_ENGINE_CRASHES:
                self.failure = "the engine crashed several times in a row and was given up"
                self._call_trio(lambda: self._on_dead(self.failure))
                return
            if not items and time.perf_counter() - began < limits.IDLE_STEP_PAUSE_S / 4:
                with self._condition:
                    if not self._commands and not self._stopping:
                        self._condition.wait(limits.IDLE_STEP_PAUSE_S)

    def _take_commands(self) -> list[Command] | None:
        """The commands so far, waiting for one if there is no job; ``None`` to end."""
        with self._condition:
            while not (self._commands or self._active or self._stopping):
                self._condition.wait()
            if self._stopping:
                return None
            commands, self._commands = self._commands, []
            return commands

    def _obey(self, command: Command) -> None:
        kind, job, request = command
        try:
            if kind == "submit":
                assert request is not None
                self.engine.submit(job, request)
                self._active[job] = None
            else:
                self._active.pop(job, None)
                self.engine.cancel(job)
        except TaskError as error:
            self._report([(job, error)])
        except Exception as error:  # a crash in one job's submission is that job's
            self._report([(job, EngineFailure(f"the engine failed: {type(error).__name__}: {error}"))])

    def _fail_all(self, error: Exception) -> list[Item]:
        failed, self._active = list(self._active), {}
        for job in failed:
            try:
                self.engine.cancel(job)
            except Exception:  # noqa: S112  # the engine is broken already; the next job would tell
                continue
        return [(job, EngineFailure(f"the engine failed: {type(error).__name__}: {error}")) for job in failed]

    def _report(self, items: list[Item]) -> None:
        if not items:
            return
        for job, item in items:
            if isinstance(item, Finished | Exception):
                self._active.pop(job, None)
        with self._outbox_lock:
            self._outbox += items
            hop, self._hop_pending = not self._hop_pending, True
        if hop:
            self._call_trio(self._drain)
        while len(self._outbox) > limits.MAX_OUTBOX_EVENTS and not self._stopping:
            time.sleep(0.01)

    def _call_trio(self, function: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            self._stopping = True

    # --- in trio ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        with self._outbox_lock:
            items, self._outbox = self._outbox, []
            self._hop_pending = False
        self._on_items(items)
