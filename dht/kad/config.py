"""What a user or a simulation may change of the Kademlia; bounds that guard against strangers are in limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from dht.kad import limits


@dataclass(frozen=True)
class Diversity:
    """How many peers of one network count. ``narrow`` is an IPv4 /24 or IPv6 /48, ``wide`` a /16 or /32."""

    bucket_narrow: int = limits.BUCKET_PER_NARROW
    table_narrow: int = limits.TABLE_PER_NARROW
    table_wide: int = limits.TABLE_PER_WIDE
    lookup_narrow: int = limits.LOOKUP_PER_NARROW
    lookup_wide: int = limits.LOOKUP_PER_WIDE


@dataclass(frozen=True)
class KadConfig:
    """The Kademlia's parameters; durations in seconds. The defaults suit a network of strangers on the internet."""

    k: int = limits.K
    alpha: int = limits.ALPHA
    paths: int = limits.PATHS
    final_width: int = limits.FINAL_WIDTH
    quorum: int = limits.QUORUM
    query_s: float = limits.QUERY_S
    upkeep_s: float = limits.UPKEEP_S
    check_after_s: float = limits.CHECK_AFTER_S
    self_refresh_s: float = limits.SELF_REFRESH_S
    bucket_refresh_s: float = limits.BUCKET_REFRESH_S
    record_ttl_s: float = limits.RECORD_TTL_S
    republish_s: float = limits.REPUBLISH_S
    provider_ttl_s: float = limits.PROVIDER_TTL_S
    provider_republish_s: float = limits.PROVIDER_REPUBLISH_S
    probe_inbound: bool = True
    """Whether peers that connect or ask are asked whether they serve, so that newcomers become known."""
    bootstrap_refresh: bool = True
    """Whether a bootstrap fills the far buckets by a look-up each, beside looking up our own id."""
    enough_peers: int | None = None
    """With so many peers in the table its owner's look-up of itself ends: who serves nobody, and is in nobody's table,
    needs somebody to begin with and no neighbourhood. None: it goes on to the end."""
    diversity: Diversity = field(default_factory=Diversity)

    def __post_init__(self) -> None:
        assert 1 <= self.k <= limits.K
        assert 1 <= self.paths <= self.k
        assert self.alpha >= 1
        assert self.final_width >= 1
        assert self.quorum >= 1
