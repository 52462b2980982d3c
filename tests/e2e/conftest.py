"""Real `cocoon` processes on loopback, driven from ordinary test functions.

The processes belong to a trio loop in a thread of its own (`Town`), so that one network can serve a whole session of
tests: starting nodes is what costs. Everything lives under temporary homes; only processes started here are signalled.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import trio

from overlay.cli.app import run
from overlay.cli.operations import channels_of
from simulations.processes import CocoonProcess, cocoon_command, run_process

START_S = 60.0
"""A node is up in three seconds; on a machine that does much else, in more."""

REPO = Path(__file__).resolve().parents[2]
VOICE = REPO / "simulations" / "data" / "voice.ogg"
VOICE_TEXT = "i am on my way home please call me tomorrow morning"


@dataclass
class Said:
    """What one command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of its error, for which there must be exactly one and no traceback."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error: ")


class Process:
    """A running `cocoon … --json`, from any thread."""

    def __init__(self, town: Town, running: CocoonProcess, release: trio.Event, done: threading.Event) -> None:
        self._town, self._running, self._release, self._done = town, running, release, done

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self._running.events)

    def all(self, kind: str, **match: Any) -> list[dict[str, Any]]:
        found = (event for event in self.events if event.get("event") == kind)
        return [event for event in found if all(event.get(k) == v for k, v in match.items())]

    @property
    def pid(self) -> int:
        return self._running.process.pid

    @property
    def exit_code(self) -> int | None:
        return self._running.process.poll()

    def wait_for(self, kind: str, timeout_s: float = START_S, **match: Any) -> dict[str, Any]:
        if found := self.all(kind, **match):
            return found[0]
        return self._town.call(partial(self._running.wait_for, kind, timeout_s, **match))

    def ended(self, timeout_s: float = START_S) -> int | None:
        async def wait() -> int | None:
            with trio.fail_after(timeout_s):
                return await self._running.ended()

        return self._town.call(wait)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.ended()
        self.stop()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self._town.run_soon(self._release.set)
        assert self._done.wait(60)
        code = self.exit_code
        assert code is not None
        return code

    @property
    def errors(self) -> str:
        """Standard error so far: nothing of ours writes there with --json, and no library should."""
        return "\n".join(self._running._stderr)


class Town:
    """A home directory and the processes that live in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: list[Process] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="town", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            await self._stop.wait()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run an async function in the town's loop; blocks."""
        return trio.from_thread.run(function, trio_token=self._token)

    def run_soon(self, function: Callable[[], Any]) -> None:
        self._token.run_sync_soon(function)

    def start(self, name: str, *arguments: str, environ: dict[str, str] | None = None) -> Process:
        """Start `cocoon ARGUMENTS --json`; it is stopped with the town at the latest."""
        done = threading.Event()

        async def hold(release: trio.Event, task_status: trio.TaskStatus[CocoonProcess]) -> None:
            try:
                async with run_process(name, arguments, home=self.home, environ=environ) as running:
                    task_status.started(running)
                    await release.wait()
            finally:
                done.set()

        async def begin() -> Process:
            release = trio.Event()
            running = await self._nursery.start(partial(hold, release))
            return Process(self, running, release, done)

        process: Process = self.call(begin)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self.processes):
            process.stop()
        self.run_soon(self._stop.set)
        self._thread.join()

    # ---- the usual inhabitants ----

    def devnet(self, name: str = "devnet", *extra: str) -> Path:
        """Start a devnet; the path of its configuration."""
        process = self.start(name, "devnet", "run", "--dir", str(self.home / name), *extra)
        return Path(process.wait_for("ready")["config"])

    def node(self, name: str, *arguments: str, ton: Path | None = None) -> Process:
        """Start a provider with a data directory of its own."""
        chain = ["--ton", str(ton)] if ton is not None else []
        return self.start(
            name, "node", "run", "--preset", "local", "--data-dir", str(self.home / name), *chain, *arguments
        )

    def gateway(self, name: str, *arguments: str, ton: Path | None = None) -> Process:
        chain = ["--ton", str(ton)] if ton is not None else []
        return self.start(
            name, "gateway", "run", "--port", "0", "--data-dir", str(self.home / name), *chain, *arguments
        )

    def cocoon(
        self, *arguments: str, stdin: str = "", timeout_s: float = 90.0, process: bool = False, **environ: str
    ) -> Said:
        """Run one command to its end. In this process, which spares the start of an interpreter, or in one of its own;
        whatever it talks to is a process of its own in any case."""
        environment = {**os.environ, "COCOON_HOME": str(self.home), **environ}
        if process:
            done = subprocess.run(
                cocoon_command(*arguments),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=environment,
                check=False,
            )
            assert "Traceback" not in done.stderr, done.stderr
            return Said(done.returncode, done.stdout, done.stderr)
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = run(arguments)
        return Said(code, out.getvalue(), err.getvalue())

    def channels(self, directory: str) -> dict[str, dict[str, Any]]:
        """The channels of one party's ledger by their address, whether or not it runs."""
        rows = trio.run(channels_of, self.home / directory)
        return {row["channel"]: row for row in rows}


