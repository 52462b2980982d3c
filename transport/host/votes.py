"""Whether others can dial us, decided by the answers of several who tried. Pure.

Each network (a /24 or /48) has one voice, however many peers it has: its last answer, which weighs one, or two when it
has said the same twice in a row. Two more on one side than on the other decide, and once decided the same lead is
needed on the other side to turn it: an answer that got lost, or a few liars, change nothing.
"""

from __future__ import annotations

from transport.host.interface import Reach
from transport.host.limits import AUTONAT_ANSWER_TTL_S, AUTONAT_LEAD, AUTONAT_MAX_VOICES, AUTONAT_VOICE_WEIGHT


class Votes:
    """The answers about one family of addresses. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.verdict = Reach.UNKNOWN
        self._voices: dict[str, tuple[bool, int, float]] = {}
        """By network, oldest answer first: what it said last, how often in a row, and when."""

    def __len__(self) -> int:
        return len(self._voices)

    def __contains__(self, network: str) -> bool:
        return network in self._voices

    @property
    def score(self) -> int:
        """How far those who reached us outweigh those who did not."""
        return sum(
            (1 if reached else -1) * min(times, AUTONAT_VOICE_WEIGHT) for reached, times, _ in self._voices.values()
        )

    def count(self, network: str, reached: bool, now: float) -> Reach:
        """One more answer; the verdict with it."""
        before = self._voices.pop(network, None)
        times = before[1] + 1 if before is not None and before[0] == reached else 1
        while len(self._voices) >= AUTONAT_MAX_VOICES:
            del self._voices[next(iter(self._voices))]
        self._voices[network] = (reached, times, now)
        return self._decide(now)

    def expire(self, now: float) -> Reach:
        """Forget answers that are too old; the verdict without them. With no answer left it is open again."""
        self._decide(now)
        if not self._voices:
            self.verdict = Reach.UNKNOWN
        return self.verdict

    def clear(self) -> None:
        """Begin anew: our addresses have changed."""
        self._voices.clear()
        self.verdict = Reach.UNKNOWN

    def _decide(self, now: float) -> Reach:
        for network in [n for n, (_, _, at) in self._voices.items() if now - at > AUTONAT_ANSWER_TTL_S]:
            del self._voices[network]
        if self.score >= AUTONAT_LEAD:
            self.verdict = Reach.PUBLIC
        elif self.score <= -AUTONAT_LEAD:
            self.verdict = Reach.PRIVATE
        return self.verdict


__all__ = ["Votes"]
