"""What goes wrong when: a plan of kills, freezes and partitions, drawn from a seed, that leaves everything whole."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from overlay.errors import ConfigError

MAX_STEPS = 10_000
"""A plan is printed and kept whole; this is a day of one every ten seconds."""


class Action(StrEnum):
    """What can be done to a running swarm."""

    KILL = "kill"
    """SIGKILL; the swarm starts it again."""
    FREEZE = "freeze"
    """SIGSTOP: it holds its connections and says nothing."""
    THAW = "thaw"
    PARTITION = "partition"
    """The nodes named on one side, all others and this computer on the other."""
    HEAL = "heal"

    @property
    def text(self) -> str:
        """For people, before the names of nodes."""
        return {"kill": "kill", "freeze": "freeze", "thaw": "thaw", "partition": "cut off", "heal": "heal"}[self]


@dataclass(frozen=True)
class Step:
    """At ``at_s`` seconds after the start, do ``action`` to ``nodes`` (none with ``heal``)."""

    at_s: float
    action: Action
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.action.text} {', '.join(self.nodes)}".rstrip()


def plan_chaos(seed: int, nodes: Sequence[str], *, for_s: float, every_s: float, partitions: bool) -> tuple[Step, ...]:
    """One step every ``every_s`` seconds until ``for_s``, when what is frozen is thawed and what is cut healed.

    One node at least always runs, neither frozen nor killed in the last two steps, so that the network has somebody
    to come back to. With one node there is nobody to spare: it is killed only. The same arguments give the same plan.
    """
    if not nodes:
        raise ConfigError("the swarm has no node")
    if not 0 < every_s < for_s:
        raise ConfigError("--every is more than nothing and less than --for")
    if for_s / every_s > MAX_STEPS:
        raise ConfigError(f"that would be more than {MAX_STEPS} steps; take a longer --every")
    draw = _Draw(random.Random(seed), tuple(nodes), partitions)  # noqa: S311 — a seeded plan, no secret
    # The first after one interval, and by multiplication: adding up would drift.
    steps = [draw.step(every_s * index) for index in range(1, math.ceil(for_s / every_s - 1e-9))]
    return (*steps, *draw.mended(for_s))


class _Draw:
    """The state that the swarm would be in, had the steps so far been done."""

    def __init__(self, rng: random.Random, nodes: tuple[str, ...], partitions: bool) -> None:
        self._rng = rng
        self._nodes = nodes
        self._partitions = partitions and len(nodes) > 1
        self._frozen: list[str] = []
        self._killed: deque[str | None] = deque(maxlen=2)
        """By the last two steps; what was killed takes seconds to come back."""
        self._cut = False

    def step(self, at_s: float) -> Step:
        """Draw one that is possible now."""
        awake = [node for node in self._nodes if node not in self._frozen]
        spared = [node for node in awake if node not in self._killed]
        assert spared or len(self._nodes) == 1
        victims = [node for node in awake if any(other != node for other in spared)]
        choices = [Action.HEAL] if self._cut else [Action.PARTITION] if self._partitions else []
        if self._frozen:
            choices.append(Action.THAW)
        if victims:
            choices += [Action.KILL, Action.FREEZE]
        elif len(self._nodes) == 1:
            victims, choices = list(self._nodes), [Action.KILL]
        # Either two are awake, so that one is a victim, or one is frozen and can be thawed.
        action = self._rng.choice(choices)
        step = Step(at_s, action, self._targets(action, victims))
        self._killed.append(step.nodes[0] if action is Action.KILL else None)
        return step

    def _targets(self, action: Action, victims: Sequence[str]) -> tuple[str, ...]:
        match action:
            case Action.THAW:
                node = self._rng.choice(self._frozen)
                self._frozen.remove(node)
                return (node,)
            case Action.FREEZE:
                node = self._rng.choice(victims)
                self._frozen.append(node)
                return (node,)
            case Action.KILL:
                return (self._rng.choice(victims),)
            case Action.PARTITION:
                self._cut = True
                side = self._rng.sample(self._nodes, self._rng.randint(1, len(self._nodes) // 2))
                return tuple(node for node in self._nodes if node in side)
            case Action.HEAL:
                self._cut = False
                return ()

    def mended(self, at_s: float) -> list[Step]:
        """What makes the swarm whole again."""
        steps = [Step(at_s, Action.HEAL)] if self._cut else []
        if self._frozen:
            steps.append(Step(at_s, Action.THAW, tuple(node for node in self._nodes if node in self._frozen)))
        return steps


def names_of(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The nodes of ``node-1,node-2``. Raises :class:`~overlay.errors.ConfigError` for one that is not there."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {name!r} in this swarm; it has {', '.join(known)}")
    return names
