"""What the directory needs of a distributed hash table: to be listed under a key, and to learn who else is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transport.identity import PeerId


class FoundProvider(Protocol):
    """A peer that is listed under a key. The table vouches for neither the listing nor the addresses."""

    @property
    def peer_id(self) -> PeerId:
        """Who."""

    @property
    def addrs(self) -> Sequence[str]:
        """Multiaddrs where it may be reached."""


class ProviderIndex(Protocol):
    """Provider records of libp2p's kad-dht, as far as the directory uses them."""

    async def provide(self, key: bytes) -> int:
        """List this node under ``key``, a multihash, at the nodes closest to it, for the time to live of a provider
        record; how many took it."""

    def withdraw(self, key: bytes) -> None:
        """Do not renew the listing under ``key``: it lapses, unless it is provided again."""

    async def find_providers(self, key: bytes, limit: int) -> Sequence[FoundProvider]:
        """Peers listed under ``key``, each once, ``limit`` at most; empty when nobody is or nobody answers."""
