"""P20: how many handshakes one address may make us do. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from transport.host.limits import (
    HANDSHAKES_BURST,
    HANDSHAKES_BURST_LOCAL,
    HANDSHAKES_BURST_NETWORK,
    HANDSHAKES_PER_S,
    HANDSHAKES_PER_S_LOCAL,
    HANDSHAKES_PER_S_NETWORK,
    MAX_HANDSHAKE_ORIGINS,
)
from transport.host.origins import Origin


@dataclass(frozen=True)
class Rate:
    """A token bucket: so many at once, then so many a second."""

    burst: float
    per_s: float


class HandshakeRates:
    """An authenticated handshake costs us milliseconds and a stranger an address, not an identity: upstream does as
    many as come (network/swarm.py:2044). An address that has used up its allowance is hung up on before anything is
    computed, and nobody else is. Loopback and circuits, which share what has no address, get more.

    Times are seconds of one monotonic clock. The origins unused for longest are forgotten, their allowance with them.
    """

    def __init__(
        self,
        address: Rate = Rate(HANDSHAKES_BURST, HANDSHAKES_PER_S),
        network: Rate = Rate(HANDSHAKES_BURST_NETWORK, HANDSHAKES_PER_S_NETWORK),
        local: Rate = Rate(HANDSHAKES_BURST_LOCAL, HANDSHAKES_PER_S_LOCAL),
        max_origins: int = MAX_HANDSHAKE_ORIGINS,
    ) -> None:
        self._address, self._network, self._local = address, network, local
        self._max_origins = max_origins
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refused = 0
        """Connections hung up on so far."""

    def __len__(self) -> int:
        return len(self._buckets)

    def _rates(self, origin: Origin) -> dict[str, Rate]:
        if origin.local or origin.address == origin.network:  # the latter: no address at all
            return {origin.address: self._local}
        return {origin.address: self._address, origin.network: self._network}

    def _level(self, name: str, rate: Rate, now: float) -> float:
        level, since = self._buckets.get(name, (rate.burst, now))
        return min(rate.burst, level + max(0.0, now - since) * rate.per_s)

    def allows(self, origin: Origin, now: float) -> bool:
        """Whether a connection from there may begin a handshake now."""
        allowed = all(self._level(name, rate, now) >= 1.0 for name, rate in self._rates(origin).items())
        self.refused += not allowed
        return allowed

    def spend(self, origin: Origin, now: float) -> None:
        """One has been done, or failed when we had done our part. Those begun at once may spend more than there was: it
        is owed."""
        for name, rate in self._rates(origin).items():
            level = self._level(name, rate, now) - 1.0
            self._buckets.pop(name, None)
            self._buckets[name] = (level, now)
            if len(self._buckets) > self._max_origins:
                self._buckets.popitem(last=False)
