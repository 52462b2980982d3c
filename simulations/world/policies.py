"""How prices are found in a world, and who gets a job: ours, and what others do instead, to be compared with.

A baseline changes two things of production's nodes, from outside: what a provider's configuration says its prices are
(the cap on the floor: they do not move), and what stands in its client's place of :class:`~overlay.node.deals.Deals`.
Identities, network, tunnels, channels, engines and demand are the same as in a run of ours with the same seed.

Both are given more than they have: whoever chooses sees how full every machine is at this moment, and channels open
within two seconds, since neither system has any to each provider.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
import trio

from compute.scheduler import Load
from compute.tasks import Request
from compute.usage import Prices
from overlay.config import Config
from overlay.errors import NoProvider, TooExpensive
from overlay.market import Candidate, negotiate
from overlay.market.selection import MAIN_UNIT
from overlay.node.client import ClientNode
from overlay.node.deals import Deal, Deals
from simulations.scenarios.model import ChainPart, Scenario
from simulations.scenarios.tree import nearest
from transport.identity import PeerId

if TYPE_CHECKING:
    from simulations.world.nodes import ProviderPeer
    from simulations.world.world import World

OURS = "ours"

COCOON_STEP = 20
"""Its coefficients go in twentieths of the network's price."""

MARGIN_S = 1.0
"""Before an agreement ends no job begins under it any more."""

FAST_CHAIN = ChainPart(block_s=0.5, delay_s=0.05)
"""Where a channel opens within two seconds."""


class Policy:
    """Ours: production's nodes as they are."""

    name = OURS

    def scenario(self, scenario: Scenario) -> Scenario:
        """The scenario in which it runs."""
        return scenario

    def provider(self, config: Config) -> Config:
        """What it changes in a provider's configuration."""
        return config

    def join(self, world: World, node: ClientNode) -> None:
        """A client's node has started."""


class Posted(Policy, ABC):
    """Prices that do not move: the provider's floor times ``margin``. A job goes to a machine whose price its client
    pays; there are no queues unless ``queue`` allows them."""

    margin = 1.0
    queue = 0

    def scenario(self, scenario: Scenario) -> Scenario:
        """Payments are no trouble."""
        chain = msgspec.structs.replace(FAST_CHAIN, liteservers=scenario.chain.liteservers)
        return msgspec.structs.replace(scenario, chain=chain)

    def provider(self, config: Config) -> Config:
        """Post the prices, and let nobody wait."""
        changed = {
            unit: self.price(getattr(config.price, unit))
            for unit in config.price.__struct_fields__
            if unit != "cap_ratio"
        }
        price = msgspec.structs.replace(config.price, **changed, cap_ratio=1.0)
        node = msgspec.structs.replace(config.node, queue_per_engine=self.queue)
        return msgspec.structs.replace(config, price=price, node=node)

    def price(self, floor: int) -> int:
        """What is asked, nanoTON."""
        return round(floor * self.margin)

    def join(self, world: World, node: ClientNode) -> None:
        """Its jobs go where this policy says."""
        node.deals = PostedDeals(node.deals, self, world)

    @abstractmethod
    def rank(self, cost: int, load: Load, late: float) -> float | None:
        """Of the machines that will do, the one where this is least is taken; ``None`` where it does not go. ``cost``
        is the job's, and ``late`` what its client's time until it is done is worth, both in nanoTON."""


class FreeSlots(Posted):
    """A job goes to machines with a free slot only."""

    def rank(self, cost: int, load: Load, late: float) -> float | None:
        """As :meth:`likes` has it, of those with a free slot."""
        return None if load.busy >= load.slots else self.likes(cost, load)

    @abstractmethod
    def likes(self, cost: int, load: Load) -> float:
        """The one where this is least is taken."""


class Cocoon(FreeSlots):
    """One network price times a coefficient that each worker sets by hand; a proxy sends a job to the least loaded
    worker whose price is under the client's cap."""

    name = "cocoon"
    margin = 2.0

    def price(self, floor: int) -> int:
        """The coefficient's next step above what its owner wants. Of floors in one unit the network's price is the
        power of two below."""
        wanted = floor * self.margin
        if wanted < 1:
            return 0
        step = max(1.0, 2.0 ** math.floor(math.log2(wanted)) / COCOON_STEP)
        return round(math.ceil(wanted / step) * step)

    def likes(self, cost: int, load: Load) -> float:
        """The least loaded."""
        return load.busy / load.slots


class Golem(FreeSlots):
    """Each provider posts a price; a requestor proposes to the cheapest first, who accepts if a slot is free, and then
    to the next."""

    name = "golem"
    margin = 1.6

    def likes(self, cost: int, load: Load) -> float:
        """The cheapest."""
        return cost


