"""A liteserver between client and devnet: a real ADNL server with a key of its own, whose answers a test may spoil."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from pytoniq_core.crypto.ciphers import Client, Server, create_aes_ctr_cipher, get_shared_key

from overlay.settlement.devnet.adnl import SCHEMAS, ServerConnection, constructor, read_tl_bytes, tl_bytes

Spoil = Callable[["Question"], Awaitable[bytes | None]]


class Question:
    """One request on its way: its name, its fields, and the honest answer for whoever wants it."""

    def __init__(self, request: bytes, upstream: Upstream) -> None:
        self.request = request
        self._upstream = upstream
        bare = request[12:] if request[:4] == constructor("liteServer.waitMasterchainSeqno") else request
        self.waits = bare is not request
        self.name = SCHEMAS.get_by_id(bare[:4], "little").name.removeprefix("liteServer.")
        self.fields: dict[str, Any] = SCHEMAS.deserialize(bare)[0]

    async def honest(self) -> bytes:
        return await self._upstream.ask(self.request)

    async def fields_of_answer(self) -> dict[str, Any]:
        fields: dict[str, Any] = SCHEMAS.deserialize(await self.honest())[0]
        return fields


class Upstream:
    """The devnet's own liteserver, as this one's source of honest answers: one connection a question is enough here."""

    def __init__(self, config: dict[str, Any]) -> None:
        server = config["liteservers"][0]
        host = socket.inet_ntoa(struct.pack(">i", server["ip"]))
        self._server = Server(host, server["port"], base64.b64decode(server["id"]["key"]))

    async def ask(self, request: bytes) -> bytes:
        me, random = Client(Client.generate_ed25519_private_key()), os.urandom(160)
        decrypt = create_aes_ctr_cipher(random[:32], random[64:80])
        encrypt = create_aes_ctr_cipher(random[32:64], random[80:96])
        checksum = hashlib.sha256(random).digest()
        shared = get_shared_key(me.x25519_private.encode(), self._server.x25519_public.encode())
        opening = create_aes_ctr_cipher(shared[:16] + checksum[16:], checksum[:4] + shared[20:32]).encrypt(random)
        async with await trio.open_tcp_stream(self._server.host, self._server.port) as stream:
            head = self._server.get_key_id() + me.ed25519_public.encode() + checksum + opening
            query = constructor("liteServer.query") + tl_bytes(request)
            payload = constructor("adnl.message.query") + os.urandom(32) + tl_bytes(query)
            body = os.urandom(32) + payload
            packet = struct.pack("<I", len(body) + 32) + body + hashlib.sha256(body).digest()
            await stream.send_all(head + encrypt.encrypt(packet))
            await self._packet(stream, decrypt)  # the handshake's empty answer
            return read_tl_bytes(await self._packet(stream, decrypt), 36)

    async def _packet(self, stream: trio.SocketStream, cipher: Any) -> bytes:
        length = int.from_bytes(cipher.decrypt(await self._exactly(stream, 4)), "little")
        return bytes(cipher.decrypt(await self._exactly(stream, length)))[32:-32]

    async def _exactly(self, stream: trio.SocketStream, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += await stream.receive_some(count - len(data)) or _end()
        return data


def _end() -> bytes:
    raise EOFError("the devnet hung up")


class FaultyServer:
    """``spoil`` answers each question, ``None`` keeps silent; ``stop`` and ``start`` are a crash and a restart."""

    def __init__(self, config: dict[str, Any], nursery: trio.Nursery) -> None:
        self._key = Client(Client.generate_ed25519_private_key())
        self._upstream = Upstream(config)
        self._nursery = nursery
        self._running: trio.CancelScope | None = None
        self.port = 0
        self.spoil: Spoil = Question.honest
        self.asked: list[str] = []

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def entry(self) -> dict[str, Any]:
        """Its entry in a ``global.config.json``."""
        key = base64.b64encode(self._key.ed25519_public.encode()).decode()
        return {"ip": 2130706433, "port": self.port, "id": {"@type": "pub.ed25519", "key": key}}

    async def start(self) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._nursery.start_soon(self._run, listeners)
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def _run(self, listeners: list[trio.SocketListener]) -> None:
        with trio.CancelScope() as self._running:
            await trio.serve_listeners(self._client, listeners)

    async def stop(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def _client(self, stream: trio.SocketStream) -> None:
        connection, sending = ServerConnection(self._key, os.urandom), trio.Lock()

        async def reply(query: Any) -> None:
            question = Question(query.request, self._upstream)
            self.asked.append(question.name)
            answer = await self.spoil(question)
            if answer is not None:
                connection.answer(query.query_id, answer)
                await flush()

        async def flush() -> None:
            async with sending:
                if output := connection.take_output():
                    await stream.send_all(output)

        try:
            async with stream, trio.open_nursery() as nursery:
                while data := await stream.receive_some(65536):
                    queries = connection.receive(data)
                    await flush()
                    for query in queries:
                        nursery.start_soon(reply, query)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError, EOFError):
            pass


def answer(kind: str, fields: dict[str, Any]) -> bytes:
    """A boxed answer of a liteserver."""
    data: bytes = SCHEMAS.serialize(f"liteServer.{kind}", fields)
    return data


def error(code: int, text: str) -> bytes:
    """A ``liteServer.error``."""
    return constructor("liteServer.error") + struct.pack("<i", code) + tl_bytes(text.encode())


def with_servers(config: dict[str, Any], servers: list[FaultyServer]) -> dict[str, Any]:
    """A global config that names these servers only."""
    changed = copy.deepcopy(config)
    changed["liteservers"] = [server.entry() for server in servers]
    return changed


@asynccontextmanager
async def faulty_servers(config: dict[str, Any], count: int) -> AsyncIterator[list[FaultyServer]]:
    """So many servers in front of the devnet of ``config``, honest until a test says otherwise."""
    async with trio.open_nursery() as nursery:
        servers = [FaultyServer(config, nursery) for _ in range(count)]
        for server in servers:
            await server.start()
        yield servers
        nursery.cancel_scope.cancel()
