"""What machines of a simulated swarm can do, and what that costs: classes of hardware, models, and one on the other.

Speeds follow the roofline (Williams, Waterman, Patterson: "Roofline", CACM 2009): a step of a batch reads all weights
and each job's cache once, or computes for each job, whichever takes longer. Memory, bandwidth, peak arithmetic and
board power are those of the makers' public data sheets, rounded; the efficiencies are set so that decoding and prefill
come within a third of what is published for llama.cpp on the gaming cards (a test holds them to it; on the cards of
data centres llama.cpp is slower than the servers used there). Prices of machines and of electricity, and the rate of
TON, are assumptions, each with its reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage

NANOTON_PER_USD = 1_000_000_000 // 3
"""Assumption: a TON is three dollars, a round number between its lows and highs of 2023 to 2025 (about 1 to 8)."""

USD_PER_KWH = Fraction(15, 100)
"""Assumption: what households pay, between about .08 and .40 in most countries; data centres pay less and cool more."""

WEAR_HOURS = 3 * 8766
"""Assumption: a machine earns its price back in three years of running; then it has been overtaken."""

MEMORY_SHARE = 0.9
"""Of a card's memory that weights and caches may take; the rest is the driver's and the activations'."""

CONTEXT_TOKENS = 2048
"""Room that is kept for each slot's cache: a prompt and an answer of a thousand tokens each."""

ARITHMETIC_SHARE = 0.45
"""Of peak arithmetic that large matrix products reach in the serving programs (prefill)."""

WEIGHTS = ((16.0, 0.75), (8.5, 0.65), (4.85, 0.6))
"""Forms in which weights are held, best first: bits a weight with scales, and the share of the memory's bandwidth that
decoding reaches with them (unpacking costs). A machine takes the first form that fits."""


class Unfit(ValueError):
    """This hardware cannot run this model, or there is no such thing; the message says which."""


@dataclass(frozen=True)
class Hardware:
    """A class of machine. ``watts`` is the whole machine's under load, ``usd`` its price. ``speech`` is how many
    seconds of speech it transcribes a second with a large Whisper: one recording alone, and many together."""

    memory_gb: float
    bandwidth_gb_s: float
    tflops: float
    """Dense 16-bit peak."""
    slots: int
    """Jobs at once that its owner allows; fewer where memory does not hold more."""
    speech: tuple[float, float]
    watts: int
    usd: int
    load_gb_s: float = 1.0
    """From its disk into memory."""

    @property
    def usd_per_h(self) -> Fraction:
        """Electricity and wear of an hour under load."""
        return Fraction(self.watts, 1000) * USD_PER_KWH + Fraction(self.usd, WEAR_HOURS)


HARDWARE: Mapping[str, Hardware] = {
    "cpu-server": Hardware(256, 460, 6, 4, (1.5, 3.0), 500, 9_000, load_gb_s=2.0),
    "rtx-3060": Hardware(12, 360, 51, 4, (10.0, 30.0), 250, 800),
    "rtx-4090": Hardware(24, 1008, 330, 16, (30.0, 120.0), 600, 3_000, load_gb_s=2.0),
    "a100-80g": Hardware(80, 2039, 312, 32, (30.0, 180.0), 650, 18_000, load_gb_s=2.0),
    "h100": Hardware(80, 3350, 989, 64, (40.0, 300.0), 1_100, 35_000, load_gb_s=2.0),
}
"""By name: 64 cores with twelve channels of memory; a small and a large gaming card (the usual 16-bit peaks with 16-bit
sums), each in a PC; two cards of data centres (SXM), each with its share of a server. Speech is rounded from
faster-whisper's published runs (13 minutes with large-v2 in 63 s alone and 17 s in batches on an RTX 3070 Ti), scaled
by bandwidth alone and by arithmetic together; the CPU's is large-v3 in 8 bits."""


@dataclass(frozen=True)
class Model:
    """A model to be served: ``size`` in billions of parameters, ``cache_bytes`` of each token of context. The ``size``
    of a speech model is relative to a large Whisper's 1."""

    tasks: tuple[Task, ...]
    size: float
    cache_bytes: int = 0
    context: int = 0


_TEXT = (Task.CHAT, Task.COMPLETION)

MODELS: Mapping[str, Model] = {
    "llama-3-1b": Model(_TEXT, 1.24, 2 * 2 * 16 * 8 * 64, 8192),
    "llama-3-8b": Model(_TEXT, 8.03, 2 * 2 * 32 * 8 * 128, 8192),
    "llama-3-70b": Model(_TEXT, 70.6, 2 * 2 * 80 * 8 * 128, 8192),
    "whisper-large": Model((Task.TRANSCRIBE,), 1.0),
    "whisper-small": Model((Task.TRANSCRIBE,), 0.2),
}
"""By name. The cache holds keys and values of 16 bits for each layer and key head, from the models' configurations."""


