"""AutoNAT v1 (libp2p specs, autonat/autonat-v1.md): others dial us back and say whether they got through.

The messages are upstream's protobufs; the rules are ours, since upstream's (libp2p 0.8.1, host/autonat/) answers OK
about addresses where nobody listens: docs/protocols/host.md says why, with lines.
"""

from transport.host.autonat.client import AutonatClient, Seen, Server
from transport.host.autonat.messages import AUTONAT
from transport.host.autonat.service import DialBackRates, DialBackService, dialled_back

__all__ = ["AUTONAT", "AutonatClient", "DialBackRates", "DialBackService", "Seen", "Server", "dialled_back"]
