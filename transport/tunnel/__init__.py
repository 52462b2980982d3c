"""Noise tunnels: an authenticated, encrypted TCP connection between two peers that carries many message streams.

::

    endpoint = TunnelEndpoint.of(identity)
    async with open_tunnel_listener(endpoint, "0.0.0.0", 4002, handler) as listener: ...

    async with await dial(endpoint, "/ip4/192.0.2.1/tcp/4002", peer_id, static_key=key) as tunnel:
        async with tunnel.open_stream() as stream:
            await stream.send_message(b"hello")
            answer = await stream.receive_message(max_bytes=4096)

The protocol is in docs/protocols/tunnel.md.
"""

from transport.tunnel.addresses import format_addr, parse_addr
from transport.tunnel.connect import answer, connect, dial
from transport.tunnel.errors import (
    HandshakeError,
    MessageTooLarge,
    ProtocolViolation,
    StreamEnded,
    StreamReset,
    TunnelClosed,
    TunnelDialError,
    TunnelError,
)
from transport.tunnel.frames import ResetCode
from transport.tunnel.handshake import Pattern
from transport.tunnel.host_link import HostStreamLink
from transport.tunnel.keys import StaticKey, TunnelEndpoint
from transport.tunnel.limits import MAX_SMALL as MAX_SMALL_MESSAGE
from transport.tunnel.links import Link, SocketLink, StreamLink, Tuning
from transport.tunnel.listener import ListenerStats, TunnelHandler, TunnelListener, open_tunnel_listener
from transport.tunnel.stats import TunnelStats
from transport.tunnel.stream import TunnelStream
from transport.tunnel.tunnel import Tunnel

__all__ = [
    "MAX_SMALL_MESSAGE",
    "HandshakeError",
    "HostStreamLink",
    "Link",
    "ListenerStats",
    "MessageTooLarge",
    "Pattern",
    "ProtocolViolation",
    "ResetCode",
    "SocketLink",
    "StaticKey",
    "StreamEnded",
    "StreamLink",
    "StreamReset",
    "Tuning",
    "Tunnel",
    "TunnelClosed",
    "TunnelDialError",
    "TunnelEndpoint",
    "TunnelError",
    "TunnelHandler",
    "TunnelListener",
    "TunnelStats",
    "TunnelStream",
    "answer",
    "connect",
    "dial",
    "format_addr",
    "open_tunnel_listener",
    "parse_addr",
]
