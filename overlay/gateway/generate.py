"""`/v1/chat/completions` and `/v1/completions`: run the job, whole or as it comes."""

from __future__ import annotations

from collections.abc import Callable

from compute.tasks import ChatRequest
from overlay.gateway.backend import JobBackend, JobRun
from overlay.gateway.exchange import EVENT_STREAM_HEADERS, JSON_TYPE, Exchange
from overlay.gateway.reading import Generate
from overlay.gateway.writing import Stream, Whole, cost_headers, usage_object


async def generate(exchange: Exchange, backend: JobBackend, asked: Generate, clock: Callable[[], float]) -> None:
    """Serve one request; cancels the job when the client leaves."""
    answer = _stream if asked.stream else _whole

    async def work() -> None:
        async with backend.run(asked.request) as run:
            await answer(exchange, run, asked, int(clock()))

    await exchange.while_connected(work)


async def _whole(exchange: Exchange, run: JobRun, asked: Generate, created: int) -> None:
    whole = Whole(chat=isinstance(asked.request, ChatRequest))
    async for batch in run:
        whole.add(batch)
    body = whole.encode(run.model, created, usage_object(run))
    await exchange.respond(200, body, [JSON_TYPE, *cost_headers(run, final=True)])


async def _stream(exchange: Exchange, run: JobRun, asked: Generate, created: int) -> None:
    chat = isinstance(asked.request, ChatRequest)
    stream = Stream(chat=chat, model=run.model, created=created, include_usage=asked.include_usage)
    # The status line waits for the first text: a job that fails before it says anything gets a proper status.
    async for batch in run:
        if not (data := stream.events(batch)):
            continue
        if not exchange.started:
            await exchange.start_stream([*EVENT_STREAM_HEADERS, *cost_headers(run, final=False)])
            data = stream.opening() + data
        await exchange.write(data)
    if not exchange.started:
        await exchange.start_stream([*EVENT_STREAM_HEADERS, *cost_headers(run, final=False)])
    await exchange.finish(stream.closing(usage_object(run) if asked.include_usage else None))
