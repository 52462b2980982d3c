"""P4, P5, P19: one dial at a time, when we say so; and connections that close for certain."""

from __future__ import annotations

import struct
from typing import Any

import trio
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from transport.host.hardening.quiet import log
from transport.host.limits import CLOSE_S


async def dial(swarm: Swarm, addr: Multiaddr, peer: ID) -> Any:
    """One attempt at one address: no pause, no hidden retry, no memory of failures (P4, P5).

    ``Swarm.dial_peer`` waits out the happy-eyeballs delay even after success (network/swarm.py:936), tries at most
    two addresses of a peer, never a loopback address beside a public one (818), and refuses a peer for 60 s after a
    failure (114). Back-off is the caller's, where it can be seen.
    """
    try:
        raw = await swarm.transport_manager.transport_for_dialing(addr).dial(addr)
    except OpenConnectionError as error:
        raise SwarmException(str(error)) from error
    return await upgrade(swarm, raw, peer)


async def upgrade(swarm: Swarm, raw: Any, peer: ID) -> Any:
    """Authenticate and multiplex a raw connection to ``peer``; whatever fails closes it."""
    try:
        return await swarm.upgrade_outbound_raw_conn(raw, peer)
    except BaseException:
        raw.stream.abort()
        raise


def forbid_hidden_dials(swarm: Swarm) -> None:
    """Dials happen in :func:`dial` alone; gossipsub and identify may only use connections that exist (P4, P5).

    The auto-connector would dial whoever the peer store names, which strangers fill, up to half of the high watermark
    and whatever the low one says (network/auto_connector.py).
    """

    async def refuse(peer: ID) -> Any:
        raise SwarmException(f"not connected to {peer}")

    async def no_background_task(_nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()

    swarm.dial_peer = refuse
    swarm.auto_connector.run_background_task = no_background_task
    swarm._schedule_auto_connect = lambda: None
    swarm._schedule_prune = lambda: None  # transport.host.manager decides who goes
    swarm._trim_connections = lambda _peer: None


def socket_of(connection: Any) -> Any:
    """The :class:`transport.host.tcp.TcpStream` under a libp2p connection."""
    return connection.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream


async def say_goodbye(connection: Any, code: int = 0) -> None:
    """Send yamux's "Go Away", flush for at most :data:`CLOSE_S`, close the socket. Never raises; libp2p's books follow
    when its reader finds the socket closed."""
    header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_GO_AWAY, 0, 0, code)
    socket = socket_of(connection)
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
        try:
            await connection.muxed_conn._write_frame(header)
            await socket.close()
        except Exception as error:
            log.debug("a farewell to %s failed: %r", connection.muxed_conn.peer_id, error)
    socket.abort()


async def close_connection(connection: Any, code: int = 0) -> None:
    """Say goodbye and close, whatever the peer does (P19).

    ``SwarmConn.close`` (network/connection/swarm_connection.py:144) first marks itself closed, then writes the
    farewell, which waits for ever on a peer that does not read; cancelled there it never leaves the swarm's table, and
    its place is lost. Here the socket goes first, so that nothing below can wait.
    """
    with trio.CancelScope(shield=True):
        await say_goodbye(connection, code)
        await connection.close()
        if connection in connection.swarm.connections.get(connection.muxed_conn.peer_id, ()):
            await connection._cleanup()
