"""The upstream engine against a real HTTP server on loopback that streams, stutters, fails and hangs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import trio

from compute import (
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbedRequest,
    EngineFailure,
    EngineUnavailable,
    Finished,
    Message,
    RawDelta,
    Sampling,
    Scheduler,
    Segment,
    Started,
    TaskError,
    TextDelta,
    TranscribeRequest,
    Unit,
    Usage,
    limits,
    total,
)
from compute.audio import probe_duration_ms
from compute.engines import create

VOICE = (Path(__file__).parents[2] / "simulations" / "data" / "voice.ogg").read_bytes()

Script = Callable[["Handler", dict], None]


class Handler(BaseHTTPRequestHandler):
    """Answers /v1/models itself and leaves the rest to the test's script."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "big-model"}, {"id": "other"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = self.headers["Content-Type"] == "application/json"
        body = json.loads(raw) if is_json else {"raw": raw}
        self.server.requests.append((self.path, dict(self.headers), body))
        try:
            self.server.script(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode() if not isinstance(value, bytes) else value
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def stream(self, *payloads: object, piece: int | None = None, newline: str = "\n") -> None:
        """Send payloads as events, cut every ``piece`` bytes wherever that falls."""
        self.begin_stream()
        text = "".join(
            f"data: {p if isinstance(p, str) else json.dumps(p, ensure_ascii=False)}{newline}{newline}"
            for p in payloads
        ).encode()
        for at in range(0, len(text), piece or len(text)):
            self.send_piece(text[at : at + (piece or len(text))])
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[tuple[str, dict, dict]] = []
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(script: Script, **options):
    """A server with ``script`` and a loaded engine on it."""
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    engine = None
    try:
        engine = create("openai_upstream", base_url=server.url, tasks=["chat", "completion", "transcribe", "embed"],
                        **options)  # fmt: skip
        engine.load()
        yield server, engine
    finally:
        if engine is not None:
            engine.close()
        server.shutdown()
        server.server_close()
        thread.join(5)


def serve(engine, request, job: int = 1, deadline_s: float = 10.0):
    engine.submit(job, request)
    events = []
    end = time.monotonic() + deadline_s
    while not events or not isinstance(events[-1], Finished | Exception):
        assert time.monotonic() < end, events
        events += [event for _, event in engine.step()]
    return events


def delta(content=None, *, finish=None, usage=None, **fields):
    choice = {
        "index": 0,
        "delta": ({"content": content} if content is not None else {}) | fields,
        "finish_reason": finish,
    }
    return {"choices": [choice]} | ({"usage": usage} if usage else {})


def text_of(events) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def units_of(events) -> Usage:
    return total(e.units for e in events if not isinstance(e, Exception))


CHAT = ChatRequest("big-model", (Message("user", "hello"),))
USAGE = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5}}


@pytest.mark.parametrize("piece", [1, 2, 3, 7, None])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_stream_cut_anywhere_is_the_same_stream(piece, newline) -> None:
    chunks = (delta(role="assistant"), delta("Grüße "), delta("🌍!"), delta(finish="stop"), USAGE, "[DONE]")
    with serving(lambda handler, body: handler.stream(*chunks, piece=piece, newline=newline)) as (_, engine):
        events = serve(engine, CHAT)
    assert isinstance(events[0], Started)
    assert text_of(events) == "Grüße 🌍!"
    assert events[-1].reason == "stop"
    assert units_of(events) == Usage({Unit.COMPLETION: 5, Unit.PROMPT: 12})


def test_fields_are_passed_on_and_names_are_mapped(monkeypatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "s3cret")
    request = ChatRequest(
        "sold-as", (Message("system", "be brief"), Message("tool", "42", {"tool_call_id": "a"})),
        Sampling(7, 0.5, 0.9, 3, ("END",)),
        {"tools": [{"type": "function"}], "response_format": {"type": "json_object"}},
    )  # fmt: skip
    script: Script = lambda handler, body: handler.stream(delta("x"), delta(finish="length"), "[DONE]")  # noqa: E731
    with serving(script, models={"sold-as": "big-model"}, api_key_env="UPSTREAM_KEY") as (server, engine):
        assert serve(engine, request)[-1].reason == "length"
        ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert body == {
        "model": "big-model", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 7,
        "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["END"], "tools": [{"type": "function"}],
        "response_format": {"type": "json_object"},
        "messages": [{"role": "system", "content": "be brief"}, {"role": "tool", "content": "42", "tool_call_id": "a"}],
    }  # fmt: skip


