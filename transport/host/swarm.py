"""The libp2p swarm, made the way that we want it, and what it tells us of connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore

from transport.host import hardening
from transport.host.limits import CLOSING_CONNECTIONS, NEGOTIATE_S
from transport.host.tcp import TcpTransport
from transport.host.upgrading import EagerUpgrader
from transport.identity import PeerId


def new_swarm(keys: Any, transport: TcpTransport, max_connections: int) -> Swarm:
    """A swarm that speaks Noise and yamux over ``transport`` and dials nobody of itself."""
    peer = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer, keys)
    upgrader = EagerUpgrader(hardening.noise_only(keys), NEGOTIATE_S)
    config = ConnectionConfig(
        # The last line of defence only: transport.host.manager keeps the numbers below these.
        max_connections=max_connections + CLOSING_CONNECTIONS,
        max_connections_per_peer=max_connections + CLOSING_CONNECTIONS,
        # No watermarks: upstream would dial whatever the peer store holds to reach them.
        min_connections=0,
        low_watermark=0,
        high_watermark=max_connections + CLOSING_CONNECTIONS,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
    )
    swarm = Swarm(peer, peerstore, upgrader, [transport], RetryConfig(max_retries=0), config)
    hardening.forbid_hidden_dials(swarm)
    return swarm


class ConnectionNotifee:
    """What the swarm calls when connections come and go."""

    def __init__(self, opened: Callable[[Any], None], closed: Callable[[Any], None]) -> None:
        self._opened = opened
        self._closed = closed

    async def connected(self, _network: Any, connection: Any) -> None:
        """A connection was authenticated."""
        self._opened(connection)
        await trio.lowlevel.checkpoint()

    async def disconnected(self, _network: Any, connection: Any) -> None:
        """A connection is gone."""
        self._closed(connection)
        await trio.lowlevel.checkpoint()

    async def opened_stream(self, _network: Any, _stream: Any) -> None:
        """Of no interest."""

    async def closed_stream(self, _network: Any, _stream: Any) -> None:
        """Of no interest."""

    async def listen(self, _network: Any, _addr: Any) -> None:
        """Of no interest."""

    async def listen_close(self, _network: Any, _addr: Any) -> None:
        """Of no interest."""


def peer_of(connection: Any) -> PeerId:
    """The authenticated peer at the other end."""
    return PeerId(str(connection.muxed_conn.peer_id))


def addr_of(connection: Any) -> str:
    """The multiaddr by which a connection stands, with its peer id."""
    addrs = connection.get_transport_addresses()
    return f"{addrs[0] if addrs else ''}/p2p/{peer_of(connection)}"


def is_relayed(connection: Any) -> bool:
    """Whether a connection goes through a relay."""
    return bool(connection.get_connection_type() == ConnectionType.RELAYED)
