"""Circuit relay v2 (libp2p specs, relay/circuit-v2.md): a connection through a third node, for who cannot be dialled.

The messages are upstream's protobufs; the rules are ours, since upstream's (libp2p 0.8.1, relay/circuit_v2/) cannot
face strangers: docs/protocols/host.md says why, with lines.
"""

from transport.host.relay.circuit import CircuitStream
from transport.host.relay.client import RelayClient
from transport.host.relay.finder import Candidate, RelayFinder
from transport.host.relay.service import RelayLimits, RelayService

__all__ = ["Candidate", "CircuitStream", "RelayClient", "RelayFinder", "RelayLimits", "RelayService"]
