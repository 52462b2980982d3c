"""The devnet's sockets: ports, and one task for each client of a liteserver."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from overlay.settlement.devnet.adnl import ProtocolError, Query, ServerConnection
from overlay.settlement.devnet.gate import Gate
from overlay.settlement.devnet.limits import (
    HANDSHAKE_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    MAX_QUERIES_IN_FLIGHT,
    SEND_TIMEOUT_S,
)
from overlay.settlement.devnet.liteserver import HangUp, LiteServer


async def listen(host: str, port: int, *, rather: int = 0) -> tuple[list[trio.SocketListener], int]:
    """Open a port; returns its listeners and its number. ``rather`` is tried first where ``port`` is 0 (any).

    Raises ``OSError`` that says which port and what to do.
    """
    if port == 0 and rather:
        try:
            return await listen(host, rather)
        except OSError:  # somebody else has it now: any other will do
            return await listen(host, 0)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "choose another port, or 0 for any free one",
            errno.EACCES: "choose a port above 1023",
            errno.EADDRNOTAVAIL: "this machine has no such address; choose another --host",
        }.get(error.errno or 0, "choose another port or address")
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}; {remedy}") from error
    return listeners, listeners[0].socket.getsockname()[1]


async def serve_client(
    server: LiteServer, gate: Gate, random_bytes: Callable[[int], bytes], stream: trio.SocketStream
) -> None:
    """One liteserver client: decode, answer each query in a task of its own, drop it on any protocol error."""
    async with stream, gate.place() as place:
        client = _Client(ServerConnection(server.key, random_bytes), server, stream)
        try:
            async with trio.open_nursery() as nursery:
                deadline = trio.current_time() + HANDSHAKE_TIMEOUT_S
                while True:
                    with trio.fail_at(deadline):
                        data = await stream.receive_some(65536)
                    if not data:
                        break
                    await client.received(data, nursery)
                    if client.ready:
                        place.seen()
                        deadline = trio.current_time() + IDLE_TIMEOUT_S
                nursery.cancel_scope.cancel()
        except* (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, HangUp):
            pass


class _Client:
    """What the tasks of one connection share."""

    def __init__(self, connection: ServerConnection, server: LiteServer, stream: trio.SocketStream) -> None:
        self._connection = connection
        self._server = server
        self._stream = stream
        self._sending = trio.Lock()
        self._slots = trio.Semaphore(MAX_QUERIES_IN_FLIGHT)

    @property
    def ready(self) -> bool:
        """Whether the handshake is done."""
        return self._connection.ready

    async def received(self, data: bytes, nursery: trio.Nursery) -> None:
        """Take bytes; queries beyond the limit in flight wait here, and the rest in the socket."""
        queries = self._connection.receive(data)
        await self._flush()
        for query in queries:
            await self._slots.acquire()
            nursery.start_soon(self._reply, query)

    async def _reply(self, query: Query) -> None:
        try:
            self._connection.answer(query.query_id, await self._server.answer(query.request))
            await self._flush()
        finally:
            self._slots.release()

    async def _flush(self) -> None:
        async with self._sending:
            if output := self._connection.take_output():
                with trio.fail_after(SEND_TIMEOUT_S):
                    await self._stream.send_all(output)
