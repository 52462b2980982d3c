"""Which records are believed: a validator for each namespace of keys ``/<namespace>/…`` (kad-dht §Entry validation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dht.kad.errors import InvalidRecord, KadError
from dht.kad.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES

MAX_NAMESPACE_BYTES = 32


class Validator(Protocol):
    """The rules of one namespace. Both methods are pure, fast, and the same on every node."""

    @property
    def self_certifying(self) -> bool:
        """Whether a key admits one value only, as the hash of a content does: then a get ends at the first valid one,
        since no other holder can know a better one."""

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        """The Unix time at which ``value`` ends (``inf``: the node's own limit) if it may stand under ``key`` at Unix
        time ``now``. Raises :class:`InvalidRecord` if it is malformed, expired, from the future or not signed by
        whom ``key`` names."""

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the best of several valid values: the newest. The order of ``values`` must not matter but for
        equal ones."""


def namespace_of(key: bytes) -> str | None:
    """The namespace of a record's key; None if it has none. What follows it is any bytes."""
    if not key.startswith(b"/"):
        return None
    name, slash, rest = key[1:].partition(b"/")
    if not slash or not rest or not 0 < len(name) <= MAX_NAMESPACE_BYTES or not name.isascii():
        return None
    return name.decode("ascii")


class Validators:
    """The validators of a node. A key of no namespace is refused: a store for anything is a store for floods."""

    def __init__(self, by_namespace: Mapping[str, Validator]) -> None:
        self._by_namespace = dict(by_namespace)

    def validate(self, key: bytes, value: bytes, now: float) -> float:
        """As :meth:`Validator.validate`, of whichever namespace ``key`` is in."""
        if not 0 < len(key) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise InvalidRecord(f"a key has 1 to {MAX_KEY_BYTES} bytes and a value at most {MAX_VALUE_BYTES}")
        validator = self._validator(key)
        try:
            expires_at = validator.validate(key, value, now)
        except KadError:
            raise
        except Exception as error:  # a stranger's bytes found a fault in it: they are refused, and the cause is chained
            raise InvalidRecord(f"the validator failed: {error!r}") from error
        if not expires_at > now:
            raise InvalidRecord("the record has expired")
        return expires_at

    def better(self, key: bytes, old: bytes, new: bytes) -> bool:
        """Whether ``new`` replaces ``old``; both are valid. Equal values replace nothing."""
        return old != new and self._validator(key).select(key, [old, new]) == 1

    def self_certifying(self, key: bytes) -> bool:
        """As :attr:`Validator.self_certifying`, of whichever namespace ``key`` is in."""
        namespace = namespace_of(key)
        validator = self._by_namespace.get(namespace) if namespace is not None else None
        return validator is not None and validator.self_certifying

    def _validator(self, key: bytes) -> Validator:
        namespace = namespace_of(key)
        if namespace is None or (validator := self._by_namespace.get(namespace)) is None:
            raise InvalidRecord(f"no validator for key {key[:MAX_NAMESPACE_BYTES]!r}")
        return validator
