"""One liteserver: pytoniq's LiteClient, mended, behind a link that reconnects and remembers what the server said.

Everything in this file runs in the bridge's thread (:mod:`overlay.settlement.asyncio_bridge`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteClientError, LiteServerError
from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement.chain.limits import (
    HEAD_TIMEOUT_S,
    MAX_ANSWER_BYTES,
    MAX_HEADS_KEPT,
    RETRY_BACKOFF_S,
)
from overlay.settlement.chain.network import FULL_SHARD, MASTERCHAIN, ServerAddress
from overlay.settlement.limits import REQUEST_TIMEOUT_S

_WAIT_BLOCK_MS = 8000
"""How long one long poll for the next block lasts: below pytoniq's own request timeout."""

_WRONG_SERVER_PAUSE_S = 0.5
_UNKNOWN_LATENCY_S = 0.5
"""What a server counts as before it has answered: behind those that are known to be quick."""

_SILENT = logging.getLogger("overlay.settlement.chain.pytoniq")
_SILENT.disabled = True
"""pytoniq logs a traceback when a server sends garbage; the link says so in one line instead."""


class LinkBroken(Exception):
    """The server did not answer: refused, hung up, sent garbage or took too long. The message says which."""


_BROKEN = (
    LinkBroken, LiteClientError, OSError, TimeoutError, asyncio.IncompleteReadError, AttributeError, KeyError,
    TypeError, ValueError,
)  # fmt: skip
"""What pytoniq raises when a connection ends or its bytes make no sense. AttributeError: its close() sets the writer to
``None`` under requests that are being sent."""


