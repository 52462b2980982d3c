"""What a server answers (kad-dht §RPC messages), pure but for the tables that it reads and writes."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from dht.kad.contacts import Contact
from dht.kad.errors import BadMessage
from dht.kad.keys import key_of
from dht.kad.limits import MAX_SENT_PROVIDERS
from dht.kad.messages import Message, MessageType, Record
from dht.kad.providers import ProviderStore
from dht.kad.routing import RoutingTable
from dht.kad.store import RecordStore
from transport.identity import PeerId

_MULTIHASH_BYTES = (3, 66)  # code, length and digest; SHA-512 has 66
_MAX_UNIX_S = 253_402_300_799  # the last second of the year 9999, which RFC 3339 can write


def rfc3339(unix_s: float) -> str:
    """A time as libp2p records write it, in UTC with milliseconds."""
    return _rfc3339(round(1000 * min(max(unix_s, 0.0), _MAX_UNIX_S)))


@lru_cache(maxsize=1024)  # a record is told as often as it is asked for
def _rfc3339(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_multihash(key: bytes) -> bool:
    """Whether ``key`` has the form of a multihash: one-byte code and length, then that many bytes."""
    return _MULTIHASH_BYTES[0] <= len(key) <= _MULTIHASH_BYTES[1] and key[0] < 0x80 and key[1] == len(key) - 2


class Answers:
    """Answers requests out of the routing table, the records and the provider records of a node."""

    def __init__(
        self,
        table: RoutingTable,
        records: RecordStore,
        providers: ProviderStore,
        own: Callable[[], Contact],
        rng: random.Random,
        k: int,
    ) -> None:
        self._table = table
        self._records = records
        self._providers = providers
        self._own = own
        self._rng = rng
        self._k = k

    def answer(self, sender: PeerId, request: Message, now: float) -> Message | None:
        """The reply to ``request`` at Unix time ``now``; None for ADD_PROVIDER, which has none.

        Raises :class:`BadMessage` or :class:`dht.kad.InvalidRecord` for what no honest peer sends,
        :class:`dht.kad.StoreRefused` for a record that is not kept.
        """
        match request.type:
            case MessageType.FIND_NODE:
                return self._find_node(sender, request)
            case MessageType.GET_VALUE:
                return self._get_value(sender, request, now)
            case MessageType.PUT_VALUE:
                return self._put_value(sender, request, now)
            case MessageType.GET_PROVIDERS:
                return self._get_providers(sender, request, now)
            case MessageType.ADD_PROVIDER:
                self._add_provider(sender, request, now)
                return None
            case MessageType.PING:
                return Message(MessageType.PING)

    def _closer(self, sender: PeerId, key: bytes) -> tuple[Contact, ...]:
        if not key:
            raise BadMessage("a request without a key")
        found = self._table.closest(key_of(key), self._k, exclude=sender)  # nobody is told about itself
        return tuple(found)

    def _find_node(self, sender: PeerId, request: Message) -> Message:
        if key_of(request.key) == self._table.own_key:
            own = self._own()
            return Message(MessageType.FIND_NODE, closer=(own,) if own.addrs else ())
        return Message(MessageType.FIND_NODE, closer=self._closer(sender, request.key))

    def _get_value(self, sender: PeerId, request: Message, now: float) -> Message:
        closer = self._closer(sender, request.key)
        held = self._records.get(request.key, now)
        record = Record(held.key, held.value, rfc3339(held.received_at)) if held else None
        return Message(MessageType.GET_VALUE, request.key, record, closer)

    def _put_value(self, sender: PeerId, request: Message, now: float) -> Message:
        if request.record is None or request.record.key != request.key:
            raise BadMessage("a PUT_VALUE without a record, or with one of another key")
        held = self._records.put(request.key, request.record.value, sender, now)
        return Message(MessageType.PUT_VALUE, held.key, Record(held.key, held.value, rfc3339(held.received_at)))

    def _get_providers(self, sender: PeerId, request: Message, now: float) -> Message:
        closer = self._closer(sender, request.key)
        found = self._providers.get(request.key, now, MAX_SENT_PROVIDERS, self._rng)
        return Message(MessageType.GET_PROVIDERS, request.key, None, closer, tuple(found))

    def _add_provider(self, sender: PeerId, request: Message, now: float) -> None:
        if not is_multihash(request.key):
            raise BadMessage("a provider's key is a multihash")
        for provider in request.providers:
            if provider.peer_id == sender and provider.addrs:  # a peer speaks for itself alone
                self._providers.add(request.key, provider, now)
                return
