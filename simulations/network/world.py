"""Where hosts are: regions with the round trips between them, and addresses as providers and homes have them (pure)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Nat(StrEnum):
    """What stands between a host and those who would dial it."""

    OPEN = "open"
    """Nothing: it is reached at the addresses that it listens on."""
    FULL_CONE = "full-cone"
    """Reached at the public address while it keeps a mapping, which its own dials make (RFC 4787 §5:
    endpoint-independent)."""
    SYMMETRIC = "symmetric"
    """Not reached; each peer that it dials sees another port (RFC 4787 §4: address- and port-dependent mapping)."""
    DIAL_ONLY = "dial-only"
    """Not reached: a firewall that lets nothing in."""


REGIONS = (
    "us-east", "us-west", "sa-east", "eu-west", "eu-central", "ap-northeast", "ap-southeast", "oceania",
)  # fmt: skip
"""Virginia, Oregon, São Paulo, Ireland, Frankfurt, Tokyo, Singapore, Sydney."""

_SHARES = (0.22, 0.14, 0.05, 0.14, 0.22, 0.09, 0.10, 0.04)
"""How many of the hosts are in each: an assumption, most of them in North America and Europe."""

# Round trips in milliseconds between the data centres of one large cloud, as published tables of the last decade have
# them, rounded; the triangle above the diagonal, a row a region. The internet's own paths are rarely better.
_ROUND_TRIPS_MS = (
    (88, 119, 80, 89, 145, 217, 230),
    (183, 137, 159, 89, 161, 162),
    (191, 195, 257, 328, 322),
    (20, 212, 239, 310),
    (236, 326, 323),
    (74, 104),
    (175,),
)
_WITHIN_MS = 6.0
"""Between two cities of one region."""


def _matrix() -> tuple[tuple[float, ...], ...]:
    count = len(REGIONS)
    table = [[_WITHIN_MS] * count for _ in range(count)]
    for a, row in enumerate(_ROUND_TRIPS_MS):
        for offset, value in enumerate(row):
            table[a][a + 1 + offset] = table[a + 1 + offset][a] = float(value)
    return tuple(tuple(row) for row in table)


ROUND_TRIPS_MS = _matrix()
"""``ROUND_TRIPS_MS[a][b]``: between the data centres of two regions, by their place in :data:`REGIONS`."""


@dataclass(frozen=True)
class Place:
    """Where one host is and how it is connected."""

    region: int
    """Index into :data:`REGIONS`."""
    access_ms: float
    """What its last mile adds to a round trip."""
    up_bytes_per_s: float
    down_bytes_per_s: float
    ip4: str | None
    ip6: str | None
    nat: Nat = Nat.OPEN
    port: int = 4001

    @property
    def listens(self) -> bool:
        """Whether it tells others addresses."""
        return self.nat in (Nat.OPEN, Nat.FULL_CONE)

    def addrs(self) -> list[str]:
        """The multiaddrs at which it can be reached, without the peer id."""
        if not self.listens:
            return []
        families = [("ip4", self.ip4), ("ip6", self.ip6)]
        return [f"/{family}/{address}/tcp/{self.port}" for family, address in families if address is not None]


def round_trip_s(one: Place, other: Place) -> float:
    """Seconds for a small packet there and back, without jitter."""
    return (ROUND_TRIPS_MS[one.region][other.region] + one.access_ms + other.access_ms) / 1000


_HOSTED_SHARE = 0.5
"""Hosts in data centres; the others are homes."""

_HOSTED_UP_BYTES_PER_S = 125e6  # 1 Gbit/s
_HOME_UP_BYTES_PER_S = 5e6  # 40 Mbit/s
_HOME_DOWN_BYTES_PER_S = 31e6  # 250 Mbit/s
_IP6_SHARE = 0.35
_SITES_PER_REGION = 64
"""/16s of data centres in a region, the first ones the most popular: one in eight hosts there is at the first of them.
Each has four /24s, so that many hosts share one, and rules of diversity see it."""


class Atlas:
    """Gives hosts their places: one after another from one generator, so that a seed gives one world.

    Homes have a /24 of their own (a street shares one by chance), data centres put many hosts into few /24s and IPv6
    /48s. Addresses look like public ones and mean nothing.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def place(
        self,
        *,
        region: str | None = None,
        nat: Nat = Nat.OPEN,
        ip4: str | None = None,
        ip6: str | None = None,
        hosted: bool | None = None,
    ) -> Place:
        """A place in ``region`` (default: drawn by population). An ``ip4`` or ``ip6`` given is used as it is, and then
        the other family is absent unless given too; hosts behind a NAT are at home. Raises ``ValueError`` for an
        unknown region."""
        rng = self._rng
        where = rng.choices(range(len(REGIONS)), _SHARES)[0] if region is None else REGIONS.index(region)
        if hosted is None:
            hosted = nat is Nat.OPEN and rng.random() < _HOSTED_SHARE
        if ip4 is None and ip6 is None:
            ip4, ip6 = self._addresses(where, hosted)
        if hosted:
            speed, access = (_HOSTED_UP_BYTES_PER_S, _HOSTED_UP_BYTES_PER_S), rng.uniform(0.5, 3.0)
        else:
            speed, access = (_HOME_UP_BYTES_PER_S, _HOME_DOWN_BYTES_PER_S), rng.uniform(4.0, 25.0)
        return Place(where, access, speed[0], speed[1], ip4, ip6, nat)

    def _addresses(self, region: int, hosted: bool) -> tuple[str, str | None]:
        rng = self._rng
        while True:
            if hosted:
                site = int(_SITES_PER_REGION * rng.random() ** 2)
                ip4 = f"{34 + region}.{site}.{rng.randrange(4)}.{rng.randrange(1, 255)}"
            else:
                ip4 = f"{78 + region}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
            if ip4 not in self._taken:
                break
        self._taken.add(ip4)
        if rng.random() >= _IP6_SHARE:
            return ip4, None
        first, second, third, last = map(int, ip4.split("."))
        if hosted:
            return ip4, f"2a05:{first:x}{second:02x}:{third:x}::{last:x}"
        return ip4, f"2a02:{first:x}{second:02x}:{third:02x}{last:02x}::{rng.randrange(1, 1 << 16):x}"