class MendedLiteClient(LiteClient):  # type: ignore[misc]  # pytoniq ships no types
    """pytoniq 0.1.43's LiteClient with its faults that matter here mended.

    - ``block_updater`` ends for good at the first ``LiteServerError``, after which ``last_mc_block`` silently stays as
      it is (liteclient/client.py). This one survives errors and reports every block.
    - ``send_and_encrypt`` registers a request after it was sent: an answer that comes first kills the listener.
    - ``receive`` buffers as many bytes as the server announces, up to 4 GiB.
    - byte fields are parsed as TL when they happen to look like it, which a Simplex candidate does: its hash is lost.
    """

    def __init__(self, server: ServerAddress, heard: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(server.host, server.port, server.public_key, timeout=REQUEST_TIMEOUT_S, trust_level=1)
        self.schemas._auto_deserialize = False
        self.logger = _SILENT
        self._heard = heard
        self._hanging_up: asyncio.Task[None] | None = None

    async def update_last_blocks(self) -> None:
        """Only the masterchain block: shards are proved with each account anyway."""
        info = await self.get_masterchain_info()
        self._heard(info)
        self.last_mc_block = BlockIdExt.from_dict(info["last"])

    async def block_updater(self) -> None:
        """Follow the masterchain by long polls until the client is closed."""
        while True:
            try:
                info = await self.wait_masterchain_seqno(
                    self.last_mc_block.seqno + 1, timeout_ms=_WAIT_BLOCK_MS, schema_name="getMasterchainInfo", data={}
                )
                head = BlockIdExt.from_dict(info["last"])
            except LiteServerError:  # 652: no new block within the wait; others pass or show in the next request
                await asyncio.sleep(_WRONG_SERVER_PAUSE_S)
                continue
            except (TimeoutError, LiteClientError, OSError, AttributeError, KeyError, TypeError):
                # Silent, gone (close() took the writer away) or talking nonsense: the next request connects anew.
                self._hanging_up = self.loop.create_task(self.close())
                return
            if head.seqno <= self.last_mc_block.seqno:
                await asyncio.sleep(_WRONG_SERVER_PAUSE_S)  # a server that answers at once with what was known
                continue
            self.last_mc_block = head
            self._heard(info)

    async def send_and_encrypt(self, data: bytes, qid: str) -> asyncio.Future[Any]:
        """Send a request; the future holds its answer."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.tasks[qid] = future
        self.writer.write(self.encrypt(data))
        await self._drain()
        return future

    async def receive(self, data_len: int) -> bytes:
        """Exactly so many bytes; hangs up on a server that announces an absurd number."""
        if data_len > MAX_ANSWER_BYTES:
            await self.close()
            raise ConnectionAbortedError(f"a packet of {data_len} bytes")
        data: bytes = await super().receive(data_len)
        return data

    def _cancel_all_tasks(self) -> None:
        """Fail what waits for an answer. Nobody waits for some of it any more: asyncio would complain of those."""
        waiting = list(self.tasks.values())
        super()._cancel_all_tasks()
        for future in waiting:
            if future.done() and not future.cancelled():
                future.exception()

    def deserialize_adnl_query(self, data: bytes) -> dict[str, Any]:
        """Parse a packet; an answer that is no known TL object becomes an empty one, which no check accepts."""
        packet = self.schemas.deserialize(data[32:], boxed=True)[0]
        if not isinstance(packet, dict):
            return {}
        if isinstance(packet.get("answer"), bytes):
            answer = self.schemas.deserialize(packet["answer"], boxed=True)[0]
            packet["answer"] = answer if isinstance(answer, dict) else {}
        return packet


class ServerLink:
    """One liteserver of the pool: connects when asked, and keeps what it learns about the server."""

    def __init__(
        self,
        address: ServerAddress,
        heard: Callable[[ServerLink, dict[str, Any]], None],
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.address = address
        self.head: Any = None
        """The newest masterchain block that the server named, a claim."""
        self.head_at = 0.0
        """When it named it (the loop's clock)."""
        self.zero_state: bytes | None = None
        """The root hash of the chain's first state, as the server names it."""
        self.failures = 0
        self.paused_until = 0.0
        self.trouble = ""
        """What is wrong with the server, for people; empty when nothing is."""
        self.latency_s: float | None = None
        self._heads: dict[int, Any] = {}
        self._heard = heard
        self._say = say
        self._client: MendedLiteClient | None = None
        self._connecting = asyncio.Lock()

    @property
    def expected_latency_s(self) -> float:
        """A moving average of the server's answers; a guess before the first."""
        return _UNKNOWN_LATENCY_S if self.latency_s is None else self.latency_s

    @property
    def connected(self) -> bool:
        """Whether the server is followed now: it has named a block, and would name the next."""
        return self._client is not None and bool(self._client.inited) and self.head is not None

    async def request(self, name: str, fields: dict[str, Any], timeout_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
        """Ask ``liteServer.<name>``. Raises pytoniq's ``LiteServerError`` for the server's own, :class:`LinkBroken`."""
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                client = await self._connected()
                answer: dict[str, Any] = await client.liteserver_request(name, fields)
        except asyncio.CancelledError:
            # Another server was quicker; remember that this one is not.
            self._took(max(asyncio.get_running_loop().time() - started, self.expected_latency_s))
            raise
        except LiteServerError:
            self._worked(started)
            raise
        except _BROKEN as error:
            reason = f"no answer to {name} in {timeout_s:g} s" if isinstance(error, TimeoutError) else _text(error)
            await self.fail(reason)
            raise LinkBroken(f"{self.address}: {reason}") from error
        self._worked(started)
        return answer

    async def fetch_head(self) -> Any:
        """The newest masterchain block that the server names now."""
        info = await self.request("getMasterchainInfo", {}, HEAD_TIMEOUT_S)
        try:
            self.note_head(info)
        except LinkBroken as error:
            await self.fail(str(error))
            raise
        return self.head

    async def block_at(self, seqno: int) -> Any:
        """The masterchain block that the server names for ``seqno``, ``None`` when it names none."""
        if seqno not in self._heads:
            wanted = {"workchain": MASTERCHAIN, "shard": FULL_SHARD, "seqno": seqno}
            try:
                answer = await self.request("lookupBlock", {"mode": 1, "id": wanted}, HEAD_TIMEOUT_S)
                self._remember(BlockIdExt.from_dict(answer["id"]))
            except (LiteServerError, LinkBroken, KeyError, TypeError, ValueError):
                return None
        return self._heads.get(seqno)

    def named(self, seqno: int) -> Any:
        """What the server has named for ``seqno`` so far, without asking."""
        return self._heads.get(seqno)

    def note_head(self, info: dict[str, Any]) -> None:
        """Take in a ``masterchainInfo``. Raises :class:`LinkBroken` for one that makes no sense."""
        try:
            head = BlockIdExt.from_dict(info["last"])
            if (head.workchain, head.shard) != (MASTERCHAIN, FULL_SHARD) or head.seqno < 0:
                raise ValueError
            self.zero_state = bytes.fromhex(info["init"]["root_hash"])
        except (KeyError, TypeError, ValueError) as error:
            raise LinkBroken(f"{self.address}: sent garbage for its newest block") from error
        if self.head is None or head.seqno != self.head.seqno:
            self.head_at = asyncio.get_running_loop().time()
        self.head = head
        self._remember(head)

    async def fail(self, reason: str) -> None:
        """Hang up, and leave the server alone for a growing while."""
        pause = RETRY_BACKOFF_S[min(self.failures, len(RETRY_BACKOFF_S) - 1)]
        self.failures += 1
        self.pause(pause, reason)
        await self.close()

    def pause(self, seconds: float, reason: str) -> None:
        """Prefer others for so long; ``reason`` is kept for people."""
        self.paused_until = max(self.paused_until, asyncio.get_running_loop().time() + seconds)
        if not self.trouble:
            self._say(f"liteserver {self.address}: {reason}")
        self.trouble = reason

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _remember(self, block: Any) -> None:
        self._heads[block.seqno] = block
        while len(self._heads) > MAX_HEADS_KEPT:
            del self._heads[next(iter(self._heads))]

    def _worked(self, started: float) -> None:
        now = asyncio.get_running_loop().time()
        self._took(now - started)
        self.failures = 0
        if now >= self.paused_until:
            self.trouble = ""

    def _took(self, seconds: float) -> None:
        self.latency_s = seconds if self.latency_s is None else 0.7 * self.latency_s + 0.3 * seconds

    def _told(self, info: dict[str, Any]) -> None:
        self.note_head(info)
        self._heard(self, info)

    async def _connected(self) -> MendedLiteClient:
        async with self._connecting:
            client = self._client
            if client is not None and client.inited:
                return client
            self._client = None  # pytoniq closes itself when the connection breaks
            client = MendedLiteClient(self.address, self._told)
            try:
                await client.connect()
            except BaseException:
                await client.close()
                raise
            self._client = client
            return client


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def server_error_text(error: LiteServerError) -> str:
    """What a ``liteServer.error`` says."""
    message = error.message
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)
