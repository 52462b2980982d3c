"""The control plane: authenticated peers, message streams and gossip (libp2p behind an interface of ours)."""

from transport.host.interface import (
    DialError,
    EventKind,
    GossipMessage,
    GossipValidator,
    Host,
    HostError,
    HostEvent,
    HostStream,
    PeerInfo,
    StreamError,
    StreamHandler,
)
from transport.host.libp2p_host import Libp2pHost
from transport.host.pnet import SwarmKeyError, format_swarm_key, parse_swarm_key

__all__ = [
    "DialError",
    "EventKind",
    "GossipMessage",
    "GossipValidator",
    "Host",
    "HostError",
    "HostEvent",
    "HostStream",
    "Libp2pHost",
    "PeerInfo",
    "StreamError",
    "StreamHandler",
    "SwarmKeyError",
    "format_swarm_key",
    "parse_swarm_key",
]
