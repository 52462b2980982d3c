"""Searching for failing cases on all cores, or on a cluster: one random mix for each seed, failures made small.

Dask carries the cases (its event loop is asyncio, in threads of its own: call :func:`explore` from plain code, not from
trio). On each worker a case runs in a process of its own, whose death is a finding; a whole worker's death is one too.
"""

from __future__ import annotations

import logging
import queue
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from overlay.errors import CocoonError, ConfigError
from simulations.commit import commit
from simulations.explore import limits, replays
from simulations.explore.cases import close_runners, runner_of_this_thread
from simulations.explore.child import WORLD
from simulations.explore.failures import DIED, TIMEOUT, Failure, Outcome
from simulations.explore.mixes import mix
from simulations.explore.shrinking import shrink, size
from simulations.files import MIB, OutputError, prepare_directory
from simulations.scenarios.model import Scenario

LOOPBACK = "127.0.0.1:0"
"""Where Dask's status pages of a local cluster listen: it has no way to do without them."""

CONNECT_S = 10.0
"""For reaching a scheduler, which is one that was started before."""

POLL_S = 0.5
"""Between two looks at what is done: how live the progress is."""


class ClusterError(CocoonError):
    """The cluster cannot be used."""

    code = "cluster"
    exit_code = 5


@dataclass(frozen=True)
class Search:
    """What is searched, and how."""

    seeds: Sequence[int]
    minutes: float
    directory: Path
    """Where replay files go."""
    workers: int = 1
    scheduler: str | None = None
    """Address of a Dask scheduler; ``None`` starts a local cluster with ``workers``."""
    entry: str = WORLD
    """``module:function`` of the world; tests have one of their own."""
    case_cpu_s: float = limits.CASE_CPU_S
    make: Callable[[int], Scenario] = mix
    """The scenario of a seed; importable on the workers."""


class Finding(msgspec.Struct, frozen=True):
    """A failing case, and its smallest form where it was made small."""

    seed: int
    failure: Failure
    file: str
    smallest_file: str = ""
    shrink_runs: int = 0


@dataclass
class State:
    """How far a search is; updated in place, for showing progress."""

    seeds: int
    ran: int = 0
    events: int = 0
    jobs: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    running: int = 0
    shrinking: int = 0
    findings: list[Finding] = field(default_factory=list)
    smallest: dict[str, str] = field(default_factory=dict)
    """The file of the smallest case, by signature."""
    stopped_because: str = ""
    """Empty while it runs and when all seeds ran."""

    @property
    def clean(self) -> bool:
        """Whether nothing failed."""
        return not self.findings


def run_seed(seed: int, make: Callable[[int], Scenario], entry: str, cpu_s: float) -> tuple[Scenario, Outcome]:
    """One case, on a worker: now and then twice, in two processes that have to agree."""
    scenario = make(seed)
    runner = runner_of_this_thread(entry, cpu_s)
    run = runner.run_twice if seed % limits.TWICE_EVERY == 0 else runner.run
    return scenario, run(scenario, seed)


def shrink_case(
    scenario: Scenario, seed: int, failure: Failure, entry: str, cpu_s: float, max_s: float
) -> tuple[Scenario, int, Failure, int]:
    """The smallest form of a failing case, on a worker."""
    runner = runner_of_this_thread(entry, cpu_s)
    twice = failure.kind == "diverged"

    def fails(candidate: Scenario, its_seed: int) -> Failure | None:
        run = runner.run_twice if twice else runner.run
        return run(candidate, its_seed).failure

    done = shrink(scenario, seed, failure, fails, clock=time.monotonic, max_s=max_s)
    return done.scenario, done.seed, done.failure, done.runs


def commit_here() -> str:
    """The commit of the program that a worker runs."""
    return commit()


