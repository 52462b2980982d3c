"""The messages by which nodes tell each other what they know of the market: strict CBOR, pure.

Request ``[1, after, limit]``: standing records of peers whose id sorts above ``after`` (``""`` for the first page).
Request ``[1, peer]``: the standing record of one peer; asked of that peer itself by whoever found it in the hash table.
Reply ``[1, [record, …], more]``: signed records in the order of peer id, and whether others follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dht.limits import MAX_RECORD_BYTES, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, PAGE_RECORDS
from transport.wire import WireError, decode, encode

VERSION = 1
_MAX_CURSOR_CHARS = 64


@dataclass(frozen=True)
class PageRequest:
    """Ask for at most ``limit`` records above ``after``."""

    after: str = ""
    limit: int = PAGE_RECORDS

    def to_bytes(self) -> bytes:
        """As it travels."""
        return encode([VERSION, self.after, self.limit])


@dataclass(frozen=True)
class RecordRequest:
    """Ask for the record of one peer."""

    peer: str

    def to_bytes(self) -> bytes:
        """As it travels."""
        return encode([VERSION, self.peer])


def parse_request(data: bytes) -> PageRequest | RecordRequest:
    """Parse either request. Raises :class:`transport.wire.WireError`."""
    value = decode(data, max_bytes=MAX_REQUEST_BYTES)
    if type(value) is not list or len(value) not in (2, 3) or type(value[0]) is not int or value[0] != VERSION:
        raise WireError(f"a request for capacity records is [{VERSION}, after, limit] or [{VERSION}, peer]")
    name = value[1]
    if type(name) is not str or len(name) > _MAX_CURSOR_CHARS:
        raise WireError("the cursor is a peer id or empty")
    if len(value) == 2:
        return RecordRequest(name)
    limit = value[2]
    if type(limit) is not int or not 1 <= limit <= PAGE_RECORDS:
        raise WireError(f"the limit is an integer from 1 to {PAGE_RECORDS}")
    return PageRequest(name, limit)


@dataclass(frozen=True)
class Page:
    """Signed records, unverified, and whether more follow."""

    envelopes: tuple[bytes, ...]
    more: bool

    def to_bytes(self) -> bytes:
        """As it travels."""
        return encode([VERSION, list(self.envelopes), self.more])

    @classmethod
    def from_bytes(cls, data: bytes) -> Page:
        """Parse. Raises :class:`transport.wire.WireError`."""
        value = decode(data, max_bytes=MAX_REPLY_BYTES)
        if type(value) is not list or len(value) != 3 or value[0] != VERSION:
            raise WireError(f"a reply with capacity records is [{VERSION}, records, more]")
        _, envelopes, more = value
        if type(envelopes) is not list or len(envelopes) > PAGE_RECORDS or type(more) is not bool:
            raise WireError(f"a page has at most {PAGE_RECORDS} records and says whether more follow")
        if not all(type(envelope) is bytes and len(envelope) <= MAX_RECORD_BYTES for envelope in envelopes):
            raise WireError(f"a record is a byte string of at most {MAX_RECORD_BYTES} bytes")
        if more and not envelopes:
            raise WireError("an empty page that promises more")
        return cls(tuple(envelopes), more)


def page_of(envelopes: Sequence[bytes], more: bool) -> Page:
    """A page of records that fit one."""
    assert len(envelopes) <= PAGE_RECORDS
    return Page(tuple(envelopes), more)
