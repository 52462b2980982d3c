"""How long a token takes: HTTP on one connection against the same engine called in process, alternately.

Two measures, both through `POST /v1/chat/completions` with `stream: true`, on one warm keep-alive connection:

- first token: from sending the request until the first content has been read, and, after each, the same job through
  `compute.Scheduler` in this process: from `submit` until its first text. The difference is what the path adds; the
  bare peer's first token is read beside it, since some of that is HTTP itself.
- chunks: each token of the ``paced`` model carries the time it was made; its delay ends when it has been read here. The
  bare peer streams the same way in alternation: what the machine and HTTP alone take.

`python -m simulations.bench.latency HOST PORT BARE_PORT --first N --answers N` prints one JSON document; times in ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import trio

from compute.scheduler import Scheduler
from compute.tasks import ChatRequest, Message, Sampling, TextDelta
from simulations.bench.load import http_request
from simulations.bench.provider import PACED, paced_engine

CHAT_PATH = "/v1/chat/completions"
FIRST_TOKENS = 2
"""Tokens of a first-token job: it ends soon after what is measured."""

WARM_UP = 5
PROMPT = "How long does it take?"


def chat_body(model: str, *, stream: bool, max_tokens: int | None = None) -> bytes:
    """An ordinary chat request as JSON."""
    body: dict[str, Any] = {"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return json.dumps(body).encode()


class EventParser:
    """Takes the bytes of one streamed answer and finds the contents of its chunks; pure."""

    def __init__(self) -> None:
        self.done = False
        self._buffer = b""

    def feed(self, data: bytes) -> list[str]:
        """The contents that became whole with ``data``. Raises ``ValueError`` for an answer that is not a stream."""
        self._buffer += data
        if not self._buffer.startswith(b"HTTP/1.1 200"[: len(self._buffer)]) and b"HTTP/1.1" in self._buffer:
            raise ValueError(f"the gateway answered {self._buffer[:300]!r}")
        found = []
        while (end := self._buffer.find(b"\n\n")) >= 0:
            start = self._buffer.rfind(b"data: ", 0, end)
            event, self._buffer = self._buffer[start + 6 : end], self._buffer[end + 2 :]
            if start < 0 or event == b"[DONE]":
                continue
            for choice in json.loads(event).get("choices", ()):
                if content := choice["delta"].get("content"):
                    found.append(content)
        # The last chunk of a chunked body; hypercorn may send it apart from what comes before.
        self.done = self._buffer.endswith(b"0\r\n\r\n")
        return found


async def read_contents(stream: trio.abc.Stream, request: bytes) -> AsyncIterator[tuple[float, str]]:
    """Send ``request`` and yield (time of reading, content) for each chunk of the answer."""
    await stream.send_all(request)
    parser = EventParser()
    while not parser.done:
        data = await stream.receive_some(1 << 16)
        if not data:
            raise ConnectionError("the gateway closed the connection in the middle of an answer")
        now = time.monotonic()
        for content in parser.feed(bytes(data)):
            yield now, content


async def first_over_http(stream: trio.abc.Stream, request: bytes) -> float:
    """Milliseconds until the first content of one answer."""
    started = time.monotonic()
    arrivals = [at async for at, _ in read_contents(stream, request)]
    return (arrivals[0] - started) * 1e3


async def first_in_process(scheduler: Scheduler) -> float:
    """Milliseconds until the first text of the same job in this process."""
    request = ChatRequest(PACED, [Message("user", PROMPT)], Sampling(max_tokens=FIRST_TOKENS))
    first = 0.0
    started = time.monotonic()
    async with scheduler.submit(request) as batches:
        async for batch in batches:
            if not first and any(isinstance(event, TextDelta) for event in batch):
                first = time.monotonic()
    return (first - started) * 1e3


async def chunk_delays(stream: trio.abc.Stream, request: bytes) -> list[float]:
    """Milliseconds from making to reading, for each token of a paced answer."""
    return [(at - float(text)) * 1e3 async for at, text in read_contents(stream, request)]


async def measure(host: str, port: int, bare_port: int, first: int, answers: int) -> dict[str, list[float]]:
    """See the module's docstring."""
    result: dict[str, list[float]] = {
        "http_ms": [],
        "in_process_ms": [],
        "bare_ms": [],
        "chunk_ms": [],
        "bare_chunk_ms": [],
    }
    request = partial(http_request, host, port, CHAT_PATH)
    async with (
        await trio.open_tcp_stream(host, port) as stream,
        await trio.open_tcp_stream("127.0.0.1", bare_port) as bare,
        Scheduler.run([paced_engine()]) as scheduler,
    ):
        short = request(chat_body(PACED, stream=True, max_tokens=FIRST_TOKENS))
        for number in range(WARM_UP + first):
            over_http = await first_over_http(stream, short)
            in_process = await first_in_process(scheduler)
            over_bare = await first_over_http(bare, http_request("127.0.0.1", bare_port, "/stream", b"{}"))
            if number >= WARM_UP:
                result["http_ms"].append(over_http)
                result["in_process_ms"].append(in_process)
                result["bare_ms"].append(over_bare)
        long = request(chat_body(PACED, stream=True))
        for _ in range(answers):
            result["bare_chunk_ms"] += await chunk_delays(bare, http_request("127.0.0.1", bare_port, "/paced", b"{}"))
            result["chunk_ms"] += await chunk_delays(stream, long)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time of a token through the gateway")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("bare_port", type=int)
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--answers", type=int, default=10)
    options = parser.parse_args()
    result = trio.run(measure, options.host, options.port, options.bare_port, options.first, options.answers)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
