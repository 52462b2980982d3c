"""A connection of the gateway on a real socket: what leaves together, what waits, when it ends."""

import json

import trio
import trio.testing

from compute.tasks import Finished, TextDelta
from overlay.gateway import limits, serve_gateway

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def chat(**fields: object) -> bytes:
    body = json.dumps(CHAT | fields).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def read_until(stream, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = await stream.receive_some()
        assert piece, data[-200:]
        data += piece
    return data


async def test_the_head_of_an_answer_leaves_with_its_body(port):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10):
            await stream.send_all(chat())
            assert b'"cocoon"' in await stream.receive_some(1 << 16)


async def test_the_head_of_a_stream_leaves_with_its_first_chunk_and_no_later(port, backend):
    gate = trio.Event()

    async def script():
        yield [TextDelta("one")]
        await gate.wait()
        yield [TextDelta("two"), Finished("stop")]

    backend.script = script
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10):
            await stream.send_all(chat(stream=True))
            first = await stream.receive_some(1 << 16)
            assert first.startswith(b"HTTP/1.1 200")
            assert b'"one"' in first
            gate.set()
            assert b'"two"' in await read_until(stream, b"\r\n0\r\n\r\n")


async def test_an_answer_larger_than_the_socket_takes_arrives_whole(port, backend):
    text = "".join(f"{number:08d}" for number in range(1 << 20))

    async def script():
        yield [TextDelta(text), Finished("stop")]

    backend.script = script
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(30):
            await stream.send_all(chat())
            await trio.testing.wait_all_tasks_blocked(0.01)  # the socket is full, the rest waits
            answer = await read_until(stream, b'"cocoon"')
            while not answer.endswith(b"}"):
                answer += await stream.receive_some()
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert document["choices"][0]["message"]["content"] == text


async def test_an_interim_answer_does_not_wait(port):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10):
            body = json.dumps(CHAT).encode()
            await stream.send_all(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await stream.send_all(body)
            assert b"200" in await read_until(stream, b'"cocoon"')


async def test_a_client_that_leaves_between_requests_leaves_nothing_behind(port):
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(chat())
        await read_until(stream, b'"cocoon"')
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living > before
    with trio.fail_after(10):
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.sleep(0.01)


async def test_stopping_ends_idle_connections_and_lets_a_running_answer_finish(backend, nursery, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 60.0)
    stop, gate, ended = trio.Event(), trio.Event(), trio.Event()

    async def script():
        yield [TextDelta("one")]
        await gate.wait()
        yield [TextDelta("two"), Finished("stop")]

    async def serve(task_status):
        await serve_gateway(backend, shutdown_trigger=stop.wait, task_status=task_status)
        ended.set()

    port = await nursery.start(serve)
    with trio.fail_after(10):
        idle = await trio.open_tcp_stream("127.0.0.1", port)
        await idle.send_all(chat())
        await read_until(idle, b'"cocoon"')
        backend.script = script
        running = await trio.open_tcp_stream("127.0.0.1", port)
        await running.send_all(chat(stream=True))
        await read_until(running, b'"one"')
        stop.set()
        assert await idle.receive_some() == b""
        gate.set()
        await read_until(running, b"\r\n0\r\n\r\n")
        assert await running.receive_some() == b""
        await ended.wait()
        await idle.aclose()
        await running.aclose()
