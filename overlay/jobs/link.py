"""What the jobs protocol needs of a tunnel; :class:`transport.tunnel.Tunnel` and its streams have this shape.

All methods raise :class:`transport.tunnel.TunnelError` when the stream or the tunnel is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol


class JobStream(Protocol):
    """One stream of messages, in order."""

    async def send_messages(self, messages: Sequence[bytes]) -> None:
        """Send messages; those given together leave together."""

    async def receive_messages(self, max_bytes: int) -> list[bytes]:
        """All messages that are here, at least one; none when the peer has ended its side."""

    def reset(self, code: int = ..., reason: str = ...) -> None:
        """Abandon the stream at once; idempotent."""

    async def aclose(self) -> None:
        """End our side in good order and let go."""


class LinkStats(Protocol):
    """What is asked of a tunnel's counters."""

    @property
    def bytes_received(self) -> int:
        """On the wire, everything included: while it grows, the peer is there."""


class JobTunnel(Protocol):
    """A tunnel to one authenticated peer."""

    @property
    def peer_id(self) -> str:
        """Who is at the other end."""

    @property
    def handshake_hash(self) -> bytes:
        """What names this tunnel: 32 bytes, the same on both sides."""

    def stats(self) -> LinkStats:
        """Its counters now."""

    def open_stream(self) -> Awaitable[Any]:
        """A new :class:`JobStream`."""

    async def accept(self) -> Any:
        """The next :class:`JobStream` that the peer opened."""

    async def aclose(self, reason: str = ...) -> None:
        """Close the tunnel and tell the peer why."""
