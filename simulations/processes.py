"""Real `cocoon` processes on this machine: started, watched through their JSON event lines, and always ended.

Used by `cocoon demo`, `cocoon swarm up`, the benchmarks and the end-to-end tests. Only processes started here are ever
signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from overlay.errors import CocoonError

MAX_EVENTS = 10_000
"""Events kept of a process; a node that talks more has its oldest forgotten."""

STOP_GRACE_S = 35.0
"""A little more than a node's default drain timeout; after it the process is killed."""

STDERR_TAIL_LINES = 40

LAST_WORDS_S = 1.0
"""How long the rest of a dead process's standard error is waited for."""


class ProcessFailed(CocoonError):
    """A process ended, or did not say what was waited for; the message has the end of its standard error."""

    code = "process"


class CocoonProcess:
    """A running `cocoon … --json` process. Use :func:`run_process`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._stderr: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._changed = trio.Event()
        self._errors_read = trio.Event()
        self._ended = False

    async def wait_for(self, kind: str, timeout_s: float = 30.0, **match: Any) -> dict[str, Any]:
        """The first event of ``kind`` whose fields equal ``match``, past or future.

        Raises :class:`ProcessFailed` when the process ends before it, or ``timeout_s`` passes.
        """
        with trio.move_on_after(timeout_s):
            while True:
                for event in self.events:
                    if event.get("event") == kind and all(event.get(k) == v for k, v in match.items()):
                        return event
                if self._ended:
                    raise ProcessFailed(
                        f"{self.name} ended (exit {self.process.returncode}) before {kind!r}{self._why()}"
                    )
                await self._changed.wait()
        raise ProcessFailed(f"{self.name} did not say {kind!r} within {timeout_s:g} s{self._why()}")

    async def ended(self) -> int | None:
        """Wait until the process ends by itself; its exit status."""
        while not self._ended:
            await self._changed.wait()
        return await self.process.wait()

    def _why(self) -> str:
        return ":\n" + "\n".join(self._stderr) if self._stderr else ""

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _read_events(self, on_event: Callable[[str, dict[str, Any]], None] | None) -> None:
        assert self.process.stdout is not None
        async for line in _lines(self.process.stdout):
            try:
                event = json.loads(line)
            except ValueError:
                self._stderr.append(line)
                continue
            self.events.append(event)
            if on_event is not None:
                on_event(self.name, event)
            self._tell()
        # Its exit status and its last words, too, before its end is told. A grandchild may hold standard error open.
        await self.process.wait()
        with trio.move_on_after(LAST_WORDS_S):
            await self._errors_read.wait()
        self._ended = True
        self._tell()

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in _lines(self.process.stderr):
            self._stderr.append(line)
        self._errors_read.set()

    async def stop(self) -> int:
        """SIGTERM, a grace period, then SIGKILL; returns the exit status. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_GRACE_S):
                await self.process.wait()
        if self.process.poll() is None:
            self.process.kill()
        return await self.process.wait()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            yield buffer[:end].decode(errors="replace")
            del buffer[: end + 1]


def cocoon_command(*arguments: str) -> list[str]:
    """The command line that runs this very installation's `cocoon`."""
    return [sys.executable, "-m", "overlay.cli", *arguments]


@asynccontextmanager
async def run_process(
    name: str,
    arguments: Sequence[str],
    *,
    home: Path,
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
) -> AsyncIterator[CocoonProcess]:
    """Run `cocoon ARGUMENTS --json` for the length of the block, with ``home`` as its `$COCOON_HOME`."""
    command = cocoon_command(*arguments, "--json")
    async with run_command(name, command, home=home, environ=environ, on_event=on_event) as running:
        yield running


@asynccontextmanager
async def run_command(
    name: str,
    command: Sequence[str],
    *,
    home: Path,
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
) -> AsyncIterator[CocoonProcess]:
    """The same for any command that prints JSON event lines."""
    environment = {**os.environ, **(environ or {}), "COCOON_HOME": str(home)}
    process = await trio.lowlevel.open_process(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    running = CocoonProcess(name, process)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running._read_events, on_event)
            nursery.start_soon(running._read_errors)
            try:
                yield running
            except BaseException as error:
                failure = error
                raise
            finally:
                with trio.CancelScope(shield=True):
                    await running.stop()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is ours, not the user's: his exception comes out as it went in.
        if failure is not None and group.exceptions == (failure,):
            raise failure from None
        raise
