"""A world that takes milliseconds and fails on demand: one event a virtual second, trouble by the kind of a fault."""

from __future__ import annotations

import os
import random
import time

from simulations.commit import commit
from simulations.determinism import EventLog
from simulations.results import Mark, RunResult, Sample, Violation
from simulations.scenarios.model import ClientGroup, Demand, Fault, ProviderGroup, Scenario

BREAKS, RAISES, SPINS, WAITS, DIES, DIVERGES = "loss", "crash", "freeze", "slow", "leave", "clock-skew"
"""Kinds of faults that mean this here."""

CLIENTS_TO_BREAK = 3


def run(scenario, seed, *, until_event=None, until_s=None, on_sample=None, tell=None, baseline="ours"):
    if baseline != "ours":
        seed += 1
    log, rng = EventLog(tell), random.Random(seed)
    clients = sum(group.count for group in scenario.clients)
    at_s, samples, violations = 0.0, [], ()
    while at_s < scenario.duration_s and log.count != until_event:
        log.event(1, int(at_s), rng.randrange(1 << 30), clients)
        for fault in scenario.faults:
            if fault.at_s <= at_s < fault.at_s + 1:
                _trouble(fault, log)
                if fault.kind == BREAKS and clients >= CLIENTS_TO_BREAK:
                    violations = (Violation("money is conserved", at_s, log.count, "1 nanoTON too many"),)
        if violations:
            break
        at_s += 1
        if at_s % scenario.sample_s == 0:
            samples.append(Sample(at_s, 1, clients, asked=int(at_s), done=int(at_s)))
            if on_sample:
                on_sample(samples[-1])
    return RunResult(
        scenario=scenario.name,
        title=scenario.title,
        seed=seed,
        commit=commit(),
        duration_s=scenario.duration_s,
        virtual_s=at_s,
        complete=not violations and log.count != until_event,
        digest=log.digest,
        events=log.count,
        samples=tuple(samples),
        marks=tuple(Mark(one.measure, 0.5, (one.at_least or 0) <= 0.5, one.at_least) for one in scenario.expect),
        violations=violations,
        efficiency={baseline: 0.9 if baseline == "ours" else 0.6},
        losses={"queue": 0.08, "idle": 0.02},
    )


def _trouble(fault, log):
    if fault.kind == RAISES:
        raise ValueError("the world fell over")
    while fault.kind == SPINS:
        pass
    if fault.kind == WAITS:
        time.sleep(60)
    if fault.kind == DIES:
        os._exit(7)
    if fault.kind == DIVERGES:
        log.event(2, os.getpid(), 0, 0)


def scenario(*kinds, clients=5):
    return Scenario(
        title="fake",
        about="",
        name="fake",
        duration_s=60.0,
        warmup_s=0.0,
        providers=(ProviderGroup("gpus", 2),),
        clients=(ClientGroup("people", clients, Demand(9.0)),),
        faults=tuple(Fault(kind, 20.0 + index) for index, kind in enumerate(kinds)),
    )


TROUBLE = {3: BREAKS, 7: RAISES}


def make(seed):
    """Seeds 3 and 7 fail, each in its way; the others are well."""
    return scenario(*([TROUBLE[seed]] if seed in TROUBLE else []))


def make_slow(seed):
    return scenario(SPINS)
