"""What a provider says of itself: a signed, self-certifying record of what it sells, at which price, and where.

A record is a claim. Its signature proves who made it, not that it is true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from dht.limits import (
    CLOCK_SKEW_S,
    DEFAULT_TTL_S,
    MAX_ADDR_CHARS,
    MAX_ADDRS,
    MAX_COUNT,
    MAX_MODEL_CHARS,
    MAX_NAME_CHARS,
    MAX_OFFERS,
    MAX_PRICE_NANOTON,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    MAX_SEQ,
    MAX_SOFTWARE_CHARS,
    MAX_TTL_S,
    MAX_UNITS,
    MIN_TTL_S,
    NOISE_KEY_BYTES,
)
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, PeerId
from transport.wire import WireError, decode, encode, open_envelope, sign_envelope

RECORD_VERSION = 1
DOMAIN = "capacity/1"
"""The signature domain of records."""

_ENVELOPE_BYTES = 1 + 3 + (2 + PUBLIC_KEY_BYTES) + (2 + SIGNATURE_BYTES)
"""What an envelope adds to a payload of 256 bytes or more: the array, and three byte strings with their heads."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_UNIT = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_VISIBLE = re.compile(r"[!-~]+", re.ASCII)
# What a terminal shows of a stranger's text: printable ASCII without a space at either end.
_TEXT = re.compile(r"[!-~]([ -~]*[!-~])?", re.ASCII)


class RecordError(ValueError):
    """A record that breaks the rules; the message says which."""


def _text(what: str, value: object, pattern: re.Pattern[str], limit: int) -> None:
    if not isinstance(value, str) or len(value) > limit or not pattern.fullmatch(value):
        raise RecordError(f"{what} must be 1 to {limit} characters of the form {pattern.pattern}")


