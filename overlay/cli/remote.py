"""The same requests through a gateway that is already running here: `cocoon chat` beside `cocoon gateway run`.

It speaks the gateway's ordinary HTTP, so it is one more client of it and sees what every other sees.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from compute.tasks import (
    ChatRequest,
    Embedding,
    EmbedRequest,
    Event,
    Request,
    Segment,
    Task,
    TextDelta,
    TranscribeRequest,
)
from compute.usage import NO_USAGE, Usage
from overlay.control import call_control
from overlay.errors import CocoonError, ConfigError

TIMEOUT_S = 300.0
"""A long recording on a slow provider takes minutes; the gateway itself gives up on silence before."""


class GatewayError(CocoonError):
    """What the gateway answered instead of a result; the message is its own."""

    code = "gateway"
    exit_code = 3


@dataclass
class RemoteRun:
    """A job at the gateway; iterate for batches of events. The sums are known once it has ended."""

    model: str
    provider: str = ""
    relayed: bool = False
    paid_nanoton: int = 0
    usage: Usage = NO_USAGE
    _events: AsyncIterator[list[Event]] | None = None

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        assert self._events is not None
        return self._events

    def note(self, usage: dict[str, Any]) -> None:
        """Take over what the gateway says of the job's cost."""
        ours = usage.get("cocoon")
        if ours:
            self.provider, self.model, self.relayed = ours["provider"], ours["model"], ours["relayed"]
            self.paid_nanoton, self.usage = ours["paid_nanoton"], Usage.from_wire(ours["units"])


@dataclass
class RemoteGateway:
    """A gateway by its address."""

    url: str
    token: str | None

    @asynccontextmanager
    async def run(self, request: Request) -> AsyncIterator[RemoteRun]:
        """Run one job; leaving the block early hangs up, which cancels it. Raises :class:`GatewayError`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=TIMEOUT_S) as http:
            run = RemoteRun(request.model)
            if isinstance(request, ChatRequest):
                run._events = _chat(http, request, run)
            elif isinstance(request, TranscribeRequest):
                run._events = _transcribe(http, request, run)
            elif isinstance(request, EmbedRequest):
                run._events = _embed(http, request, run)
            else:
                raise ConfigError(f"{Task(request.task)} is not asked for from the terminal")
            try:
                yield run
            except httpx.HTTPError as error:
                raise GatewayError(f"the gateway at {self.url} went away: {error}") from error


async def find_gateway(data_dir: Path) -> RemoteGateway | None:
    """The gateway that holds ``data_dir``, or ``None`` when another kind of process does."""
    try:
        where = await call_control(data_dir, "gateway")
    except CocoonError:
        return None
    return RemoteGateway(where["url"], where["token"])


async def _chat(http: httpx.AsyncClient, request: ChatRequest, run: RemoteRun) -> AsyncIterator[list[Event]]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if getattr(sampling, name) is not None:
            body[name] = getattr(sampling, name)
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        await _check(answer)
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            document = json.loads(line[6:])
            if "error" in document:
                raise GatewayError(document["error"]["message"])
            run.model = document.get("model") or run.model
            run.note(document.get("usage") or {})
            for choice in document.get("choices", ()):
                if text := choice["delta"].get("content"):
                    yield [TextDelta(text)]


async def _transcribe(
    http: httpx.AsyncClient, request: TranscribeRequest, run: RemoteRun
) -> AsyncIterator[list[Event]]:
    form = {"model": request.model, "response_format": "verbose_json"}
    if request.language:
        form["language"] = request.language
    answer = await http.post("/v1/audio/transcriptions", files={"file": ("audio", request.audio)}, data=form)
    await _check(answer)
    document = answer.json()
    run.note(document.get("usage") or {})
    events: list[Event] = [
        Segment(s["text"], round(s["start"] * 1000), round(s["end"] * 1000)) for s in document.get("segments", ())
    ]
    if events:
        yield events


async def _embed(http: httpx.AsyncClient, request: EmbedRequest, run: RemoteRun) -> AsyncIterator[list[Event]]:
    answer = await http.post("/v1/embeddings", json={"model": request.model, "input": list(request.inputs)})
    await _check(answer)
    document = answer.json()
    run.note(document.get("usage") or {})
    yield [
        Embedding(entry["index"], struct.pack(f"<{len(entry['embedding'])}f", *entry["embedding"]))
        for entry in document["data"]
    ]


async def _check(answer: httpx.Response) -> None:
    if answer.status_code == httpx.codes.OK:
        return
    await answer.aread()
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"it answered with status {answer.status_code}"
    raise GatewayError(f"the gateway: {message}")
