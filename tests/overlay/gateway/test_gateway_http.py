"""What HTTP clients that are not OpenAI's can do: bad input, limits, disconnects, timing."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.tasks import Finished, TaskError, TextDelta
from overlay.errors import ConfigError, InvalidRequest, PortBusy
from overlay.gateway import limits, serve_gateway
from overlay.gateway.form import parse_form
from overlay.gateway.reading import read_chat, read_completion, read_embed

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def http(port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0]"),
        ({"messages": [{"role": "pirate", "content": "hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": [1]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
    ],
)
async def test_a_wrong_field_is_named(http, backend, change, param):
    response = await http.post("/v1/chat/completions", json=CHAT | change)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert not backend.requests


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": 1e999}', b"[" * 100_000])
async def test_malformed_json_is_a_400(http, body):
    response = await http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/chat/completions", {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("GET", "/v1/nonsense", {}, 404),
        ("GET", "/", {}, 404),
        ("POST", "/v1/chat/completions", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/audio/transcriptions", {"content-type": "application/json"}, 415),
        ("POST", "/v1/chat/completions", {"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ("POST", "/v1/chat/completions", {"content-type": "application/json", "origin": "null"}, 403),
    ],
)
async def test_what_is_not_served_is_refused_with_the_right_status(http, backend, method, path, headers, status):
    response = await http.request(method, path, headers=headers, content=json.dumps(CHAT) if method == "POST" else None)
    assert response.status_code == status
    error_of(response)
    assert not backend.requests


async def test_a_page_served_on_this_machine_may_ask(http):
    response = await http.post("/v1/chat/completions", json=CHAT, headers={"origin": "http://localhost:3000"})
    assert response.status_code == 200


async def test_health_and_head(http):
    assert (await http.get("/health")).json() == {"status": "ok", "running": 0}
    assert (await http.head("/v1/models/")).status_code == 200


async def test_a_body_that_is_too_large_is_refused_and_the_gateway_lives_on(http):
    body = b" " * (limits.MAX_JSON_BYTES + 1)
    headers = {"content-type": "application/json"}
    response = await http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"

    async def chunked():
        for _ in range(limits.MAX_JSON_BYTES // (1 << 20) + 2):
            yield b" " * (1 << 20)

    response = await http.post("/v1/chat/completions", content=chunked(), headers=headers)
    assert response.status_code == 413
    assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_an_upload_of_gigabytes_is_cut_off_at_once(port):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with stream:
        await stream.send_all(head + b"Content-Length: 9000000000\r\n\r\n")
        with trio.fail_after(10):
            answer = b""
            while chunk := await stream.receive_some():
                answer += chunk
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_that_nobody_asked_for_leaves_no_task_behind(port, http, backend):
    # The handler takes its time, and more of the body than hypercorn's queue holds arrives meanwhile.
    sent = trio.Event()
    models = backend.models

    async def slow_models():
        await sent.wait()
        return await models()

    backend.models = slow_models
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        with trio.fail_after(10):
            await stream.send_all(
                b"GET /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 4_000_000
            )
            await trio.testing.wait_all_tasks_blocked(0.05)
            sent.set()
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            while await stream.receive_some():
                pass
            while (await http.get("/health")).json()["running"]:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_connection_serves_several_requests_and_is_closed_when_idle(backend, nursery, monkeypatch, stream):
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.2)
    port = await nursery.start(serve_gateway, backend)
    body = json.dumps(CHAT | {"stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = await trio.open_tcp_stream("127.0.0.1", port)
    async with connection:
        with trio.fail_after(10):
            answer = b""
            for count in (1, 2):
                await connection.send_all(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                while answer.count(b"\r\n0\r\n\r\n" if stream else b'"cocoon"') < count:
                    answer += await connection.receive_some()
            assert await connection.receive_some() == b""
    assert [run.state for run in backend.runs] == ["done", "done"]


async def test_the_first_chunk_arrives_before_the_second_is_made(http, backend):
    gate = trio.Event()

    async def script():
        yield [TextDelta("one")]
        await gate.wait()
        yield [TextDelta("two"), Finished("stop")]

    backend.script = script
    seen = ""
    with trio.fail_after(10):
        async with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-cocoon-provider"] == "12D3KooWProvider"
            async for line in response.aiter_lines():
                seen += line + "\n"
                if '"one"' in line:
                    assert "two" not in seen
                    gate.set()
    assert '"two"' in seen
    assert seen.endswith("data: [DONE]\n\n")


async def test_chunks_that_arrive_together_are_separate_events(http, backend):
    async def script():
        yield [TextDelta(f"t{i} ") for i in range(50)]
        yield [Finished("length")]

    backend.script = script
    response = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert [e["choices"][0]["delta"].get("content") for e in events] == ["", *(f"t{i} " for i in range(50)), None]
    assert events[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_job_at_once(port, backend, stream):
    started, ended = trio.Event(), trio.Event()

    async def script():
        yield [TextDelta("one")]
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        yield []

    backend.script = script
    body = json.dumps(CHAT | {"stream": stream}).encode()
    connection = await trio.open_tcp_stream("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    await connection.send_all(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with trio.fail_after(10):
        await started.wait()
        await connection.aclose()
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert backend.runs[0].state == "cancelled"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can bound a stalled write")
async def test_a_client_that_stops_reading_is_let_go(backend, nursery, monkeypatch):
    monkeypatch.setattr(limits, "STALLED_CLIENT_S", 1.0)
    port = await nursery.start(serve_gateway, backend)

    ended = trio.Event()

    async def script():
        try:
            while True:
                await trio.lowlevel.checkpoint()
                yield [TextDelta("x" * 100_000)]
        finally:
            ended.set()

    backend.script = script
    body = json.dumps(CHAT | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = await trio.open_tcp_stream("127.0.0.1", port)
    async with connection:
        await connection.send_all(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with trio.fail_after(30):
            await ended.wait()


async def test_more_requests_than_fit_are_told_to_come_back(http, backend, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUESTS", 1)
    inside, gate = trio.Event(), trio.Event()

    async def script():
        inside.set()
        await gate.wait()
        yield [TextDelta("one"), Finished("stop")]

    backend.script = script
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: http.post("/v1/chat/completions", json=CHAT))
        await inside.wait()
        refused = await http.post("/v1/chat/completions", json=CHAT)
        gate.set()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert error_of(refused)["code"] == "busy"


async def test_an_answer_without_end_is_stopped(http, backend, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ANSWER_BYTES", 1000)

    async def script():
        while True:
            await trio.lowlevel.checkpoint()
            yield [TextDelta("x" * 100)]

    backend.script = script
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 502


async def test_costs_are_in_the_headers_of_a_whole_answer(http):
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.headers["x-cocoon-paid-nanoton"] == "3"
    assert response.headers["x-cocoon-relayed"] == "false"


async def test_a_busy_port_says_so(backend):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=str(port)):
            await serve_gateway(backend, "127.0.0.1", port)


async def test_an_address_that_is_not_ours_says_so(backend):
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await serve_gateway(backend, "192.0.2.1", 0)


async def test_a_form_without_file_or_cut_off_is_a_400(http):
    response = await http.post("/v1/audio/transcriptions", data={"model": "demo"}, files={"other": b"x"})
    assert (response.status_code, error_of(response)["param"]) == (400, "file")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    response = await http.post("/v1/audio/transcriptions", content=cut, headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "model"),
        ({"model": "demo", "response_format": "xml"}, "response_format"),
        ({"model": "demo", "timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"model": "demo", "stream": "true", "response_format": "srt"}, "stream"),
    ],
)
async def test_a_wrong_form_field_is_named(http, data, param):
    response = await http.post("/v1/audio/transcriptions", data=data, files={"file": ("a.wav", b"RIFF")})
    assert (response.status_code, error_of(response)["param"]) == (400, param)


def test_a_field_of_a_form_is_bounded():
    big = b"x" * (limits.MAX_FIELD_BYTES + 1)
    body = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + big + b"\r\n--b--\r\n"
    with pytest.raises(InvalidRequest, match="prompt is larger"):
        parse_form(b"multipart/form-data; boundary=b", body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["model", "messages", "prompt", "input", "n", "stop", "stream", "stream_options", "temperature", "top_p", "seed",
     "max_tokens", "encoding_format", "tools"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6), st.sampled_from([read_chat, read_completion, read_embed]))
def test_any_json_object_is_a_request_or_a_named_mistake(fields, read):
    try:
        asked = read(json.dumps(fields).encode())
    except (InvalidRequest, TaskError):
        return
    assert asked.request.model == fields["model"]


@given(st.binary(max_size=200))
def test_any_bytes_as_a_form_are_a_form_or_a_named_mistake(body):
    with suppress(InvalidRequest):
        parse_form(b"multipart/form-data; boundary=b", b"--b\r\n" + body)
