"""The gateway on a socket: hypercorn's HTTP on trio with what a loopback service needs and nothing else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from overlay.errors import ConfigError, PortBusy
from overlay.gateway import limits
from overlay.gateway.app import GatewayApp
from overlay.gateway.backend import JobBackend
from overlay.gateway.connection import Connection


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a wrong address is told in our words before anything starts."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"the gateway cannot use the address {host!r}: {error}; 127.0.0.1 always works") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: without it a token waits for the acknowledgement of the one before.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # hypercorn shields its writes from cancellation: without a bound, a client that stops reading would hold
            # its job, and the gateway's end, for ever.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.STALLED_CLIENT_S * 1000))
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(host, port) from error
        raise ConfigError(f"the gateway cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def gateway_config() -> Config:
    """Hypercorn's settings: no access log, connections kept, bounds from `limits`."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = limits.KEEP_ALIVE_S
    config.keep_alive_max_requests = limits.MAX_REQUESTS_PER_CONNECTION
    config.h11_max_incomplete_size = limits.MAX_HEADER_BYTES
    config.backlog = limits.BACKLOG
    return config


async def serve_gateway(
    backend: JobBackend,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    token: str | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve OpenAI's API on ``host`` and ``port`` (0 takes any free one); reports the port when it listens.

    When ``shutdown_trigger`` returns, no connection is accepted any more and running answers have three seconds to
    finish. On cancellation everything stops at once and running jobs are cancelled.

    Raises :class:`~overlay.errors.PortBusy` and :class:`~overlay.errors.ConfigError`.
    """
    listener = _listen(host, port)
    bound = listener.getsockname()[1]
    config = gateway_config()
    listener.listen(config.backlog)
    context = WorkerContext(None)
    app = wrap_app(GatewayApp(backend, token=token), config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]  # plain ASGI
    connection = partial(Connection, app, config, context, ConnectionState({}))
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, connection, listeners, handler_nursery=connections))
            task_status.started(bound)
            await (shutdown_trigger or trio.sleep_forever)()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
