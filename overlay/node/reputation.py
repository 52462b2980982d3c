"""What a client remembers of the providers that it has dealt with: pure, bounded, and its own experience alone.

Everything in a capacity record is a claim. Once a provider has served, what it did counts instead:

* a provider that failed a job is left out for a while, each failure in a row twice as long as the one before;
* one that charged what it did not deliver is left out for good;
* the speed that it showed, waiting included, takes the place of a higher one that it claims;
* so does the number of tokens that it counts for its text, where it is far above what others of the model count.

Nothing here makes a provider look better than it says, so there is nothing to be gained by serving well for a while
but trust not to be passed over for strangers. Nothing is told to others: what nobody can prove, nobody should believe.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict
from dataclasses import dataclass, field

from transport.identity import PeerId

FAILED_FOR_S = 30.0
"""A provider that failed a job is left out of negotiations this long, the first time."""

MAX_FAILED_FOR_S = 3600.0
"""And at most this long: who was ill for a day is tried again an hour after it is well."""

FORGIVEN = 0.9
"""What a good job leaves of earlier failures: who fails one of ten jobs is soon left out for minutes, one of a hundred
always for half a minute."""

KEPT = 0.8
"""What a job leaves of the sums of earlier ones: about the last five count."""

FORGET_S = 1800.0
"""Nothing is remembered for longer than this after the last job: hardware is replaced, and queues pass."""

LATE_TOLERANCE_S = 2.0
"""A first result so long after it was due is no lie: a prompt was read, a line was slow."""

LEAST_SHARE = 0.8
"""A speed below this share of the claimed one counts as another one. Measures of honest providers scatter by less."""

JOBS_TO_JUDGE = 3
"""Jobs whose text must have been seen of a provider, and of each of the others that it is held against."""

OTHERS_TO_JUDGE = 2
"""Providers to hold it against: one alone may be the one that is wrong."""

TOO_MANY_TOKENS = 1.3
"""Times as many tokens for as much text as the median of the others of the model: users' languages differ by less
between providers, who get the same user's jobs."""

MAX_REMEMBERED = 256
"""Providers: as many as the index keeps for whoever was dealt with."""


@dataclass(frozen=True)
class Served:
    """One job as its client saw it. ``due_s`` is the wait that the provider's record named when the job was sent,
    ``first_s`` when the first result came, ``waited_s`` all the time spent waiting for it, both since it was sent;
    ``units`` came of the main unit, and ``text_bytes`` of text."""

    model: str
    units: int
    text_bytes: int
    due_s: float
    first_s: float
    waited_s: float


@dataclass
class _Texts:
    """Text of one model: bytes and units, of about the last five jobs."""

    jobs: int = 0
    units: float = 0.0
    bytes: float = 0.0

    def add(self, served: Served) -> None:
        self.jobs += 1
        self.units = self.units * KEPT + served.units
        self.bytes = self.bytes * KEPT + served.text_bytes

    @property
    def density(self) -> float | None:
        """Units for a byte, once enough was seen."""
        return self.units / self.bytes if self.jobs >= JOBS_TO_JUDGE and self.bytes > 0 else None


@dataclass
class _Memory:
    """Of one provider."""

    at_s: float = 0.0
    jobs: int = 0
    strikes: float = 0.0
    out_until_s: float = 0.0
    disputed: bool = False
    weight: float = 0.0
    late_s: float = 0.0
    units: float = 0.0
    streamed_s: float = 0.0
    texts: dict[str, _Texts] = field(default_factory=dict)


