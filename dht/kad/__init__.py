"""Kademlia in libp2p's kad-dht protocol: who is near a key, who holds its value, who provides it.

The protocol page is docs/protocols/kad.md. The rules are pure (``routing``, ``lookup``, ``values``, ``store``,
``providers``, ``answers``, ``messages``); ``node`` drives them on a :class:`transport.host.Host`.
"""

from dht.kad.config import Diversity, KadConfig
from dht.kad.errors import BadMessage, InvalidRecord, KadError, StoreRefused
from dht.kad.keys import key_of
from dht.kad.node import FoundPeer, FoundProvider, Kademlia, KadStats
from dht.kad.queries import LookupReport
from dht.kad.storage import Snapshot, SqliteStorage, Storage, StorageError
from dht.kad.validators import Validator

__all__ = [
    "BadMessage",
    "Diversity",
    "FoundPeer",
    "FoundProvider",
    "InvalidRecord",
    "KadConfig",
    "KadError",
    "KadStats",
    "Kademlia",
    "LookupReport",
    "Snapshot",
    "SqliteStorage",
    "Storage",
    "StorageError",
    "StoreRefused",
    "Validator",
    "key_of",
]
