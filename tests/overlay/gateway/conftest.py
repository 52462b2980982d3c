"""A backend of this process behind a real server on a real socket."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from compute.tasks import Embedding, Finished, Segment, Started, Task, TextDelta
from compute.usage import NO_USAGE, Prices, Unit, Usage
from overlay.errors import UnknownModel
from overlay.gateway import ModelInfo, serve_gateway

ONE = Usage.of(Unit.COMPLETION, 1)


@dataclass
class Run:
    """A job whose events come from an async generator function."""

    script: object
    model: str = "demo"
    provider: str = "12D3KooWProvider"
    relayed: bool = False
    prices: Prices = field(default_factory=lambda: Prices({Unit.COMPLETION: 1_000_000}))
    usage: Usage = NO_USAGE
    state: str = "running"

    @property
    def paid_nanoton(self):
        return self.prices.cost_nanoton(self.usage)

    def __post_init__(self):
        self.events = self.script()

    def __aiter__(self):
        return self

    async def __anext__(self):
        batch = await anext(self.events)
        for event in batch:
            self.usage += event.units
        return batch


@dataclass
class Backend:
    """Answers by what a test put into ``script``; remembers what was asked and how each run ended."""

    script: object = None
    error: Exception | None = None
    requests: list = field(default_factory=list)
    runs: list = field(default_factory=list)

    async def models(self):
        ask = Prices({Unit.COMPLETION: 7})
        return [
            ModelInfo("demo", {Task.CHAT, Task.COMPLETION}, 3, ask, "a demo"),
            ModelInfo("org/tiny", [Task.EMBED], 1),
        ]

    @asynccontextmanager
    async def run(self, request):
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if request.model not in ("demo", "org/tiny"):
            raise UnknownModel(request.model)
        run = Run(self.script or default_script(request))
        self.runs.append(run)
        try:
            yield run
        except trio.Cancelled:
            run.state = "cancelled"
            raise
        else:
            run.state = "done"
        finally:
            with trio.CancelScope(shield=True):
                await run.events.aclose()


def default_script(request):
    async def chat():
        yield [Started(Usage({Unit.PROMPT: 4, Unit.CACHED: 2}))]
        yield [TextDelta("Hello", ONE), TextDelta(' "wörld"\n', ONE)]
        yield [TextDelta("bye", ONE), Finished("stop")]

    async def transcribe():
        yield [Started(Usage({Unit.AUDIO_MS: request.duration_ms}))]
        yield [Segment(" go forward ", 0, 900)]
        yield [Segment("ten meters", 900, 3_661_500), Finished("stop")]

    async def embed():
        import struct

        for index in reversed(range(len(request.inputs))):
            yield [Embedding(index, struct.pack("<2f", index, math.pi), Usage({Unit.EMBEDDING: 3}))]
        yield [Finished("stop")]

    return {Task.TRANSCRIBE: transcribe, Task.EMBED: embed}.get(request.task, chat)


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
async def port(backend, nursery):
    return await nursery.start(serve_gateway, backend)
