"""Caps on the money at risk at one time, which the user sets: for each channel, for each peer, and in all.

What is at risk differs by side. A **client** risks what its running jobs may cost: reserved when a job starts, until
it has ended. A **provider** risks what it serves before a voucher covers it: a channel's credit window
while jobs run on it, and what is left unpaid when they have ended. Each side keeps one :class:`RiskBook`, and both ask
it before a job starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

from overlay.settlement.ledger.account import Budget
from overlay.settlement.ledger.errors import OverLimit


@dataclass(frozen=True)
class RiskLimits:
    """The caps, in nanoTON; 0 is no cap."""

    per_channel_nanoton: int = 0
    per_peer_nanoton: int = 0
    total_nanoton: int = 0


class Cap(Budget):
    """A bound on what is open at one time: when a hold closes, its money counts no more."""

    def _closed(self, spent: int) -> None:
        self._spent -= spent
        assert self._spent >= 0

    @property
    def open_nanoton(self) -> int:
        """What counts now."""
        return self._spent + self._reserved

    def check(self) -> None:
        """Raises :class:`OverLimit` when more is open than the cap allows."""
        if self.open_nanoton > self._limit:
            raise OverLimit(self.what, self.open_nanoton, self._limit)


class RiskBook:
    """One side's caps and what counts against them. ``names`` are the configuration keys, for messages: those of
    ``per_channel``, ``per_peer`` and ``total``."""

    def __init__(self, limits: RiskLimits, names: tuple[str, str, str]) -> None:
        self.limits = limits
        self._names = names
        self._total = Cap(f"what may be at risk in all ({names[2]})", limits.total_nanoton)
        # A cap is there while a channel's machine or a credit line has it: they alone count against it.
        self._peers: WeakValueDictionary[str, Cap] = WeakValueDictionary()
        self._channels: WeakValueDictionary[str, Cap] = WeakValueDictionary()
        self._lines: dict[str, CreditLine] = {}

    def caps(self, channel: str, peer: str) -> tuple[Cap, ...]:
        """The caps that a job on ``channel`` with ``peer`` counts against, the narrowest first."""
        found: list[Cap] = []
        if self.limits.per_channel_nanoton:
            what = f"what may be at risk on one channel ({self._names[0]})"
            found.append(self._channels.setdefault(channel, Cap(what, self.limits.per_channel_nanoton)))
        if self.limits.per_peer_nanoton:
            what = f"what may be at risk with one peer ({self._names[1]})"
            found.append(self._peers.setdefault(peer, Cap(what, self.limits.per_peer_nanoton)))
        if self.limits.total_nanoton:
            found.append(self._total)
        return tuple(found)

    def credit(self, channel: str, peer: str) -> CreditLine:
        """What a provider's channel may use; the same one each time, however often the channel is loaded anew."""
        line = self._lines.get(channel)
        if line is None:
            caps = self.caps(channel, peer)
            lasting = tuple(cap for cap in caps if cap is not self._total)
            line = self._lines[channel] = CreditLine(lasting, tuple(cap for cap in caps if cap is self._total))
        return line

    def to_json(self) -> dict[str, int | None]:
        """The caps as commands show them; ``None`` is no cap."""
        limits = self.limits
        return {
            "per_channel_nanoton": limits.per_channel_nanoton or None,
            "per_peer_nanoton": limits.per_peer_nanoton or None,
            "total_nanoton": limits.total_nanoton or None,
        }


class CreditLine:
    """The credit of one channel at its provider, counted against the caps.

    ``lasting`` caps go on counting what a client owes that is gone; ``present`` ones count only those that are
    connected: else a row of clients that never come back would end all business.
    """

    def __init__(self, lasting: tuple[Cap, ...] = (), present: tuple[Cap, ...] = ()) -> None:
        self._caps = (*((cap, True) for cap in lasting), *((cap, False) for cap in present))
        self._held = [0] * len(self._caps)

    @property
    def limit_nanoton(self) -> int | None:
        """The most that may ever be unpaid on this channel; ``None`` without caps."""
        return min((cap.limit_nanoton for cap, _ in self._caps), default=None)

    def want(self, nanoton: int) -> None:
        """Count ``nanoton`` in each cap, or what was counted already where that is more. Raises :class:`OverLimit`,
        nothing being changed, when one has no room."""
        for (cap, _), held in zip(self._caps, self._held, strict=True):
            if nanoton - held > cap.left_nanoton:
                raise OverLimit(cap.what, nanoton - held, cap.left_nanoton)
        for number, (cap, _) in enumerate(self._caps):
            more = max(0, nanoton - self._held[number])
            cap._move(-more, 0)
            self._held[number] += more

    def keep(self, nanoton: int, *, connected: bool) -> None:
        """Jobs have ended: count no more than ``nanoton`` from now on, and where ``lasting`` is not meant nothing when
        the client is gone."""
        for number, (cap, lasting) in enumerate(self._caps):
            less = max(0, self._held[number] - (nanoton if connected or lasting else 0))
            cap._move(less, 0)
            self._held[number] -= less