class Dispatcher(Posted):
    """Nobody's system, but how far one gets who sees every machine at this moment, and not the future: a job goes to
    where its cost and its time together are least, queues included. Everybody asks his floor, so that nothing keeps
    jobs away that are worth less than others; where more is asked for than there is, it is no good."""

    name = "dispatcher"
    queue = 64

    def rank(self, cost: int, load: Load, late: float) -> float | None:
        """The least of both."""
        return cost + late


POLICIES: Mapping[str, Callable[[], Policy]] = {
    OURS: Policy, "cocoon": Cocoon, "golem": Golem, "dispatcher": Dispatcher,
}  # fmt: skip
"""By name."""

BASELINES = tuple(name for name in POLICIES if name != OURS)


def policy(name: str) -> Policy:
    """The policy of that name. Raises ``ValueError``, which names the nearest."""
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}; {nearest(name, POLICIES, 'known')}")
    return POLICIES[name]()


class PostedDeals(Deals):
    """Chooses a provider anew for each job. An agreement, which fixes what is posted, is kept while it stands."""

    def __init__(self, old: Deals, policy: Posted, world: World) -> None:
        super().__init__(
            old.host, old.directory, old.buyer, old.market, old.max_amount_nanoton, old.links, old.nursery, old.log,
            old.clock, old.rng, reputation=old.reputation,
        )  # fmt: skip
        self._policy_of = policy
        self._world = world
        self._standing: dict[tuple[object, str, PeerId], Deal] = {}

    async def get(self, request: Request) -> Deal:
        """An agreement with the provider that the policy chooses among those with a free slot.

        Raises :class:`~overlay.errors.CocoonError`.
        """
        await self.directory.wait_for_providers(request.task, request.model, self.market.tier, timeout_s=1.0)
        chosen = self._choose(request)
        key = (request.task, request.model, chosen.provider)
        deal = self._standing.get(key)
        if deal is None or trio.current_time() >= deal.ends_at or not deal.link.works:
            deal = self._standing[key] = await self._agree(request, chosen)
        deal.link = await self.links.get(deal.agreement.body, self._most(request, deal.agreement))
        deal.jobs += 1
        return deal

    def full(self, request: Request, deal: Deal) -> None:
        """Somebody else's job came first: the next look at the machines sees it."""

    def ended(self, request: Request, deal: Deal) -> None:
        """It is used up."""
        self._standing.pop((request.task, request.model, deal.link.peer), None)

    def _choose(self, request: Request) -> Candidate:
        want, policy = self._want(request, request.model), self._policy()
        machines = {peer.peer_id: peer for peer in self._world.providers}
        ranked: list[tuple[float, int, Candidate]] = []
        known, full, best = 0, 0, Prices({})
        now_s = trio.current_time()
        for peer, record, offer in self.directory.providers(request.task, request.model, self.market.tier):
            machine = machines.get(peer)
            if machine is None or self.reputation.is_out(peer, now_s) or self.reputation.is_disputed(peer):
                continue
            known += 1
            prices = Prices.from_wire(dict(offer.prices))
            if not policy.affords(prices):
                best = prices
                continue
            load = _load(machine, request)
            if load is None:
                continue
            found = Candidate(peer, prices, round(1000 * load.wait_s), offer.units_per_s, record.host_addrs)
            seconds = found.seconds(found.wait_ms, want.usage.get(MAIN_UNIT[request.task]))
            late = policy.value_of_time_nanoton_per_s * seconds
            rank = self._policy_of.rank(prices.cost_nanoton(want.usage), load, late)
            if rank is None:
                full += 1
            else:
                ranked.append((rank, machine.number, found))
        if ranked:
            return min(ranked, key=lambda each: each[:2])[2]
        if known and not full:
            raise TooExpensive(f"every provider of {request.model} asks more than the cap", best=best)
        raise NoProvider(f"{full} of {known} providers of {request.model} would do, and have no free slot")

    async def _agree(self, request: Request, chosen: Candidate) -> Deal:
        want = self._want(request, request.model)
        agreement = await negotiate(
            self.host, self.buyer, [chosen], want, self._policy(), clock=self.clock, rng=self.rng
        )
        link = await self.links.get(agreement.body, self._most(request, agreement))
        now_s = trio.current_time()
        ends_s = now_s + agreement.body.valid_until_ms / 1000 - self.clock() - MARGIN_S
        return Deal(agreement, link, chosen.asks, ends_s, math.inf)


def _load(machine: ProviderPeer, request: Request) -> Load | None:
    """How full it is now; ``None`` of a machine that is off."""
    return None if machine.node is None else machine.node.shop.loads().get((request.task, request.model))


__all__ = ["BASELINES", "OURS", "POLICIES", "Cocoon", "Dispatcher", "Golem", "Policy", "Posted", "policy"]
