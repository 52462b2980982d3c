"""The ASGI application: who may ask, and which handler answers.

Raw ASGI with one table of routes: the path of a token goes through no middleware.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from compute.tasks import Task
from overlay.errors import Busy, UnknownModel
from overlay.gateway import limits
from overlay.gateway.backend import JobBackend, ModelInfo
from overlay.gateway.embed import embed
from overlay.gateway.errors import HttpError, http_error
from overlay.gateway.exchange import JSON_TYPE, ClientGone, Exchange, Receive, Scope, Send
from overlay.gateway.generate import generate
from overlay.gateway.reading import read_chat, read_completion, read_embed
from overlay.gateway.transcribe import read_transcribe, transcribe
from overlay.gateway.writing import json_bytes

Handler = Callable[[Exchange], Awaitable[None]]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class GatewayApp:
    """OpenAI's API in front of ``backend``.

    With a ``token``, requests must carry it as a bearer. Without one, requests that a web page of another site makes
    are refused: they would spend the user's money.
    """

    def __init__(
        self, backend: JobBackend, *, token: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._bearer = None if token is None else b"Bearer " + token.encode()
        self._clock = clock
        self._running = 0
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._completion),
            "/v1/embeddings": ("POST", self._embed),
            "/v1/audio/transcriptions": ("POST", self._transcribe),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
        }

    @property
    def running(self) -> int:
        """Requests being served now."""
        return self._running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            # Refusing the handshake is all that a websocket gets; hypercorn turns it into a 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        exchange = Exchange(scope, receive, send)
        self._running += 1
        try:
            handler = self._route(exchange)
            if self._running > limits.MAX_REQUESTS:
                raise Busy(f"the gateway serves {limits.MAX_REQUESTS} requests already; try again in a moment")
            if exchange.method == "POST":
                await handler(exchange)
            else:
                # A body has no business here; whatever is sent is read and dropped meanwhile.
                await exchange.while_connected(partial(handler, exchange))
        except ClientGone:
            pass
        except Exception as error:
            if exchange.started:
                raise
            await exchange.fail(http_error(error))
        finally:
            self._running -= 1

    def _route(self, exchange: Exchange) -> Handler:
        path = exchange.path if exchange.path == "/" else exchange.path.rstrip("/")
        if path != "/health":
            self._authorize(exchange.headers)
        method, handler = self._routes.get(path, ("", None))
        if handler is None and path.startswith("/v1/models/"):
            method, handler = "GET", self._model
        if handler is None:
            known = ", ".join(self._routes)
            raise HttpError(404, f"there is no {exchange.path[:100]} here; there are {known}", "not_found")
        if exchange.method != method and not (method == "GET" and exchange.method == "HEAD"):
            message = f"{path} takes {method}, not {exchange.method}"
            raise HttpError(405, message, "method_not_allowed", allow=method)
        return handler

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        if self._bearer is not None:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._bearer):
                raise HttpError(401, "the bearer token is missing or wrong: pass it as the API key", "invalid_api_key")
            return
        origin = headers.get(b"origin")
        if origin is not None and not _is_local(origin):
            raise HttpError(
                403, "web pages of other sites may not use this gateway; give it a token to allow them", "bad_origin"
            )

    # ---- handlers ----

    async def _chat(self, exchange: Exchange) -> None:
        await generate(exchange, self._backend, read_chat(await _json_body(exchange)), self._clock)

    async def _completion(self, exchange: Exchange) -> None:
        await generate(exchange, self._backend, read_completion(await _json_body(exchange)), self._clock)

    async def _embed(self, exchange: Exchange) -> None:
        await embed(exchange, self._backend, read_embed(await _json_body(exchange)))

    async def _transcribe(self, exchange: Exchange) -> None:
        content_type = exchange.headers.get(b"content-type", b"")
        _require_type(content_type, b"multipart/form-data")
        body = await exchange.body(limits.MAX_FORM_BYTES)
        await transcribe(exchange, self._backend, await read_transcribe(content_type, body))

    async def _models(self, exchange: Exchange) -> None:
        data = [self._model_object(info) for info in await self._backend.models()]
        await exchange.respond(200, json_bytes({"object": "list", "data": data}), [JSON_TYPE])

    async def _model(self, exchange: Exchange) -> None:
        wanted = exchange.path.removeprefix("/v1/models/")
        for info in await self._backend.models():
            if info.id == wanted:
                await exchange.respond(200, json_bytes(self._model_object(info)), [JSON_TYPE])
                return
        raise UnknownModel(wanted[:200])

    async def _health(self, exchange: Exchange) -> None:
        await exchange.respond(200, json_bytes({"status": "ok", "running": self._running - 1}), [JSON_TYPE])

    @staticmethod
    def _model_object(info: ModelInfo) -> dict[str, Any]:
        ask = None if info.min_ask is None else info.min_ask.to_wire()
        return {
            "id": info.id,
            "object": "model",
            "created": 0,
            "owned_by": "cocoon",
            "cocoon": {
                "tasks": sorted(str(Task(task)) for task in info.tasks),
                "providers": info.providers,
                "min_ask_nanoton_per_million": ask,
                "note": info.note,
            },
        }


def _is_local(origin: bytes) -> bool:
    try:
        return urlsplit(origin.decode("ascii")).hostname in _LOOPBACK
    except ValueError:
        return False


def _require_type(content_type: bytes, wanted: bytes) -> None:
    if content_type.partition(b";")[0].strip().lower() != wanted:
        raise HttpError(415, f"the Content-Type must be {wanted.decode()}", "unsupported_media_type")


async def _json_body(exchange: Exchange) -> bytes:
    content_type = exchange.headers.get(b"content-type", b"")
    if content_type != b"application/json":
        _require_type(content_type, b"application/json")
    return await exchange.body(limits.MAX_JSON_BYTES)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
