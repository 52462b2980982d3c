"""What a tunnel tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

from transport.identity import PeerId


@dataclass(frozen=True)
class TunnelStats:
    """A tunnel at one moment. Bytes are those on the wire; ``rtt_ms`` is None until the first pong."""

    peer_id: PeerId
    pattern: str
    handshake_hash: bytes
    initiator: bool
    relayed: bool
    remote: str
    bytes_sent: int
    bytes_received: int
    rtt_ms: float | None
    streams: int
    padded: bool = False