def test_a_request_without_a_limit_is_sent_with_the_reserved_one() -> None:
    with serving(lambda h, body: h.stream(delta("x"), delta(finish="stop"))) as (server, engine):
        serve(engine, CHAT)
    assert server.requests[0][2]["max_tokens"] == limits.DEFAULT_MAX_TOKENS


def test_without_a_usage_report_each_delta_counts_once_and_the_prompt_is_free() -> None:
    chunks = (delta("a"), delta("b"), delta(reasoning_content="hm"), delta("c"), delta(finish="stop"), "[DONE]")
    with serving(lambda handler, body: handler.stream(*chunks)) as (_, engine):
        events = serve(engine, CHAT)
    assert units_of(events) == Usage({Unit.COMPLETION: 3, Unit.REASONING: 1})
    assert [e.text for e in events if isinstance(e, TextDelta) and e.reasoning] == ["hm"]


def test_cached_and_reasoning_tokens_are_told_apart() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }  # fmt: skip
    chunks = (delta("a"), delta(finish="stop"), {"choices": [], "usage": usage}, "[DONE]")
    with serving(lambda handler, body: handler.stream(*chunks)) as (_, engine):
        counted = units_of(serve(engine, CHAT))
    assert counted == Usage({Unit.COMPLETION: 20, Unit.REASONING: 30, Unit.PROMPT: 36, Unit.CACHED: 64})


def test_usage_in_every_chunk_counts_as_it_goes_and_once() -> None:
    chunks = [
        delta(str(n), usage={"prompt_tokens": 9, "completion_tokens": 2 * n}, finish="stop" if n == 3 else None)
        for n in (1, 2, 3)
    ]
    with serving(lambda handler, body: handler.stream(*chunks, "[DONE]"), continuous_usage=True) as (_, engine):
        events = serve(engine, CHAT)
    deltas = [e.units.get(Unit.COMPLETION) for e in events if isinstance(e, TextDelta) and e.text]
    assert deltas == [2, 2, 2]
    assert units_of(events) == Usage({Unit.COMPLETION: 6, Unit.PROMPT: 9})


def test_tool_calls_pass_through_as_they_are() -> None:
    call = [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}]
    with serving(lambda h, body: h.stream(delta(tool_calls=call), delta(finish="tool_calls"), "[DONE]")) as (_, engine):
        events = serve(engine, CHAT)
    (raw,) = [e for e in events if isinstance(e, RawDelta)]
    assert json.loads(raw.json) == {"tool_calls": call}
    assert events[-1].reason == "tool_calls"


def test_completions_are_streamed_from_their_own_path() -> None:
    chunk = {"choices": [{"index": 0, "text": "tail", "finish_reason": "stop"}]}
    with serving(lambda handler, body: handler.stream(chunk, "[DONE]")) as (server, engine):
        assert text_of(serve(engine, CompletionRequest("big-model", "head"))) == "tail"
    assert server.requests[0][0] == "/v1/completions"
    assert server.requests[0][2]["prompt"] == "head"


def test_a_transcription_is_sent_as_a_form_and_billed_by_its_length() -> None:
    answer = {
        "text": "a b",
        "segments": [{"text": " a", "start": 0.0, "end": 1.5}, {"text": " b", "start": 1.5, "end": 3}],
    }
    request = TranscribeRequest("big-model", VOICE, probe_duration_ms(VOICE), "en")
    with serving(lambda handler, body: handler.reply(200, answer)) as (server, engine):
        events = serve(engine, request)
    assert [e for e in events if isinstance(e, Segment)] == [Segment("a", 0, 1500), Segment("b", 1500, 3000)]
    assert units_of(events) == Usage({Unit.AUDIO_MS: probe_duration_ms(VOICE)})
    assert VOICE in server.requests[0][2]["raw"]
    assert b'name="language"\r\n\r\nen' in server.requests[0][2]["raw"]


def test_embeddings_come_as_float32_in_order() -> None:
    answer = {"data": [{"embedding": [1.0, 2.0]}, {"embedding": [3.0, -0.5]}], "usage": {"prompt_tokens": 4}}
    with serving(lambda handler, body: handler.reply(200, answer)) as (_, engine):
        events = serve(engine, EmbedRequest("big-model", ("a", "b")))
    vectors = [np.frombuffer(e.vector, "<f4").tolist() for e in events if isinstance(e, Embedding)]
    assert vectors == [[1.0, 2.0], [3.0, -0.5]]
    assert units_of(events) == Usage({Unit.EMBEDDING: 4})


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, TaskError, "context too long"),
        (401, EngineFailure, "key"),
        (429, EngineFailure, "429"),
        (503, EngineFailure, "503"),
    ],
)
def test_http_errors_are_the_users_or_the_upstreams(status, kind, words) -> None:
    body = {"error": {"message": "context too long", "type": "x"}}
    with serving(lambda handler, _: handler.reply(status, body)) as (_, engine):
        (error,) = serve(engine, CHAT)
    assert type(error) is kind
    assert words in str(error)


