"""The process that runs cases: a JSON line with a scenario and a seed comes in, a JSON line with the outcome goes out.

``python -m simulations.explore.child module:function memory_bytes``, started by
:class:`simulations.explore.cases.CaseRunner`. A process of its own, because only a process can be ended when it takes
too long, and only a process's death is survived.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from simulations.explore.failures import Outcome, of_exception, of_result
from simulations.results import RunResult
from simulations.scenarios.model import Scenario

Run = Callable[..., RunResult]

WORLD = "simulations.world:run"


class Case(msgspec.Struct, frozen=True):
    """What is asked for."""

    scenario: dict[str, Any]
    seed: int


def resolve(entry: str) -> Run:
    """The function behind ``module:name``."""
    module, _, name = entry.partition(":")
    run: Run = getattr(importlib.import_module(module), name)
    return run


def outcome_of(run: Run, scenario: Scenario, seed: int) -> Outcome:
    """Run one case here and now; what it raises is a failure, not an exception."""
    before = time.process_time()
    try:
        result = run(scenario, seed)
    except Exception as error:
        return Outcome(of_exception(error), cpu_s=time.process_time() - before)
    failure = of_result(result)
    cpu_s = time.process_time() - before
    return Outcome(failure, result.digest, result.events, result.virtual_s, cpu_s, len(result.jobs))


def main() -> None:
    """Serve cases until standard input ends."""
    entry, memory_bytes = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a run prints is not a reply
    run = resolve(entry)
    for line in sys.stdin.buffer:
        case = msgspec.json.decode(line, type=Case)
        outcome = outcome_of(run, msgspec.convert(case.scenario, Scenario), case.seed)
        replies.write(msgspec.json.encode(outcome) + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
