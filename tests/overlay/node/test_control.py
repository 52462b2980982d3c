import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from overlay.control import RemoteError, call_control, serve_control, socket_path
from overlay.errors import ConfigError, Unfunded


async def echo(request: Mapping[str, Any]) -> Any:
    return {"heard": request.get("word")}


async def broke(request: Mapping[str, Any]) -> Any:
    raise Unfunded("send some TON")


COMMANDS = {"echo": echo, "broke": broke}


async def test_a_command_is_answered_and_an_error_keeps_its_code(nursery: trio.Nursery, tmp_path: Path) -> None:
    await nursery.start(serve_control, tmp_path, COMMANDS)
    assert await call_control(tmp_path, "echo", word="hello") == {"heard": "hello"}
    with pytest.raises(RemoteError, match="send some TON") as caught:
        await call_control(tmp_path, "broke")
    assert (caught.value.code, caught.value.exit_code) == (Unfunded.code, Unfunded.exit_code)
    with pytest.raises(RemoteError, match="broke, echo"):
        await call_control(tmp_path, "sing")


async def test_the_socket_is_private_and_goes_with_the_process(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path, COMMANDS)
        assert stat.S_IMODE(socket_path(tmp_path).stat().st_mode) == 0o600
        nursery.cancel_scope.cancel()
    assert not socket_path(tmp_path).exists()
    with pytest.raises(ConfigError, match="nothing runs in"):
        await call_control(tmp_path, "echo")


async def test_garbage_on_the_socket_is_answered_and_the_next_caller_served(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    await nursery.start(serve_control, tmp_path, COMMANDS)
    stream = await trio.open_unix_socket(str(socket_path(tmp_path)))
    async with stream:
        await stream.send_all(b'\xff\xfe{"command":\n[]\n{"command": ["echo"]}\n')
        answers = b""
        while answers.count(b"\n") < 3:
            answers += await stream.receive_some()
    assert all("error" in json.loads(line) for line in answers.splitlines())
    assert await call_control(tmp_path, "echo", word="again") == {"heard": "again"}


async def test_a_line_without_end_is_cut_off(nursery: trio.Nursery, tmp_path: Path) -> None:
    await nursery.start(serve_control, tmp_path, COMMANDS)
    stream = await trio.open_unix_socket(str(socket_path(tmp_path)))
    async with stream:
        assert await _refused(stream)


async def _refused(stream: trio.SocketStream) -> bool:
    try:
        for _ in range(64):
            await stream.send_all(b"x" * 65_536)
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True
