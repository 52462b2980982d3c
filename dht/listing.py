"""Keeps this node listed in the hash table under the shards of what it sells; what it sells no more lapses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from random import Random

import trio

from dht.kad import KadError
from dht.limits import (
    FAILED_AGAIN_S,
    FIRST_SURVEY_AGAIN_S,
    LOOKUP_S,
    MAX_FAILED_AGAIN_S,
    MAX_SURVEYS,
    PROVIDER_TTL_S,
    SHARD_ASK,
)
from dht.providers import ProviderIndex
from dht.shards import Sold, key_of
from dht.walks import Place, Survey
from transport.host import HostError
from transport.identity import PeerId

_STEP = 3.0  # each announcement comes this many times later than the one before, up to a third of the TTL


@dataclass
class Listed:
    """How one thing that is sold is listed."""

    place: Place | None = None
    """Where, once it is."""
    due_at: float = 0.0
    """When it is announced next, by trio's clock."""
    wait_s: float = FIRST_SURVEY_AGAIN_S
    failed_wait_s: float = FAILED_AGAIN_S
    error: str = ""
    """Why the last announcement failed; empty when it did not."""


class Listing:
    """Run :meth:`run` in a task. ``ttl_s`` is the table's time to live of a provider record."""

    def __init__(
        self, table: ProviderIndex, me: PeerId, subnet: str, rng: Random, *, ttl_s: float = PROVIDER_TTL_S
    ) -> None:
        self._table = table
        self._me = me
        self._subnet = subnet
        self._rng = rng
        self._ttl_s = ttl_s
        self._changed = trio.Event()
        self.listed: dict[Sold, Listed] = {}
        """What is sold now."""

    def sell(self, names: Iterable[Sold]) -> None:
        """From now on this is sold, and nothing else."""
        wanted = dict.fromkeys(names)
        if wanted.keys() != self.listed.keys():
            now = trio.current_time()
            self.listed = {sold: self.listed.get(sold) or Listed(due_at=now) for sold in wanted}
            self._changed.set()

    def again(self) -> None:
        """Somebody is there who was not before: announce now what reached nobody."""
        for entry in self.listed.values():
            if entry.error:
                entry.due_at, entry.failed_wait_s = trio.current_time(), FAILED_AGAIN_S
                self._changed.set()

    async def run(self) -> None:
        """Announce whatever is due, for ever. On cancellation a key may have been announced and another not."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            due = [sold for sold, entry in self.listed.items() if entry.due_at <= now][:MAX_SURVEYS]
            if due:
                async with trio.open_nursery() as nursery:
                    for sold in due:
                        nursery.start_soon(self._announce, sold, self.listed[sold])
                continue
            with trio.move_on_at(min((entry.due_at for entry in self.listed.values()), default=float("inf"))):
                await self._changed.wait()

    async def _announce(self, sold: Sold, entry: Listed) -> None:
        name = partial(key_of, self._subnet, sold)
        # What `again` asks for while this runs is not overwritten.
        entry.due_at = trio.current_time() + entry.wait_s * self._rng.uniform(0.8, 1.2)
        entry.wait_s = min(_STEP * entry.wait_s, self._ttl_s / 3)
        try:
            survey = Survey(name, self._me, depth=entry.place.depth if entry.place else None)
            while (shard := survey.next) is not None:
                with trio.fail_after(LOOKUP_S):
                    listed = await self._table.find_providers(name(shard), SHARD_ASK)
                survey.answer(found.peer_id for found in listed)
            await self._provide([name(shard) for shard in survey.shards()])
        except (HostError, KadError, trio.TooSlowError) as error:
            entry.error = str(error) or f"no answer within {LOOKUP_S:g} s"
            entry.wait_s = FIRST_SURVEY_AGAIN_S
            entry.due_at = min(entry.due_at, trio.current_time() + entry.failed_wait_s)
            entry.failed_wait_s = min(2 * entry.failed_wait_s, MAX_FAILED_AGAIN_S)
        else:
            entry.place, entry.error, entry.failed_wait_s = survey.place, "", FAILED_AGAIN_S

    async def _provide(self, keys: list[bytes]) -> None:
        for key in keys:
            with trio.fail_after(LOOKUP_S):
                reached = await self._table.provide(key)
            self._table.withdraw(key)  # when and where we are listed again is ours to say
            if not reached:
                raise HostError("no node took the announcement")
