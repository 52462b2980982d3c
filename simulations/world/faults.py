"""What goes wrong in a simulated world, by name: each fault is a function of the world and of the scenario's words.

Whom a fault hits is drawn from a generator of its own, from the nodes of its group that run at that moment; what it did
stands in the time line of the report. A node that starts again does so on its machine's disk.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from simulations.world.nodes import RESTART_S, ClientPeer, ProviderPeer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulations.network import VirtualNetwork
    from simulations.scenarios.model import Demand, Fault
    from simulations.world.engines import ModelEngine
    from simulations.world.nodes import Peer
    from simulations.world.world import World
    from transport.identity import PeerId

AWAY_S = 30.0
"""How long a node that churns stays away, in the mean."""

SLOWER = 4.0
LOSS = 0.02
FROZEN = 1e6
"""How many times slower the engine of a frozen machine is: nothing of it is seen before it thaws."""

KILL_EVERY_S = 20.0


class Trouble:
    """What is broken in a world now. Faults overlap: each takes back only what it did itself."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self._cuts: dict[int, frozenset[PeerId]] = {}
        self._numbers = 0
        self._losses: dict[int, float] = {}
        self._usual_loss = network.loss
        self._down: Counter[PeerId] = Counter()
        self._drags: defaultdict[ModelEngine, list[float]] = defaultdict(list)

    @contextmanager
    def cut(self, peers: Sequence[PeerId]) -> Iterator[None]:
        """Cut ``peers`` off from all others for the length of the block; they reach one another."""
        number = self._number()
        self._cuts[number] = frozenset(peers)
        self._split()
        try:
            yield
        finally:
            del self._cuts[number]
            self._split()

    @contextmanager
    def loss(self, probability: float) -> Iterator[None]:
        """Lose messages with ``probability`` more."""
        number = self._number()
        self._losses[number] = probability
        self._lose()
        try:
            yield
        finally:
            del self._losses[number]
            self._lose()

    @contextmanager
    def no_chain(self, peers: Sequence[Peer[Any]]) -> Iterator[None]:
        """No liteserver answers these."""
        self._outage(peers, 1)
        try:
            yield
        finally:
            self._outage(peers, -1)

    @contextmanager
    def slow(self, peers: Sequence[ProviderPeer], factor: float) -> Iterator[None]:
        """Their engines take ``factor`` times as long; those of nodes that start meanwhile do not."""
        engines = [engine for peer in peers for engine in peer.engines_now()]
        for engine in engines:
            self._drags[engine].append(factor)
            engine.slow_down(math.prod(self._drags[engine]))
        try:
            yield
        finally:
            for engine in engines:
                self._drags[engine].remove(factor)
                engine.slow_down(math.prod(self._drags[engine]))

    def _outage(self, peers: Sequence[Peer[Any]], change: int) -> None:
        for peer in peers:
            self._down[peer.peer_id] += change
            peer.machine.way.down = self._down[peer.peer_id] > 0

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _split(self) -> None:
        """Hosts see each other that are on the same side of every cut."""
        sides: dict[tuple[int, ...], list[PeerId]] = {}
        for peer in sorted(frozenset[str]().union(*self._cuts.values())):
            side = tuple(number for number, inside in self._cuts.items() if peer in inside)
            sides.setdefault(side, []).append(peer)  # type: ignore[arg-type]  # a union of peer ids is one of text
        if sides:
            self._network.split(*sides.values())
        else:
            self._network.heal()

    def _lose(self) -> None:
        arrives = math.prod((1.0 - self._usual_loss, *(1.0 - loss for loss in self._losses.values())))
        self._network.loss = 1.0 - arrives if self._losses else self._usual_loss


# --- whom it hits -----------------------------------------------------------------------------------------------------


def rng_of(world: World, fault: Fault) -> random.Random:
    """The generator of one fault of the scenario."""
    number = next((place for place, each in enumerate(world.scenario.faults) if each is fault), -1)
    return world.rng(f"fault {number}")


def targets(
    world: World, fault: Fault, rng: random.Random, among: Callable[[Peer[Any]], bool] = lambda peer: peer.up
) -> list[Any]:
    """The nodes that ``fault`` hits: a drawn share of its group, or of all nodes, as far as they are ``among``."""
    everybody: list[Peer[Any]] = [*world.providers, *world.clients]
    here = [peer for peer in everybody if fault.group in ("", peer.group) and among(peer)]
    count = min(len(here), max(1, round(fault.share * len(here)))) if fault.share > 0 else 0
    return rng.sample(here, count)


def sellers(world: World, fault: Fault, rng: random.Random) -> list[ProviderPeer]:
    """The same of providers alone."""
    return targets(world, fault, rng, lambda peer: peer.up and isinstance(peer, ProviderPeer))


def demand_of(world: World, peer: Peer[Any]) -> Demand | None:
    """What a client asks for; None for a provider, and for a client that an attack brought, which shops by itself."""
    if not isinstance(peer, ClientPeer):
        return None
    return next((group.demand for group in world.scenario.clients if group.name == peer.group), None)


