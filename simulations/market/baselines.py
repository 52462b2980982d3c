"""What others do, as policies of the same market: the same jobs, machines and bound.

Both are given more than they have: margins that were tuned for this population; a view of every worker that is always
fresh (Cocoon); requestors that skip whoever would be too late or not worth it (Golem).
"""

from __future__ import annotations

from simulations.market.floor import ROUND_TRIP_S, Floor, Machine, Policy
from simulations.market.workload import UNIT_NANOTON, Job

COCOON_MARGIN = 2.0
GOLEM_MARGIN = 1.6
"""Price over cost. Of 1.2 to 3.0 in steps of a fifth these do best in the steady segment (three seeds)."""

PROPOSALS = 64
"""How many providers a Golem requestor tries for one job before it waits and looks again: as many as a client of ours
looks at."""


class _Posted(Policy):
    """Prices that do not move: the cost times a margin."""

    def __init__(self, margin: float) -> None:
        self._margin = margin

    def begin(self, floor: Floor) -> None:
        """Prices are posted once."""
        self._floor = floor
        self._prices = [self._price(m.provider.cost_nanoton_per_munit) for m in floor.machines]
        self._tried: dict[int, list[int]] = {}

    def _price(self, cost_nanoton_per_munit: int) -> int:
        return round(cost_nanoton_per_munit * self._margin)

    def asks(self, machine: Machine) -> float:
        """The posted price."""
        return self._prices[machine.provider.number]

    def _worth(self, job: Job, machine: Machine, now: float) -> bool:
        """Whether a job that starts now would be in time and worth its price."""
        latency = now - job.at_s + ROUND_TRIP_S + job.units / machine.provider.units_per_s
        return job.value_nanoton(latency) >= self._prices[machine.provider.number] * job.units / 1e6

    def _begin_job(self, job: Job, number: int, now: float) -> bool:
        machine = self._floor.machines[number]
        free = machine.up and machine.admission.busy < machine.admission.slots
        return free and self._floor.start(job, number, self._prices[number], now, now)


class Cocoon(_Posted):
    """One network price times a coefficient that each worker sets by hand; a proxy sends a job to the least loaded
    worker whose price is under the client's cap."""

    name = "cocoon"

    def __init__(self, margin: float = COCOON_MARGIN) -> None:
        super().__init__(margin)

    def _price(self, cost_nanoton_per_munit: int) -> int:
        coefficient = max(1, round(20 * self._margin * cost_nanoton_per_munit / UNIT_NANOTON))
        return UNIT_NANOTON * coefficient // 20

    def want(self, job: Job, now: float) -> None:
        """Find it a provider."""
        self._floor.outcomes[job.number].messages += 2
        best = None
        for machine in self._floor.machines:
            admission = machine.admission
            affordable = self._prices[machine.provider.number] <= job.value_nanoton_per_munit
            if machine.up and affordable and admission.busy < admission.slots:
                load = admission.busy * admission.service_s()
                if best is None or (load, machine.provider.number) < best:
                    best = (load, machine.provider.number)
        if best is None:
            self._floor.nobody(job, now)
        else:
            self._floor.at(now + ROUND_TRIP_S, self._sent, job, best[1])

    def _sent(self, job: Job, number: int, now: float) -> None:
        self._floor.outcomes[job.number].messages += 2
        if not self._begin_job(job, number, now):
            self._floor.nobody(job, now)


class Golem(_Posted):
    """Each provider posts a price; a requestor proposes to the cheapest first, who accepts if a slot is free or
    rejects, and then to the next."""

    name = "golem"

    def __init__(self, margin: float = GOLEM_MARGIN) -> None:
        super().__init__(margin)

    def want(self, job: Job, now: float) -> None:
        """Find it a provider."""
        worth = [m.provider.number for m in self._floor.machines if self._worth(job, m, now)]
        self._tried[job.number] = sorted(worth, key=lambda n: (self._prices[n], n))[:PROPOSALS]
        self._propose(job, now)

    def _propose(self, job: Job, now: float) -> None:
        order = self._tried[job.number]
        if not order:
            self._floor.nobody(job, now)
            return
        self._floor.outcomes[job.number].messages += 2
        self._floor.at(now + ROUND_TRIP_S, self._answered, job, order.pop(0))

    def _answered(self, job: Job, number: int, now: float) -> None:
        outcome = self._floor.outcomes[job.number]
        if self._worth(job, self._floor.machines[number], now) and self._begin_job(job, number, now):
            outcome.messages += 2
        else:
            self._propose(job, now)
