"""One HTTP exchange on raw ASGI: read a bounded body, answer whole or as a stream, notice when the client leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from overlay.gateway import limits
from overlay.gateway.errors import HttpError, http_error

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON_TYPE = (b"content-type", b"application/json")
EVENT_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ClientGone(Exception):
    """The client closed the connection before its request was whole: there is nobody to answer."""


class Exchange:
    """A request and the way to its answer. ``started`` says whether the status line has left."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False
        self._ended = False
        self._receive = receive
        self._send = send

    # ---- the request ----

    async def body(self, max_bytes: int) -> bytes:
        """The whole body. Raises :class:`HttpError` 413 or 408, and :class:`ClientGone`."""
        declared = self._declared_length()
        if declared > max_bytes:
            await self._refuse_large(declared, max_bytes)
        chunks: list[bytes] = []
        size = 0
        with trio.move_on_after(limits.BODY_DEADLINE_S):
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                if chunk := message["body"]:
                    size += len(chunk)
                    if size > max_bytes:
                        await self._refuse_large(size, max_bytes)
                    chunks.append(chunk)
                if not message.get("more_body"):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        seconds = limits.BODY_DEADLINE_S
        raise HttpError(408, f"the body did not arrive within {seconds:g} s", "request_timeout")

    def _declared_length(self) -> int:
        value = self.headers.get(b"content-length", b"0")
        return int(value) if value.isdigit() and len(value) < 16 else 0

    async def _refuse_large(self, size: int, max_bytes: int) -> None:
        """Read on without keeping, so that the client gets to read the answer; then raise."""
        dropped = 0
        with trio.move_on_after(limits.BODY_DEADLINE_S):
            while size <= limits.MAX_DRAINED_BYTES and dropped <= limits.MAX_DRAINED_BYTES:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                dropped += len(message["body"])
                if not message.get("more_body"):
                    break
        raise HttpError(
            413, f"the request is larger than the {max_bytes} bytes that are taken; send less", "request_too_large"
        )

    # ---- the answer ----

    async def respond(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """A whole answer. ``headers`` must hold the content type."""
        self.started = self._ended = True
        length = (b"content-length", b"%d" % len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: HttpError) -> None:
        """A failure; whatever of the request's body is unread is discarded meanwhile."""
        async with trio.open_nursery() as nursery:
            # hypercorn hands over what the client still sends through a bounded queue, and waits when it is full: an
            # answer to an unread upload would wait for us for ever if nobody emptied it.
            nursery.start_soon(self._discard)
            close = [] if self.method == "GET" or error.status not in (408, 413) else [(b"connection", b"close")]
            await self.respond(error.status, error.body(), [JSON_TYPE, *error.headers(), *close])
            nursery.cancel_scope.cancel()

    async def _discard(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start_stream(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of a stream of server-sent events."""
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        """A piece of the stream; it leaves at once."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes) -> None:
        """The last piece."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": data})

    # ---- while it runs ----

    async def while_connected(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work``; when the client closes the connection, cancel it at once.

        What is unread of the body is dropped: hypercorn's queue of it must never be full when the answer ends.
        """
        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await work()
            except Exception as caught:
                error = caught
            nursery.cancel_scope.cancel()
        if error is not None:
            if not self.started:
                raise error
            await self.finish(b"data: " + http_error(error).body() + b"\n\n")

    async def _watch(self, scope: trio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # hypercorn also says so at the end of every answer, and must then be left to ready the connection for the next.
        if not self._ended:
            scope.cancel()
