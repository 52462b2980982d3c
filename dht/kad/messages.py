"""The libp2p kad-dht protobuf (kad-dht §RPC messages): pure, strict and bounded, and our own.

Why not the ``protobuf`` library: it builds every object before anybody can count them, keeps what it does not know, and
has no notion of ours that a peer's bytes are the peer. Here parsing stops at the first field too many, and the bytes
of one peer become one shared :class:`Contact`, looked up by those bytes; so a reply of twenty peers is cut rather than
parsed, and written by joining.

Strict means: lengths inside bounds, no groups, no field twice that may occur once, wire types as declared. Unknown
fields are skipped, as protobuf asks. Peers whose id is no Ed25519 key, and addresses that we do not understand, are
left out: an honest node of another kind may know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import TypeVar

import msgspec

from dht.kad.contacts import Contact, contact_from
from dht.kad.errors import BadMessage
from dht.kad.keys import peer_id_from
from dht.kad.limits import (
    MAX_CLOSER_PEERS,
    MAX_FIELDS,
    MAX_KEY_BYTES,
    MAX_PEER_BYTES,
    MAX_PEER_ID_BYTES,
    MAX_PROVIDER_PEERS,
    MAX_REQUEST_PROVIDERS,
    MAX_TIME_BYTES,
    MAX_VALUE_BYTES,
    MAX_VARINT_BYTES,
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_RECORD_BYTES = MAX_KEY_BYTES + MAX_VALUE_BYTES + MAX_TIME_BYTES + 256  # fields that were removed, and what may come
_SKIPPED = 0  # in place of the number of a field that nobody needs
_CLOSER_TAG = 8 << 3 | _BYTES
_CACHED = 16_384

T = TypeVar("T")


class MessageType(IntEnum):
    """What is asked."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


_TYPES: dict[int, MessageType] = {kind.value: kind for kind in MessageType}


class Record(msgspec.Struct, frozen=True):
    """A value under its key. ``time_received`` is RFC 3339, set by the sender: js-libp2p expects it, we ignore it."""

    key: bytes
    value: bytes
    time_received: str = ""


class Message(msgspec.Struct, frozen=True):
    """A request or a reply. (Structs of msgspec are made in a sixth of a dataclass's time.)"""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Contact, ...] = ()
    providers: tuple[Contact, ...] = ()


# --- writing ----------------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [_varint(value) for value in range(1024)]


def _prefixed(data: bytes) -> bytes:
    size = len(data)
    return (_SMALL[size] if size < len(_SMALL) else _varint(size)) + data


def encode_message(message: Message) -> bytes:
    """As it travels, without the length in front, which the stream adds."""
    parts = [b"\x08" + _SMALL[message.type]] if message.type else []
    if message.key:
        parts += (b"\x12", _prefixed(message.key))
    if message.record is not None:
        parts += (b"\x1a", _prefixed(_encode_record(message.record)))
    for peer in message.closer:
        parts += (b"\x42", _prefixed(peer.wire))
    for peer in message.providers:
        parts += (b"\x4a", _prefixed(peer.wire))
    return b"".join(parts)


def _encode_record(record: Record) -> bytes:
    out = b"\x0a" + _prefixed(record.key) + b"\x12" + _prefixed(record.value)
    return out + b"\x2a" + _prefixed(record.time_received.encode()) if record.time_received else out


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_request(data: bytes) -> Message:
    """Parse what a stranger asks: peers cost the most to read, and a request has no use for closer ones, nor for more
    than a few providers. Raises :class:`BadMessage`."""
    return _parse(data, read_closer=False, max_providers=MAX_REQUEST_PROVIDERS)


def parse_message(data: bytes) -> Message:
    """Parse a reply to us; the caller has bounded the length. Raises :class:`BadMessage`."""
    return _parse(data, read_closer=True, max_providers=MAX_PROVIDER_PEERS)


def _parse(data: bytes, *, read_closer: bool, max_providers: int) -> Message:
    kind: int | None = None
    key: bytes | None = None
    record: Record | None = None
    closer: list[Contact] = []
    closer_seen = 0
    providers: list[Contact] = []
    providers_seen = 0
    position, end, count = 0, len(data), 0
    value: bytes | int
    while position < end:
        count += 1
        if data[position] == _CLOSER_TAG and position + 1 < end and (size := data[position + 1]) < 0x80:
            # Most fields of most replies: a closer peer of less than 128 bytes.
            field, start, position = 8, position + 2, position + 2 + size
            value = data[start:position]
            if position > end:
                raise BadMessage("a field that is longer than its message")
        else:
            field, value, position = _field(data, position, end)
        if count > MAX_FIELDS:
            raise BadMessage(f"more than {MAX_FIELDS} fields in one message")
        if field == 8:
            closer_seen += 1
            if closer_seen > MAX_CLOSER_PEERS:
                raise BadMessage(f"more than {MAX_CLOSER_PEERS} closer peers")
            if read_closer and (peer := _peer(value)) is not None:
                closer.append(peer)
        elif field == 9:
            providers_seen += 1
            if providers_seen <= max_providers and (peer := _peer(value)) is not None:
                providers.append(peer)
        elif field == 1:
            kind = _once(kind, _integer(value, "the type"), "type")
        elif field == 2:
            key = _once(key, _bounded(value, MAX_KEY_BYTES, "the key"), "key")
        elif field == 3:
            record = _once(record, _parse_record(_bounded(value, _RECORD_BYTES, "the record")), "record")
    of_type = _TYPES.get(kind or 0)
    if of_type is None:
        raise BadMessage(f"a message of unknown type {kind}")
    return Message(of_type, key or b"", record, tuple(closer), tuple(providers))


