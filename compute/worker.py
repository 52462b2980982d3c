"""One engine in one thread: commands go in from trio, events come out in batches.

The thread sleeps while it has no jobs. Whatever several steps produce before trio gets round to it crosses over in one
hop, so a busy loop sees fewer, larger batches and the number of wake-ups never exceeds the number of steps.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

import trio

from compute import limits
from compute.driver import Command, EngineOperator, Item, OnDead, OnItems
from compute.engines.base import Capability, Engine, Wakeable

SWITCH_INTERVAL_S = 0.0005
"""CPython lets a thread keep the interpreter for 5 ms by default; with an engine computing beside it, trio would wait
that long for each of its turns. While an engine has a thread, the interval is this."""


class _Switching:
    """Holds the interpreter's switch interval down while there are engine threads, of whichever scheduler."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._usual_s = 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._threads:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual_s, SWITCH_INTERVAL_S))
            self._threads += 1

    def end(self) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                sys.setswitchinterval(self._usual_s)


_switching = _Switching()


class EngineThread:
    """Drives ``engine`` (:class:`~compute.driver.Driver`); made in trio."""

    def __init__(self, engine: Engine, on_items: OnItems, on_dead: OnDead) -> None:
        self.engine = engine
        # Looked up once: checking against a protocol is slow, and every job passes here.
        self._wake_engine = engine.wake if isinstance(engine, Wakeable) else None
        self.capabilities: Sequence[Capability] = ()
        self.failure = ""
        self.ready, self.ended = trio.Event(), trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._on_items, self._on_dead = on_items, on_dead
        self._operator = EngineOperator(engine)
        self._condition = threading.Condition()
        self._commands: list[Command] = []
        self._stopping = False
        self._outbox: list[Item] = []
        self._outbox_lock = threading.Lock()
        self._hop_pending = False
        self._thread = threading.Thread(target=self._main, name=f"engine-{engine.name}", daemon=True)

    def start(self) -> None:
        """Start the thread; :attr:`ready` is set once the engine has loaded or failed to (:attr:`failure`)."""
        _switching.begin()
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
        operator = self._operator
        operator.load()
        self.capabilities, self.failure = operator.capabilities, operator.failure
        self._call_trio(self.ready.set)
        try:
            if not self.failure:
                self._serve()
        finally:
            operator.close()
            self.failure = operator.failure
            _switching.end()
            self._call_trio(self.ended.set)

    def _serve(self) -> None:
        operator = self._operator
        while (commands := self._take_commands()) is not None:
            for command in commands:
                self._report(operator.obey(command))
            if not operator.active:
                continue
            began = time.perf_counter()
            items = operator.step()
            self._report(items)
            if operator.given_up:
                self.failure = operator.failure
                self._call_trio(lambda: self._on_dead(self.failure))
                return
            if not items and time.perf_counter() - began < limits.IDLE_STEP_PAUSE_S / 4:
                with self._condition:
                    if not self._commands and not self._stopping:
                        self._condition.wait(limits.IDLE_STEP_PAUSE_S)

    def _take_commands(self) -> list[Command] | None:
        """The commands so far, waiting for one if there is no job; ``None`` to end."""
        with self._condition:
            while not (self._commands or self._operator.active or self._stopping):
                self._condition.wait()
            if self._stopping:
                return None
            commands, self._commands = self._commands, []
            return commands

    def _report(self, items: list[Item]) -> None:
        if not items:
            return
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