async def revive(world: World, peer: Peer[Any], after_s: float) -> None:
    """Start a node again, and again when it cannot start yet, as a supervisor does."""
    await trio.sleep(after_s)
    while not peer.running:
        await world.live(peer, demand_of(world, peer))
        if not peer.failure:
            return
        await trio.sleep(RESTART_S)


def count_of(peers: Sequence[Peer[Any]]) -> str:
    """In words."""
    sell = sum(isinstance(peer, ProviderPeer) for peer in peers)
    buy = len(peers) - sell
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((sell, "provider"), (buy, "client"))
             if count]  # fmt: skip
    return " and ".join(parts) or "nobody"


# --- nodes that end ---------------------------------------------------------------------------------------------------


async def crash(world: World, fault: Fault) -> None:
    """Nodes are killed at once; each starts again on its disk ``restart_s`` later, or never if that is negative. With
    ``silent`` machines lose power, and nobody is told: connections break when they are missed."""
    peers = targets(world, fault, rng_of(world, fault))
    silent = bool(fault.options.get("silent", False))
    world.happens(f"{count_of(peers)} {'lose power' if silent else 'crash'}")
    for peer in peers:
        world.nursery.start_soon(_crash, world, peer, _restart_s(fault), silent)


def _restart_s(fault: Fault) -> float:
    return float(fault.options.get("restart_s", RESTART_S))


async def _crash(world: World, peer: Peer[Any], restart_s: float, silent: bool) -> None:
    await peer.stop(crash=True, silent=silent)
    if restart_s >= 0:
        await revive(world, peer, restart_s)


async def leave(world: World, fault: Fault) -> None:
    """Nodes leave in good order: providers drain. They come back ``for_s`` later if that is given."""
    peers = targets(world, fault, rng_of(world, fault))
    world.happens(f"{count_of(peers)} leave")
    await _away(world, fault, peers, _leave)


async def vanish(world: World, fault: Fault) -> None:
    """Providers are gone from one moment to the next, saying farewell and no more; back after ``for_s``, if given."""
    peers = sellers(world, fault, rng_of(world, fault))
    world.happens(f"{count_of(peers)} are gone at once")
    await _away(world, fault, peers, lambda peer: peer.stop())


async def _away(
    world: World, fault: Fault, peers: Sequence[Peer[Any]], end: Callable[[Peer[Any]], Awaitable[None]]
) -> None:
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(end, peer)
        if fault.for_s:
            await trio.sleep(fault.for_s)
    if fault.for_s:
        world.happens(f"{count_of(peers)} come back")
        for peer in peers:
            world.nursery.start_soon(revive, world, peer, 0.0)


async def _leave(peer: Peer[Any]) -> None:
    if isinstance(peer, ProviderPeer):
        await peer.leave()
    else:
        await peer.stop()


async def churn(world: World, fault: Fault) -> None:
    """Over ``for_s``, nodes go one after the other: ``crash_share`` of them (default half) are switched off, the others
    leave in good order.
    ``replaced_share`` (default none) never return, and a newcomer of their group takes their place; the others are back
    after ``away_s`` in the mean."""
    rng = rng_of(world, fault)
    options = fault.options
    peers = targets(world, fault, rng)
    ends = sorted(rng.uniform(0.0, fault.for_s) for _ in peers)
    began = trio.current_time()
    world.happens(f"{count_of(peers)} begin to come and go, for {fault.for_s:g} s")
    for peer, after_s in zip(peers, ends, strict=True):
        crashes = rng.random() < options.get("crash_share", 0.5)
        replaced = rng.random() < options.get("replaced_share", 0.0)
        away_s = rng.expovariate(1.0 / options.get("away_s", AWAY_S))
        await trio.sleep_until(began + after_s)
        world.nursery.start_soon(_come_and_go, world, peer, crashes, replaced, away_s)


async def _come_and_go(world: World, peer: Peer[Any], crashes: bool, replaced: bool, away_s: float) -> None:
    if crashes:
        await peer.stop(crash=True, silent=True)
    else:
        await _leave(peer)
    await revive(world, world.newcomer(peer) if replaced else peer, away_s)


async def crash_mid_stream(world: World, fault: Fault) -> None:
    """Every ``every_s``, for ``for_s``, the provider of a job whose answer has begun is killed; it starts again
    ``restart_s`` later. ``at_s`` is the first time; ``silent`` as of a crash."""
    rng = rng_of(world, fault)
    silent = bool(fault.options.get("silent", False))
    ends = trio.current_time() + fault.for_s
    killed = 0
    while True:
        streaming = [
            order for order in world.orders
            if order.outcome == "running" and order.provider is not None and order.first_token_at_s is not None
        ]  # fmt: skip
        served = [world.providers[world.numbers[order.provider]] for order in streaming if order.provider is not None]
        served = [peer for peer in dict.fromkeys(served) if peer.up and fault.group in ("", peer.group)]
        if served:
            killed += 1
            world.nursery.start_soon(_crash, world, rng.choice(served), _restart_s(fault), silent)
        if trio.current_time() >= ends:
            break
        await trio.sleep(float(fault.options.get("every_s", KILL_EVERY_S)) if served else 0.25)
    world.happens(f"providers were killed in the middle of an answer {killed} times")


