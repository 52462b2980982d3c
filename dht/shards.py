"""The keys of the directory: how a market is cut into shards, and what the providers listed under one tell. Pure.

What is sold is (task, model, tier). Its providers are spread over a binary tree by the bits of their hashed peer ids; a
node of the tree is a :class:`Shard`, and each shard has a key in the hash table. The tree is as deep as the market is
large, and nobody configures it: a *leaf* lists every provider below it, :data:`SHARD_CAP` at most. An *inner* shard,
one with leaves below it, lists a sample, :data:`SHARD_SAMPLE` in the mean: those providers whose :func:`weight` there
is least. So whoever reads any shard sees from the weights whether it is a leaf (they are spread evenly over 0 to 1) or
how many providers are below it (n of them leave the least eight near 8/n).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

from dht.limits import MAX_SHARD_BITS, SHARD_CAP
from dht.records import CapacityRecord
from transport.identity import PeerId

_DOMAIN = "cocoon:directory/1"
_SHA2_256 = b"\x12\x20"  # multihash: the function's code and its digest's length
_POINT_BITS = 64
_QUANTILE = 0.8  # one listing in nine may be false, and nearly one in five of many, and nothing changes
_EVEN = 0.45  # below this the quantile of even weights lies in 2 of 100 leaves
_TYPICAL = 0.7 * SHARD_CAP  # providers of an ordinary leaf

ANY_MODEL = ""
"""In place of a model's name: whoever sells the task in that tier, by whichever model."""


@dataclass(frozen=True)
class Sold:
    """What is sold, as the directory files it."""

    task: str
    model: str
    """A name, or :data:`ANY_MODEL`."""
    tier: str


def sold_in(record: CapacityRecord) -> list[Sold]:
    """Under what a provider with this record is listed: each offer by its model, and each task by any."""
    names = [Sold(o.task, model, o.tier) for o in record.offers for model in (o.model, ANY_MODEL)]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Shard:
    """The providers whose points begin with the ``depth`` bits of ``prefix``."""

    depth: int
    prefix: int

    @classmethod
    def of(cls, point: int, depth: int) -> Shard:
        """The shard of ``depth`` bits that ``point`` is in."""
        assert 0 <= depth <= MAX_SHARD_BITS
        return cls(depth, point >> (_POINT_BITS - depth))

    @property
    def bits(self) -> str:
        """The prefix as it is written in a key: a digit for each bit."""
        return f"{self.prefix:0{self.depth}b}" if self.depth else ""

    @property
    def sibling(self) -> Shard:
        """The shard that differs in the last bit."""
        assert self.depth > 0
        return Shard(self.depth, self.prefix ^ 1)


def point_of(peer: PeerId) -> int:
    """Where a provider is in every market's tree: 64 bits of its hashed peer id."""
    digest = hashlib.sha256(f"{_DOMAIN}\n{peer}".encode()).digest()
    return int.from_bytes(digest[: _POINT_BITS // 8], "big")


def key_of(subnet: str, sold: Sold, shard: Shard) -> bytes:
    """The multihash under which a shard's providers are listed. No name can have a line break, so no two texts meet."""
    text = "\n".join((_DOMAIN, subnet, sold.task, sold.model, sold.tier, shard.bits))
    return _SHA2_256 + hashlib.sha256(text.encode()).digest()


def weight(key: bytes, peer: PeerId) -> float:
    """A number from 0 to 1 that is a provider's own in each shard: the inner ones list those with the least."""
    return int.from_bytes(hashlib.sha256(key + peer.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Reading:
    """What the providers listed under a shard's key tell of it."""

    count: int
    """How many are listed."""
    size: float
    """How many are likely to be below it; ``count`` for a leaf."""
    inner: bool
    """Whether there are shards below it."""

    @property
    def levels(self) -> int:
        """How far below an inner shard its leaves are likely to be, one at least."""
        return max(1, round(log2(max(1.0, self.size / _TYPICAL))))


def read(key: bytes, peers: Iterable[PeerId]) -> Reading:
    """Judge what is listed under ``key``. More than :data:`SHARD_CAP` make it inner whatever their weights."""
    weights = sorted(weight(key, peer) for peer in set(peers))
    count = len(weights)
    if not weights:
        return Reading(0, 0.0, False)
    rank = int(_QUANTILE * count)
    quantile = max(weights[rank], 1e-9)
    size = (rank + 1) / quantile
    # One or two may have small weights by chance, and a sample seldom is of so few: they must be very small to be taken
    # for one. The second provider of a market still lists itself a bit too deep in 1 of 100, and at the root as well.
    sampled = quantile < _EVEN and size > (4 * SHARD_CAP if count < 3 else SHARD_CAP / 2)
    if sampled or count > SHARD_CAP:
        return Reading(count, max(size, count), True)
    return Reading(count, count, False)
