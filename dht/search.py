"""Finds providers of a market through the hash table, and brings in their records, each from its provider itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import trio

from dht.kad import KadError
from dht.limits import (
    FETCH_S,
    LOOKUP_S,
    MAX_ALL_FETCHES,
    MAX_FETCHES,
    MAX_MARKETS,
    MAX_SEARCH_AGAIN_S,
    MAX_SEARCHES,
    SEARCH_AGAIN_S,
    SEARCH_S,
    SHARD_ASK,
    WANTED_PROVIDERS,
)
from dht.providers import FoundProvider, ProviderIndex
from dht.shards import Sold, key_of
from dht.walks import Walk
from transport.host import HostError
from transport.identity import PeerId

Bring = Callable[[FoundProvider, Sold], Awaitable[bool]]
"""Has one provider's record fetched, verified and indexed; whether it sells what is searched for."""


@dataclass
class Market:
    """What is remembered of searches for one thing that is sold. Times are trio's."""

    depth: int | None = None
    asked_at: float = float("-inf")
    """When somebody last wanted it."""
    searched_at: float = float("-inf")
    """When the last search ended."""
    again_s: float = SEARCH_AGAIN_S
    running: bool = False
    ended: trio.Event = field(default_factory=trio.Event)
    """Set when the search that runs, or the next one, ends."""
    lookups: int = 0
    """Look-ups of the last search."""
    found: int = 0
    """Providers whose records it brought."""


class Search:
    """Searches run in ``nursery``; at most one for each market at a time."""

    def __init__(
        self, table: ProviderIndex, me: PeerId, subnet: str, bring: Bring, nursery: trio.Nursery, rng: Random
    ) -> None:
        self._table = table
        self._me = me
        self._subnet = subnet
        self._bring = bring
        self._nursery = nursery
        self._rng = rng
        self._fetching = trio.CapacityLimiter(MAX_ALL_FETCHES)
        self.markets: OrderedDict[Sold, Market] = OrderedDict()
        """Those asked for, the last one last."""

    def start(self, sold: Sold, *, within_s: float | None = None) -> None:
        """Search, unless one runs or the last one ended within ``within_s``; without it, less and less often."""
        market = self.market(sold)
        gap_s = market.again_s if within_s is None else within_s
        running = sum(other.running for other in self.markets.values())
        if market.running or running >= MAX_SEARCHES or trio.current_time() < market.searched_at + gap_s:
            return
        market.again_s = SEARCH_AGAIN_S if within_s is not None else min(2 * market.again_s, MAX_SEARCH_AGAIN_S)
        market.running = True
        self._nursery.start_soon(self._run, sold, market)

    def market(self, sold: Sold) -> Market:
        """What is remembered of it, from now on if not before."""
        market = self.markets.setdefault(sold, Market())
        self.markets.move_to_end(sold)
        if len(self.markets) > MAX_MARKETS:
            self.markets.popitem(last=False)
        return market

    async def _run(self, sold: Sold, market: Market) -> None:
        market.found = 0
        try:
            with trio.move_on_after(SEARCH_S):
                await self._search(sold, market)
        finally:
            market.running = False
            market.ended.set()
            market.ended = trio.Event()
            market.searched_at = trio.current_time()

    async def _search(self, sold: Sold, market: Market) -> None:
        name = partial(key_of, self._subnet, sold)
        walk = Walk(name, want=WANTED_PROVIDERS, rng=self._rng, depth=market.depth)
        known: dict[PeerId, FoundProvider] = {}
        tried = {self._me}
        while True:
            while (shard := walk.next) is not None:
                walk.answer(await self._look_up(name(shard), known))
            market.depth, market.lookups = walk.depth, walk.lookups
            untried = [known[peer] for peer in walk.found() if peer not in tried]
            tried.update(found.peer_id for found in untried)
            market.found += await self._bring_some(untried, sold, WANTED_PROVIDERS - market.found)
            if market.found >= WANTED_PROVIDERS:
                return
            # Some are gone, or sell it no more.
            walk.more(WANTED_PROVIDERS - market.found)
            if walk.next is None:
                return

    async def _look_up(self, key: bytes, known: dict[PeerId, FoundProvider]) -> list[PeerId]:
        listed: Sequence[FoundProvider] = ()
        try:
            with trio.move_on_after(LOOKUP_S):
                listed = await self._table.find_providers(key, SHARD_ASK)
        except (HostError, KadError):
            pass  # like nobody: the next look-up goes another way
        known.update({found.peer_id: found for found in listed[:SHARD_ASK]})
        return [found.peer_id for found in listed[:SHARD_ASK]]

    async def _bring_some(self, candidates: Sequence[FoundProvider], sold: Sold, want: int) -> int:
        """Ask several at once until ``want`` have answered well; how many did. Others in flight are given up."""
        good = 0
        waiting = list(reversed(candidates))

        async def work(scope: trio.CancelScope) -> None:
            nonlocal good
            while waiting:
                candidate, sells = waiting.pop(), False
                async with self._fetching:
                    with trio.move_on_after(FETCH_S):
                        sells = await self._bring(candidate, sold)
                good += sells
                if good >= want:
                    scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(MAX_FETCHES, len(candidates))):
                nursery.start_soon(work, nursery.cancel_scope)
        return good
