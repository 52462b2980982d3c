"""The frames inside a tunnel's records: constants and the codec of the rare ones.

A frame is ``stream id (u32) | kind (u8) | payload length (u24) | payload``, big endian. The frequent kinds are coded in
line by :mod:`transport.tunnel.mux`; see docs/protocols/tunnel.md for the whole protocol.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

from transport.tunnel.errors import ProtocolViolation
from transport.tunnel.limits import MAX_REASON

HEADER: Final = Struct(">II")
HEADER_BYTES: Final = 8
LENGTH_MASK: Final = 0xFFFFFF

# Plain ints: the parser compares them for each message, and an IntEnum member costs an attribute look-up more.
PAD: Final = 0
OPEN: Final = 1
MESSAGE: Final = 2
BEGIN: Final = 3
PART: Final = 4
END: Final = 5
RESET: Final = 6
CREDIT: Final = 7
PING: Final = 8
PONG: Final = 9
GOAWAY: Final = 10
CLOSE: Final = 11
REKEY: Final = 12

NAMES: Final = [
    "PAD",
    "OPEN",
    "MESSAGE",
    "BEGIN",
    "PART",
    "END",
    "RESET",
    "CREDIT",
    "PING",
    "PONG",
    "GOAWAY",
    "CLOSE",
    "REKEY",
]

FIXED_LENGTH: Final = {OPEN: 0, END: 0, CREDIT: 4, PING: 8, PONG: 8, REKEY: 0}
"""Kinds whose payload has exactly one length."""


class ResetCode(IntEnum):
    """Why a stream was abandoned. Codes from 256 on belong to the users of streams."""

    CLOSED = 0
    """The sender of the reset wants nothing more; what it sent before stands."""
    CANCELLED = 1
    REFUSED = 2
    TOO_LARGE = 3
    FAILED = 4


def frame(stream_id: int, kind: int, payload: bytes = b"") -> bytes:
    """Encode one frame whole."""
    return HEADER.pack(stream_id, kind << 24 | len(payload)) + payload


def reason_payload(code: int, reason: str) -> bytes:
    """Payload of RESET, GOAWAY and CLOSE: ``code (u32) | UTF-8 text``; text beyond 200 bytes is cut off."""
    text = reason.encode()[:MAX_REASON].decode(errors="ignore")
    return code.to_bytes(4, "big") + text.encode()


def parse_reason(payload: bytes) -> tuple[int, str]:
    """Parse :func:`reason_payload`. Raises :class:`ProtocolViolation` on another length or broken UTF-8."""
    if not 4 <= len(payload) <= 4 + MAX_REASON:
        raise ProtocolViolation("a reason of the wrong length")
    try:
        text = payload[4:].decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation("a reason that is not UTF-8") from error
    return int.from_bytes(payload[:4], "big"), text
