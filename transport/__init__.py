"""How two parties talk: identities and the wire, the libp2p host, Noise tunnels, tensors.

Subpackages have their own façades: :mod:`transport.host`, :mod:`transport.tunnel`, :mod:`transport.tensors`.
"""

from transport.identity import Identity, PeerId, peer_id_of, public_key_of, verify, verify_peer
from transport.wire import Signed, WireError, decode, encode, open_envelope, sign_envelope

__all__ = [
    "Identity",
    "PeerId",
    "Signed",
    "WireError",
    "decode",
    "encode",
    "open_envelope",
    "peer_id_of",
    "public_key_of",
    "sign_envelope",
    "verify",
    "verify_peer",
]
