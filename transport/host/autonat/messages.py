"""The messages of AutoNAT v1: upstream's protobufs, which are the specification's, parsed strictly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from transport.host.interface import StreamError
from transport.identity import PeerId

AUTONAT = "/libp2p/autonat/1.0.0"

OK = 0
DIAL_ERROR, DIAL_REFUSED, BAD_REQUEST, INTERNAL_ERROR = 100, 101, 200, 300
"""``Message.ResponseStatus``."""


def question(peer: PeerId, addrs: Sequence[Multiaddr]) -> bytes:
    """Please dial us at one of ``addrs``."""
    about = Message.PeerInfo(id=ID.from_string(peer).to_bytes(), addrs=[addr.to_bytes() for addr in addrs])
    return bytes(Message(type=Message.DIAL, dial=Message.Dial(peer=about)).SerializeToString())


def read_question(data: bytes) -> tuple[PeerId | None, list[Multiaddr]]:
    """Whom to dial, and where; addresses that do not parse are left out. Raises :class:`StreamError`."""
    message = _parse(data)
    if message.type != Message.DIAL or not message.HasField("dial"):
        raise StreamError("an AutoNAT request that asks nothing")
    peer = bytes(message.dial.peer.id)
    return (PeerId(str(ID(peer))) if peer else None), [
        addr for raw in message.dial.peer.addrs if (addr := _addr(raw)) is not None
    ]


def answer(status: Any, text: str = "", addr: Multiaddr | None = None) -> bytes:
    """What came of it."""
    response = Message.DialResponse(status=status)
    if text:
        response.statusText = text
    if addr is not None:
        response.addr = addr.to_bytes()
    return bytes(Message(type=Message.DIAL_RESPONSE, dialResponse=response).SerializeToString())


def read_answer(data: bytes) -> tuple[int, Multiaddr | None]:
    """The status, and the address that was dialled if it was told. Raises :class:`StreamError`."""
    message = _parse(data)
    if message.type != Message.DIAL_RESPONSE or not message.HasField("dialResponse"):
        raise StreamError("an AutoNAT answer that says nothing")
    return int(message.dialResponse.status), _addr(message.dialResponse.addr)


def _parse(data: bytes) -> Message:
    message = Message()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise StreamError("an AutoNAT message that does not parse") from None
    return message


def _addr(raw: bytes) -> Multiaddr | None:
    try:
        return Multiaddr(str(Multiaddr(raw))) if raw else None  # from bytes alone it would not be parsed yet
    except Exception:
        return None
