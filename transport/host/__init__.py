"""The control plane: authenticated peers, message streams and gossip (libp2p behind an interface of ours).

``Libp2pHost``, ``NatOptions`` and ``RelayLimits`` are imported on first use: libp2p takes 65 MB and most of a second,
which a simulation or ``--help`` need not spend.
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
    Reach,
    Reachability,
    StreamError,
    StreamHandler,
)
from transport.host.pnet import SwarmKeyError, format_swarm_key, parse_swarm_key

if TYPE_CHECKING:
    from transport.host.libp2p_host import Libp2pHost
    from transport.host.relay import RelayLimits
    from transport.host.traversal import NatOptions, of_any_network, of_the_internet

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
    "NatOptions",
    "PeerInfo",
    "PromptHandler",
    "ProtocolRefused",
    "Reach",
    "Reachability",
    "RelayLimits",
    "StreamError",
    "StreamHandler",
    "SwarmKeyError",
    "background",
    "format_swarm_key",
    "of_any_network",
    "of_the_internet",
    "parse_swarm_key",
]


def __getattr__(name: str) -> Any:
    if name == "Libp2pHost":
        from transport.host.libp2p_host import Libp2pHost

        return Libp2pHost
    if name in ("NatOptions", "of_any_network", "of_the_internet"):
        from transport.host import traversal

        return getattr(traversal, name)
    if name == "RelayLimits":
        from transport.host.relay import RelayLimits

        return RelayLimits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
