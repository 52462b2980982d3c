"""An engine in a child process of its own, for libraries that hold the interpreter's lock or read strangers' files.

PocketSphinx keeps the lock for hundreds of milliseconds at a time, in which the node could not answer anybody; and a
codec that crashes on a crafted file takes only its process down. The child is trusted with requests but not believed:
what it sends back is JSON in the events' plain form, checked like a peer's. If it dies, its jobs fail, and the next job
starts another.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from compute import limits
from compute.codec import event_from_wire, event_to_wire
from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId, EngineUnavailable
from compute.tasks import Event, Finished, Request, Task, TaskError

STEP_WAIT_S = 1.0
"""How long a step waits for news of the child."""

CHILD_EXIT_S = 2.0
"""Time to end by itself once its input is closed."""


class IsolatedEngine:
    """Runs ``engine_class`` (``module:Class``) with ``options`` in a child and passes everything through."""

    def __init__(self, name: str, engine_class: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self._engine_class, self._options = engine_class, dict(options)
        self._child: subprocess.Popen[bytes] | None = None
        self._capabilities: tuple[Capability, ...] = ()
        self._jobs: set[EngineJobId] = set()
        self._unread = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def load(self) -> None:
        """Start the child and wait until its engine has loaded. Raises :class:`EngineUnavailable`."""
        self._stop_child()
        command = [sys.executable, "-m", "compute.engines.isolated", self._engine_class]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._unread = b""
        self._send(self._options)
        kind, *rest = self._receive_line()
        if kind != "ready":
            self._stop_child()
            raise EngineUnavailable(str(rest[0]) if rest else "the engine's process did not start")
        self._capabilities = tuple(Capability(**{**fields, "task": Task(fields["task"])}) for fields in rest[0])

    def capabilities(self) -> Sequence[Capability]:
        """What the child's engine serves."""
        return self._capabilities

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Send a job to the child, starting another child if the last one died."""
        if self._child is None or self._child.poll() is not None:
            self.load()
        self._jobs.add(job)
        self._send(("submit", job, request))

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Wait for the child's news. Raises :class:`EngineFailure` when it died."""
        child = self._child
        if child is None or child.stdout is None:
            return []
        output = child.stdout.fileno()
        ready, _, _ = select.select([output, self._wake_read], [], [], STEP_WAIT_S)
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if output not in ready:
            return []
        block = os.read(output, 1 << 16)
        if not block:
            self._jobs.clear()
            self._stop_child()
            raise EngineFailure("the engine's process died; the next job starts another")
        *lines, self._unread = (self._unread + block).split(b"\n")
        if len(self._unread) > limits.MAX_UPSTREAM_LINE_BYTES:
            raise EngineFailure("the engine's process sent a line without end")
        return [item for line in lines if (item := self._item(line)) is not None]

    def _item(self, line: bytes) -> tuple[EngineJobId, Event | Exception] | None:
        try:
            kind, job, *rest = json.loads(line)
            item: Event | Exception
            if kind == "event":
                item = event_from_wire(rest[0])
            else:
                item = TaskError(str(rest[0]), param=rest[1]) if kind == "task_error" else EngineFailure(str(rest[0]))
        except (ValueError, IndexError, TypeError) as error:
            raise EngineFailure(f"the engine's process sent nonsense: {error}") from error
        if job not in self._jobs:
            return None  # cancelled, while this was on its way
        if isinstance(item, Finished | Exception):
            self._jobs.discard(job)
        return job, item

    def wake(self) -> None:
        """Make :meth:`step` return."""
        with suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"w")

    def cancel(self, job: EngineJobId) -> None:
        """Tell the child to stop a job."""
        if job in self._jobs:
            self._jobs.discard(job)
            with suppress(EngineFailure):
                self._send(("cancel", job, None))

    def close(self) -> None:
        """End the child."""
        self._jobs.clear()
        self._stop_child()
        for end in ("_wake_read", "_wake_write"):
            if (descriptor := getattr(self, end)) >= 0:
                os.close(descriptor)
                setattr(self, end, -1)

    def _send(self, message: object) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            packed = pickle.dumps(message)
            self._child.stdin.write(len(packed).to_bytes(8, "little") + packed)
            self._child.stdin.flush()
        except OSError as error:
            raise EngineFailure(f"the engine's process died: {error}") from error

    def _receive_line(self) -> list[Any]:
        assert self._child is not None
        assert self._child.stdout is not None
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._child.stdout.fileno(), 1)):
            line += byte
        try:
            return list(json.loads(line))
        except ValueError:
            return [""]

    def _stop_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(OSError):
            child.stdin.close()
        try:
            child.wait(CHILD_EXIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def pocketsphinx(*, model: str = "pocketsphinx-en-us") -> IsolatedEngine:
    """The engine :class:`~compute.engines.pocketsphinx.PocketSphinxEngine` in a child."""
    return IsolatedEngine("pocketsphinx", "compute.engines.pocketsphinx:PocketSphinxEngine", {"model": model})


# --- in the child --------------------------------------------------------------------------------------------------


def serve(engine_class: str) -> None:
    """The child's main: options, then jobs come in on standard input; events leave on standard output."""
    from importlib import import_module

    # Ctrl-C reaches the whole process group; when to end is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not disturb the protocol
    # Unbuffered: what select() does not see is not there.
    messages = os.fdopen(os.dup(0), "rb", buffering=0)

    def read(size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (block := messages.read(min(size - len(data), 1 << 20))):
            data += block
        return bytes(data)

    def receive() -> Any:
        """The next message, ``None`` once the parent has closed or died."""
        header = read(8)

        size = int.from_bytes(header, "little")
        return pickle.loads(read(size)) if len(header) == 8 else None  # noqa: S301  # only the parent writes here

    def send(*message: object) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(out, data) :]

    module, _, name = engine_class.partition(":")
    try:
        engine: Engine = getattr(import_module(module), name)(**receive())
        engine.load()
    except Exception as error:  # whatever it is, the parent reports it
        send("failed", str(error) if isinstance(error, EngineUnavailable) else f"{type(error).__name__}: {error}")
        return
    send("ready", [vars(capability) for capability in engine.capabilities()])
    active: set[EngineJobId] = set()
    while True:
        while not active or select.select([messages], [], [], 0)[0]:
            message = receive()
            if message is None:
                engine.close()
                return
            _obey(engine, message, active, send)
        for job, item in engine.step():
            if isinstance(item, Finished | Exception):
                active.discard(job)
            _report(job, item, send)


def _obey(engine: Engine, message: Any, active: set[EngineJobId], send: Any) -> None:
    kind, job, request = message
    if kind == "cancel":
        active.discard(job)
        engine.cancel(job)
        return
    try:
        engine.submit(job, request)
        active.add(job)
    except Exception as error:  # the job's end, not the process's
        _report(job, error, send)


def _report(job: EngineJobId, item: Event | Exception, send: Any) -> None:
    if isinstance(item, TaskError):
        send("task_error", job, str(item), item.param)
    elif isinstance(item, Exception):
        send("failure", job, str(item))
    else:
        send("event", job, event_to_wire(item))


if __name__ == "__main__":
    serve(sys.argv[1])
