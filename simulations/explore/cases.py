"""Running one case after another in a process of their own, whose death or delay is the case's failure, not ours."""

from __future__ import annotations

import selectors
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import IO

import msgspec
import psutil

from simulations.explore import limits
from simulations.explore.child import WORLD
from simulations.explore.failures import DIED, DIVERGED, TIMEOUT, Failure, Outcome
from simulations.scenarios.model import Scenario
from simulations.scenarios.reading import to_tree


class CaseRunner:
    """Runs cases one at a time. For one thread; a context manager. ``entry`` is ``module:function`` of the world."""

    def __init__(
        self, entry: str = WORLD, cpu_s: float = limits.CASE_CPU_S, wall_s: float = limits.CASE_WALL_S
    ) -> None:
        self._entry = entry
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._served = 0
        self._busy = threading.Lock()

    def __enter__(self) -> CaseRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, scenario: Scenario, seed: int) -> Outcome:
        """The outcome, whatever happens to the process."""
        with self._busy:
            return self._run(scenario, seed)

    def _run(self, scenario: Scenario, seed: int) -> Outcome:
        if self._process is None or self._served >= limits.CASES_PER_PROCESS or self._process.poll() is not None:
            self._end()
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        self._served += 1
        question = msgspec.json.encode({"scenario": to_tree(scenario), "seed": seed})
        try:
            process.stdin.write(question + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died(process)
        line = self._line(process)
        if line is None:
            self._end()
            what = f"it took more than {self._cpu_s:g} s of CPU, or {self._wall_s:g} s of waiting, and was ended"
            return Outcome(Failure(TIMEOUT, "", what), cpu_s=self._cpu_s)
        if not line.endswith(b"\n"):
            return self._died(process)
        return msgspec.json.decode(line, type=Outcome)

    def run_twice(self, scenario: Scenario, seed: int) -> Outcome:
        """The outcome, with a second run in a fresh process that has to agree on the digest."""
        first = self.run(scenario, seed)
        if first.failure is not None:
            return first
        self.close()
        second = self.run(scenario, seed)
        if second.failure is not None or second.digest == first.digest:
            return second
        what = (
            f"the first run gave {first.digest} ({first.events} events), the second {second.digest} ({second.events})"
        )
        return msgspec.structs.replace(first, failure=Failure(DIVERGED, "", what, digest=first.digest))

    def close(self) -> None:
        """End the process, if there is one; a case that another thread runs in it fails."""
        if (process := self._process) is not None:
            process.kill()
        with self._busy:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _start(self) -> None:
        self._served = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulations.explore.child", self._entry, str(limits.CASE_MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )

    def _line(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """One line; without its end when the process ends first or says too much, ``None`` when time is up."""
        assert process.stdout is not None
        deadline = time.monotonic() + self._wall_s
        most_cpu_s = _cpu_s(process) + self._cpu_s
        read = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not read.endswith(b"\n"):
                if not selector.select(limits.LOOK_S):
                    if time.monotonic() >= deadline or _cpu_s(process) >= most_cpu_s:
                        return None
                    continue
                some = process.stdout.read1(65_536)  # type: ignore[attr-defined]  # a buffered reader
                if not some or len(read) > limits.REPLY_BYTES:
                    return read
                read += some
        return read

    def _died(self, process: subprocess.Popen[bytes]) -> Outcome:
        words = b""
        try:
            status = process.wait(5.0)
        except subprocess.TimeoutExpired:
            status = 0
        if self._stderr is not None:
            end = self._stderr.seek(0, 2)
            self._stderr.seek(max(0, end - limits.LAST_WORDS_BYTES))
            words = self._stderr.read()
        self._end()
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        what = f"its process ended ({how}) {words.decode('utf-8', 'replace').strip()}".strip()
        return Outcome(Failure(DIED, how, what))


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    """What a process has used; 0 when it is gone."""
    try:
        used = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(used.user + used.system)


_runners = threading.local()
_all_runners: list[CaseRunner] = []


def runner_of_this_thread(entry: str, cpu_s: float) -> CaseRunner:
    """One that is kept for the next case of the same thread: starting a process takes a second."""
    kept: tuple[tuple[str, float], CaseRunner] | None = getattr(_runners, "kept", None)
    if kept is None or kept[0] != (entry, cpu_s):
        kept = _runners.kept = (entry, cpu_s), CaseRunner(entry, cpu_s)
    if kept[1] not in _all_runners:
        _all_runners.append(kept[1])
    return kept[1]


def close_runners() -> None:
    """End all processes that were kept; call it when no case runs."""
    while _all_runners:
        _all_runners.pop().close()
