"""What a simulated run leaves behind: one document, whole or marked as partial.

Times are virtual seconds since the start of the run, money is nanoTON, prices are nanoTON per million units of the
task's main unit. Nodes are named by number: providers and clients each count from 0 in the order of the scenario.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1
"""Raised when a document of an older program can no longer be read."""


class ResultError(ValueError):
    """A document that is not a run's result, or one of another format."""


class Market(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One (task, model) at one moment. ``ask_*`` are quantiles of what providers that are up ask, ``paid`` is the mean
    price of what was delivered since the last sample (``None`` when nothing was)."""

    task: str
    model: str
    slots: int
    busy: int
    waiting: int
    ask_p10: float
    ask_p50: float
    ask_p90: float
    paid: float | None = None

    @property
    def utilisation(self) -> float:
        """Busy slots of those there are; 0 when nobody sells."""
        return self.busy / self.slots if self.slots else 0.0


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The swarm at one moment."""

    at_s: float
    providers_up: int
    clients_up: int
    markets: tuple[Market, ...] = ()
    asked: int = 0
    """Jobs asked for since the start; the next four likewise."""
    done: int = 0
    failed: int = 0
    refused: int = 0
    recovered: int = 0
    """Done, but not with the first provider that was tried."""
    channels: int = 0
    """Open on chain."""
    locked_nanoton: int = 0
    """Deposits of open channels."""
    unpaid_nanoton: int = 0
    """Served and not yet covered by a voucher: what providers would lose if all clients vanished now."""
    unclaimed_nanoton: int = 0
    """Covered by vouchers and not yet claimed on chain."""
    messages: int = 0
    bytes: int = 0


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job, from the client's side. ``outcome``: ``done``, ``failed`` (an error, or cut off), ``refused`` (nobody
    sold it below the cap, or everybody was full), ``running`` when the run ended first."""

    client: int
    group: str
    task: str
    asked_at_s: float
    outcome: str
    provider: int | None = None
    first_token_at_s: float | None = None
    ended_at_s: float | None = None
    tries: int = 1
    units: int = 0
    """Of the main unit, delivered."""
    paid_nanoton: int = 0
    value_nanoton: int = 0
    """What the answer is worth to its user, which nobody else knows."""
    wanted: int = 0
    """Units of the whole answer."""
    value_per_million: int = 0
    """What a million units are worth to its user."""
    value_of_time: int = 0
    """nanoTON that a second less is worth to him."""
    error: str = ""
    model: str = ""
    prompt: int = 0
    """Tokens."""
    sent_at_s: float | None = None
    """When the request went to the provider that did it."""


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one provider. ``behaviour`` is ``honest`` or the attack that it runs."""

    number: int
    group: str
    hardware: str
    behaviour: str
    slots: int
    units_per_s: float
    earned_nanoton: int = 0
    cost_nanoton: int = 0
    """Electricity and wear of the work done, by its hardware class."""
    chain_fees_nanoton: int = 0
    jobs: int = 0
    failed: int = 0
    busy_s: float = 0.0
    """Of one slot."""
    up_s: float = 0.0
    sells: tuple[tuple[str, int], ...] = ()
    """Models, each with the jobs that its machine really does at once."""
    shifts: tuple[tuple[float, float], ...] = ()
    """From when to when it ran."""
    floor: float = 1.0
    """The least that its owner works for, as a multiple of electricity and wear."""


class Attacker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an attack brought and cost, all its nodes together."""

    kind: str
    nodes: int
    gained_nanoton: int
    cost_nanoton: int
    harm: dict[str, float] = {}
    """What it did to others, by name (such as ``jobs_failed``)."""
    note: str = ""


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one protocol carried."""

    protocol: str
    messages: int
    bytes: int


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An expectation of the scenario, and what was measured."""

    name: str
    measured: float | None
    holds: bool
    at_least: float | None = None
    at_most: float | None = None


class Violation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invariant that did not hold: the run stopped there."""

    invariant: str
    at_s: float
    event: int
    """How many events the log had."""
    what: str


class Happening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something for the time line of a report: a fault, an attack, a change of demand."""

    at_s: float
    what: str


class PolicyFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one way of finding prices made of the scenario, the seed and the demand. Jobs are those asked for after the
    warm-up; ``None`` is what there was nothing to measure of."""

    policy: str
    """``ours``, or a baseline's name."""
    digest: str
    asked: int
    done: int
    failed: int
    refused: int
    efficiency: float | None = None
    """Share of the competitive optimum."""
    losses: dict[str, float] = {}
    """What is missing to it, by cause."""
    gained_nanoton: float | None = None
    """Worth of the answers less waiting and work."""
    first_token_p50: float | None = None
    """Seconds."""
    first_token_p95: float | None = None
    price_paid: float | None = None
    """nanoTON a million of the main unit."""
    utilisation: float | None = None


class RunResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run."""

    scenario: str
    title: str
    seed: int
    commit: str
    """Of the program; ``unknown`` outside of a repository, with ``+`` when files differed from it."""
    duration_s: float
    """Asked for."""
    virtual_s: float
    """Reached."""
    complete: bool
    """Whether the run got to its end: a report of one that did not says so on top."""
    digest: str
    events: int
    format: int = FORMAT
    about: str = ""
    """What the scenario shows, in its own words."""
    command: str = ""
    """What runs it again; when empty, the scenario's name and the seed say it all."""
    stopped_because: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_mib: float = 0.0
    warmup_s: float = 0.0
    samples: tuple[Sample, ...] = ()
    jobs: tuple[Job, ...] = ()
    providers: tuple[Provider, ...] = ()
    clients: int = 0
    attackers: tuple[Attacker, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    happenings: tuple[Happening, ...] = ()
    marks: tuple[Mark, ...] = ()
    violations: tuple[Violation, ...] = ()
    efficiency: dict[str, float] = {}
    """Allocative efficiency as a share of the competitive optimum, by policy: ``ours``, and baselines if they ran."""
    losses: dict[str, float] = {}
    """What is missing to the optimum, by cause (:data:`simulations.world.efficiency.CAUSES`), as shares of it."""
    policies: tuple[PolicyFigures, ...] = ()
    """Ours and the baselines that were run beside it, if any were."""
    chain_fees_nanoton: int = 0
    warnings: dict[str, int] = {}
    """Lines that nodes logged as warnings, by event, and how often."""

    @property
    def held(self) -> bool:
        """Whether it is whole, broke no invariant, and met every expectation."""
        return self.complete and not self.violations and all(mark.holds for mark in self.marks)


def save(result: RunResult, path: Path) -> None:
    """Write a result so that a file with this name is always whole. Raises ``OSError``."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(msgspec.json.encode(result))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def load(path: Path) -> RunResult:
    """Read what :func:`save` wrote. Raises :class:`ResultError` and ``OSError``."""
    data = path.read_bytes()
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ResultError(f"{path} is no result of a run: {error}") from error
    if document.get("format") != FORMAT:
        raise ResultError(f"{path} has format {document.get('format')!r}; this program reads format {FORMAT}")
    try:
        return msgspec.convert(document, RunResult)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is no result of a run: {error}") from error
