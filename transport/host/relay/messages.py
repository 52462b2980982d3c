"""The messages of the hop and stop protocols: upstream's protobufs, parsed strictly."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage as HopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import Limit as Limit
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as PeerMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import Reservation as Reservation
from libp2p.relay.circuit_v2.pb.circuit_pb2 import Status as Status
from libp2p.relay.circuit_v2.pb.circuit_pb2 import StopMessage as StopMessage

from transport.host.interface import HostStream, StreamError
from transport.identity import PeerId, public_key_of

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"

MAX_MESSAGE = 4096
"""What the specification advises; ours have under 500 bytes."""


async def read(stream: HostStream, kind: type[Any]) -> Any:
    """One message of ``kind``. Raises :class:`StreamError`."""
    message = kind()
    try:
        message.ParseFromString(await stream.receive(MAX_MESSAGE))
    except DecodeError:
        raise StreamError(f"{stream.peer_id} sent a relay message that does not parse") from None
    return message


async def send(stream: HostStream, message: Any) -> None:
    """Send one message."""
    await stream.send(message.SerializeToString())


async def reply(stream: HostStream, kind: type[Any], status: int, **fields: Any) -> None:
    """Send a status message of ``kind``."""
    await send(stream, kind(type=kind.STATUS, status=status, **fields))


def peer_in(message: Any) -> PeerId:
    """The peer that a message names. Raises :class:`StreamError` for what is no Ed25519 peer id."""
    peer = str(ID(bytes(message.peer.id)))
    try:
        public_key_of(peer)
    except ValueError:
        raise StreamError("a relay message names no Ed25519 peer id") from None
    return PeerId(peer)


def named(peer: PeerId) -> PeerMessage:
    """A peer as messages name it."""
    return PeerMessage(id=bytes(ID.from_string(peer).to_bytes()))