def break_off(handler: Handler, body: dict) -> None:
    handler.begin_stream()
    handler.send_piece(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')
    handler.close_connection = True
    handler.connection.shutdown(2)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (break_off, "broke|before the end"),
        (lambda h, b: h.stream(delta("x"), "[DONE]"), "before the end"),
        (lambda h, b: h.stream(delta("x"), "{not json"), "not JSON"),
        (lambda h, b: h.stream(delta("x"), {"error": {"message": "out of memory"}}), "out of memory"),
        (lambda h, b: h.stream("[1]"), "not an object"),
    ],
)
def test_a_broken_stream_fails_the_job_after_what_was_delivered(script, words) -> None:
    with serving(script) as (_, engine):
        events = serve(engine, CHAT)
    assert isinstance(events[-1], EngineFailure)
    assert re.search(words, str(events[-1]))


def test_a_line_without_end_is_cut_off(monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_UPSTREAM_LINE_BYTES", 1000)
    with serving(lambda handler, body: handler.stream(delta("x" * 2000))) as (_, engine):
        assert "too long" in str(serve(engine, CHAT)[-1])


def hang(handler: Handler, body: dict) -> None:
    """Send one token, then nothing; notice when the client hangs up."""
    handler.begin_stream()
    handler.send_piece(f"data: {json.dumps(delta('one'))}\n\n".encode())
    if handler.connection.recv(1) == b"":
        handler.server.hung_up.set()


def test_a_silent_upstream_fails_the_job_after_the_idle_timeout() -> None:
    with serving(hang, idle_timeout_s=0.2) as (_, engine):
        events = serve(engine, CHAT)
    assert text_of(events) == "one"
    assert "nothing for 0.2 s" in str(events[-1])


def test_cancelling_closes_the_upstream_request() -> None:
    with serving(hang) as (server, engine):
        engine.submit(1, CHAT)
        while not any(isinstance(event, TextDelta) for _, event in engine.step()):
            pass
        engine.cancel(1)
        assert server.hung_up.wait(5)
        engine.wake()
        assert engine.step() == []


async def test_many_jobs_stream_at_once_through_the_scheduler() -> None:
    barrier = threading.Barrier(8)

    def together(handler: Handler, body: dict) -> None:
        barrier.wait(10)  # passes only when all eight are in flight
        handler.stream(delta(body["messages"][0]["content"]), delta(finish="stop"), "[DONE]")

    texts = {}
    with serving(together, max_batch=8) as (server, _):
        engine = create("openai_upstream", base_url=server.url, max_batch=8)

        async def one(scheduler: Scheduler, n: int) -> None:
            async with scheduler.submit(ChatRequest("big-model", (Message("user", f"job {n}"),))) as batches:
                texts[n] = text_of([event async for batch in batches for event in batch])

        async with Scheduler.run([engine]) as scheduler, trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(one, scheduler, n)
    assert texts == {n: f"job {n}" for n in range(8)}


def test_reserved_extra_fields_are_refused() -> None:
    with serving(hang) as (_, engine), pytest.raises(TaskError, match="'n'"):
        engine.submit(1, ChatRequest("big-model", CHAT.messages, extra={"n": 5}))


def test_all_listed_models_are_served_unless_some_are_chosen() -> None:
    with serving(hang) as (_, engine):
        assert {c.model for c in engine.capabilities()} == {"big-model", "other"}
    with (
        pytest.raises(EngineUnavailable, match=r"does not serve gone; its models: big-model, other"),
        serving(hang, models={"x": "gone"}),
    ):
        pass


def test_an_upstream_that_is_not_there_is_unavailable_with_advice() -> None:
    engine = create("openai_upstream", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EngineUnavailable, match="start it"):
        engine.load()
    with pytest.raises(EngineUnavailable, match="http"):
        create("openai_upstream", base_url="ftp://x")
    keyed = create("openai_upstream", base_url="http://127.0.0.1:9/v1", api_key_env="NO_SUCH_VARIABLE")
    with pytest.raises(EngineUnavailable, match="NO_SUCH_VARIABLE"):
        keyed.load()
