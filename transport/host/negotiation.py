"""multistream-select as an opener that waits for nothing: the proposal goes out, the answers are read when they come.

A side that knows one protocol need not wait for the echo of ``/multistream/1.0.0`` before it names that protocol, nor
for the echo of that before it speaks it: all three go out together, as go-libp2p's lazy negotiation does it. A listener
reads line by line and leaves what follows to the protocol (libp2p specs, connections/README.md, "multistream-select").
"""

from __future__ import annotations

MULTISTREAM = "/multistream/1.0.0"


def encode_varint(value: int) -> bytes:
    """An unsigned varint (multiformats unsigned-varint)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return encode_varint(len(data)) + data


def proposal(protocol: str) -> bytes:
    """What an opener says first: that it speaks multistream-select, and that it wants ``protocol``."""
    return _line(MULTISTREAM) + _line(protocol)


class Refusal(Exception):
    """The other side does not speak what was proposed. The message begins with a verb."""


class Answers:
    """The answers to a proposal that are still to come; pure. They are read as messages with a length before them."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self._expected = [MULTISTREAM, protocol]

    @property
    def complete(self) -> bool:
        """Whether the other side has agreed."""
        return not self._expected

    def take(self, line: bytes) -> None:
        """The next answer, without its length. Raises :class:`Refusal` if it is not the one expected."""
        expected = self._expected.pop(0)
        if line != expected.encode() + b"\n":
            heard = "" if line == b"na\n" or expected != MULTISTREAM else f" but {line[:64]!r}"
            raise Refusal(f"does not speak {expected}{heard}")