def _once(old: T | None, new: T, name: str) -> T:
    if old is not None:
        raise BadMessage(f"two fields {name!r} in one message")
    return new


def _integer(value: bytes | int, name: str) -> int:
    if not isinstance(value, int):
        raise BadMessage(f"{name} is not an integer")
    return value


def _bounded(value: bytes | int, limit: int, name: str) -> bytes:
    if isinstance(value, int):
        raise BadMessage(f"{name} is not a byte string")
    if len(value) > limit:
        raise BadMessage(f"{name} has {len(value)} bytes, where at most {limit} are allowed")
    return value


def _parse_record(data: bytes) -> Record:
    key = value = None
    time = None
    for field, content in _fields(data):
        if field == 1:
            key = _once(key, _bounded(content, MAX_KEY_BYTES, "the record's key"), "key")
        elif field == 2:
            value = _once(value, _bounded(content, MAX_VALUE_BYTES, "the value"), "value")
        elif field == 5:
            time = _once(time, _bounded(content, MAX_TIME_BYTES, "the time"), "timeReceived")
    try:
        return Record(key or b"", value or b"", (time or b"").decode("ascii"))
    except UnicodeDecodeError:
        raise BadMessage("the time is not ASCII") from None


def _peer(data: bytes | int) -> Contact | None:
    if isinstance(data, int) or len(data) > MAX_PEER_BYTES:
        _bounded(data, MAX_PEER_BYTES, "a peer")
    return parse_peer(data)


@lru_cache(maxsize=_CACHED)
def parse_peer(data: bytes) -> Contact | None:
    """A peer; None if its id is of a kind that we cannot dial. Raises :class:`BadMessage`."""
    peer = None
    addrs: list[bytes] = []
    for field, value in _fields(data):
        if field == 1:
            peer = _once(peer, _bounded(value, MAX_PEER_ID_BYTES, "a peer id"), "id")
        elif field == 2:
            addrs.append(_bounded(value, MAX_PEER_BYTES, "an address"))
        elif field == 3:  # ConnectionType: what the sender's connection is to that peer, of no use to us
            _integer(value, "the connection type")
    if not peer:
        raise BadMessage("a peer without an id")
    try:
        peer_id = peer_id_from(peer)
    except BadMessage:
        return None
    return contact_from(peer_id, peer, addrs)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message: (number, integer or bytes). Raises :class:`BadMessage`."""
    position, end, count = 0, len(data), 0
    while position < end:
        count += 1
        if count > MAX_FIELDS:
            raise BadMessage(f"more than {MAX_FIELDS} fields in one message")
        number, value, position = _field(data, position, end)
        if number != _SKIPPED:
            yield number, value


def _field(data: bytes, position: int, end: int) -> tuple[int, bytes | int, int]:
    """The field at ``position``, and where the next one is: number, integer or bytes, position. Raises
    :class:`BadMessage`."""
    tag = data[position]
    position += 1
    if tag > 0x7F:
        tag, position = _read_varint(data, position - 1)
    number, wire = tag >> 3, tag & 7
    if number == 0:
        raise BadMessage("field number 0")
    if wire == _BYTES:
        if position < end and data[position] < 0x80:
            size = data[position]
            position += 1
        else:
            size, position = _read_varint(data, position)
        start, position = position, position + size
        if position > end:
            raise BadMessage("a field that is longer than its message")
        return number, data[start:position], position
    if wire == _VARINT:
        value, position = _read_varint(data, position)
        return number, value, position
    if wire in (_FIXED64, _FIXED32):
        position += 8 if wire == _FIXED64 else 4
        if position > end:
            raise BadMessage("a field that is longer than its message")
        return _SKIPPED, 0, position  # no field of ours is of fixed size
    raise BadMessage(f"wire type {wire}, which proto3 does not have")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if position + index >= len(data):
            raise BadMessage("a truncated message")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise BadMessage("an integer that never ends")
