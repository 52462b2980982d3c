"""The peer of the gateway benchmark: a bare hypercorn endpoint that gives the same answers without any work.

Whole: one prepared JSON answer. Streamed: 50 prepared SSE events, each its own ASGI message. Paced: 50 events, one
every 20 ms, each with the time of its making. Same hypercorn settings as the gateway's, same trio worker: what remains
between the two is our own path.
"""

from __future__ import annotations

import json
import time
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

WHOLE_BYTES = 840
STREAM_CHUNKS = 50
PACE_S = 0.02
"""Between two tokens of a paced answer."""

_DELTA = {
    "id": "chatcmpl-0",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "bare",
    "choices": [{"index": 0, "delta": {"content": "token "}, "finish_reason": None}],
}
_EVENT = b"data: " + json.dumps(_DELTA).encode() + b"\n\n"
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "x" * WHOLE_BYTES}, "finish_reason": "stop"}
_WHOLE = json.dumps({"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "bare",
                     "choices": [_CHOICE]}).encode()  # fmt: skip


def stamp() -> str:
    """Now, as a token: seconds of ``CLOCK_MONOTONIC``, which all processes of a machine share, and a space."""
    return f"{time.monotonic():.6f} "


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A raw ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] in ("/stream", "/paced"):
        paced = scope["path"] == "/paced"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        due = trio.current_time()
        for _ in range(STREAM_CHUNKS):
            if paced:
                await trio.sleep_until(due)
                due += PACE_S
            event = _EVENT.replace(b"token ", stamp().encode()) if paced else _EVENT
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_WHOLE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _WHOLE})


def main() -> None:
    """Serve on a free loopback port and say which in a JSON event line."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_timeout = 60

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(lambda task_status: serve(app, config, task_status=task_status))  # type: ignore[arg-type]  # raw ASGI
            print(json.dumps({"event": "ready", "port": int(binds[0].rpartition(":")[2])}), flush=True)

    trio.run(run)


if __name__ == "__main__":
    main()
