"""What a tunnel has to do as time passes, as a pure state machine: when something is due next, and what.

The tunnel tells when it heard its peer last and since when a batch waits for the link; nothing here reads a clock.
"""

from __future__ import annotations

from enum import Enum, auto

from transport.tunnel.limits import (
    DEAD_SECONDS,
    MEASURE_SECONDS,
    PING_SECONDS,
    RATE_SECONDS,
    REKEY_SECONDS,
    SECOND_PING_SECONDS,
    STALL_SECONDS,
)


class Action(Enum):
    """Something that is due."""

    PING = auto()
    REKEY = auto()
    DEAD = auto()
    """The peer has been silent for too long."""
    STALLED = auto()
    """The peer has not taken a batch for too long."""


class Upkeep:
    """See the module's docstring. Times are seconds of one clock; ``now`` is when the tunnel began."""

    def __init__(self, now: float, *, initiator: bool) -> None:
        self._quiet_s = PING_SECONDS if initiator else SECOND_PING_SECONDS
        self._pinged_at = now  # both sides ping when they begin
        self._rekeyed_at = now

    def due_at(self, heard_at: float, stuck_at: float | None) -> float:
        """When to look again, if nothing changes: early when something was heard meanwhile, never late."""
        quiet_at = heard_at + self._quiet_s
        # A ping that was not answered is not repeated: what carries a tunnel loses nothing, and is slow or broken.
        silent_at = heard_at + DEAD_SECONDS if self._pinged_at >= quiet_at else quiet_at
        stalled_at = silent_at if stuck_at is None else stuck_at + STALL_SECONDS
        return min(silent_at, stalled_at, self._rekeyed_at + REKEY_SECONDS)

    def act(self, now: float, heard_at: float, stuck_at: float | None) -> set[Action]:
        """What is due ``now``."""
        # Sums as in `due_at`, not differences: what is due then must not come out as due a rounding error later.
        actions: set[Action] = set()
        if now >= heard_at + DEAD_SECONDS:
            actions.add(Action.DEAD)
        if stuck_at is not None and now >= stuck_at + STALL_SECONDS:
            actions.add(Action.STALLED)
        if now >= self._rekeyed_at + REKEY_SECONDS:
            self._rekeyed_at = now
            actions.add(Action.REKEY)
        quiet_at = heard_at + self._quiet_s
        if now >= quiet_at > self._pinged_at or now >= self._pinged_at + MEASURE_SECONDS:
            self._pinged_at = now
            actions.add(Action.PING)
        return actions


class Rates:
    """Bytes a second in both directions, over the time since somebody looked last: half a minute at most."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._sent = self._received = 0
        self._rates = (0.0, 0.0)

    def look(self, now: float, sent: int, received: int) -> tuple[float, float]:
        """The rates now that so many bytes were sent and received in all."""
        elapsed_s = now - self._at
        if elapsed_s >= RATE_SECONDS:
            self._rates = (sent - self._sent) / elapsed_s, (received - self._received) / elapsed_s
            self._at, self._sent, self._received = now, sent, received
        return self._rates
