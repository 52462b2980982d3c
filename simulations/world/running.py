"""One run of a scenario: the same commit and seed give the same events, to the byte."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from simulations.commit import commit
from simulations.determinism import EventLog, freeze_again, frozen_heap, run_seeded
from simulations.results import RunResult, Sample, Violation
from simulations.scenarios.model import Scenario
from simulations.world import attackers
from simulations.world.buying import Order
from simulations.world.efficiency import reached
from simulations.world.invariants import Broken, Invariants
from simulations.world.measures import marks
from simulations.world.policies import OURS, Policy, policy
from simulations.world.sampling import Sampler, providers, traffic
from simulations.world.world import World

SETTLE_S = 60.0
"""After the last node has joined, the population is taken out of the garbage collector's sight."""


class Tape(EventLog):
    """An event log that stops the run when it has so many events; what would come after is not recorded."""

    def __init__(self, until: int | None, tell: Callable[[str], None] | None) -> None:
        super().__init__(tell)
        self._until = until
        self.stop: Callable[[], None] = lambda: None
        self.stopped = False

    def event(self, kind: int, tick: int, source: int, target: int, payload: bytes = b"") -> None:
        """Record one, unless the end was reached."""
        if self.stopped:
            return
        super().event(kind, tick, source, target, payload)
        if self._until is not None and self.count >= self._until:
            self.halt()

    def halt(self) -> None:
        """The run ends here."""
        self.stopped = True
        self.stop()


def run(
    scenario: Scenario,
    seed: int,
    *,
    until_event: int | None = None,
    until_s: float | None = None,
    on_sample: Callable[[Sample], None] | None = None,
    tell: Callable[[str], None] | None = None,
    baseline: str = OURS,
) -> RunResult:
    """Run ``scenario`` in virtual time, in this thread, to its end, to ``until_s``, or until there were ``until_event``
    events. ``on_sample`` hears every sample as it is taken, ``tell`` every event. KeyboardInterrupt ends a run early:
    the result then says so. ``baseline`` puts another policy (:mod:`simulations.world.policies`) in the place of our
    market. Raises ``ValueError`` for one that does not exist."""
    plays = policy(baseline)
    scenario = plays.scenario(scenario)
    began, cpu = time.perf_counter(), time.process_time()
    tape = Tape(until_event, tell)
    samples: list[Sample] = []

    def sampled(sample: Sample) -> None:
        samples.append(sample)
        if on_sample is not None:
            on_sample(sample)

    outcome = run_seeded(seed, _live, scenario, seed, tape, until_s, sampled, plays)
    world, reached_s, violations, stopped = outcome
    result = RunResult(
        scenario=scenario.name, title=scenario.title, about=scenario.about.strip(), seed=seed, commit=commit(),
        duration_s=scenario.duration_s,
        virtual_s=round(reached_s, 3), complete=not stopped and not violations, digest=tape.digest, events=tape.count,
        stopped_because=stopped, wall_s=time.perf_counter() - began, cpu_s=time.process_time() - cpu,
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, warmup_s=scenario.warmup_s,
        samples=tuple(samples),
        jobs=tuple(order.row(world.numbers.get(order.provider)) if order.provider else order.row(None)
                   for order in world.orders),
        providers=providers(world), clients=len(world.clients), attackers=attackers.outcomes(world),
        traffic=traffic(world),
        happenings=tuple(world.happenings), violations=tuple(violations),
        chain_fees_nanoton=world.chain.model.fees_nanoton, warnings=dict(sorted(world.lines.items())),
    )  # fmt: skip
    if (found := reached(result)) is not None:
        result = msgspec.structs.replace(result, efficiency={plays.name: found.share}, losses=found.losses)
    return msgspec.structs.replace(result, marks=marks(result, scenario))


async def _live(
    scenario: Scenario, seed: int, tape: Tape, until_s: float | None, sampled: Callable[[Sample], None], plays: Policy
) -> tuple[World, float, list[Violation], str]:
    end_s = scenario.duration_s if until_s is None else min(until_s, scenario.duration_s)
    violations: list[Violation] = []
    stopped = ""
    async with World.opened(scenario, seed, tape, plays) as world:
        with trio.CancelScope() as scope:
            tape.stop = scope.cancel
            sampler, invariants = Sampler(world), Invariants(world)

            def guarded(check: Callable[[], None]) -> None:
                try:
                    check()
                except Broken as broken:
                    if not violations:
                        violations.append(invariants.violation(broken))
                    tape.halt()

            def ended(order: Order) -> None:
                sampler.note(order)
                guarded(partial(invariants.after_order, order))

            world.on_order = ended
            world.chain.on_block = partial(guarded, invariants.after_block)
            world.start()
            joins = [group.joins_s[1] for group in scenario.providers] + [
                group.joins_s[1] for group in scenario.clients
            ]
            settled_s = max(joins, default=0.0) + SETTLE_S
            with frozen_heap():
                try:
                    while trio.current_time() < end_s:
                        await trio.sleep_until(min(end_s, trio.current_time() + scenario.sample_s))
                        sampled(sampler.take())
                        if trio.current_time() >= settled_s:
                            settled_s = math.inf
                            freeze_again()
                        guarded(invariants.now)
                except KeyboardInterrupt:
                    stopped = "interrupted"
        reached_s = trio.current_time()
        tape.stopped = True
        if violations:
            stopped = f"an invariant was broken: {violations[0].invariant}"
        elif scope.cancelled_caught:
            stopped = f"event {tape.count} was reached"
        elif not stopped and end_s < scenario.duration_s:
            stopped = f"second {end_s:g} was reached"
        world.end()
        return world, reached_s, violations, stopped


__all__ = ["Tape", "run"]
