"""A scenario, as its TOML file says it: who is there, who wants what, what goes wrong, and what is expected.

Reading one (:mod:`simulations.scenarios.reading`) checks all of it before anything runs. Times are virtual seconds
since the start, money is nanoTON.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Gossip(StrEnum):
    """How news spreads in the simulated network."""

    MESH = "mesh"
    """Message by message through gossipsub meshes."""
    MEAN_FIELD = "mean-field"
    """Each node hears of a publication after a delay as a mesh gives it, when it next looks: for thousands of nodes."""


class NetworkPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[network]`."""

    jitter_ms: float = 4.0
    loss: float = 0.0
    """Probability that a message is lost and sent again."""
    gossip: Gossip = Gossip.MESH


class ChainPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[chain]`."""

    block_s: float = 5.0
    """Between two blocks."""
    delay_s: float = 1.0
    """From a node to its liteservers and back."""
    liteservers: int = 3


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal quantity: half of the draws lie below ``median``; ``sigma`` 0 gives the median always. Draws above
    ``most`` become that."""

    median: float
    sigma: float = 0.0
    most: float = float("inf")


class ProviderGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[providers]]`: nodes that sell."""

    name: str
    count: int
    hardware: str = "rtx-4090"
    """A class of :mod:`simulations.world.hardware`."""
    slots: int | None = None
    """Jobs at once, where the owner allows fewer than the class can do."""
    models: tuple[str, ...] = ("llama-3-8b",)
    tasks: tuple[str, ...] = ("chat",)
    floor: float = 1.0
    """Price floor, as a multiple of what the hardware class costs to run."""
    floor_sigma: float = 0.2
    """How providers of the group differ in it (log-normal)."""
    behaviour: str = "honest"
    """``honest``, or an attack of :mod:`simulations.world.attackers`."""
    joins_s: tuple[float, float] = (0.0, 5.0)
    """When they start: drawn from this interval."""
    region: str | None = None
    nat: str = "open"
    config: dict[str, Any] = {}
    """Keys of the node's configuration, such as ``"node.queue_per_engine" = 8``."""
    options: dict[str, Any] = {}
    """What the behaviour wants to know."""


class Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each client of a group asks for: sessions begin as a Poisson process; a session is some jobs with pauses."""

    jobs_per_hour: float
    """Of one client, in the mean, where the curve is 1."""
    task: str = "chat"
    model: str = "llama-3-8b"
    session: float = 1.0
    """Jobs of a session in the mean (geometric)."""
    pause_s: float = 20.0
    """Between the end of an answer and the next question of a session, in the mean (exponential)."""
    prompt_tokens: Size = Size(200.0, 0.8, 4000.0)
    answer_tokens: Size = Size(250.0, 0.8, 2000.0)
    audio_s: Size = Size(15.0, 0.8, 300.0)
    curve: tuple[tuple[float, float], ...] = ()
    """``[second, factor]`` in order: the factor holds from that second to the next one. Before the first, 1."""
    value: Size = Size(180_000_000.0, 0.6)
    """What a million of the main unit is worth to a client: its highest price. Drawn once for each client."""
    value_of_time: Size = Size(10_000.0, 0.8)
    """nanoTON that a second less is worth; drawn once for each client. The default is that of `market.value_of_time`: a
    chat is then worth as much as five seconds, and most of what can be lost is lost to machines being what they are."""
    retries: int = 2
    """How often a client tries again, seconds later, when everybody was too dear or full."""


class ClientGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[clients]]`: nodes that buy."""

    name: str
    count: int
    demand: Demand
    behaviour: str = "honest"
    joins_s: tuple[float, float] = (0.0, 20.0)
    region: str | None = None
    nat: str = "dial-only"
    channels: int = 0
    """Providers, drawn among those of its model, to which each has a payment channel when it begins (all, if there are
    fewer): as who has bought for days. Opening them costs what it costs."""
    config: dict[str, Any] = {}
    options: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[faults]]`: something that goes wrong at ``at_s``, for ``for_s`` seconds where it ends by itself."""

    kind: str
    """One of :mod:`simulations.world.faults`: crash, leave, churn, partition, loss, slow, freeze, chain-outage,
    chain-lies, clock-skew."""
    at_s: float
    for_s: float = 0.0
    group: str = ""
    """Whom it hits; all when empty."""
    share: float = 1.0
    """Which part of them, drawn."""
    options: dict[str, Any] = {}


class AttackGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[attackers]]`: nodes that are neither providers nor clients, such as Sybils of the hash table."""

    kind: str
    count: int
    at_s: float = 0.0
    options: dict[str, Any] = {}


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[expect]]`: a measure of :mod:`simulations.world.measures`, and what it has to be."""

    measure: str
    at_least: float | None = None
    at_most: float | None = None
    group: str = ""
    from_s: float | None = None
    to_s: float | None = None


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    title: str
    about: str
    """What it shows, for people: a few sentences."""
    duration_s: float
    warmup_s: float = 60.0
    """Measures leave out what happens before."""
    sample_s: float = 10.0
    name: str = ""
    """The file's name without its ending; set when it is read."""
    network: NetworkPart = NetworkPart()
    chain: ChainPart = ChainPart()
    providers: tuple[ProviderGroup, ...] = ()
    clients: tuple[ClientGroup, ...] = ()
    faults: tuple[Fault, ...] = ()
    attackers: tuple[AttackGroup, ...] = ()
    expect: tuple[Expectation, ...] = ()