@dataclass(frozen=True)
class Pace:
    """How long a step of a batch takes: ``fixed_s`` and ``each_s`` for each job while memory is the bound, ``least_s``
    for each job where arithmetic is. A step gives each job one unit: a token, or a millisecond of speech."""

    fixed_s: float
    each_s: float
    least_s: float
    prompt_token_s: float
    """Of prefill, with the whole machine."""

    def step_s(self, batch: int) -> float:
        """Seconds of a step with ``batch`` jobs."""
        return max(self.fixed_s + batch * self.each_s, batch * self.least_s)


@dataclass(frozen=True)
class Offering:
    """One model on one class of hardware. ``unit_costs`` is what work costs with all slots busy, electricity and wear,
    in nanoTON per million units: an owner who works for less loses money."""

    hardware: str
    model: str
    tasks: tuple[Task, ...]
    slots: int
    pace: Pace
    load_s: float
    context: int
    unit_costs: Prices

    @property
    def units_per_s(self) -> float:
        """Of one job's main unit when all slots are busy: the speed that an honest provider promises."""
        return 1 / self.pace.step_s(self.slots)

    @property
    def most_units_per_s(self) -> float:
        """Of the whole machine."""
        return self.slots / self.pace.step_s(self.slots)

    def cost_nanoton(self, usage: Usage) -> int:
        """Electricity and wear of the work in ``usage``."""
        return self.unit_costs.cost_nanoton(usage)


@lru_cache(maxsize=256)
def offering(hardware: str, model: str, slots: int | None = None) -> Offering:
    """What ``model`` is like on ``hardware``; ``slots`` other than the class's own, if memory holds them.

    Raises :class:`Unfit`.
    """
    machine, what = HARDWARE.get(hardware), MODELS.get(model)
    if machine is None:
        raise Unfit(f"there is no hardware class {hardware!r}; there are {', '.join(HARDWARE)}")
    if what is None:
        raise Unfit(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    if slots is not None and slots < 1:
        raise Unfit(f"{slots} slots: at least one")
    wanted = slots or machine.slots
    if Task.TRANSCRIBE in what.tasks:
        pace, load_s = _speech(machine, what)
    else:
        pace, load_s, wanted = _text(hardware, machine, model, wanted)
    return Offering(
        hardware, model, what.tasks, wanted, pace, load_s, what.context, _unit_costs(machine, what, pace, wanted)
    )


def fits(hardware: str, model: str) -> bool:
    """Whether ``hardware`` can run ``model``. Raises :class:`Unfit` when there is no such thing."""
    try:
        offering(hardware, model)
    except Unfit:
        if hardware not in HARDWARE or model not in MODELS:
            raise
        return False
    return True


def _speech(machine: Hardware, model: Model) -> tuple[Pace, float]:
    alone, together = machine.speech
    each_s = model.size / together / 1000
    return Pace(model.size / alone / 1000 - each_s, each_s, 0.0, 0.0), 3.0 * model.size / machine.load_gb_s


def _text(name: str, machine: Hardware, model_name: str, wanted: int) -> tuple[Pace, float, int]:
    model = MODELS[model_name]
    room = machine.memory_gb * 1e9 * MEMORY_SHARE
    cache = model.cache_bytes * CONTEXT_TOKENS
    forms = [(model.size * 1e9 * bits / 8, share) for bits, share in WEIGHTS]
    weights, share = next(((size, share) for size, share in forms if size + cache <= room), (0.0, 0.0))
    if not weights:
        raise Unfit(
            f"{model_name} does not fit into the {machine.memory_gb:g} GB of {name}, not even in 4 bits a weight"
        )
    slots = min(wanted, int((room - weights) // cache))
    bytes_per_s = machine.bandwidth_gb_s * 1e9 * share
    token_s = 2 * model.size * 1e9 / (machine.tflops * 1e12 * ARITHMETIC_SHARE)
    # Half of a slot's room is full in the mean.
    pace = Pace(weights / bytes_per_s, cache / 2 / bytes_per_s, token_s, token_s)
    return pace, weights / 1e9 / machine.load_gb_s, slots


def _unit_costs(machine: Hardware, model: Model, pace: Pace, slots: int) -> Prices:
    nanoton_per_s = machine.usd_per_h * NANOTON_PER_USD / 3600

    def million(seconds: float) -> int:
        return -int(-(Fraction(seconds) * 1_000_000 * nanoton_per_s) // 1)

    main = million(pace.step_s(slots) / slots)
    if Task.TRANSCRIBE in model.tasks:
        return Prices({Unit.AUDIO_MS: main})
    prompt = million(pace.prompt_token_s)
    return Prices({Unit.PROMPT: prompt, Unit.CACHED: 0, Unit.COMPLETION: main, Unit.REASONING: main})
