"""What the rest of the node knows of libp2p: this interface and nothing else.

Two things implement it: :class:`transport.host.Libp2pHost` on real sockets and the simulator's virtual host. Hosts
carry the control plane only (gossip, negotiation, the DHT); tensors and prompts go through :mod:`transport.tunnel`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from transport.identity import PeerId


class HostError(Exception):
    """The control plane could not do what was asked. The message says what happened and what to try."""


class DialError(HostError):
    """A peer could not be reached; the message names the addresses tried and why each failed."""


class StreamError(HostError):
    """A stream broke, was reset by the other side, or its peer broke the protocol."""


class ProtocolRefused(StreamError):
    """The other side never agreed to a stream's protocol: it does not speak it, lets no more streams in, or broke off
    before it had answered."""


@dataclass(frozen=True)
class GossipMessage:
    """One message heard on a topic, its origin's signature already verified by the host."""

    topic: str
    origin: PeerId
    data: bytes


@dataclass(frozen=True)
class PeerInfo:
    """A connected peer: its id and the multiaddr it is connected by (``relayed`` when through a relay)."""

    peer_id: PeerId
    addr: str
    inbound: bool
    relayed: bool


class EventKind(StrEnum):
    """What happened to the host."""

    LISTENING = "listening"
    """``addr`` accepts connections."""
    CONNECTED = "connected"
    """A peer's first connection stands."""
    DISCONNECTED = "disconnected"
    """A peer's last connection is gone."""
    UNREACHABLE = "unreachable"
    """A bootstrap peer did not answer; ``detail`` says why and when the next attempt follows."""
    DROPPED = "dropped"
    """A peer broke a protocol and was disconnected; ``detail`` says how."""


class HostEvent(msgspec.Struct, frozen=True):
    """Something that a user would want one line about."""

    kind: EventKind
    peer_id: PeerId | None
    addr: str
    detail: str = ""


class HostStream(Protocol):
    """A bidirectional stream of messages to one authenticated peer.

    Messages are prefixed by their length as an unsigned varint (multiformats), as libp2p protocols do.
    """

    @property
    def peer_id(self) -> PeerId:
        """The authenticated peer at the other end."""

    async def wait_opened(self) -> None:
        """Wait until the other side has agreed to the protocol of a stream that we opened; at once on one that it
        opened. Raises :class:`ProtocolRefused`. :meth:`receive` does the same by itself."""

    async def send(self, message: bytes) -> None:
        """Send one message. Raises :class:`StreamError`. Cancellation leaves the connection usable; the stream is
        then reset, since half a message may have left."""

    async def receive(self, max_bytes: int) -> bytes:
        """Receive one message of at most ``max_bytes``. Raises :class:`StreamError` at end of stream, on reset and on
        a longer message (the stream is then reset); :class:`ProtocolRefused` if the stream was never agreed to."""

    async def aclose(self) -> None:
        """Close cleanly; idempotent; never raises."""

    async def reset(self) -> None:
        """Abort in both directions; idempotent; never raises."""


StreamHandler = Callable[[HostStream], Awaitable[None]]
"""Called in a task of its own for each inbound stream; the stream is closed when it returns, reset when it raises."""


@runtime_checkable
class PromptHandler(Protocol):
    """A stream handler of a protocol of requests and replies, most of which it can give without waiting for anything. A
    host that has a request whole may ask for the reply so; it then needs no task, nor a stream to read it from."""

    async def __call__(self, stream: HostStream) -> None:
        """Serve a stream, as any handler."""

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        """The reply to a request of ``peer`` on a stream of its own; None, and nothing was done, if it is to be served
        as a stream. Never raises."""


GossipValidator = Callable[[GossipMessage], bool | None]
"""Whether a message may be delivered and relayed further: True accepts; False rejects it and counts against the peer
that relayed it; None ignores it, for what an honest peer may relay (gossipsub v1.1, "Extended Validators"). Must be
fast, synchronous and never raise."""


class Host(Protocol):
    """The control plane of one node."""

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""

    @property
    def addrs(self) -> Sequence[str]:
        """Multiaddrs we listen on, each ending in ``/p2p/<peer id>``; empty for a host that only dials."""

    async def connect(self, addr: str) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>`` and authenticate the peer. Raises :class:`DialError`."""

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> HostStream:
        """Open a stream, connecting first if need be (``addrs`` are hints beside what the host knows).

        It costs no round trip on a connection that stands: the first messages travel behind the name of ``protocol``.
        Whether the peer speaks it shows when something is received, or in :meth:`HostStream.wait_opened`; who only
        sends and wants to know waits for that. Raises :class:`DialError`, or :class:`StreamError` when the connection
        takes no stream."""

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol``; at most one handler each."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip ``data``, signed by our identity. Delivery is best effort."""

    def subscribe(
        self, topic: str, validator: GossipValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[GossipMessage]]:
        """Join ``topic``. The iterator has a bounded queue that drops the oldest when its reader is slow."""

    def peers(self) -> Sequence[PeerInfo]:
        """Who is connected now."""

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[HostEvent]]:
        """Follow what happens, beginning with what is: addresses listened on and peers connected. The iterator has a
        bounded queue that drops the oldest; several may follow."""

    async def drop(self, peer: PeerId, reason: str) -> None:
        """Disconnect a peer that broke a protocol, refuse it for a while, and say so in the events. Never raises."""
