"""The liteserver's answers: ``liteServer.*`` of TON's lite_api.tl, over the devnet's chain.

Each answer carries the proofs that a client at trust level 1 checks. What a client asks about a block that is no longer
kept, or malformed, gets ``liteServer.error`` with the codes that real servers use.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from pytoniq_core import Account, Cell

from overlay.settlement.devnet.adnl import SCHEMAS, constructor, tl_bytes
from overlay.settlement.devnet.blocks import MASTERCHAIN, Chain, SealedBlock
from overlay.settlement.devnet.ledger import Ledger
from overlay.settlement.devnet.limits import MAX_WAIT_S
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.devnet.tvm import MessageRejected, Tvm
from overlay.settlement.errors import DevnetError

ERROR_BAD_REQUEST = 621
ERROR_NOT_READY = 651
ERROR_TIMEOUT = 652
VERSION = 0x101
CAPABILITIES = 7
MAX_TRANSACTIONS = 16

_ZERO_STATE = {"workchain": -1, "root_hash": "00" * 32, "file_hash": "00" * 32}


class QueryError(Exception):
    """Becomes ``liteServer.error``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class LiteServer:
    """Answers one boxed request at a time; any number of connections share it.

    ``submit`` runs an external message and seals a block; :meth:`block_sealed` must be called after every seal.
    """

    def __init__(self, ledger: Ledger, chain: Chain, tvm: Tvm, submit: Callable[[bytes], Awaitable[None]]) -> None:
        self._ledger = ledger
        self._chain = chain
        self._tvm = tvm
        self._submit = submit
        self._sealed = trio.Event()

    def block_sealed(self) -> None:
        """Wake the queries that wait for a block."""
        self._sealed.set()
        self._sealed = trio.Event()

    async def answer(self, request: bytes) -> bytes:
        """The boxed TL answer to a boxed TL request; never raises on bad input."""
        try:
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

    async def _wait(self, seqno: int, timeout_s: float) -> None:
        with trio.move_on_after(max(min(timeout_s, MAX_WAIT_S), 0)):
            while self._chain.last.master.seqno < seqno:
                await self._sealed.wait()
        if self._chain.last.master.seqno < seqno:
            raise QueryError(ERROR_TIMEOUT, "timeout: the block has not come yet")

    async def _dispatch(self, request: bytes) -> bytes:
        schema = SCHEMAS.get_by_id(request[:4], "little")
        name = schema.name.removeprefix("liteServer.") if schema is not None else ""
        handler = _HANDLERS.get(name)
        if handler is None:
            raise QueryError(ERROR_BAD_REQUEST, f"this server does not answer {name or 'that'}")
        try:
            fields, _ = SCHEMAS.deserialize(request)
        except Exception as error:  # pytoniq_core raises several unrelated types on malformed TL
            raise QueryError(ERROR_BAD_REQUEST, "malformed request") from error
        try:
            kind, values = await handler(self, fields)
        except (QueryError, DevnetError):
            raise
        except Exception as error:  # fields that are missing or of the wrong size show up in many ways
            raise QueryError(ERROR_BAD_REQUEST, f"bad request: {error!r}") from error
        answer: bytes = SCHEMAS.serialize(f"liteServer.{kind}", values)
        return answer

    def _block(self, fields: dict[str, Any]) -> SealedBlock:
        wanted, workchain = bytes.fromhex(fields["id"]["root_hash"]), fields["id"]["workchain"]
        found = self._chain.find(lambda block: block.block(workchain)[0].root_hash == wanted)
        if found is None:
            raise QueryError(ERROR_NOT_READY, "block is not known or no longer kept")
        return found

    async def _masterchain_info(self, _: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        last = self._chain.last
        state = last.master_state.hash.hex()
        return "masterchainInfo", {"last": last.master.to_tl(), "state_root_hash": state, "init": _ZERO_STATE}

    async def _time(self, _: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "currentTime", {"now": self._ledger.now}

    async def _version(self, _: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "version", {"mode": 0, "version": VERSION, "capabilities": CAPABILITIES, "now": self._ledger.now}

    async def _all_shards_info(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        block = self._block(fields)
        data = block.shard_hashes.to_boc()
        return "allShardsInfo", {"id": block.master.to_tl(), "proof": block.shard_proof(), "data": data}

    async def _account_state(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        block, key = self._block(fields), _account_key(fields)
        state = _state_in(block, key)
        return "accountState", {
            "id": block.master.to_tl(), "shardblk": block.shard.to_tl(), "shard_proof": block.shard_proof(),
            "proof": block.account_proof(key), "state": b"" if state is None else state.to_boc(),
        }  # fmt: skip

    async def _run_method(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        block, key = self._block(fields), _account_key(fields)
        state = _state_in(block, key)
        answer = {
            "mode": fields["mode"] & 7, "id": block.master.to_tl(), "shardblk": block.shard.to_tl(),
            "shard_proof": block.shard_proof(), "proof": block.account_proof(key), "state_proof": b"",
        }  # fmt: skip
        parsed = None if state is None else Account.deserialize(state.begin_parse())
        if parsed is None or parsed.storage.state.type_ != "account_active":
            return "runMethodResult", answer | {"exit_code": -256, "result": b""}
        init = parsed.storage.state.state_init
        result = await self._tvm.run_method(
            code=init.code, data=init.data, address=f"0:{key:064x}", balance_nanoton=parsed.storage.balance.grams or 0,
            method_id=fields["method_id"] & 0xFFFFFFFF, stack=_cell(fields["params"]), now=self._ledger.now,
        )  # fmt: skip
        return "runMethodResult", answer | {"exit_code": result.exit_code, "result": result.stack}

    async def _config_all(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        block = self._block(fields)
        header = block.header_proof(MASTERCHAIN).to_boc()
        return "configInfo", {
            "mode": 0, "id": block.master.to_tl(), "state_proof": header, "config_proof": block.config_proof(),
        }  # fmt: skip

    async def _send_message(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        try:
            await self._submit(fields["body"])
        except MessageRejected as error:
            code = "" if error.exit_code is None else f", exitcode={error.exit_code}"
            raise QueryError(0, f"cannot apply external message to current state : {error}{code}") from error
        return "sendMsgStatus", {"status": 1}

    async def _transactions(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        lt, wanted = fields["lt"] & (2**64 - 1), fields["hash"]
        history = self._ledger.transactions(f"0:{_account_key(fields):064x}")
        upto = [transaction for transaction in history if transaction.lt <= lt]
        if not upto or upto[-1].lt != lt or upto[-1].hash.hex() != wanted:
            raise QueryError(ERROR_NOT_READY, "transaction is not known or no longer kept")
        chosen = upto[::-1][: max(min(fields["count"], MAX_TRANSACTIONS), 1)]
        # Which block a transaction is in is not kept; clients check the chain of transaction hashes instead.
        ids = [self._chain.last.shard.to_tl()] * len(chosen)
        boc = to_boc([transaction.cell for transaction in chosen])
        return "transactionList", {"ids": ids, "transactions": boc}

    async def _lookup_block(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        mode, workchain = fields["mode"], fields["id"]["workchain"]

        def matches(block: SealedBlock) -> bool:
            if mode & 1:
                return bool(block.block(workchain)[0].seqno == fields["id"]["seqno"])
            return bool(block.lt >= fields["lt"] if mode & 2 else block.utime >= fields["utime"])

        return self._header(self._chain.find(matches, newest=False), workchain)

    async def _block_header(self, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return self._header(self._block(fields), fields["id"]["workchain"])

    def _header(self, block: SealedBlock | None, workchain: int) -> tuple[str, dict[str, Any]]:
        if block is None:
            raise QueryError(ERROR_NOT_READY, "block is not known or no longer kept")
        proof = block.header_proof(workchain).to_boc()
        return "blockHeader", {"id": block.block(workchain)[0].to_tl(), "mode": 0, "header_proof": proof}


_Handler = Callable[[LiteServer, dict[str, Any]], Awaitable[tuple[str, dict[str, Any]]]]

_HANDLERS: dict[str, _Handler] = {
    "getMasterchainInfo": LiteServer._masterchain_info,
    "getTime": LiteServer._time,
    "getVersion": LiteServer._version,
    "getAllShardsInfo": LiteServer._all_shards_info,
    "getAccountState": LiteServer._account_state,
    "runSmcMethod": LiteServer._run_method,
    "getConfigAll": LiteServer._config_all,
    "sendMessage": LiteServer._send_message,
    "getTransactions": LiteServer._transactions,
    "lookupBlock": LiteServer._lookup_block,
    "getBlockHeader": LiteServer._block_header,
}


def _account_key(fields: dict[str, Any]) -> int:
    if fields["account"]["workchain"] != 0:
        raise QueryError(ERROR_BAD_REQUEST, "the devnet keeps accounts in the basechain only")
    return int(fields["account"]["id"], 16)


def _state_in(block: SealedBlock, key: int) -> Any:
    """The account's root cell in this block's state, ``None`` when it is not there."""
    node = block.tree
    while node is not None and node.children is not None:
        node = node.children[(key >> (255 - node.fork)) & 1]
    return node.cell.refs[0] if node is not None and node.key == key else None


def _cell(boc: bytes) -> Any:
    try:
        return Cell.one_from_boc(boc)
    except Exception as error:  # pytoniq_core raises several unrelated types on bad input
        raise QueryError(ERROR_BAD_REQUEST, "not a bag of cells") from error


def _error(code: int, message: str) -> bytes:
    # pytoniq_core's serializer has no TL strings, so this one answer is put together by hand.
    text = message.encode()[:400]
    return constructor("liteServer.error") + struct.pack("<i", code) + tl_bytes(text)