class Reputation:
    """See the module's docstring. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._known: OrderedDict[PeerId, _Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def _of(self, peer: PeerId, now_s: float) -> _Memory:
        memory = self._known.get(peer)
        if memory is None or (now_s - memory.at_s > FORGET_S and now_s >= memory.out_until_s and not memory.disputed):
            memory = self._known[peer] = _Memory()
        memory.at_s = now_s
        self._known.move_to_end(peer)
        if len(self._known) > MAX_REMEMBERED:
            # Who is left out stays left out before who is merely known: the others are met again soon.
            gone = next((p for p, m in self._known.items() if not m.disputed and m.out_until_s <= now_s), None)
            del self._known[gone if gone is not None else next(iter(self._known))]
        return memory

    def served(self, peer: PeerId, job: Served, now_s: float) -> bool:
        """A job ended well. Returns whether the provider counts far more tokens than others do, which is a failure."""
        memory = self._of(peer, now_s)
        memory.jobs += 1
        late_s = max(0.0, job.first_s - job.due_s - LATE_TOLERANCE_S)
        memory.weight = memory.weight * KEPT + 1
        memory.late_s = memory.late_s * KEPT + late_s
        memory.units = memory.units * KEPT + job.units
        memory.streamed_s = memory.streamed_s * KEPT + max(0.0, job.waited_s - job.first_s)
        if job.text_bytes:
            memory.texts.setdefault(job.model, _Texts()).add(job)
            if self._counts_too_many(peer, job.model):
                self._strike(memory, now_s)
                return True
        memory.strikes *= FORGIVEN
        return False

    def failed(self, peer: PeerId, now_s: float) -> None:
        """It lost, broke or never began a job: leave it out for a while."""
        self._strike(self._of(peer, now_s), now_s)

    def full(self, peer: PeerId, now_s: float) -> None:
        """It could not take a job: look elsewhere for a while. Nothing is wrong with it."""
        memory = self._of(peer, now_s)
        memory.out_until_s = max(memory.out_until_s, now_s + FAILED_FOR_S)

    def disputed(self, peer: PeerId, now_s: float) -> None:
        """It charged what it did not deliver: never again."""
        self._of(peer, now_s).disputed = True

    def _strike(self, memory: _Memory, now_s: float) -> None:
        memory.strikes += 1
        out_s = min(MAX_FAILED_FOR_S, FAILED_FOR_S * 2.0 ** (memory.strikes - 1))
        memory.out_until_s = max(memory.out_until_s, now_s + out_s)

    # --- what it means for the next job -------------------------------------------------------------------------------

    def is_disputed(self, peer: PeerId) -> bool:
        """Whether it is never to be dealt with."""
        memory = self._known.get(peer)
        return memory is not None and memory.disputed

    def is_out(self, peer: PeerId, now_s: float) -> bool:
        """Whether it is to be left out now, while there are others."""
        memory = self._known.get(peer)
        return memory is not None and (memory.disputed or now_s < memory.out_until_s)

    def is_trusted(self, peer: PeerId) -> bool:
        """Whether it has served us and is not left out for more failures than that."""
        memory = self._known.get(peer)
        return memory is not None and not memory.disputed and memory.jobs > 0 and memory.strikes < 1

    def is_measured(self, peer: PeerId, now_s: float) -> bool:
        """Whether its speed is known from jobs of ours."""
        memory = self._known.get(peer)
        return memory is not None and memory.weight > 0 and now_s - memory.at_s <= FORGET_S

    def units_per_s(self, peer: PeerId, claimed: float, size: int, now_s: float) -> float:
        """How fast a job of ``size`` units is to be expected, what it waits beyond the claimed wait included: what it
        claims, or what it showed where that is less. 0 is an unknown speed."""
        memory = self._known.get(peer)
        if memory is None or size < 1 or not self.is_measured(peer, now_s):
            return claimed
        shown = memory.units / memory.streamed_s if memory.streamed_s > 0 else claimed
        speed = shown if shown < LEAST_SHARE * claimed else claimed
        late_s = memory.late_s / memory.weight
        if speed <= 0:
            return size / late_s if late_s > 0 else claimed
        return size / (late_s + size / speed) if late_s > 0 else speed

    def _counts_too_many(self, peer: PeerId, model: str) -> bool:
        own = self._density(peer, model)
        others = [
            density for other in self._known if other != peer and (density := self._density(other, model)) is not None
        ]
        if own is None or len(others) < OTHERS_TO_JUDGE:
            return False
        return own > TOO_MANY_TOKENS * statistics.median(others)

    def _density(self, peer: PeerId, model: str) -> float | None:
        texts = self._known[peer].texts.get(model)
        return None if texts is None else texts.density
