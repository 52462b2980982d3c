"""Everything that can go wrong in a tunnel, as one tree.

::

    TunnelError
    ├── TunnelDialError      no connection could be made
    ├── HandshakeError       connected, but the parties could not authenticate each other
    ├── TunnelClosed         the tunnel is gone: closed by one of the two sides, dead, or broken off
    ├── ProtocolViolation    the peer sent what the protocol forbids (it reaches users as the cause of TunnelClosed)
    ├── StreamReset          one side abandoned this stream; the tunnel lives on
    ├── StreamEnded          the peer finished sending on this stream, in good order
    └── MessageTooLarge      a message exceeds what the reader allows; its stream has been reset
"""

from __future__ import annotations


class TunnelError(Exception):
    """Base of all errors of :mod:`transport.tunnel`."""


class TunnelDialError(TunnelError):
    """The address is malformed, unreachable, or did not answer before the deadline."""


class HandshakeError(TunnelError):
    """The handshake failed. Nothing was delivered and the connection is closed.

    A responder that refuses says nothing but closes, so the initiator often sees only "the peer closed the connection".
    """


class TunnelClosed(TunnelError):
    """The tunnel carries nothing any more. ``clean`` tells a proper close from a loss or a violation."""

    def __init__(self, reason: str, *, clean: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.clean = clean


class ProtocolViolation(TunnelError):
    """The peer broke the protocol: a record that does not authenticate, a lying length, credit overrun."""


class StreamReset(TunnelError):
    """The stream was abandoned by one side. ``code`` is a :class:`transport.tunnel.ResetCode` or the user's own."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"stream reset ({code}): {reason}" if reason else f"stream reset ({code})")
        self.code = code
        self.reason = reason


class StreamEnded(TunnelError):
    """The peer has sent its last message on this stream and everything before it was received."""


class MessageTooLarge(TunnelError):
    """The next message is longer than the reader allows. The stream has been reset, the tunnel lives on."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the peer announced a message of {size} bytes where at most {limit} are allowed")
        self.size = size
        self.limit = limit
