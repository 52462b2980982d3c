"""How far from a key its k nearest peers should be, pure.

Ids are hashes, so honest peers lie evenly: the k nearest to a point at random reach as far as k/n of the key space, for
n peers. An attacker who makes ids near one key makes that place denser than any other; a look-up that knows how dense
the others are does not stop at his ids, but goes on to everybody within the distance at which k honest peers are due.
(The idea of region-based queries: Sridhar et al., "Content Censorship in the InterPlanetary File System", NDSS 2024.)
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

_SAMPLES = 15  # look-ups remembered: their median is within 10 % when all are honest
_SHARE_PERCENT = 70  # of the distance: the k nearest reach farther than this in all but a tenth of honest look-ups


class Density:
    """Learns from the look-ups of one node how far k nearest peers reach. Most are of keys that nobody else chose (our
    own id, keys at random), and the median is not moved by a few that somebody did."""

    def __init__(self) -> None:
        self._reaches: deque[int] = deque(maxlen=_SAMPLES)

    def note(self, reach: int) -> None:
        """A look-up of one key found its k nearest, the farthest at distance ``reach``."""
        self._reaches.append(reach)

    def radius(self, own_reach: int | None) -> int:
        """Peers nearer to a key than this belong to its window however many they are; 0 while too little is known.

        ``own_reach`` is the distance of our own k-th neighbour (None if there are fewer): it falls at once when the
        network grows, which the median of past look-ups would take hours to notice."""
        if own_reach is None or not self._reaches:
            return 0
        return min(median_low(self._reaches), own_reach) * _SHARE_PERCENT // 100
