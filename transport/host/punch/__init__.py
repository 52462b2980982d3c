"""Hole punching (libp2p specs, relay/DCUtR.md) over TCP: a circuit becomes a direct connection where routers allow it.

The messages are upstream's protobufs; the rules are ours, since upstream's (libp2p 0.8.1, relay/circuit_v2/dcutr.py)
dials whatever a stranger names: docs/protocols/host.md says why, with lines.
"""

from transport.host.punch.exchange import DCUTR
from transport.host.punch.puncher import Puncher

__all__ = ["DCUTR", "Puncher"]
