"""Identify beyond what upstream does with it: where a peer sees us, and telling peers that something has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from google.protobuf.message import DecodeError
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import _mk_identify_protobuf
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.identify_push.identify_push import ID_PUSH
from multiaddr import Multiaddr

from transport.host.interface import StreamError
from transport.host.limits import MAX_ADDR_BYTES, MAX_IDENTIFY_BYTES, NEGOTIATE_S
from transport.host.streams import Libp2pStream
from transport.host.swarm import peer_of
from transport.identity import PeerId

OpenOn = Callable[[Any, PeerId, str], Awaitable[Libp2pStream]]
"""Opens a stream on one connection."""


async def observed_addr(open_on: OpenOn, connection: Any) -> Multiaddr | None:
    """Where the peer at the other end of ``connection`` sees us (identify, ``observedAddr``); None if it does not say.
    Raises :class:`~transport.host.StreamError`."""
    stream = await open_on(connection, peer_of(connection), str(IDENTIFY))
    message = Identify()
    try:
        with trio.fail_after(NEGOTIATE_S):
            message.ParseFromString(await stream.receive(MAX_IDENTIFY_BYTES))
        if not 0 < len(message.observed_addr) <= MAX_ADDR_BYTES:
            return None
        return Multiaddr(str(Multiaddr(message.observed_addr)))  # from bytes alone it would not be parsed yet
    except trio.TooSlowError:
        raise StreamError("identify was not answered") from None
    except DecodeError:
        raise StreamError("identify does not parse") from None
    except ValueError:
        return None
    finally:
        await stream.aclose()


async def push_identify(host: BasicHost, open_on: OpenOn, connection: Any) -> None:
    """Send what we are and where to the peer at the other end (identify/push). Raises :class:`StreamError`."""
    message = _mk_identify_protobuf(host, None).SerializeToString()
    stream = await open_on(connection, peer_of(connection), str(ID_PUSH))
    await stream.send(message)
    await stream.aclose()


__all__ = ["OpenOn", "observed_addr", "push_identify"]
