"""The load generator and the latency reader against the bare peer and a server that fails."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler import Scheduler
from compute.tasks import ChatRequest, Message, Sampling, TextDelta
from simulations.bench.bare import STREAM_CHUNKS, WHOLE_BYTES
from simulations.bench.latency import EventParser, chunk_delays, read_contents
from simulations.bench.load import LoadResult, http_request, run_load
from simulations.bench.provider import CHUNKS, PACED, WHOLE, bench_engines
from simulations.bench.stage import BenchFailed, ask_tool, module
from simulations.processes import run_command

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_every_answer_of_the_bare_peer_is_counted_and_timed(tmp_path: Path) -> None:
    async with run_command("bare", module("simulations.bench.bare"), home=tmp_path) as bare:
        port = (await bare.wait_for("ready"))["port"]

        def load(path: str) -> LoadResult:
            request = http_request("127.0.0.1", port, path, b"{}")
            return run_load("127.0.0.1", port, request, connections=3, requests=20)

        whole = await trio.to_thread.run_sync(load, "/whole")
        streamed = await trio.to_thread.run_sync(load, "/stream")
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            delays = await chunk_delays(stream, http_request("127.0.0.1", port, "/paced", b"{}"))
            again = [text async for _, text in read_contents(stream, http_request("127.0.0.1", port, "/stream", b"{}"))]
    assert (whole.answers, whole.errors, whole.least_events) == (20, 0, 0)
    assert (streamed.answers, streamed.errors, streamed.least_events) == (20, 0, STREAM_CHUNKS)
    for result in (whole, streamed):
        assert len(result.whole_ms) == 20
        assert all(0 < first <= last for first, last in zip(result.first_byte_ms, result.whole_ms, strict=True))
        assert result.per_second > 0
    assert len(delays) == STREAM_CHUNKS
    assert all(0 < delay < 60_000 for delay in delays)
    assert again == ["token "] * STREAM_CHUNKS


async def test_the_load_process_prints_one_document(tmp_path: Path) -> None:
    async with run_command("bare", module("simulations.bench.bare"), home=tmp_path) as bare:
        port = (await bare.wait_for("ready"))["port"]
        command = module("simulations.bench.load", "127.0.0.1", str(port), "/whole", "--requests", "5")
        result = await ask_tool(command, b"{}")
    assert result["answers"] == 5
    assert result["per_second"] > 0


async def test_a_measuring_process_that_fails_is_an_error_with_its_reason() -> None:
    with pytest.raises(BenchFailed, match="loopback only"):
        await ask_tool(module("simulations.bench.load", "192.0.2.1", "80", "/"), b"")


def test_answers_with_another_status_are_errors_and_the_first_is_kept() -> None:
    with failing_server() as port:
        request = http_request("127.0.0.1", port, "/", b"{}")
        result = run_load("127.0.0.1", port, request, connections=2, requests=6)
    assert (result.answers, result.errors) == (0, 6)
    assert result.first_error.startswith("HTTP/1.1 503")


def test_only_loopback_is_ever_loaded() -> None:
    with pytest.raises(ValueError, match="loopback"):
        run_load("192.0.2.1", 80, b"", connections=1, requests=1)


def chunked(*payloads: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in payloads) + b"0\r\n\r\n"


def event(content: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % content.encode()


@given(st.lists(st.text("abc0 ", min_size=1), max_size=5), st.lists(st.integers(1, 40), max_size=20), st.booleans())
def test_contents_are_found_however_the_bytes_are_cut(contents: list[str], cuts: list[int], together: bool) -> None:
    events = [event(content) for content in contents] + [b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"]
    data = chunked(b"".join(events)) if together else chunked(*events)
    parser, found = EventParser(), []
    for size in [*cuts, len(data)]:
        piece, data = data[:size], data[size:]
        found += parser.feed(piece)
    assert found == contents
    assert parser.done


def test_a_refusal_instead_of_a_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match="503"):
        EventParser().feed(b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}")


async def test_the_engines_of_the_bench_give_the_answers_it_counts_on() -> None:
    async with Scheduler.run(bench_engines()) as scheduler:
        whole = await answer_of(scheduler, WHOLE)
        chunks = await answer_of(scheduler, CHUNKS)
        before = time.monotonic()
        paced = await answer_of(scheduler, PACED, max_tokens=2)
    assert whole == ["x" * WHOLE_BYTES]
    assert len(chunks) == STREAM_CHUNKS
    assert all(before <= float(text) + 1e-6 <= time.monotonic() for text in paced)
    assert len(paced) == 2


async def answer_of(scheduler: Scheduler, model: str, *, max_tokens: int = STREAM_CHUNKS) -> list[str]:
    request = ChatRequest(model, [Message("user", "hello")], Sampling(max_tokens=max_tokens))
    async with scheduler.submit(request) as batches:
        return [item.text async for batch in batches for item in batch if isinstance(item, TextDelta)]


class _Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def failing_server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
