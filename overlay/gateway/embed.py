"""`/v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import Any

from compute.tasks import Embedding
from overlay.errors import ProviderGone
from overlay.gateway.backend import JobBackend
from overlay.gateway.exchange import JSON_TYPE, Exchange
from overlay.gateway.reading import Embed
from overlay.gateway.writing import cost_headers, json_bytes, usage_object


async def embed(exchange: Exchange, backend: JobBackend, asked: Embed) -> None:
    """Serve one request; cancels the job when the client leaves."""

    async def work() -> None:
        vectors: dict[int, bytes] = {}
        async with backend.run(asked.request) as run:
            async for batch in run:
                vectors |= {event.index: event.vector for event in batch if isinstance(event, Embedding)}
        if set(vectors) != set(range(len(asked.request.inputs))):
            raise ProviderGone("the provider did not return a vector for each input; send the request again")
        usage = usage_object(run)
        for name in ("completion_tokens", "prompt_tokens_details", "completion_tokens_details"):
            usage.pop(name)
        data = [_item(index, vectors[index], in_base64=asked.base64) for index in range(len(vectors))]
        document = {"object": "list", "data": data, "model": run.model, "usage": usage}
        await exchange.respond(200, json_bytes(document), [JSON_TYPE, *cost_headers(run, final=True)])

    await exchange.while_connected(work)


def _item(index: int, vector: bytes, *, in_base64: bool) -> dict[str, Any]:
    """One vector: little-endian float32, as base64 or as numbers."""
    if len(vector) % 4:
        raise ProviderGone("the provider sent half a number; send the request again")
    shown: object = (
        base64.b64encode(vector).decode() if in_base64 else list(struct.unpack(f"<{len(vector) // 4}f", vector))
    )
    return {"object": "embedding", "index": index, "embedding": shown}
