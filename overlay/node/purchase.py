"""A job that this client buys: as its reader sees it while it runs, and what is told of it when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import trio

from compute.tasks import Event, Finished, Started, Task, TextDelta
from compute.usage import Prices, Usage
from overlay.jobs import JobRun
from overlay.market.selection import MAIN_UNIT
from overlay.node.deals import Deal
from overlay.node.reputation import Served
from overlay.node.upkeep import Tally, all_of
from transport.identity import PeerId


@dataclass
class ClientRun:
    """A running job, as the gateway and the command line see it: iterate for batches of events."""

    run: JobRun
    deal: Deal
    model: str
    task: Task
    _first: Sequence[Event] | None
    tries: int = 1
    """Providers that it was offered to, the one that serves it among them."""
    due_s: float = 0.0
    """How long it was to wait, as its provider had announced."""
    first_s: float = 0.0
    """After which the first events came, since it was sent."""
    waited_s: float = 0.0
    """Spent waiting for events, the first ones included: what its reader does between them does not count."""
    things: int = 0
    """Deltas with something in them, and vectors, that came."""
    reason: str = ""
    """Why it ended, as its last event says; empty before that."""
    waits_since_s: float = inf
    """Since when its reader has waited for what comes next, by trio's clock."""

    @property
    def provider(self) -> PeerId:
        """Who serves it."""
        return self.deal.link.peer

    @property
    def relayed(self) -> bool:
        """Whether a third party carries the encrypted bytes."""
        return self.deal.link.tunnel.relayed

    @property
    def prices(self) -> Prices:
        """The agreed prices."""
        return self.deal.agreement.body.prices

    @property
    def usage(self) -> Usage:
        """What came so far."""
        return self.run.usage

    @property
    def paid_nanoton(self) -> int:
        """What that costs."""
        return self.run.cost_nanoton

    def __aiter__(self) -> ClientRun:
        return self

    async def __anext__(self) -> list[Event]:
        if self._first is not None:
            first, self._first = self._first, None
            return self._noted(list(first))
        self.waits_since_s = since_s = trio.current_time()
        try:
            return self._noted(list(await self.run.__anext__()))
        finally:
            self.waits_since_s = inf
            self.waited_s += trio.current_time() - since_s

    def _noted(self, events: list[Event]) -> list[Event]:
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                self.things += bool(event.text)  # type: ignore[union-attr]  # its exact type was looked at
            elif kind is Finished:
                self.reason = event.reason  # type: ignore[union-attr]  # the same
            elif kind is not Started:
                self.things += 1
        return events

    def served(self) -> Served:
        """What to remember of its provider."""
        usage = self.run.usage
        units = usage.get(MAIN_UNIT[self.task])
        return Served(self.model, units, self.run.text_bytes, self.due_s, self.first_s, self.waited_s)


class BoughtTally(Tally[ClientRun]):
    """Jobs that this client bought."""

    def _tell_one(self, ended: ClientRun) -> None:
        ask = ended.deal.ask.cost_nanoton(ended.usage)
        self._log.info(
            "job_done", f"{ended.task} by …{ended.provider[-8:]}: {ended.paid_nanoton} nanoTON",
            task=ended.task.value, model=ended.model, provider=ended.provider, units=ended.usage.to_wire(),
            prices=ended.prices.to_wire(), ask_nanoton=ask, paid_nanoton=ended.paid_nanoton, relayed=ended.relayed,
            jobs=1,
        )  # fmt: skip

    def _tell_many(self, ended: Sequence[ClientRun]) -> None:
        usage, tasks = all_of(ended)
        paid = sum(run.paid_nanoton for run in ended)
        providers = len({run.provider for run in ended})
        self._log.info(
            "job_done", f"{tasks} by {providers} provider{'s' if providers > 1 else ''}: {paid} nanoTON",
            jobs=len(ended), units=usage.to_wire(), paid_nanoton=paid,
        )  # fmt: skip
