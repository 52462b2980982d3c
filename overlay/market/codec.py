"""Records of the market: frozen dataclasses whose fields say how they travel and what they may hold.

A :class:`Record` cannot be built with a value that its own parser would refuse, so whatever exists in memory can be
sent, and whatever was received is as good as built here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, get_type_hints

from compute.usage import Prices, Usage
from transport.identity import PeerId, peer_id_of, public_key_of


@dataclass(frozen=True)
class Codec:
    """How one field travels: ``plain`` makes CBOR types of the value, ``parse`` goes back and raises ``ValueError``."""

    parse: Callable[[Any], Any]
    plain: Callable[[Any], Any] = lambda value: value


def integer(low: int, high: int) -> Codec:
    """An integer from ``low`` to ``high``, both included."""

    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high} is wanted, not {value!r:.80}")
        return value

    return Codec(parse)


def blob(low: int, high: int | None = None) -> Codec:
    """Exactly ``low`` bytes, or from ``low`` to ``high``."""
    top = low if high is None else high

    def parse(value: Any) -> bytes:
        if type(value) is not bytes or not low <= len(value) <= top:
            raise ValueError(f"{low} to {top} bytes are wanted")
        return value

    return Codec(parse)


def text(max_chars: int, pattern: str = r"[^\x00-\x1f\x7f-\x9f]+") -> Codec:
    """One line of text that ``pattern`` matches in full (by default: not empty, no control characters)."""
    compiled = re.compile(pattern)

    def parse(value: Any) -> str:
        if type(value) is not str or len(value) > max_chars or not compiled.fullmatch(value):
            raise ValueError(f"text of at most {max_chars} characters that matches {pattern} is wanted")
        return value

    return Codec(parse)


def choice(of: type[StrEnum]) -> Codec:
    """A member of ``of``, by its value."""

    def parse(value: Any) -> StrEnum:
        if type(value) is not str:
            raise ValueError(f"the name of a {of.__name__} is wanted")
        return of(value)

    return Codec(parse, lambda value: str(value.value))


def _parse_peer(value: Any) -> PeerId:
    if type(value) is not str or peer_id_of(public_key_of(value)) != value:
        raise ValueError("a peer id is wanted")
    return PeerId(value)


PEER = Codec(_parse_peer)
PRICES = Codec(Prices.from_wire, lambda value: value.to_wire())
USAGE = Codec(Usage.from_wire, lambda value: value.to_wire())
TON_ADDRESS = text(70, r"(?:0|-1):[0-9a-f]{64}")
"""A TON address in raw form, ``workchain:hex``: the one form without flags and checksums, so equal means equal."""


_CODECS: dict[type, dict[str, Codec]] = {}


def _codecs(cls: type[Record]) -> dict[str, Codec]:
    """Field name to codec: the ``Annotated`` metadata of the class's fields, looked up once a class."""
    codecs = _CODECS.get(cls)
    if codecs is None:
        hints = get_type_hints(cls, include_extras=True)
        codecs = _CODECS[cls] = {entry.name: hints[entry.name].__metadata__[0] for entry in fields(cls)}
    return codecs


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of everything that is signed in a negotiation: each field is ``Annotated[type, codec]``.

    Raises ``ValueError`` when built with a value out of bounds.
    """

    def __post_init__(self) -> None:
        for name, codec in _codecs(type(self)).items():
            try:
                codec.parse(codec.plain(getattr(self, name)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        self._check()

    def _check(self) -> None:
        """What holds between fields. Raises ``ValueError``."""

    def to_map(self) -> dict[str, Any]:
        """The record as a map from field name to plain value, every field present."""
        return {name: codec.plain(getattr(self, name)) for name, codec in _codecs(type(self)).items()}

    @classmethod
    def from_map(cls, value: Any) -> Self:
        """Parse :meth:`to_map`. Raises ``ValueError`` on missing, unknown or wrong fields."""
        codecs = _codecs(cls)
        if type(value) is not dict or value.keys() != codecs.keys():
            raise ValueError(f"a {cls.__name__} has exactly the fields {', '.join(codecs)}")
        made = object.__new__(cls)  # its fields are checked here, once, and not again by the constructor
        for name, codec in codecs.items():
            try:
                object.__setattr__(made, name, codec.parse(value[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        made._check()
        return made
