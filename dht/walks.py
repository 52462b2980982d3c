"""How a provider finds its place in a market's tree of shards, and how a reader finds providers in it. Pure.

Both are asked for the next shard to look up, and told who is listed there, until there is none::

    walk = Walk(name, want=8, rng=rng)
    while (shard := walk.next) is not None:
        walk.answer(look_up(name(shard)))
    walk.found()

::

            ┌──── nobody: higher ────┐
            ▼                        │
    shard ──┬── a sample (inner): as far down as its weights say
            └── a leaf: there
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from dht.limits import (
    COLD_SHARD_BITS,
    MAX_SHARD_BITS,
    SHARD_CAP,
    SHARD_SAMPLE,
    SURVEY_LOOKUPS,
    WALK_LOOKUPS,
)
from dht.shards import Reading, Shard, point_of, read, weight
from transport.identity import PeerId

Name = Callable[[Shard], bytes]
"""The key of a shard, in one market."""

_FEW = SHARD_CAP // 2
"""Two leaves with no more than this between them become one: half a leaf, so that the next few newcomers do not part
them again."""

_POINT_BITS = 64


class _Descent:
    """Finds the depth of the leaf on one path from the root, by what was seen on it so far."""

    def __init__(self, depth: int | None) -> None:
        self._cold = depth is None
        self.depth = COLD_SHARD_BITS if depth is None else min(depth, MAX_SHARD_BITS)
        self.inner = -1
        """The deepest shard on the path that has others below it."""
        self.empty = MAX_SHARD_BITS + 1
        """The highest that lists nobody."""
        self._missed = False

    def below(self, reading: Reading) -> bool:
        """Go down from an inner shard. False when what is below it is known to be empty."""
        self.inner = max(self.inner, self.depth)
        if self.depth + 1 >= self.empty or self.depth == MAX_SHARD_BITS:
            self.depth = min(self.depth + 1, MAX_SHARD_BITS)
            return False
        self.depth = min(self.depth + reading.levels, self.empty - 1, MAX_SHARD_BITS)
        return True

    def above(self) -> bool:
        """Go up from a shard that lists nobody. False when there is nothing between it and an inner one."""
        self.empty = min(self.empty, self.depth)
        if self.inner >= self.depth - 1:
            return False
        if self.inner < 0:
            # Those at the root, if it is no leaf, tell the depth; but a market may just have shrunk by a level.
            self.depth = 0 if self._cold else self.depth - 1
            self._cold = True
        else:
            # What a sample says is seldom off by more than a level.
            self.depth = (self.inner + self.empty) // 2 if self._missed else self.depth - 1
            self._missed = True
        return True

    def sparse(self) -> bool:
        """Whether a leaf with few may be the rest of a market that has shrunk: then go up by one."""
        if self.depth == 0 or self.inner >= self.depth - 1:
            return False
        self.empty = min(self.empty, self.depth + 1)
        self.depth -= 1
        return True


class Walk:
    """A reader's search for ``want`` providers, picked about evenly from the whole market.

    ``depth`` is what :attr:`depth` was after the last search; None when there was none. ``name`` gives the keys.
    """

    def __init__(self, name: Name, *, want: int, rng: Random, depth: int | None = None) -> None:
        self._name = name
        self._want = want
        self._rng = rng
        self._start = rng.getrandbits(_POINT_BITS)
        self._paths = 0
        self._descent = _Descent(depth)
        self._guess = depth
        self._known: dict[Shard, Reading] = {}
        self._leaves: dict[PeerId, None] = {}
        self._samples: dict[PeerId, None] = {}
        self._covered: set[Shard] = set()
        self.lookups = 0
        """Answers so far."""
        self.next: Shard | None = self._shard()
        """The shard to look up, or None when the search is over."""

    @property
    def depth(self) -> int | None:
        """Where a leaf was met: where the next search for the same should begin."""
        return self._guess

    def found(self) -> list[PeerId]:
        """Whom the search met, in an order that favours nobody: those of leaves, and after them those who are only
        known from samples, which list the same few to everybody."""
        leaves, samples = list(self._leaves), [peer for peer in self._samples if peer not in self._leaves]
        self._rng.shuffle(leaves)
        self._rng.shuffle(samples)
        return leaves + samples

    def answer(self, peers: Iterable[PeerId]) -> None:
        """Say who is listed under the key of :attr:`next`."""
        shard = self.next
        assert shard is not None
        listed = dict.fromkeys(peers)
        reading = self._known[shard] = read(self._name(shard), listed)
        (self._samples if reading.inner else self._leaves).update(listed)
        self.lookups += 1
        self.next = self._go_on(reading)

    def _shard(self) -> Shard:
        # Successive paths differ in the highest bits, so that they share as little as they can.
        turned = int(f"{self._paths:0{_POINT_BITS}b}"[::-1], 2)
        return Shard.of(self._start ^ turned, self._descent.depth)

    def more(self, count: int) -> None:
        """Go on until ``count`` others are found: some of those found were of no use. :attr:`next` may still be None,
        when the whole market or the look-ups have been gone through."""
        self._want = len(self._leaves) + count
        if self.next is None and not self._over:
            shard = self._shard()
            self.next = self._go_on(self._known[shard]) if shard in self._known else shard

    @property
    def _over(self) -> bool:
        everything = sum(2.0**-shard.depth for shard in self._covered) >= 1.0
        return everything or self.lookups >= WALK_LOOKUPS or self._paths >= 4 * WALK_LOOKUPS

    def _go_on(self, reading: Reading) -> Shard | None:
        while not self._over:
            if not self._moves(reading):
                leaf = self._shard()
                self._covered.add(leaf)
                if reading.count:
                    self._guess = leaf.depth
                self._paths += 1
                self._descent = _Descent(leaf.depth)
                if len(self._leaves) >= self._want:
                    return None
            shard = self._shard()
            if shard not in self._known:
                return shard
            reading = self._known[shard]
        return None

    def _moves(self, reading: Reading) -> bool:
        """Go on along this path; False at its leaf."""
        if reading.inner:
            return self._descent.below(reading)
        if reading.count == 0:
            return self._descent.above()
        return reading.count <= _FEW and len(self._leaves) < self._want and self._descent.sparse()


@dataclass(frozen=True)
class Place:
    """Where a provider belongs: at a leaf of ``depth`` bits with ``count`` providers, itself included."""

    depth: int
    count: int


class Survey:
    """A provider's look at its own path, before it announces itself. ``depth`` is where it was, None at first."""

    def __init__(self, name: Name, me: PeerId, *, depth: int | None = None) -> None:
        self._name = name
        self._me = me
        self._point = point_of(me)
        self._descent = _Descent(depth)
        self._beside: Shard | None = None
        """The sibling of our leaf, while it is asked about."""
        self._joined: Place | None = None
        """What our leaf and its sibling would make together, while the shard above them is asked about."""
        self.lookups = 0
        """Answers so far."""
        self.place: Place | None = None
        """Where we belong, once :attr:`next` is None."""
        self.next: Shard | None = self._shard()
        """The shard to look up, or None when the place is found."""

    def shards(self) -> list[Shard]:
        """Where to announce: the leaf, and those above it in whose sample our weight puts us.

        A leaf of n providers, m levels below an inner shard, is 2^-m of what is there, so its providers are in the
        sample by a chance of SAMPLE / (n·2^m): whatever the leaves look like, these add up to SAMPLE.
        """
        assert self.place is not None
        depth, count = self.place.depth, self.place.count
        above = [Shard.of(self._point, level) for level in range(depth)]
        sampled = [
            shard
            for shard in above
            if weight(self._name(shard), self._me) * count * 2.0 ** (depth - shard.depth) < SHARD_SAMPLE
        ]
        return [Shard.of(self._point, depth), *sampled]

    def answer(self, peers: Iterable[PeerId]) -> None:
        """Say who is listed under the key of :attr:`next`."""
        shard = self.next
        assert shard is not None
        others = set(peers) - {self._me}
        reading = read(self._name(shard), others)
        self.lookups += 1
        self.next = self._go_on(shard, reading)

    def _shard(self) -> Shard:
        return Shard.of(self._point, self._descent.depth)

    def _go_on(self, shard: Shard, reading: Reading) -> Shard | None:
        over = self.lookups >= SURVEY_LOOKUPS
        if shard == self._beside:
            return None if over else self._join(reading)
        count = reading.count + 1
        if self._joined is not None:
            if reading.inner or count > SHARD_CAP:
                return None  # it has more below it than us two: we stay where we are
            count = max(count, self._joined.count)
        elif reading.inner or count > SHARD_CAP:
            full = shard.depth == MAX_SHARD_BITS
            moves = self._descent.below(reading)
            self.place = Place(self._descent.depth, count if full else 1)
            return self._shard() if moves and not over else None
        self.place = Place(shard.depth, count)
        if over or shard.depth == 0:
            return None
        if reading.count == 0 and self._joined is None:
            return self._shard() if self._descent.above() else None
        if count > _FEW or self._descent.inner >= shard.depth - 1:
            return None
        self._beside = shard.sibling
        return self._beside

    def _join(self, sibling: Reading) -> Shard | None:
        """Our leaf and its sibling become one when they are small: ask about the shard above them."""
        assert self.place is not None
        together = self.place.count + sibling.count
        if sibling.inner or together > _FEW:
            return None
        self._joined = Place(self.place.depth - 1, together)
        self._descent.sparse()
        return self._shard()
