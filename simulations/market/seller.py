"""A provider of the market: production's shop window and price controller over a machine, and what it tells the index.

Deviations are what a provider may do against the rules of the shipped software: it runs its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from compute.engines.base import Capability
from compute.scheduler import Load as EngineLoad
from compute.scheduler import Scheduler
from compute.tasks import Task
from compute.usage import Prices
from dht import CapacityRecord, Offer
from dht.announcing import due_at
from overlay.config import Config, NodeSection, PriceSection
from overlay.market import Candidate, Listing, Refusal, Tier
from overlay.market.controller import SHIPPED, Tuning
from overlay.node.shop import Shop, Told
from simulations.market.floor import MODEL, QUEUE, TASK, UNIT, Machine
from transport.identity import PeerId


@dataclass(frozen=True)
class Conduct:
    """How a provider behaves. ``markup`` multiplies what it asks and quotes, ``bias`` adds to the load that it tells
    the index (1 is a whole set of busy slots), ``tuning`` is its controller's; a ``deaf`` one ignores what others
    tell."""

    markup: float = 1.0
    bias: float = 0.0
    tuning: Tuning = SHIPPED
    deaf: bool = False


HONEST = Conduct()


class _Engine(Scheduler):
    """What the shop asks of a scheduler, answered by a machine."""

    def __init__(self, machine: Machine, clock: Callable[[], float]) -> None:
        super().__init__(())
        self._machine = machine
        self._clock = clock
        self._key = (TASK, MODEL)
        p = machine.provider
        self._capability = Capability(TASK, MODEL, p.slots, units_per_s=float(p.units_per_s))

    def capabilities(self) -> list[Capability]:
        """The one thing sold."""
        return [self._capability]

    def load(self) -> dict[tuple[Task, str], EngineLoad]:
        """How full the machine is."""
        a, now = self._machine.admission, self._clock()
        return {self._key: EngineLoad(a.taken(now), a.slots, a.queued, a.wait_s(now))}


class Seller:
    """One provider."""

    def __init__(self, machine: Machine, clock: Callable[[], float], told: Told, conduct: Conduct = HONEST) -> None:
        self.machine = machine
        self._clock = clock
        self._told_by_others = told
        self.conduct = conduct
        self.peer = PeerId(f"provider-{machine.provider.number}")
        self._sent: CapacityRecord | None = None
        self._sent_at = 0.0
        self.restart()

    def restart(self) -> None:
        """A provider that comes back knows nothing of before: as the node does."""
        price = PriceSection(embedding=self.machine.provider.cost_nanoton_per_munit)
        config = Config(node=NodeSection(serve=[TASK.value], queue_per_engine=QUEUE), price=price)
        told: Told = (lambda task, model: ()) if self.conduct.deaf else self._told_by_others
        self._shop = Shop(_Engine(self.machine, self._clock), config, told)
        for controller in self._shop.controllers.values():
            controller.tuning = self.conduct.tuning
        self._sent = None

    def listing(self) -> Listing | Refusal:
        """What it would quote at this moment."""
        found = self._shop.catalog(TASK, MODEL, Tier.PLAIN)
        if self.conduct.markup == 1.0 or isinstance(found, Refusal):
            return found
        return replace(found, prices=_marked_up(found.prices, self.conduct.markup))

    def ask(self) -> int:
        """The price of it, nanoTON per million tokens."""
        found = self.listing()
        assert isinstance(found, Listing)
        return found.prices.per_million[UNIT]

    def step(self, now: float, providers: int) -> CapacityRecord | None:
        """A second has passed: the price takes a step. Returns what the index is to hear, when a record is due to one
        of so many ``providers`` that are there to stay."""
        for controller, load, told in self._shop.steps():
            controller.update(load, now, told)
        record = self._record(now)
        if due_at(self._sent, self._sent_at, record, providers) > now + 1e-9:
            return None
        self._sent, self._sent_at = record, now
        return record

    def candidate(self, record: CapacityRecord) -> Candidate:
        """A client's reading of a record."""
        offer = record.offers[0]
        return Candidate(
            self.peer, Prices.from_wire(dict(offer.prices)), offer.queue_wait_ms, offer.units_per_s, record.host_addrs
        )

    def _record(self, now: float) -> CapacityRecord:
        offers = self._shop.offers()
        if self.conduct != HONEST:
            offers = tuple(self._told(offer) for offer in offers)
        return CapacityRecord(subnet="market", offers=offers, seq=int(now * 1000), issued_at=int(now))

    def _told(self, offer: Offer) -> Offer:
        prices: Mapping[str, int] = {u: round(p * self.conduct.markup) for u, p in offer.prices.items()}
        bias = self.conduct.bias
        busy = max(0, min(offer.slots, offer.busy + round(bias * offer.slots)))
        wait = max(0, offer.queue_wait_ms + round(bias * 10_000)) if bias else offer.queue_wait_ms
        return replace(offer, prices=prices, busy=busy, queue_wait_ms=wait)


def _marked_up(prices: Prices, markup: float) -> Prices:
    return prices.scaled(round(markup * 1_000_000), 1_000_000)


def phase(rng: Random) -> float:
    """When in its second a provider's price takes its steps."""
    return rng.random()
