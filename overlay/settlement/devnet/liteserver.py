"""One liteserver: takes a boxed request, waits where it says so, answers, or makes the trouble it is told to make."""

from __future__ import annotations

import struct
from typing import Any

import trio
from pytoniq_core.crypto.ciphers import Client

from overlay.settlement.devnet.adnl import SCHEMAS, constructor, tl_bytes
from overlay.settlement.devnet.block_proofs import StateNotKept
from overlay.settlement.devnet.blocks import SealedBlock
from overlay.settlement.devnet.lies import ForgedChain, bend, garbage
from overlay.settlement.devnet.limits import MAX_REQUEST_BYTES, MAX_WAIT_S
from overlay.settlement.devnet.queries import (
    ERROR_BAD_REQUEST,
    ERROR_NOT_READY,
    ERROR_TIMEOUT,
    HANDLERS,
    Answer,
    Queries,
    QueryError,
)
from overlay.settlement.devnet.trouble import Lie, ServerTrouble
from overlay.settlement.errors import DevnetError


class HangUp(Exception):
    """The server closes the connection instead of answering."""


class LiteServer:
    """Answers one boxed request at a time; any number of connections share it.

    :meth:`block_sealed` must be called after every seal. ``key`` is the server's, ``port`` where it listens.
    """

    def __init__(self, honest: Queries, key: Client, port: int) -> None:
        self._honest = honest
        self._queries: Queries = honest
        self._trouble = ServerTrouble()
        self._to_lose = 0
        self._sealed = trio.Event()
        self.key = key
        self.port = port

    @property
    def public_key(self) -> bytes:
        """The Ed25519 key that the global config names."""
        value: bytes = self.key.ed25519_public.encode()
        return value

    @property
    def trouble(self) -> ServerTrouble:
        """What this server does wrong. Setting it begins anew: what is stale is so from now on."""
        return self._trouble

    @trouble.setter
    def trouble(self, trouble: ServerTrouble) -> None:
        self._trouble, self._to_lose = trouble, trouble.lose_externals
        self._queries = self._honest
        if Lie.FORGED_CHAIN in trouble.lies:
            self._queries = _Forger(self._honest, ForgedChain(self._honest.chain, trouble.forged_accounts))
        elif Lie.STALE in trouble.lies:
            self._queries = _Stale(self._honest)
        self.block_sealed()

    def block_sealed(self) -> None:
        """Wake the queries that wait for a block."""
        self._sealed.set()
        self._sealed = trio.Event()

    async def answer(self, request: bytes) -> bytes:
        """The boxed TL answer to a boxed TL request; never raises on bad input. Raises :class:`HangUp` as a lie."""
        trouble = self._trouble
        if Lie.HANG_UP in trouble.lies:
            raise HangUp
        if Lie.SILENCE in trouble.lies:
            await trio.sleep_forever()
        if trouble.answer_delay_s:
            await trio.sleep(trouble.answer_delay_s)
        if Lie.GARBAGE in trouble.lies:
            return garbage(request)
        try:
            if Lie.REFUSAL in trouble.lies:
                raise QueryError(ERROR_NOT_READY, "this server has been told to refuse")
            if request[:4] == constructor("liteServer.waitMasterchainSeqno"):
                if len(request) < 12:
                    raise QueryError(ERROR_BAD_REQUEST, "cut short")
                seqno, timeout_ms = struct.unpack("<ii", request[4:12])
                await self._wait(seqno, timeout_ms / 1000)
                request = request[12:]
            return await self._dispatch(request)
        except QueryError as error:
            return _error(error.code, str(error))
        except DevnetError as error:
            return _error(ERROR_NOT_READY, str(error))
        except StateNotKept:
            return _error(ERROR_NOT_READY, "the state of that block is no longer kept")

    async def _wait(self, seqno: int, timeout_s: float) -> None:
        with trio.move_on_after(max(min(timeout_s, MAX_WAIT_S), 0)):
            while self._queries.newest().seqno < seqno:
                await self._sealed.wait()
        if self._queries.newest().seqno < seqno:
            raise QueryError(ERROR_TIMEOUT, "timeout: the block has not come yet")

    async def _dispatch(self, request: bytes) -> bytes:
        schema = SCHEMAS.get_by_id(request[:4], "little")
        name = schema.name.removeprefix("liteServer.") if schema is not None else ""
        handler = HANDLERS.get(name)
        if handler is None:
            raise QueryError(ERROR_BAD_REQUEST, f"this server does not answer {name or 'that'}")
        if len(request) > MAX_REQUEST_BYTES and name not in ("sendMessage", "runSmcMethod"):
            raise QueryError(ERROR_BAD_REQUEST, f"a request of {len(request)} bytes")
        try:
            fields, _ = SCHEMAS.deserialize(request)
        except Exception as error:  # pytoniq_core raises several unrelated types on malformed TL
            raise QueryError(ERROR_BAD_REQUEST, "malformed request") from error
        try:
            kind, values = self._lost(name) or await handler(self._queries, fields)
            if self._trouble.lies:
                about = self._queries.block(fields["id"]) if kind == "accountState" else None
                values = bend(self._trouble.lies, kind, values, about)
        except (QueryError, DevnetError, StateNotKept):
            raise
        except Exception as error:  # fields that are missing or of the wrong size show up in many ways
            raise QueryError(ERROR_BAD_REQUEST, f"bad request: {error!r}") from error
        answer: bytes = SCHEMAS.serialize(f"liteServer.{kind}", values)
        return answer

    def _lost(self, name: str) -> Answer | None:
        """The answer to an external message that is to be lost."""
        if name != "sendMessage" or self._to_lose == 0:
            return None
        self._to_lose -= 1
        return "sendMsgStatus", {"status": 1}


class _Liar(Queries):
    """Answers as ``honest`` does, from another idea of what is newest."""

    def __init__(self, honest: Queries) -> None:
        super().__init__(honest._ledger, honest.chain, honest._store, honest._tvm, honest._submit)


class _Stale(_Liar):
    def __init__(self, honest: Queries) -> None:
        super().__init__(honest)
        self._newest = honest.chain.last

    def newest(self) -> SealedBlock:
        return self._newest


class _Forger(_Liar):
    def __init__(self, honest: Queries, forged: ForgedChain) -> None:
        super().__init__(honest)
        self._forged = forged

    def newest(self) -> SealedBlock:
        return self._forged.last

    def find(self, workchain: int, root_hash: bytes) -> SealedBlock | None:
        return self._forged.find(root_hash) or super().find(workchain, root_hash)

    def links(self, known: SealedBlock, target: SealedBlock) -> tuple[SealedBlock, list[dict[str, Any]]]:
        return target, [self._forged.link(known, target)]


def _error(code: int, message: str) -> bytes:
    # pytoniq_core's serializer has no TL strings, so this one answer is put together by hand.
    text = message.encode()[:400]
    return constructor("liteServer.error") + struct.pack("<i", code) + tl_bytes(text)
