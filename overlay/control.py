"""The control socket: how `cocoon node status` and its like reach the process that holds a data directory.

A Unix socket in the data directory, readable by its owner alone (the directory is 0700, the socket 0600). One JSON
object a line each way: `{"command": "status", …}` is answered by `{"ok": …}` or `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from overlay.errors import ChainError, CocoonError, ConfigError
from overlay.settlement import SettlementError

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 65_536
"""A command is a name and a few words; an answer of a busy node with hundreds of channels is read whole."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024
IDLE_TIMEOUT_S = 30.0
"""A client of the socket that says nothing for this long is cut off."""

Command = Callable[[Mapping[str, Any]], Awaitable[Any]]


class RemoteError(CocoonError):
    """The running process answered with an error; its message, code and exit code are passed on."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one error: it stands for another class, in another process
        self.exit_code = next((c.exit_code for c in _family(CocoonError) if c.code == code), 1)  # type: ignore[misc]  # as above


def _family(cls: type[CocoonError]) -> Iterator[type[CocoonError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


def socket_path(data_dir: Path) -> Path:
    """Where the socket of the process that runs in ``data_dir`` is."""
    return data_dir / "control.sock"


async def serve_control(
    data_dir: Path, commands: Mapping[str, Command], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer commands until cancelled; the socket file goes with it."""
    path = socket_path(data_dir)
    path.unlink(missing_ok=True)
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await listener.bind(str(path))
    except OSError as error:
        raise ConfigError(
            f"the control socket {path} cannot be made: {error}; a shorter --data-dir may help"
        ) from error
    os.chmod(path, 0o600)
    listener.listen(16)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await _converse(stream, commands)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handle, [trio.SocketListener(listener)])
            task_status.started()
    finally:
        path.unlink(missing_ok=True)


async def _converse(stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
    async with stream:
        buffer = bytearray()
        while True:
            while b"\n" not in buffer:
                chunk = b""
                with trio.move_on_after(IDLE_TIMEOUT_S):
                    chunk = await stream.receive_some(MAX_LINE_BYTES)
                if not chunk or len(buffer) > MAX_LINE_BYTES:
                    return
                buffer += chunk
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer = bytearray(rest)
            await stream.send_all(json.dumps(await _answer(line, commands)).encode() + b"\n")


async def _answer(line: bytes, commands: Mapping[str, Command]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        command = commands[request["command"]]
    except (ValueError, KeyError, TypeError):
        return {
            "error": {"code": "invalid_request", "message": f"no such command; known: {', '.join(sorted(commands))}"}
        }
    try:
        return {"ok": await command(request)}
    except CocoonError as error:
        return {"error": {"code": error.code, "message": str(error)}}
    except SettlementError as error:
        return {"error": {"code": ChainError.code, "message": f"TON: {error}"}}
    except Exception as error:
        # Whatever a command trips over, the node behind it goes on serving.
        _log.exception("the control command %s failed", request["command"])
        return {"error": {"code": CocoonError.code, "message": f"{type(error).__name__}: {error}"}}


def answers(data_dir: Path) -> bool:
    """Whether a process answers there: a socket file alone may be left from one that was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_path(data_dir)))
        except OSError:
            return False
    return True


async def call_control(data_dir: Path, command: str, **arguments: Any) -> Any:
    """Ask the process that runs in ``data_dir``.

    Raises :class:`~overlay.errors.ConfigError` when none runs there, :class:`RemoteError` when it answers with one.
    """
    path = socket_path(data_dir)
    try:
        stream = await trio.open_unix_socket(str(path))
    except (OSError, RuntimeError):
        raise ConfigError(
            f"nothing runs in {data_dir}; start it with `cocoon node run`, or name another --data-dir"
        ) from None
    async with stream:
        await stream.send_all(json.dumps({"command": command, **arguments}).encode() + b"\n")
        buffer = bytearray()
        while b"\n" not in buffer:
            chunk = await stream.receive_some(1 << 16)
            if not chunk or len(buffer) > MAX_ANSWER_BYTES:
                raise ConfigError(f"the process in {data_dir} went away before it answered")
            buffer += chunk
    answer = json.loads(bytes(buffer).partition(b"\n")[0])
    if "error" in answer:
        raise RemoteError(answer["error"]["message"], answer["error"]["code"])
    return answer["ok"]
