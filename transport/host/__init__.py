"""The control plane: authenticated peers, message streams and gossip (libp2p behind an interface of ours).

``Libp2pHost`` and ``RelayLimits`` are imported on first use: libp2p takes 65 MB and most of a second, which a
simulation or ``--help`` need not spend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transport.host.background import background
from transport.host.connections import ConnectionLimits
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
    PromptHandler,
    ProtocolRefused,
    StreamError,
    StreamHandler,
)
from transport.host.pnet import SwarmKeyError, format_swarm_key, parse_swarm_key

if TYPE_CHECKING:
    from transport.host.libp2p_host import Libp2pHost
    from transport.host.relay import RelayLimits

__all__ = [
    "ConnectionLimits",
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
    "PromptHandler",
    "ProtocolRefused",
    "RelayLimits",
    "StreamError",
    "StreamHandler",
    "SwarmKeyError",
    "background",
    "format_swarm_key",
    "parse_swarm_key",
]


def __getattr__(name: str) -> Any:
    if name == "Libp2pHost":
        from transport.host.libp2p_host import Libp2pHost

        return Libp2pHost
    if name == "RelayLimits":
        from transport.host.relay import RelayLimits

        return RelayLimits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