@dataclass
class Market:
    """A town with a devnet, two providers of different prices and a gateway."""

    town: Town
    ton: Path
    anna: Process
    boris: Process
    gateway: Process
    url: str
    http: httpx.Client

    def name_of(self, peer_id: str) -> str:
        for name in ("anna", "boris"):
            if getattr(self, name).all("ready", peer_id=peer_id):
                return name
        return peer_id


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait for what other processes bring about; the value, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.05)
    return value


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture(scope="session")
def voice() -> Path:
    """The sample voice message."""
    return VOICE


@pytest.fixture(scope="session")
def voice_text() -> str:
    """What it says, as the built-in recogniser hears it."""
    return VOICE_TEXT


@contextmanager
def _open_town(home: Path) -> Iterator[Town]:
    town = Town(home)
    try:
        yield town
    finally:
        town.close()


@pytest.fixture(scope="session")
def open_town() -> Callable[[Path], Any]:
    """For a module that shares a town of its own."""
    return _open_town


@pytest.fixture
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """An empty home of the test's own."""
    with _open_town(tmp_path_factory.mktemp("t")) as town:
        yield town


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of one devnet for all tests that do not stop it."""
    with _open_town(tmp_path_factory.mktemp("chain")) as town:
        yield town.devnet()


@pytest.fixture
def place(town: Town, chain: Path) -> tuple[Town, Path]:
    """A home of the test's own, where nobody finds anybody else's nodes, on the common devnet."""
    return town, chain


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory, chain: Path) -> Iterator[Market]:
    """One network for all tests that leave it as they found it."""
    town, ton = Town(tmp_path_factory.mktemp("market")), chain
    try:
        anna = town.node("anna", ton=ton)
        boris = town.node("boris", "--set=price.prompt=30000000", "--set=price.completion=90000000", ton=ton)
        for process in (anna, boris):
            process.wait_for("ready")
        gateway = town.gateway("client", ton=ton)
        url = gateway.wait_for("ready")["url"]
        with httpx.Client(base_url=url, timeout=60) as http:

            def both_known() -> bool:
                models = http.get("/v1/models").json()["data"]
                return bool(models) and all(model["cocoon"]["providers"] == 2 for model in models)

            until(both_known, START_S)
            yield Market(town, ton, anna, boris, gateway, url, http)
        assert all(process.exit_code is None for process in (anna, boris, gateway)), "a shared process died"
    finally:
        town.close()


@pytest.fixture
def slow_model() -> Iterator[SlowModel]:
    """A model server whose every token the test releases; sold by a provider's `upstream` engine."""
    server = SlowModel()
    yield server
    server.close()


class SlowModel:
    """An OpenAI-compatible server that streams one token for each permit: a test decides when a stream goes on."""

    def __init__(self) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        outer = self
        self.permits = threading.Semaphore(0)
        self.jobs = 0
        self.sent = 0
        self.tokens = 20

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                body = json.dumps({"object": "list", "data": [{"id": "slow-1", "object": "model"}]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.jobs += 1
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                try:
                    for number in range(outer.tokens):
                        outer.permits.acquire()
                        self._chunk({"content": f"w{number} "}, None)
                        outer.sent += 1
                    self._chunk({}, "stop")
                    usage = {"prompt_tokens": 3, "completion_tokens": outer.tokens, "total_tokens": 3 + outer.tokens}
                    self.wfile.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    pass  # the provider hung up, which is what some tests make it do
                self.close_connection = True

            def _chunk(self, delta: dict[str, str], finish: str | None) -> None:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                self.wfile.write(b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n")
                self.wfile.flush()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def options(self) -> list[str]:
        """What a provider is started with to sell it."""
        port = self._server.server_address[1]
        return [
            "--serve=chat",
            "--set=engine.chat=upstream",
            f"--set=engine.upstream.base_url=http://127.0.0.1:{port}/v1",
            "--set=ton.credit_window_nanoton=400",
        ]

    def release(self, tokens: int) -> None:
        self.permits.release(tokens)

    def close(self) -> None:
        self.permits.release(10_000)
        self._server.shutdown()
        self._server.server_close()


assert sys.version_info >= (3, 11)