# --- machines and lines that fail -------------------------------------------------------------------------------------


async def partition(world: World, fault: Fault) -> None:
    """A share of the nodes is cut off from the others, until ``for_s`` later."""
    peers = targets(world, fault, rng_of(world, fault), lambda peer: True)
    world.happens(f"{count_of(peers)} are cut off")
    with world.trouble.cut([peer.peer_id for peer in peers]):
        await trio.sleep(fault.for_s)
    world.happens("the network is whole again")


async def loss(world: World, fault: Fault) -> None:
    """The whole network loses messages with ``probability`` more, for ``for_s``."""
    probability = float(fault.options.get("probability", LOSS))
    world.happens(f"{probability:.1%} of all messages are lost")
    with world.trouble.loss(probability):
        await trio.sleep(fault.for_s)
    world.happens("the network loses no more than before")


async def slow(world: World, fault: Fault) -> None:
    """Engines take ``factor`` times as long, for ``for_s``."""
    factor = float(fault.options.get("factor", SLOWER))
    peers = sellers(world, fault, rng_of(world, fault))
    world.happens(f"{count_of(peers)} work {factor:g} times slower")
    with world.trouble.slow(peers, factor):
        await trio.sleep(fault.for_s)
    world.happens(f"{count_of(peers)} work as fast as before")


async def freeze(world: World, fault: Fault) -> None:
    """Machines stand still for ``for_s`` and then go on, as under SIGSTOP or a closed lid: nothing gets in or out,
    neither to peers nor to liteservers, and engines make nothing. Their timers go on, which a real one makes up for
    when it wakes."""
    peers = targets(world, fault, rng_of(world, fault))
    world.happens(f"{count_of(peers)} freeze")
    trouble = world.trouble
    with ExitStack() as stack:
        stack.enter_context(trouble.slow([peer for peer in peers if isinstance(peer, ProviderPeer)], FROZEN))
        stack.enter_context(trouble.no_chain(peers))
        for peer in peers:
            stack.enter_context(trouble.cut([peer.peer_id]))
        await trio.sleep(fault.for_s)
    world.happens(f"{count_of(peers)} thaw")


async def clock_skew(world: World, fault: Fault) -> None:
    """Wall clocks are ``seconds`` ahead, or behind when negative; put right after ``for_s``, if given."""
    seconds = float(fault.options.get("seconds", 60.0))
    peers = targets(world, fault, rng_of(world, fault), lambda peer: True)
    world.happens(f"the clocks of {count_of(peers)} are {abs(seconds):g} s {'ahead' if seconds > 0 else 'behind'}")
    for peer in peers:
        peer.machine.skew_s += seconds
    if fault.for_s:
        await trio.sleep(fault.for_s)
        for peer in peers:
            peer.machine.skew_s -= seconds
        world.happens(f"the clocks of {count_of(peers)} are right again")


# --- liteservers ------------------------------------------------------------------------------------------------------


async def chain_outage(world: World, fault: Fault) -> None:
    """No liteserver answers these nodes, for ``for_s``."""
    peers = targets(world, fault, rng_of(world, fault), lambda peer: True)
    world.happens(f"no liteserver answers {count_of(peers)}")
    with world.trouble.no_chain(peers):
        await trio.sleep(fault.for_s)
    world.happens(f"liteservers answer {count_of(peers)} again")


async def chain_lies(world: World, fault: Fault) -> None:
    """These nodes' liteservers stand still at the block of ``at_s``, for ``for_s``: what they say was true once."""
    peers = targets(world, fault, rng_of(world, fault), lambda peer: True)
    world.happens(f"the liteservers of {count_of(peers)} stand still")
    then = world.chain.photograph()
    for peer in peers:
        peer.machine.way.stuck = then
    await trio.sleep(fault.for_s)
    for peer in peers:
        if peer.machine.way.stuck is then:
            peer.machine.way.stuck = None
    world.happens(f"the liteservers of {count_of(peers)} go on")


FAULTS: Mapping[str, Callable[[World, Fault], Awaitable[None]]] = {
    "crash": crash,
    "leave": leave,
    "supply-shock": vanish,
    "shop-empty": vanish,
    "churn": churn,
    "crash-mid-stream": crash_mid_stream,
    "partition": partition,
    "loss": loss,
    "slow": slow,
    "freeze": freeze,
    "clock-skew": clock_skew,
    "chain-outage": chain_outage,
    "chain-lies": chain_lies,
}
"""Called at the fault's second, in a task of its own; it returns when the fault is over."""

__all__ = ["FAULTS", "Trouble"]
