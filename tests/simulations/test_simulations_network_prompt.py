"""Requests that a virtual host has answered without a task, and when it gives the handler a stream after all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from simulations.determinism import run_seeded
from simulations.network import VirtualHost, VirtualNetwork
from simulations.network.limits import PROMPT_IDLE_S
from transport.host import HostStream
from transport.host.limits import NEGOTIATE_S
from transport.identity import Identity, PeerId

PROTOCOL = "/prompt/1"


class Handler:
    """Answers what is not empty at once, with its length; of streams it notes when they came and what they brought."""

    def __init__(self) -> None:
        self.streams: list[float] = []
        self.received: list[bytes] = []

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        return str(len(request)).encode() if request else None

    async def __call__(self, stream: HostStream) -> None:
        self.streams.append(trio.current_time())
        while True:
            self.received.append(await stream.receive(1 << 20))


def run(check: Callable[[VirtualNetwork, VirtualHost, VirtualHost, Handler], Awaitable[None]]) -> None:
    async def main() -> None:
        async with VirtualNetwork.running(random.Random(1)) as network:
            one, two = (Identity(bytes([number]) * 32) for number in (1, 2))
            async with network.open(one) as server, network.open(two) as client:
                handler = Handler()
                server.set_handler(PROTOCOL, handler)
                await client.connect(server.addrs[0])
                await check(network, server, client, handler)

    run_seeded(1, main)


def test_a_request_and_its_reply_are_three_messages_and_start_no_task() -> None:
    async def check(network: VirtualNetwork, server: VirtualHost, client: VirtualHost, handler: Handler) -> None:
        await trio.sleep(1)
        before, tasks = network.messages, trio.lowlevel.current_statistics().tasks_living
        stream = await client.open_stream(server.peer_id, PROTOCOL)
        await stream.send(b"12345")
        assert await stream.receive(10) == b"5"
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        await stream.aclose()
        await trio.sleep(1)
        assert network.messages - before == 3  # with its opening, with the answer to that, and the end
        assert handler.streams == []

    run(check)


def test_a_stream_that_falls_silent_is_given_to_its_handler_with_what_comes_then() -> None:
    async def check(network: VirtualNetwork, server: VirtualHost, client: VirtualHost, handler: Handler) -> None:
        stream = await client.open_stream(server.peer_id, PROTOCOL)
        await stream.send(b"1")
        assert await stream.receive(10) == b"1"
        asked = trio.current_time()
        await trio.sleep(PROMPT_IDLE_S + NEGOTIATE_S + 2)
        assert len(handler.streams) == 1
        assert handler.streams[0] - asked > PROMPT_IDLE_S - 1
        await stream.send(b"late")
        await trio.sleep(1)
        assert handler.received == [b"late"]

    run(check)


def test_what_cannot_be_answered_at_once_is_the_first_that_its_handler_receives() -> None:
    async def check(network: VirtualNetwork, server: VirtualHost, client: VirtualHost, handler: Handler) -> None:
        first = await client.open_stream(server.peer_id, PROTOCOL)
        await first.send(b"")
        second = await client.open_stream(server.peer_id, PROTOCOL)
        for message in (b"abc", b"", b"x"):
            await second.send(message)
        assert await second.receive(10) == b"3"
        await trio.sleep(1)
        assert handler.received == [b"", b"", b"x"]
        assert len(handler.streams) == 2

    run(check)


def test_an_opening_that_nothing_travels_with_still_arrives() -> None:
    async def check(network: VirtualNetwork, server: VirtualHost, client: VirtualHost, handler: Handler) -> None:
        await client.open_stream(server.peer_id, PROTOCOL)
        await trio.sleep(1)
        assert len(handler.streams) == 1

    run(check)


def test_streams_answered_at_once_end_with_their_connection() -> None:
    async def check(network: VirtualNetwork, server: VirtualHost, client: VirtualHost, handler: Handler) -> None:
        stream = await client.open_stream(server.peer_id, PROTOCOL)
        await stream.send(b"1")
        assert await stream.receive(10) == b"1"
        client.halt(crash=True)
        for link in server.links():
            network.timeline.at(0.0, link.shut, "gone")
        await trio.sleep(PROMPT_IDLE_S + NEGOTIATE_S + 2)
        assert handler.streams == []
        assert not server.has_links

    run(check)
