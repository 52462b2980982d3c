"""One seed, one run: trio with a seeded scheduler on a virtual clock, and a log whose hash says whether two runs agree.

This is the one place that touches three private names of trio (pinned to 0.35 in pyproject for it).
``_ALLOW_DETERMINISTIC_SCHEDULING`` makes the run loop sort each batch of runnable tasks by their creation before it
shuffles them, ``_r`` is the generator that shuffles, and ``GLOBAL_RUN_CONTEXT.runner`` has the loop's way to ask the
kernel, which a run without sockets can do without. With both set, and with a clock that no wall time moves,
a program that takes randomness, time and network as arguments replays byte for byte, in any process and under any
``PYTHONHASHSEED``. What breaks it: ``time``, ``random`` and ``os.urandom`` used directly, iteration over sets (of text,
or of objects hashed by address), real threads, real sockets.
"""

from __future__ import annotations

import gc
import hashlib
import math
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio._core._run as trio_run

T = TypeVar("T")

_TRIO: Any = trio_run  # the three names are private, hence unknown to type checkers
_HEADER = struct.Struct("<QBIII")
_ASKED_IN = 64
_BATCH_EVENTS = 4096  # hashed together: one call for each is three times as dear


class JumpClock(trio.abc.Clock):
    """Virtual time from 0: when all tasks wait, it is the next deadline at once.

    As trio's ``MockClock(autojump_threshold=0)``, without its gathering of statistics and a pass of the run loop for
    each jump. There must be nothing to wait for but deadlines: no threads and no sockets.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.before: Callable[[float], float] | None = None
        """Told the next deadline when no task can run; the time to go to, at most that, after making somebody runnable
        who waits for it without a deadline."""

    def start_clock(self) -> None:
        """It stands until somebody waits."""

    def current_time(self) -> float:
        """Seconds."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked when no task can run: be there. Nobody sleeps, but for the end of all things."""
        if self.before is not None:
            deadline = self.before(deadline)
        if deadline == math.inf:
            return math.inf
        if deadline > self._now:
            self._now = deadline
        return 0.0


class _RarelyAsked:
    """The run loop's selector, of a run with nothing to select: it is asked in one of :data:`_ASKED_IN` passes, for the
    signal that ends a program (Ctrl-C). A system call in each pass was 4 % of a large run."""

    def __init__(self, selector: Any) -> None:
        self._selector = selector
        self._passes = 0

    def get_events(self, timeout: float) -> Any:
        self._passes += 1
        if timeout <= 0 and self._passes % _ASKED_IN:
            return ()
        return self._selector.get_events(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


async def _without_sockets(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    runner = _TRIO.GLOBAL_RUN_CONTEXT.runner
    runner.io_manager = _RarelyAsked(runner.io_manager)
    return await main(*args)


def run_seeded(seed: int, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Like ``trio.run(main, *args)``, in virtual time that begins at 0, the order of tasks drawn from ``seed``.

    Time moves when all tasks wait, and then at once to the next deadline. The scheduler is as it was before afterwards,
    whatever ``main`` raises.
    """
    allowed, state = _TRIO._ALLOW_DETERMINISTIC_SCHEDULING, _TRIO._r.getstate()
    _TRIO._ALLOW_DETERMINISTIC_SCHEDULING = True
    _TRIO._r.seed(seed)
    try:
        return trio.run(_without_sockets, main, *args, clock=JumpClock())
    finally:
        _TRIO._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        _TRIO._r.setstate(state)


class EventLog:
    """What happened, in order, as a running BLAKE2b hash: two runs with one digest had the same events.

    ``tell``, if given, gets a line for each event, to find where two runs part.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.count = 0
        """Events so far."""
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[bytes] = []
        self._tell = tell

    def event(self, kind: int, tick: int, source: int, target: int, payload: bytes = b"") -> None:
        """Something of ``kind`` (a small integer) happened at ``tick`` between two parties, named by number."""
        self.count += 1
        pending = self._pending
        pending.append(_HEADER.pack(tick, kind, source, target, len(payload)))
        if payload:
            pending.append(payload)
        if len(pending) >= _BATCH_EVENTS:
            self._flush()
        if self._tell is not None:
            self._tell(f"{tick} {kind} {source} {target} {payload.hex()}")

    def note(self, *words: object) -> None:
        """A line of the scenario's own: ``words`` must print the same in every run (no addresses of objects)."""
        text = " ".join(map(str, words))
        self.event(0, round(trio.current_time() * 1e9), 0, 0, text.encode())

    def _flush(self) -> None:
        self._hash.update(b"".join(self._pending))
        self._pending.clear()

    @property
    def digest(self) -> str:
        """The hash of all events so far, in hexadecimal."""
        self._flush()
        return self._hash.hexdigest()


def freeze_again() -> None:
    """Inside :func:`frozen_heap`: a population has come up since, and stays."""
    gc.collect()
    gc.freeze()


@contextmanager
def frozen_heap(threshold: int = 100_000) -> Iterator[None]:
    """Leave what exists now to itself: the collector looks only at what is made inside the block, and less often.

    A swarm of 10,000 nodes is millions of objects that live to the end; walking them again and again took half of the
    run. ``threshold`` is the number of new objects between two collections of the youngest; the oldest are hardly ever
    looked at, since what lived through two of those lives on: one look took seconds, with a thousand nodes.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold, 20, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
