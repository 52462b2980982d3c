"""What a tunnel tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

from transport.identity import PeerId


@dataclass(frozen=True)
class TunnelStats:
    """A tunnel at one moment. Bytes are those on the wire; ``rtt_ms`` is None until the first pong; the rates are those
    of the last five seconds or so."""

    peer_id: PeerId
    pattern: str
    handshake_hash: bytes
    initiator: bool
    relayed: bool
    remote: str
    bytes_sent: int
    bytes_received: int
    rtt_ms: float | None
    sent_bytes_per_s: float
    received_bytes_per_s: float
    streams: int
    padded: bool = False
