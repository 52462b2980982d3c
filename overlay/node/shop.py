"""What a provider has on offer, at which price, right now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compute.engines.base import Capability
from compute.scheduler import Load as EngineLoad
from compute.scheduler import Scheduler
from compute.tasks import Task
from compute.usage import Prices, Unit
from dht import Offer, RecordError
from overlay.config import Config, PriceSection
from overlay.market import Listing, Load, PriceController, Reason, Refusal, Tier
from overlay.market.controller import pressure
from overlay.market.quoting import holds_ms
from overlay.node.engines import served_tasks

UNITS = {
    Task.CHAT: (Unit.PROMPT, Unit.CACHED, Unit.COMPLETION, Unit.REASONING),
    Task.COMPLETION: (Unit.PROMPT, Unit.CACHED, Unit.COMPLETION, Unit.REASONING),
    Task.TRANSCRIBE: (Unit.AUDIO_MS,),
    Task.EMBED: (Unit.EMBEDDING,),
}
"""What is counted, and so priced, for each task."""


def base_prices(section: PriceSection, task: Task) -> Prices:
    """The configured floor prices of a task, in nanoTON per million units."""
    return Prices({unit: getattr(section, unit.value) for unit in UNITS[task]})


Told = Callable[[Task, str], Sequence[float]]
"""The pressures (:attr:`~overlay.market.Load.pressure`) that some providers of a model, picked at random, told last."""


def told_pressure(offer: Offer) -> float:
    """How full a provider says that it is."""
    return pressure(offer.busy, offer.slots, offer.queue_wait_ms / 1000)


def _nobody(task: Task, model: str) -> Sequence[float]:
    return ()


@dataclass
class Shop:
    """What is on offer, at which price, right now. ``told`` says what others tell of their load."""

    scheduler: Scheduler
    config: Config
    told: Told = _nobody
    controllers: dict[tuple[Task, str], PriceController] = field(default_factory=dict)
    capabilities: dict[tuple[Task, str], Capability] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    """Models that cannot be announced, and why: an upstream may name its models as it likes."""
    _told: dict[tuple[Task, str], tuple[tuple[Prices, int, int, int, int], Offer]] = field(default_factory=dict)
    """The claim made last for each, and from what: checking a claim costs more than finding that it stands."""

    def __post_init__(self) -> None:
        tasks = served_tasks(self.config)
        for capability in self.scheduler.capabilities():
            if capability.task in tasks:
                key = (capability.task, capability.model)
                base = base_prices(self.config.price, capability.task)
                try:
                    Offer(task=key[0].value, model=key[1], tier=Tier.PLAIN.value, prices=base.to_wire())
                except RecordError as error:
                    self.unfit.append(f"{capability.model!r} cannot be sold: {error}")
                    continue
                self.capabilities[key] = capability
                self.controllers[key] = PriceController(base, cap=self.config.price.cap_ratio)

    def loads(self) -> Mapping[tuple[Task, str], EngineLoad]:
        """How full the engines are."""
        return self.scheduler.load()

    def steps(self) -> Sequence[tuple[PriceController, Load, Sequence[float]]]:
        """Each price controller with the load it should react to, and what others of the model tell of theirs."""
        loads = self.loads()
        return [(c, _market_load(loads[key]), self.told(*key)) for key, c in self.controllers.items() if key in loads]

    def catalog(self, task: Task, model: str, tier: Tier) -> Listing | Refusal:
        """The market's question: is this on offer, and for how much?"""
        controller = self.controllers.get((task, model))
        load = self.loads().get((task, model))
        if controller is None or load is None:
            return Refusal(Reason.UNKNOWN_MODEL, f"{model} is not served here for {task}")
        if tier is not Tier.PLAIN:
            return Refusal(Reason.UNKNOWN_TIER, f"the tier {tier} is not served here: this machine is not attested")
        wait_ms = round(load.wait_s * 1000)
        parallel = load.slots + self.config.node.queue_per_engine
        market_load = _market_load(load)
        return Listing(controller.ask(market_load), controller.floor, wait_ms, parallel, holds_ms(market_load))

    def offers(self) -> tuple[Offer, ...]:
        """The same as claims for the directory."""
        loads = self.loads()
        found = []
        for key, controller in self.controllers.items():
            if key not in loads:
                continue
            load, capability = loads[key], self.capabilities[key]
            prices = controller.ask(_market_load(load))
            told = (prices, load.slots, load.busy, round(load.wait_s * 1000), round(capability.units_per_s))
            before = self._told.get(key)
            if before is None or before[0] != told:
                offer = Offer(
                    task=key[0].value, model=key[1], tier=Tier.PLAIN.value, prices=prices.to_wire(), slots=told[1],
                    busy=told[2], queue_wait_ms=told[3], units_per_s=told[4], context=capability.context,
                )  # fmt: skip
                before = self._told[key] = (told, offer)
            found.append(before[1])
        return tuple(found)


def _market_load(load: EngineLoad) -> Load:
    return Load(load.busy, load.slots, load.wait_s)