def explore(search: Search, on_progress: Callable[[State], None] | None = None) -> State:
    """Run the seeds until all have run, the minutes are over, or Ctrl-C; every failing case is a file at once.

    Raises :class:`~simulations.scenarios.tree.ScenarioError` when seeds give no scenario,
    :class:`~overlay.errors.ConfigError` when Dask is not installed, :class:`ClusterError` for a cluster that
    cannot be used, :class:`~simulations.files.OutputError` when files cannot be written.
    """
    prepare_directory(search.directory, 64 * MIB, "--out")
    for seed in search.seeds[:1]:
        search.make(seed)  # what is wrong with every seed is told here, once
    state = State(len(search.seeds))
    with _client(search) as client:
        search_on = _Searcher(search, client, state, on_progress or (lambda _: None))
        try:
            search_on.run()
        except KeyboardInterrupt:
            state.stopped_because = "interrupted"
        finally:
            search_on.stop()
    return state


class _Searcher:
    """The loop: as many cases in flight as there are threads, shrinking before new seeds."""

    def __init__(self, search: Search, client: Any, state: State, on_progress: Callable[[State], None]) -> None:
        self.search, self.client, self.state, self.on_progress = search, client, state, on_progress
        self.slots = max(1, sum(client.nthreads().values()))
        self.started = time.monotonic()
        self.deadline = self.started + search.minutes * 60
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cases: dict[Any, int] = {}
        self._shrinks: dict[Any, tuple[int, Scenario, Failure]] = {}
        self._to_shrink: list[tuple[int, Scenario, Failure]] = []
        self._shrunk_of: dict[str, int] = {}
        self._best: dict[str, tuple[float, ...]] = {}

    def run(self) -> None:
        seeds = iter(self.search.seeds)
        more = True
        while True:
            self._shrink_waiting()
            more = more and self._take_seeds(seeds)
            if not (self._cases or self._shrinks):
                break
            try:
                future = self._done.get(timeout=POLL_S)
            except queue.Empty:
                pass
            else:
                if future in self._cases:
                    self._case_done(future, self._cases.pop(future))
                else:
                    self._shrink_done(future, *self._shrinks.pop(future))
            self._tell()

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        future = self.client.submit(work, *arguments, pure=False, retries=0)
        future.add_done_callback(self._done.put)
        return future

    def stop(self) -> None:
        """Nothing runs on afterwards, here or on the cluster."""
        self.client.cancel([*self._cases, *self._shrinks], force=True)
        self.state.wall_s = time.monotonic() - self.started

    def _tell(self) -> None:
        self.state.wall_s = time.monotonic() - self.started
        self.state.running, self.state.shrinking = len(self._cases), len(self._shrinks)
        self.on_progress(self.state)

    def _busy(self) -> int:
        return len(self._cases) + len(self._shrinks)

    def _shrink_waiting(self) -> None:
        """Submit what waits to be made small, also when no seeds are taken any more."""
        while self._to_shrink and self._busy() < self.slots:
            seed, scenario, failure = self._to_shrink.pop(0)
            left = max(60.0, self.deadline - time.monotonic())
            arguments = scenario, seed, failure, self.search.entry, self.search.case_cpu_s, min(limits.SHRINK_S, left)
            self._shrinks[self._submit(shrink_case, *arguments)] = seed, scenario, failure

    def _take_seeds(self, seeds: Iterator[int]) -> bool:
        """Submit cases until all slots are busy; whether there may be more seeds to come."""
        search = self.search
        while self._busy() < self.slots:
            if time.monotonic() >= self.deadline:
                self.state.stopped_because = f"{search.minutes:g} minutes are over"
                return False
            if len(self.state.findings) >= limits.MAX_FINDINGS:
                self.state.stopped_because = f"{limits.MAX_FINDINGS} cases fail: that is enough to work on"
                return False
            seed = next(seeds, None)
            if seed is None:
                return False
            future = self._submit(run_seed, seed, search.make, search.entry, search.case_cpu_s)
            self._cases[future] = seed
        return True

    def _case_done(self, future: Any, seed: int) -> None:
        self.state.ran += 1
        if future.status == "finished":
            scenario, outcome = future.result()
        else:
            scenario, outcome = self.search.make(seed), Outcome(_lost(future))
        self.state.events += outcome.events
        self.state.jobs += outcome.jobs
        self.state.virtual_s += outcome.virtual_s
        self.state.cpu_s += outcome.cpu_s
        if outcome.failure is not None:
            self._found(seed, scenario, outcome.failure)

    def _found(self, seed: int, scenario: Scenario, failure: Failure) -> None:
        file = f"{_slug(failure.signature)}-seed-{seed}.toml"
        self._write(file, scenario, seed, failure, f"found by exploring seed {seed}")
        self.state.findings.append(Finding(seed, failure, file))
        self._keep_smallest(failure.signature, scenario, seed, file)
        shrunk = self._shrunk_of.get(failure.signature, 0)
        if shrunk < limits.SHRINKS_PER_SIGNATURE and failure.kind != TIMEOUT:
            self._shrunk_of[failure.signature] = shrunk + 1
            self._to_shrink.append((seed, scenario, failure))

    def _shrink_done(self, future: Any, seed: int, scenario: Scenario, failure: Failure) -> None:
        if future.status != "finished":
            return  # the worker went while it shrank: the case as it was found is on disk
        small, small_seed, small_failure, runs = future.result()
        file = f"{_slug(failure.signature)}-seed-{seed}-small.toml"
        self._write(
            file, small, small_seed, small_failure, f"found by exploring seed {seed}, made small in {runs} runs"
        )
        for index, finding in enumerate(self.state.findings):
            if finding.seed == seed:
                self.state.findings[index] = msgspec.structs.replace(finding, smallest_file=file, shrink_runs=runs)
        self._keep_smallest(failure.signature, small, small_seed, file)

    def _keep_smallest(self, signature: str, scenario: Scenario, seed: int, file: str) -> None:
        measured = size(scenario, seed)
        if signature not in self._best or measured < self._best[signature]:
            self._best[signature] = measured
            self.state.smallest[signature] = file

    def _write(self, file: str, scenario: Scenario, seed: int, failure: Failure, note: str) -> None:
        path = self.search.directory / file
        try:
            replays.save(replays.Replay(scenario, seed, commit(), failure, note), path)
        except OSError as error:
            raise OutputError(
                f"{path}: {error.strerror or error}; {len(self.state.findings)} cases are there"
            ) from None


