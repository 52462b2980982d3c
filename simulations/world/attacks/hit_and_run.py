"""Clients that never pay, under one identity after another: each takes what a provider serves on trust, and is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from simulations.scenarios.model import AttackGroup, ClientGroup

if TYPE_CHECKING:
    from simulations.world.world import World

GROUP = "hit-and-run"
"""What its clients are called in a result."""


async def hit_and_run(world: World, attack: AttackGroup) -> None:
    """``count`` identities, one after the other, each for ``each_s`` seconds (60), with the demand of the scenario's
    first clients, ``times`` (4) as often. Each has a wallet and opens channels like everybody."""
    options = attack.options
    usual = world.scenario.clients[0].demand
    demand = msgspec.structs.replace(usual, jobs_per_hour=usual.jobs_per_hour * options.get("times", 4.0), curve=())
    group = ClientGroup(GROUP, attack.count, demand, behaviour="non-paying", options=options)
    draw = world.rng(f"attack {attack.kind} at {attack.at_s}")
    known = sorted({addr for provider in world.providers for addr in provider.bootstrap})
    world.happens(f"{attack.kind}: clients that never pay, {attack.count} identities one after the other")
    for _ in range(attack.count):
        client = world._add_client(group, draw)
        client.bootstrap = draw.sample(known, min(3, len(known)))
        with trio.move_on_after(options.get("each_s", 60.0)):
            await world.live(client, demand)


__all__ = ["GROUP", "hit_and_run"]
