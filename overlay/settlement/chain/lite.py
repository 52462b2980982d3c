"""The asyncio side of the chain client: pytoniq's LiteClient, mended, over several servers.

Everything in this file runs in the bridge's thread (:mod:`overlay.settlement.asyncio_bridge`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteClientError, LiteServerError
from pytoniq_core import Cell
from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement.cells import address_of
from overlay.settlement.chain.proved import ProvedAnswer, check_account_answer, check_config_answer
from overlay.settlement.errors import ChainUnavailable, OperationFailed, ProofRejected
from overlay.settlement.limits import MAX_TRANSACTIONS_PER_REQUEST, RECONNECT_BACKOFF_S, REQUEST_TIMEOUT_S
from overlay.settlement.transactions import AccountTransaction, parse_transaction

T = TypeVar("T")

_WAIT_BLOCK_MS = 8000
"""How long one long poll for the next block lasts: below pytoniq's own request timeout."""

_WRONG_SERVER_PAUSE_S = 0.5


@dataclass(frozen=True)
class ServerAddress:
    """One liteserver of a global config."""

    host: str
    port: int
    public_key: str


def servers_of(config: dict[str, Any]) -> list[ServerAddress]:
    """The liteservers of a ``global.config.json``. Raises ``ValueError`` when there are none or they are malformed."""
    try:
        found = [
            ServerAddress(
                str(ipaddress.IPv4Address(struct.pack(">i", server["ip"]))),
                int(server["port"]),
                str(server["id"]["key"]),
            )
            for server in config["liteservers"]
        ]
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"not a TON global config: {error!r}") from error
    if not found:
        raise ValueError("the global config names no liteserver")
    return found


class MendedLiteClient(LiteClient):  # type: ignore[misc]  # pytoniq ships no types
    """pytoniq 0.1.43's LiteClient with a block updater that survives errors and tells when a block came.

    The original (liteclient/client.py, ``block_updater``) ends for good at the first ``LiteServerError``, after which
    ``last_mc_block`` silently stays as it is.
    """

    def __init__(self, server: ServerAddress) -> None:
        super().__init__(server.host, server.port, server.public_key, timeout=REQUEST_TIMEOUT_S, trust_level=1)
        self.new_block = asyncio.Event()

    async def update_last_blocks(self) -> None:
        """Only the masterchain block: shards are proved with each account anyway."""
        self.last_mc_block = await self.get_trusted_last_mc_block()

    async def block_updater(self) -> None:
        """Follow the masterchain by long polls until the client is closed."""
        while True:
            try:
                info = await self.wait_masterchain_seqno(
                    self.last_mc_block.seqno + 1, timeout_ms=_WAIT_BLOCK_MS, schema_name="getMasterchainInfo", data={}
                )
            except TimeoutError:
                continue
            except LiteServerError:  # 652: no new block within the wait; others pass or show in the next request
                await asyncio.sleep(_WRONG_SERVER_PAUSE_S)
                continue
            except (LiteClientError, OSError, AttributeError):  # the connection is gone: close() took the writer away
                return
            self.last_mc_block = BlockIdExt.from_dict(info["last"])
            self.new_block.set()
            self.new_block = asyncio.Event()