def _count(what: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{what} must be an integer from {low} to {high}")


@dataclass(frozen=True)
class Offer:
    """One thing that a provider sells. Construction raises :class:`RecordError` for values out of bounds."""

    task: str
    """``chat``, ``transcribe``, … in lower case."""
    model: str
    tier: str
    """The confidentiality tier: ``plain``, ``verified``, ``attested-cpu``, ``attested-gpu``."""
    prices: Mapping[str, int]
    """The ask: integer nanoTON per million of each unit, by unit name (``prompt``, ``completion``, ``audio_ms``, …)."""
    slots: int = 1
    """Jobs that run at once."""
    busy: int = 0
    """Slots in use when the record was made."""
    queue_wait_ms: int = 0
    """What a new job would wait for a slot."""
    units_per_s: int = 0
    """The speed of one job, in the task's main unit a second; 0 when unknown."""
    context: int = 0
    """The longest context in tokens; 0 when it has no meaning or is unknown."""

    def __post_init__(self) -> None:
        _text("a task", self.task, _NAME, MAX_NAME_CHARS)
        _text("a model", self.model, _TEXT, MAX_MODEL_CHARS)
        _text("a tier", self.tier, _NAME, MAX_NAME_CHARS)
        if not isinstance(self.prices, Mapping) or len(self.prices) > MAX_UNITS:
            raise RecordError(f"prices are a map of at most {MAX_UNITS} units")
        for unit, price in self.prices.items():
            _text("a unit", unit, _UNIT, MAX_NAME_CHARS)
            _count(f"the price of {unit}", price, 0, MAX_PRICE_NANOTON)
        _count("slots", self.slots, 1, MAX_COUNT)
        _count("busy", self.busy, 0, self.slots)
        _count("queue_wait_ms", self.queue_wait_ms, 0, MAX_COUNT)
        _count("units_per_s", self.units_per_s, 0, MAX_COUNT)
        _count("context", self.context, 0, MAX_COUNT)


@dataclass(frozen=True)
class CapacityRecord:
    """What one provider sells and how to reach it. ``ttl_s`` 0 with no offers is its withdrawal.

    Construction raises :class:`RecordError` for values out of bounds, in both directions.
    """

    subnet: str
    host_addrs: tuple[str, ...] = ()
    """libp2p multiaddrs, each ending in ``/p2p/<peer id>``."""
    tunnel_addrs: tuple[str, ...] = ()
    """Where the Noise tunnel listens."""
    noise_key: bytes = bytes(NOISE_KEY_BYTES)
    """The tunnel's static Curve25519 public key."""
    offers: tuple[Offer, ...] = ()
    seq: int = 0
    """Higher replaces lower; Unix milliseconds by convention."""
    issued_at: int = 0
    """Unix seconds."""
    ttl_s: int = DEFAULT_TTL_S
    software: str = ""
    version: int = field(default=RECORD_VERSION)

    def __post_init__(self) -> None:
        if self.version != RECORD_VERSION:
            raise RecordError(f"version {self.version!r} of a capacity record; this node knows {RECORD_VERSION}")
        _text("a subnet", self.subnet, _NAME, MAX_NAME_CHARS)
        for what, addrs in (("host_addrs", self.host_addrs), ("tunnel_addrs", self.tunnel_addrs)):
            if type(addrs) is not tuple or len(addrs) > MAX_ADDRS:
                raise RecordError(f"{what} has at most {MAX_ADDRS} addresses")
            for addr in addrs:
                _text("an address", addr, _VISIBLE, MAX_ADDR_CHARS)
        if type(self.noise_key) is not bytes or len(self.noise_key) != NOISE_KEY_BYTES:
            raise RecordError(f"a noise key has {NOISE_KEY_BYTES} bytes")
        if type(self.offers) is not tuple or len(self.offers) > MAX_OFFERS:
            raise RecordError(f"a record has at most {MAX_OFFERS} offers")
        if len({(offer.task, offer.model, offer.tier) for offer in self.offers}) != len(self.offers):
            raise RecordError("two offers of the same task, model and tier")
        _count("seq", self.seq, 0, MAX_SEQ)
        _count("issued_at", self.issued_at, 0, MAX_COUNT)
        if self.withdrawn:
            if self.offers:
                raise RecordError("a withdrawal has no offers")
        else:
            _count("ttl_s", self.ttl_s, MIN_TTL_S, MAX_TTL_S)
        if self.software:
            _text("software", self.software, _TEXT, MAX_SOFTWARE_CHARS)

    @property
    def withdrawn(self) -> bool:
        """Whether the provider takes back what it said before."""
        return self.ttl_s == 0

    @property
    def expires_at(self) -> int:
        """Unix seconds from which on the record no longer stands."""
        return self.issued_at + self.ttl_s

    @cached_property
    def sold(self) -> tuple[tuple[str, str], ...]:
        """(task, model) of each offer, once."""
        return tuple(dict.fromkeys((offer.task, offer.model) for offer in self.offers))

    def withdrawal(self) -> CapacityRecord:
        """The record that takes this one back (``seq`` and ``issued_at`` are still to be set)."""
        return replace(self, ttl_s=0, offers=(), host_addrs=(), tunnel_addrs=())


@dataclass(frozen=True)
class SignedRecord:
    """A record whose signature has been verified, and the bytes that prove it to others."""

    peer_id: PeerId
    record: CapacityRecord
    envelope: bytes


def sign_record(identity: Identity, record: CapacityRecord) -> SignedRecord:
    """Sign ``record``. Raises :class:`RecordError` when the result is longer than :data:`MAX_RECORD_BYTES`."""
    envelope = sign_envelope(identity, DOMAIN, _payload(record)).to_bytes()
    return SignedRecord(identity.peer_id, record, envelope)


def check_size(record: CapacityRecord) -> None:
    """Whether :func:`sign_record` would make something that can be sent; it costs no signature. Raises
    :class:`RecordError`."""
    _payload(record)


def _payload(record: CapacityRecord) -> bytes:
    payload = encode(_to_wire(record))
    size = len(payload) + (_ENVELOPE_BYTES if len(payload) >= 256 else _ENVELOPE_BYTES - 1)
    if size > MAX_RECORD_BYTES:
        raise RecordError(
            f"the record has {size} bytes, {MAX_RECORD_BYTES} are allowed: announce fewer offers or addresses"
        )
    return payload


@lru_cache(maxsize=MAX_RECORDS)
def parse_record(data: bytes) -> SignedRecord:
    """Parse and verify a signed record. Raises :class:`RecordError`. Time is not looked at: see :func:`check_time`.

    Good ones are remembered: the same bytes come by gossip and again from each neighbour that is asked.
    """
    try:
        signed = open_envelope(DOMAIN, data, max_bytes=MAX_RECORD_BYTES)
        value = decode(signed.payload, max_bytes=MAX_RECORD_BYTES)
    except WireError as error:
        raise RecordError(f"not a signed capacity record: {error}") from error
    return SignedRecord(signed.peer_id, _from_wire(value), data)


def check_time(record: CapacityRecord, now: float) -> None:
    """Refuse a record from the future or one that no longer stands; ``now`` in Unix seconds.

    A withdrawal stands as long as any record could that it takes back. Raises :class:`RecordError`.
    """
    if record.issued_at > now + CLOCK_SKEW_S:
        raise RecordError(f"issued {record.issued_at - now:.0f} s in the future")
    if not stands(record, now):
        raise RecordError("expired")


def stands(record: CapacityRecord, now: float) -> bool:
    """Whether :func:`check_time` lets it pass."""
    if record.issued_at > now + CLOCK_SKEW_S:
        return False
    return now < (record.expires_at if record.ttl_s else forget_at(record))


def forget_at(record: CapacityRecord) -> int:
    """Unix seconds from which on no older record of the same provider can stand, so that this one may be forgotten."""
    return record.issued_at + MAX_TTL_S + CLOCK_SKEW_S


def _to_wire(record: CapacityRecord) -> list[Any]:
    return [
        record.version,
        record.subnet,
        record.seq,
        record.issued_at,
        record.ttl_s,
        list(record.host_addrs),
        list(record.tunnel_addrs),
        record.noise_key,
        [_offer_to_wire(offer) for offer in record.offers],
        record.software,
    ]


def _offer_to_wire(offer: Offer) -> list[Any]:
    prices = {str(unit): price for unit, price in offer.prices.items()}
    load = [offer.slots, offer.busy, offer.queue_wait_ms, offer.units_per_s, offer.context]
    return [str(offer.task), offer.model, str(offer.tier), prices, *load]


def _items(what: str, value: object, count: int | None = None) -> Sequence[Any]:
    if type(value) is not list or (count is not None and len(value) != count):
        raise RecordError(f"{what} must be a list" + (f" of {count}" if count is not None else ""))
    return value


def _from_wire(value: object) -> CapacityRecord:
    if type(value) is not list or not value or value[0] != RECORD_VERSION or type(value[0]) is not int:
        raise RecordError(f"not version {RECORD_VERSION} of a capacity record")
    version, subnet, seq, issued_at, ttl_s, hosts, tunnels, noise_key, offers, software = _items("a record", value, 10)
    if type(ttl_s) is not int or type(software) is not str:
        raise RecordError("ttl_s must be an integer and software a text")
    return CapacityRecord(
        subnet=subnet,
        host_addrs=tuple(_items("host_addrs", hosts)),
        tunnel_addrs=tuple(_items("tunnel_addrs", tunnels)),
        noise_key=noise_key,
        offers=tuple(_offer_from_wire(offer) for offer in _items("offers", offers)),
        seq=seq,
        issued_at=issued_at,
        ttl_s=ttl_s,
        software=software,
        version=version,
    )


def _offer_from_wire(value: object) -> Offer:
    task, model, tier, prices, slots, busy, queue_wait_ms, units_per_s, context = _items("an offer", value, 9)
    if type(prices) is not dict:
        raise RecordError("prices must be a map")
    return Offer(task, model, tier, prices, slots, busy, queue_wait_ms, units_per_s, context)
