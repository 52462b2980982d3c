"""The listening side: accept, authenticate within a deadline and a budget, hand the tunnel to a handler."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from transport.tunnel.addresses import budget_key, format_addr
from transport.tunnel.admission import HalfOpen
from transport.tunnel.connect import answer
from transport.tunnel.errors import HandshakeError
from transport.tunnel.keys import TunnelEndpoint
from transport.tunnel.limits import HANDSHAKE_SECONDS, LISTEN_BACKLOG, MAX_TUNNELS, MAX_TUNNELS_PER_PEER
from transport.tunnel.links import SYSTEM_TUNING, Link, SocketLink, Tuning
from transport.tunnel.tunnel import Tunnel

log = logging.getLogger(__name__)

TunnelHandler = Callable[[Tunnel], Awaitable[None]]
"""Called in a task of its own for each authenticated, running tunnel, which is closed when it returns. An exception of
it is logged, closes its tunnel and harms nothing else."""


@dataclass
class ListenerStats:
    """What a listener has seen: counts since its start, and tunnels established now."""

    accepted: int = 0
    refused: int = 0
    established: int = 0
    half_open: int = 0


@dataclass
class TunnelListener:
    """A running listener; :func:`open_tunnel_listener` makes it."""

    endpoint: TunnelEndpoint
    handler: TunnelHandler
    handshake_seconds: float
    addrs: Sequence[str] = ()
    tunnels: set[Tunnel] = field(default_factory=set)
    _half_open: HalfOpen = field(default_factory=HalfOpen)
    _per_peer: Counter[str] = field(default_factory=Counter)
    _accepted: int = 0
    _refused: int = 0

    def stats(self) -> ListenerStats:
        """Counts for status pages."""
        return ListenerStats(self._accepted, self._refused, len(self.tunnels), self._half_open.count)

    async def serve_link(self, link: Link) -> None:
        """Answer one connection from its first byte to its end. Raises nothing but what cancels it.

        For TCP connections the listener does this by itself; call it for relayed ones.
        """
        self._accepted += 1
        try:
            tunnel = await self._authenticate(link)
            if tunnel is not None:
                await self._serve(tunnel)
        finally:
            await link.aclose()

    async def _authenticate(self, link: Link) -> Tunnel | None:
        address = budget_key(link.remote)
        tunnel = None
        with trio.move_on_after(self.handshake_seconds) as scope:
            ticket = self._half_open.admit(address, scope.cancel)
            try:
                tunnel = await answer(link, self.endpoint)
            except HandshakeError as error:
                log.debug("refused %s: %s", link.remote, error)
            finally:
                self._half_open.leave(address, ticket)
        if tunnel is None:
            self._refused += 1
        return tunnel

    async def _serve(self, tunnel: Tunnel) -> None:
        if len(self.tunnels) >= MAX_TUNNELS or self._per_peer[tunnel.peer_id] >= MAX_TUNNELS_PER_PEER:
            self._refused += 1
            async with tunnel:
                await tunnel.aclose("too many tunnels")
            return
        self.tunnels.add(tunnel)
        self._per_peer[tunnel.peer_id] += 1
        try:
            async with tunnel:
                try:
                    await self.handler(tunnel)
                except Exception:
                    log.exception("the handler of a tunnel to %s failed", tunnel.peer_id)
        finally:
            self.tunnels.discard(tunnel)
            self._per_peer[tunnel.peer_id] -= 1
            if not self._per_peer[tunnel.peer_id]:
                del self._per_peer[tunnel.peer_id]


async def _bind(host: str | None, port: int) -> list[trio.SocketListener]:
    if host is not None:
        return list(await trio.open_tcp_listeners(port, host=host, backlog=LISTEN_BACKLOG))
    sockets = list(await trio.open_tcp_listeners(port, host="0.0.0.0", backlog=LISTEN_BACKLOG))  # noqa: S104 — every interface, as asked
    try:
        same = sockets[0].socket.getsockname()[1]
        sockets += await trio.open_tcp_listeners(same, host="::", backlog=LISTEN_BACKLOG)
    except OSError as error:
        if port and error.errno == errno.EADDRINUSE:  # somebody chose this port
            sockets[0].socket.close()
            raise
        log.info("no tunnels over IPv6: %s", error)  # no such addresses here, or that free port is taken there
    return sockets


@asynccontextmanager
async def open_tunnel_listener(
    endpoint: TunnelEndpoint,
    host: str | None,
    port: int,
    handler: TunnelHandler,
    *,
    handshake_seconds: float = HANDSHAKE_SECONDS,
    tuning: Tuning = SYSTEM_TUNING,
) -> AsyncIterator[TunnelListener]:
    """Listen on ``host``:``port`` (0: any free port) and serve each tunnel with ``handler`` until the block is left.
    ``host`` None means every address of the machine, on a socket for each family that it has.

    ``listener.addrs`` are the addresses to publish, such as ``/ip4/127.0.0.1/tcp/4002``. Raises ``OSError`` when the
    port is taken. Leaving cancels the handlers and closes all tunnels.
    """
    sockets = await _bind(host, port)
    try:
        for sock in sockets:  # accepted ones inherit it, in time for the window scale of the handshake
            tuning.apply(sock.socket)
    except OSError:
        for sock in sockets:
            sock.socket.close()
        raise
    addrs = [format_addr(*sock.socket.getsockname()[:2]) for sock in sockets]
    listener = TunnelListener(endpoint, handler, handshake_seconds, addrs)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            link = SocketLink.of_trio(stream, tuning)
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        await listener.serve_link(link)

    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, sockets)
            try:
                yield listener
            except BaseException as error:
                raised = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is ours, not the user's: his exception comes out as it went in.
        if raised is None or group.exceptions != (raised,):
            raise
        raise raised from None
