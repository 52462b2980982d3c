"""What the tests of hosts share, beside the fixtures."""

from __future__ import annotations

from collections.abc import Callable

import trio

from transport.host import HostStream

HIDDEN = ["/ip4/127.0.0.2/tcp/0"]
"""Where a host listens that is behind a router, as far as the tests go."""

ECHO = "/test/echo/1"


def everything(_: str) -> bool:
    """Every IP address is one of the outside."""
    return True


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event to wait for."""
    with trio.fail_after(15):
        while not condition():  # libp2p's state changes without a signal
            await trio.sleep(0.01)


async def echo(stream: HostStream) -> None:
    """A handler that sends back what comes."""
    while True:
        await stream.send(await stream.receive(1 << 16))
