"""One HTTP connection: hypercorn's, with the waits taken out of it that every answer would pay for.

hypercorn writes the head of an answer, its body and its end each on its own, behind a lock and a scheduling round of
trio, and replaces the task that ends idle connections twice a request. Here the head leaves with what follows it, bytes
go to the socket at once when it takes them, and one task a connection keeps its time. What hypercorn does when a socket
is full, and all of its HTTP, is unchanged.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

_HEAD, _INTERIM_HEAD = b"HTTP/1.1 ", b"HTTP/1.1 1"


class IdleTimer:
    """Ends a connection that has been idle for ``keep_alive_s``, or is idle when the server stops.

    In the place of hypercorn's ``idle_task``, and with its interface: ``restart`` when the connection becomes idle,
    ``stop`` when a request comes.
    """

    def __init__(
        self, keep_alive_s: float, terminated: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._terminated = terminated
        self._close = close
        self._scope: trio.CancelScope | None = None
        self._idle = False
        self._over = False

    async def restart(self, task_group: Any, _action: Callable[[], Awaitable[None]]) -> None:
        """The connection is idle from now on."""
        self._idle = True
        if self._scope is None:
            self._scope = trio.CancelScope()
            task_group.spawn(self._run)
        self._scope.deadline = trio.current_time() + self._keep_alive_s

    async def stop(self) -> None:
        """The connection has something to do."""
        self._idle = False
        if self._scope is not None:
            self._scope.deadline = math.inf

    def end(self) -> None:
        """The client is gone: there is nothing to keep time of."""
        self._over = True
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self) -> None:
        assert self._scope is not None
        with self._scope:
            await self._terminated()
        # A busy connection is closed by hypercorn when its answer has left.
        if self._idle and not self._over:
            with trio.CancelScope(shield=True):
                await self._close()


class Connection(TCPServer):
    """Serves one accepted socket; awaited by ``trio.serve_listeners``."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: ConnectionState,
        stream: trio.SocketStream,
    ) -> None:
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]  # it takes plain streams too
        timer = IdleTimer(config.keep_alive_timeout, context.terminated.wait, self._initiate_server_close)
        self.idle_task = timer  # type: ignore[assignment]  # the same interface
        self._head = b""

    async def protocol_send(self, event: Event) -> None:
        """Take what the protocol has for the socket. The head of an answer waits for the next bytes, which every way
        of answering has ready."""
        data, self._head = self._head, b""
        if not isinstance(event, RawData):
            await self._write(data)
            await super().protocol_send(event)
        elif data or not event.data.startswith(_HEAD) or event.data.startswith(_INTERIM_HEAD):
            await self._write(data + event.data if data else event.data)
        else:
            self._head = event.data

    async def _write(self, data: bytes) -> None:
        """Write at once what the socket takes; hypercorn waits for the rest."""
        if data and not self.send_lock.locked():
            try:
                data = data[os.write(self.stream.socket.fileno(), data) :]
            except BlockingIOError:
                pass
            except OSError:
                await self.protocol.handle(Closed())
                return
        if data:
            await super().protocol_send(RawData(data=data))

    async def _read_data(self) -> None:
        await super()._read_data()
        # hypercorn's own idle task would hold the closed socket until its time is up.
        assert isinstance(self.idle_task, IdleTimer)
        self.idle_task.end()
