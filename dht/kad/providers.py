"""Provider records, pure: who says that it provides a key (kad-dht §Content routing). Times are Unix seconds.

A record is a peer's word about itself, so each takes room of the peer's own share. A crowded key loses the oldest
record of the network that crowds it most: an hour's flood from one machine does not displace the others.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from dht.kad.contacts import Contact
from dht.kad.limits import (
    MAX_PROVIDER_KEYS,
    MAX_PROVIDER_RECORDS,
    MAX_PROVIDER_RECORDS_PER_SENDER,
    MAX_PROVIDERS_PER_KEY,
    PROVIDER_TTL_S,
)
from transport.identity import PeerId


@dataclass(slots=True)
class _Provider:
    contact: Contact
    network: bytes
    expires_at: float


class ProviderStore:
    """Who provides what, each entry for ``ttl_s`` after it was last renewed."""

    def __init__(
        self,
        *,
        ttl_s: float = PROVIDER_TTL_S,
        max_keys: int = MAX_PROVIDER_KEYS,
        max_per_key: int = MAX_PROVIDERS_PER_KEY,
        max_records: int = MAX_PROVIDER_RECORDS,
        max_per_sender: int = MAX_PROVIDER_RECORDS_PER_SENDER,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_keys, self._max_per_key = max_keys, max_per_key
        self._max_records, self._max_per_sender = max_records, max_per_sender
        self._keys: dict[bytes, dict[PeerId, _Provider]] = {}  # both in the order of renewal
        self._of: dict[PeerId, dict[bytes, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, provider: Contact, now: float) -> None:
        """Take or renew a provider's record of itself. Whoever sends too many loses its own oldest."""
        self._remove(key, provider.peer_id)
        network = provider.networks[0] if provider.networks else b""
        # Keys in the order of their last record: a key that nobody renews goes first.
        entries = self._keys.pop(key, {})
        self._keys[key] = entries
        entries[provider.peer_id] = _Provider(provider, network, now + self._ttl_s)
        self._of.setdefault(provider.peer_id, {})[key] = None
        self._count += 1
        self._make_room(key, provider.peer_id)

    def get(self, key: bytes, now: float, limit: int, rng: random.Random) -> list[Contact]:
        """Up to ``limit`` providers of ``key``, another sample each time if there are more, so that all get custom."""
        standing = [p.contact for p in self._keys.get(key, {}).values() if p.expires_at > now]
        return standing if len(standing) <= limit else rng.sample(standing, limit)

    def expire(self, now: float) -> int:
        """Forget what has ended; how many."""
        over = [
            (key, peer) for key, entries in self._keys.items() for peer, p in entries.items() if p.expires_at <= now
        ]
        for key, peer in over:
            self._remove(key, peer)
        return len(over)

    def _remove(self, key: bytes, peer: PeerId) -> None:
        entries = self._keys.get(key)
        if entries is None or entries.pop(peer, None) is None:
            return
        self._count -= 1
        if not entries:
            del self._keys[key]
        keys = self._of[peer]
        del keys[key]
        if not keys:
            del self._of[peer]

    def _make_room(self, key: bytes, peer: PeerId) -> None:
        if len(self._of[peer]) > self._max_per_sender:
            self._remove(next(iter(self._of[peer])), peer)
        if len(self._keys.get(key, {})) > self._max_per_key:
            self._remove(key, self._crowding(self._keys[key]))
        while len(self._keys) > self._max_keys or self._count > self._max_records:
            oldest = next(iter(self._keys))
            self._remove(oldest, next(iter(self._keys[oldest])))

    @staticmethod
    def _crowding(entries: dict[PeerId, _Provider]) -> PeerId:
        networks = Counter(provider.network for provider in entries.values() if provider.network)
        network, count = max(networks.items(), key=lambda item: item[1], default=(b"", 0))
        if count <= 1:
            return next(iter(entries))
        return next(peer for peer, provider in entries.items() if provider.network == network)