class LiteSession:
    """Requests to whichever server answers. A failed server is left for the next one, with growing pauses."""

    def __init__(self, servers: list[ServerAddress]) -> None:
        self._servers = servers
        self._current = 0
        self._client: MendedLiteClient | None = None
        self._connecting = asyncio.Lock()

    @property
    def server_count(self) -> int:
        """How many servers there are to try."""
        return len(self._servers)

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def account(self, address: str) -> ProvedAnswer:
        """The account's proved state, or proved absence, in the newest block."""

        async def ask(client: MendedLiteClient) -> ProvedAnswer:
            info = await client.get_masterchain_info()
            master = BlockIdExt.from_dict(info["last"])
            account = address_of(address).to_tl_account_id()
            answer = await client.liteserver_request("getAccountState", {"id": master.to_dict(), "account": account})
            return check_account_answer(answer, master, address)

        return await self._request(ask)

    async def transactions(self, address: str, lt: int, hash_: bytes, count: int) -> list[AccountTransaction]:
        """Up to ``count`` transactions from the one named backwards; each is proved by the hash in the one after it."""

        async def ask(client: MendedLiteClient) -> list[AccountTransaction]:
            found: list[AccountTransaction] = []
            next_lt, next_hash = lt, hash_
            while next_lt and len(found) < count:
                wanted = min(count - len(found), MAX_TRANSACTIONS_PER_REQUEST)
                request = {
                    "count": wanted, "account": address_of(address).to_tl_account_id(), "lt": next_lt,
                    "hash": next_hash.hex(),
                }  # fmt: skip
                answer = await client.liteserver_request("getTransactions", request)
                cells = Cell.from_boc(answer["transactions"])
                if not cells:
                    break
                for cell in cells:
                    if cell.hash != next_hash:
                        raise ProofRejected("a liteserver's list of transactions is not the account's")
                    transaction = parse_transaction(cell)
                    found.append(transaction)
                    next_lt, next_hash = transaction.previous_lt, transaction.previous_hash
            return found[:count]

        return await self._request(ask)

    async def config(self, parameters: list[int]) -> dict[int, Any]:
        """Cells of the blockchain's configuration parameters (those that exist), proved in the newest block."""

        async def ask(client: MendedLiteClient) -> dict[int, Any]:
            info = await client.get_masterchain_info()
            master = BlockIdExt.from_dict(info["last"])
            answer = await client.liteserver_request("getConfigAll", {"mode": 0, "id": master.to_dict()})
            return check_config_answer(answer, master, parameters)

        return await self._request(ask)

    async def send(self, boc: bytes) -> None:
        """Hand in an external message. Raises :class:`OperationFailed` when the server refuses it."""

        async def ask(client: MendedLiteClient) -> None:
            try:
                await client.liteserver_request("sendMessage", {"body": boc})
            except LiteServerError as error:
                raise OperationFailed(f"the network refused the message: {_text(error)}") from error

        await self._request(ask)

    async def next_block(self, timeout_s: float) -> None:
        """Return when the server shows a new block, or after ``timeout_s``."""
        client = await self._connected()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.new_block.wait(), timeout_s)

    async def _request(self, ask: Callable[[MendedLiteClient], Awaitable[T]]) -> T:
        last: Exception | None = None
        for pause in (*RECONNECT_BACKOFF_S, None):
            client = None
            try:
                client = await self._connected()
                return await ask(client)
            except LiteServerError as error:  # this server cannot, now: another may, or it may in a moment
                last = error
            except ProofRejected as error:
                last = error
                await self._drop(client)
            except (LiteClientError, OSError, TimeoutError, asyncio.IncompleteReadError, AttributeError) as error:
                # AttributeError: pytoniq's close() sets its writer to None under requests that are being sent.
                last = error
                await self._drop(client)
            if pause is None:
                break
            await asyncio.sleep(pause)
        if isinstance(last, ProofRejected):
            raise last
        names = ", ".join(f"{server.host}:{server.port}" for server in self._servers)
        raise ChainUnavailable(f"no liteserver answers ({names}): {_text(last)}") from last

    async def _connected(self) -> MendedLiteClient:
        async with self._connecting:
            client = self._client
            if client is not None and client.inited:
                return client
            self._client = None  # pytoniq closes itself when the connection breaks
            server = self._servers[self._current % len(self._servers)]
            client = MendedLiteClient(server)
            try:
                await client.connect()
            except BaseException:
                await client.close()
                raise
            self._client = client
            return client

    async def leave(self) -> None:
        """Hang up and take the next server from now on."""
        await self._drop(self._client)

    async def _drop(self, failed: MendedLiteClient | None) -> None:
        """Take the next server, unless another request that failed on this one has done so already."""
        async with self._connecting:
            if failed is not self._client:
                return
            self._client = None
            self._current += 1
        if failed is not None:
            await failed.close()


def _text(error: Exception | None) -> str:
    if isinstance(error, LiteServerError):
        message = error.message
        return message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return str(error) or type(error).__name__
