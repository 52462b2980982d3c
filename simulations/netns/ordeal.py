"""`cocoon swarm chaos` and `cocoon swarm down`: what a running swarm is put through, asked of it through its socket."""

from __future__ import annotations

import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trio

from overlay.cli.output import Output
from overlay.control import RemoteError, answers, call_control
from overlay.errors import CocoonError, ConfigError
from overlay.events import EventLog
from simulations.netns.chaos import Action, Step, names_of, plan_chaos
from simulations.netns.shape import duration_s

MEND_S = 10.0
"""An interrupted run has this long to thaw and heal what it did."""

STOP_S = 120.0
"""A node may let running jobs end for half a minute, and the devnet goes last."""

_NEEDS_NODES = (Action.KILL, Action.FREEZE, Action.THAW, Action.PARTITION)


async def run_one(directory: Path, action: str, nodes: str, output: Output) -> None:
    """Do one thing. Raises :class:`~overlay.errors.CocoonError` when it cannot be done."""
    if action not in list(Action):
        raise ConfigError(f"there is no {action!r}; there are {', '.join(Action)}")
    status = await _status(directory)
    known = [row["node"] for row in status["nodes"]]
    step = Step(0.0, Action(action), names_of(nodes, known))
    if step.action in _NEEDS_NODES and not step.nodes:
        raise ConfigError(f"{action} whom? Name a node, or several with commas between; there are {', '.join(known)}")
    await _do(directory, step)
    EventLog(output.event, time.time).info("done", _text(step), action=step.action.value, nodes=list(step.nodes))


async def run_chaos(directory: Path, seed: int | None, lasting: str, every: str, output: Output) -> None:
    """Print a plan and follow it. Interrupted, it thaws and heals what it did.

    Raises :class:`~overlay.errors.CocoonError` when no swarm runs there, or it ends meanwhile.
    """
    for_s, every_s = duration_s(lasting, "--for"), duration_s(every, "--every")
    status = await _status(directory)
    names, partitions = [row["node"] for row in status["nodes"]], status["netns"]
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    steps = plan_chaos(seed, names, for_s=for_s, every_s=every_s, partitions=partitions)
    log = EventLog(output.event, time.time)
    without = "" if partitions else "; no partitions without --netns"
    log.info("plan", f"seed {seed}: {len(steps)} steps in {for_s:g} s{without}", seed=seed, nodes=names)
    for step in steps:
        log.info("planned", str(step), at_s=step.at_s, action=step.action.value, nodes=list(step.nodes))
    started = trio.current_time()
    frozen: set[str] = set()
    cut = False
    try:
        for step in steps:
            await trio.sleep_until(started + step.at_s)
            if step.action in (Action.FREEZE, Action.THAW):
                frozen.symmetric_difference_update(step.nodes)
            elif step.action in (Action.PARTITION, Action.HEAL):
                cut = step.action is Action.PARTITION
            try:
                await _do(directory, step)
            except RemoteError as error:
                log.warning("skipped", f"{_text(step)}: {error}", action=step.action.value, nodes=list(step.nodes))
            else:
                log.info("done", _text(step), action=step.action.value, nodes=list(step.nodes))
    except BaseException:
        with trio.move_on_after(MEND_S, shield=True):
            await _mend(directory, sorted(frozen), cut)
        raise


async def run_down(directory: Path | None, output: Output) -> None:
    """Stop the swarm in ``directory``, if one is named, and remove what killed swarms left."""
    log = EventLog(output.event, time.time)
    if directory is not None:
        if not answers(directory):
            raise ConfigError(
                f"no swarm runs in {directory}; without --dir, `cocoon swarm down` removes leftovers only"
            )
        process = psutil.Process((await _status(directory))["pid"])
        await call_control(directory, "stop")
        _, alive = await trio.to_thread.run_sync(partial(psutil.wait_procs, [process], timeout=STOP_S))
        if alive:
            raise CocoonError(f"the swarm in {directory} was told to stop, and still runs after {STOP_S:g} s")
        log.info("stopped", f"the swarm in {directory} has stopped", directory=str(directory))
    # pyroute2 is slow to import, and only this needs it.
    from simulations.netns.owner import remove_leftovers

    removed = await trio.to_thread.run_sync(remove_leftovers)
    for left in removed:
        log.info("leftovers", left.text, owner=left.owner.pid, namespaces=left.namespaces, processes=left.processes)
    if not removed and directory is None:
        log.info("clean", "no swarm left anything behind")


async def _status(directory: Path) -> dict[str, Any]:
    if not answers(directory):
        raise ConfigError(
            f"no swarm of yours runs in {directory}; start one with `cocoon swarm up --dir {directory}`, or name the "
            "directory that it printed after COCOON_HOME="
        )
    status = await call_control(directory, "status")
    if not isinstance(status, dict) or "netns" not in status:
        raise ConfigError(f"what runs in {directory} is no swarm; name the directory that `cocoon swarm up` printed")
    return status


async def _do(directory: Path, step: Step) -> None:
    await call_control(directory, step.action.value, nodes=",".join(step.nodes))


async def _mend(directory: Path, frozen: list[str], cut: bool) -> None:
    if not answers(directory):
        return  # it has ended, and thawed its nodes itself
    for step in (Step(0.0, Action.THAW, tuple(frozen)), Step(0.0, Action.HEAL)):
        if step.nodes or (cut and step.action is Action.HEAL):
            await _do(directory, step)


def _text(step: Step) -> str:
    done = {
        "kill": "killed",
        "freeze": "frozen",
        "thaw": "goes on",
        "partition": "cut off",
        "heal": "the network is whole",
    }
    names = ", ".join(step.nodes)
    return f"{names}: {done[step.action]}" if names else done[step.action]
