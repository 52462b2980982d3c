"""Where a whole market's listings come to lie, without a network: the directory's own rules over a table in memory.

Ten thousand providers survey and list themselves as `dht.listing` has them do; each key is held by the twenty of ten
thousand nodes nearest to it. It says what a node would hold and, of look-ups that find everybody, serve; the `market`
scenario is the same with a network, look-ups and failures in between.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from dht.kad import key_of as point_in_table
from dht.kad.keys import peer_bytes
from dht.kad.limits import K
from dht.limits import FIRST_SURVEY_AGAIN_S, PROVIDER_TTL_S, SHARD_ASK, WANTED_PROVIDERS
from dht.shards import Shard, Sold, key_of
from dht.walks import Place, Survey, Walk
from transport.identity import PeerId, peer_id_of

_MODEL = Sold("chat", "popular", "plain")
_RAMP_S = 600.0
_SETTLE_S = 3600.0
_STEP = 3.0  # as dht.listing


class _Table:
    """Provider records that lapse, and who holds them."""

    def __init__(self, nodes: list[PeerId], rng: random.Random) -> None:
        self.now = 0.0
        self.listed: dict[bytes, dict[PeerId, float]] = {}
        self._rng = rng
        self._points = [(point_in_table(peer_bytes(node)), node) for node in nodes]
        self._holders: dict[bytes, list[PeerId]] = {}

    def provide(self, key: bytes, peer: PeerId) -> None:
        self.listed.setdefault(key, {})[peer] = self.now + PROVIDER_TTL_S

    def find(self, key: bytes) -> list[PeerId]:
        standing = [peer for peer, until in self.listed.get(key, {}).items() if until > self.now]
        return standing if len(standing) <= SHARD_ASK else self._rng.sample(standing, SHARD_ASK)

    def holders(self, key: bytes) -> list[PeerId]:
        if key not in self._holders:
            target = point_in_table(key)
            nearest = heapq.nsmallest(K, self._points, key=lambda pair: pair[0] ^ target)
            self._holders[key] = [node for _, node in nearest]
        return self._holders[key]


def placed_market(seed: int, providers: int, readers: int) -> dict[str, Any]:
    """``providers`` list themselves, each of them a node too; then ``readers`` look for one. The most of the market
    that a node holds, and the most of the readers' requests that a node would get if all holders of a key were asked
    alike."""
    rng = random.Random(f"placement {seed}")
    peers = [peer_id_of(hashlib.sha256(f"{seed} {number}".encode()).digest()) for number in range(providers)]
    table = _Table(peers, rng)
    name = partial(key_of, "bench", _MODEL)
    _announce_all(table, peers, name, rng)
    held: dict[PeerId, set[PeerId]] = {}
    for key in table.listed:
        for node in table.holders(key):
            held.setdefault(node, set()).update(table.find(key))
    served: Counter[PeerId] = Counter()
    lookups, least = 0, providers
    for _ in range(readers):
        walk = Walk(name, want=WANTED_PROVIDERS, rng=rng)
        while (shard := walk.next) is not None:
            served.update(table.holders(name(shard)))
            lookups += 1
            walk.answer(table.find(name(shard)))
        least = min(least, len(walk.found()))
    most = max(map(len, held.values()))
    digest = hashlib.blake2b(repr([most, sorted(served.items())]).encode(), digest_size=16).hexdigest()
    return {
        "seed": seed, "nodes": providers, "holds_most": most / providers,
        "serves_most": max(served.values()) / (K * lookups), "lookups_of_a_reader": lookups / readers,
        "keys": len(table.listed), "found_least": least, "digest": digest,
    }  # fmt: skip


def _announce_all(table: _Table, peers: list[PeerId], name: Callable[[Shard], bytes], rng: random.Random) -> None:
    """Everybody comes in the course of ten minutes, and announces again, less and less often, for an hour."""
    places: dict[PeerId, Place | None] = dict.fromkeys(peers)
    waits = dict.fromkeys(peers, FIRST_SURVEY_AGAIN_S)
    due = [(rng.uniform(0, _RAMP_S), peer) for peer in peers]
    heapq.heapify(due)
    while due and due[0][0] < _RAMP_S + _SETTLE_S:
        table.now, peer = heapq.heappop(due)
        before = places[peer]
        survey = Survey(name, peer, depth=before.depth if before else None)
        while (shard := survey.next) is not None:
            survey.answer(table.find(name(shard)))
        places[peer] = survey.place
        for shard in survey.shards():
            table.provide(name(shard), peer)
        heapq.heappush(due, (table.now + waits[peer] * rng.uniform(0.8, 1.2), peer))
        waits[peer] = min(_STEP * waits[peer], PROVIDER_TTL_S / 3)
    table.now = _RAMP_S + _SETTLE_S