def _lost(future: Any) -> Failure:
    """The failure of a case that did not come back from its worker."""
    error = future.exception() if future.status == "error" else None
    if type(error).__name__ == "KilledWorker":
        return Failure(DIED, "worker", str(error))
    if error is not None:
        return Failure("crash", f"{type(error).__name__} outside of the run", str(error))
    return Failure(DIED, "worker", f"the case was {future.status}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


class _client:
    """A connected Dask client, and the local cluster behind it if there is no scheduler to connect to."""

    def __init__(self, search: Search) -> None:
        try:
            import distributed
        except ImportError:
            raise ConfigError(
                "Dask is not installed, which carries the search; install it with `pip install 'cocoon-node[sim]'`"
            ) from None
        self._distributed: Any = distributed
        self._search = search
        self._cluster: Any = None
        self._client: Any = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Any:
        distributed = self._distributed
        if self._search.scheduler is None:
            # Threads are enough: each case has a process of its own, and they start at once.
            self._scratch = tempfile.TemporaryDirectory(prefix="cocoon-explore-")
            self._cluster = distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=self._search.workers,
                processes=False,
                dashboard_address=LOOPBACK,
                worker_dashboard_address=LOOPBACK,
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                local_directory=self._scratch.name,
            )
            self._client = distributed.Client(self._cluster, set_as_default=False)
            return self._client
        try:
            self._client = distributed.Client(self._search.scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"--scheduler {self._search.scheduler}: {error}; `dask scheduler` starts one, `dask worker` its workers"
            ) from None
        try:
            self._check_workers()
        except BaseException:
            self._client.close()
            raise
        return self._client

    def _check_workers(self) -> None:
        if not self._client.nthreads():
            raise ClusterError(f"--scheduler {self._search.scheduler}: no worker is there; start `dask worker`")
        for address, theirs in sorted(self._client.run(commit_here).items()):
            if theirs != commit():
                raise ClusterError(
                    f"worker {address} runs commit {theirs[:12]}, this is {commit()[:12]}: what it finds could not be "
                    "replayed here; bring both to the same commit"
                )

    def __exit__(self, *_: object) -> None:
        if self._cluster is None:
            self._client.run(close_runners)
            self._client.close()
        else:
            close_runners()  # first: a case that still runs would be waited for
            self._client.close()
            self._cluster.close()
        if self._scratch is not None:
            self._scratch.cleanup()
