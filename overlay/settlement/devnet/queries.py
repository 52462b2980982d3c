"""The liteserver's answers: ``liteServer.*`` of TON's lite_api.tl, over the devnet's chain.

Each answer carries the proofs that a client checks. What a client asks about a block that is no longer kept, or
malformed, gets ``liteServer.error`` with the codes that real servers use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pytoniq_core import Account, Cell, begin_cell

from overlay.settlement.devnet import accounts, block_proofs
from overlay.settlement.devnet.block_proofs import header_proof, shard_proof
from overlay.settlement.devnet.blocks import BASECHAIN, MASTERCHAIN, SealedBlock
from overlay.settlement.devnet.chain import Chain
from overlay.settlement.devnet.ledger import Ledger
from overlay.settlement.devnet.limits import MAX_CELL_DEPTH, MAX_TRANSACTIONS_LISTED
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.devnet.store import Store, TransactionRow
from overlay.settlement.devnet.tvm import MessageRejected, Tvm

ERROR_BAD_REQUEST = 621
ERROR_NOT_READY = 651
ERROR_TIMEOUT = 652
VERSION = 0x101
CAPABILITIES = 7
MAX_TRANSACTIONS = 16

_ZERO_STATE = {"workchain": -1, "root_hash": "00" * 32, "file_hash": "00" * 32}

Answer = tuple[str, dict[str, Any]]
"""The constructor's name without ``liteServer.``, and its fields."""


class QueryError(Exception):
    """Becomes ``liteServer.error``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Queries:
    """Honest answers. ``submit`` takes an external message; :meth:`newest` and :meth:`find` are where liars differ."""

    def __init__(
        self, ledger: Ledger, chain: Chain, store: Store, tvm: Tvm, submit: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._ledger = ledger
        self.chain = chain
        self._store = store
        self._tvm = tvm
        self._submit = submit

    def newest(self) -> SealedBlock:
        """The block that this server calls the newest."""
        return self.chain.last

    def find(self, workchain: int, root_hash: bytes) -> SealedBlock | None:
        """A block by its root hash."""
        return self.chain.by_root(workchain, root_hash)

    def block(self, block_id: dict[str, Any]) -> SealedBlock:
        """The block of a ``tonNode.blockIdExt``. Raises :class:`QueryError`."""
        workchain = block_id["workchain"]
        if workchain not in (MASTERCHAIN, BASECHAIN):
            raise QueryError(ERROR_BAD_REQUEST, "the devnet has the masterchain and one basechain shard")
        return _known(self.find(workchain, bytes.fromhex(block_id["root_hash"])))

    def _master(self, fields: dict[str, Any]) -> SealedBlock:
        if fields["id"]["workchain"] != MASTERCHAIN:
            raise QueryError(ERROR_BAD_REQUEST, "this is asked about a masterchain block")
        return self.block(fields["id"])

    # ---- the chain ----

    async def masterchain_info(self, fields: dict[str, Any]) -> Answer:
        """``getMasterchainInfo`` and ``getMasterchainInfoExt``."""
        last = self.newest()
        assert last.states is not None
        info = {"last": last.master.to_tl(), "state_root_hash": last.states.master.hash.hex(), "init": _ZERO_STATE}
        if "mode" not in fields:
            return "masterchainInfo", info
        return "masterchainInfoExt", info | {
            "mode": 0, "version": VERSION, "capabilities": CAPABILITIES, "last_utime": last.utime,
            "now": self._ledger.now,
        }  # fmt: skip

    async def time(self, _: dict[str, Any]) -> Answer:
        """``getTime``."""
        return "currentTime", {"now": self._ledger.now}

    async def version(self, _: dict[str, Any]) -> Answer:
        """``getVersion``."""
        return "version", {"mode": 0, "version": VERSION, "capabilities": CAPABILITIES, "now": self._ledger.now}

    async def block_data(self, fields: dict[str, Any]) -> Answer:
        """``getBlock``."""
        block_id, cell = self.block(fields["id"]).block(fields["id"]["workchain"])
        return "blockData", {"id": block_id.to_tl(), "data": to_boc([cell])}

    async def block_header(self, fields: dict[str, Any]) -> Answer:
        """``getBlockHeader``."""
        return _header(self.block(fields["id"]), fields["id"]["workchain"])

    async def lookup_block(self, fields: dict[str, Any]) -> Answer:
        """``lookupBlock``: by number, or the first block that ends at a logical time, or has a Unix time, or later."""
        mode, workchain = fields["mode"], fields["id"]["workchain"]
        if workchain not in (MASTERCHAIN, BASECHAIN):
            raise QueryError(ERROR_BAD_REQUEST, "the devnet has the masterchain and one basechain shard")
        if mode & 1:
            found = self.chain.at(fields["id"]["seqno"])
        elif mode & 2:
            found = self.chain.at_lt(fields["lt"])
        elif mode & 4:
            found = self.chain.at_utime(fields["utime"])
        else:
            raise QueryError(ERROR_BAD_REQUEST, "a block is looked up by number, logical time or Unix time")
        return _header(_known(found), workchain)

    async def all_shards_info(self, fields: dict[str, Any]) -> Answer:
        """``getAllShardsInfo``."""
        block = self._master(fields)
        shards = block.master_block.refs[3].refs[3].refs[0]
        proof = shard_proof(block) if block.states else to_boc([block_proofs.shard_description(block)])
        return "allShardsInfo", {"id": block.master.to_tl(), "proof": proof, "data": _some(shards)}

    async def shard_info(self, fields: dict[str, Any]) -> Answer:
        """``getShardInfo``: there is one shard."""
        block = self._master(fields)
        if fields["workchain"] != BASECHAIN:
            raise QueryError(ERROR_NOT_READY, "the devnet has one shard, in the basechain")
        descriptor = block.master_block.refs[3].refs[3].refs[0].refs[0]
        return "shardInfo", {
            "id": block.master.to_tl(), "shardblk": block.shard.to_tl(), "shard_proof": shard_proof(block),
            "shard_descr": descriptor.to_boc(),
        }  # fmt: skip

    async def shard_block_proof(self, fields: dict[str, Any]) -> Answer:
        """``getShardBlockProof``: each shard block is in the masterchain block sealed with it."""
        block = self.block(fields["id"])
        link = {"id": block.shard.to_tl(), "proof": to_boc([block_proofs.shard_description(block)])}
        return "shardBlockProof", {"masterchain_id": block.master.to_tl(), "links": [link]}

    async def block_proof(self, fields: dict[str, Any]) -> Answer:
        """``getBlockProof``: links from a known masterchain block to another, or to the newest."""
        known = self._master({"id": fields["known_block"]})
        target = self._master({"id": fields["target_block"]}) if fields["mode"] & 1 else self.newest()
        reached, steps = self.links(known, target)
        return "partialBlockProof", {
            "complete": reached.seqno == target.seqno, "from": known.master.to_tl(), "to": reached.master.to_tl(),
            "steps": steps,
        }  # fmt: skip

    def links(self, known: SealedBlock, target: SealedBlock) -> tuple[SealedBlock, list[dict[str, Any]]]:
        """The way from one masterchain block to another."""
        return block_proofs.block_links(self.chain, known, target)

    async def config_all(self, fields: dict[str, Any]) -> Answer:
        """``getConfigAll`` and ``getConfigParams``: the whole configuration either way."""
        block = self._master(fields)
        return "configInfo", {
            "mode": 0, "id": block.master.to_tl(), "state_proof": to_boc([header_proof(block, MASTERCHAIN)]),
            "config_proof": to_boc([block_proofs.config_proof(block)]),
        }  # fmt: skip

    async def libraries(self, _: dict[str, Any]) -> Answer:
        """``getLibraries``: the devnet has none."""
        return "libraryResult", {"result": []}

    # ---- accounts and transactions ----

    async def account_state(self, fields: dict[str, Any]) -> Answer:
        """``getAccountState``."""
        block, key = self._master(fields), _account_key(fields)
        state = _state_in(block, key)
        return "accountState", {
            "id": block.master.to_tl(), "shardblk": block.shard.to_tl(), "shard_proof": shard_proof(block),
            "proof": block_proofs.account_proof(block, key), "state": b"" if state is None else to_boc([state]),
        }  # fmt: skip

    async def run_method(self, fields: dict[str, Any]) -> Answer:
        """``runSmcMethod``."""
        block, key = self._master(fields), _account_key(fields)
        state = _state_in(block, key)
        answer = {
            "mode": fields["mode"] & 7, "id": block.master.to_tl(), "shardblk": block.shard.to_tl(),
            "shard_proof": shard_proof(block), "proof": block_proofs.account_proof(block, key), "state_proof": b"",
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

    async def send_message(self, fields: dict[str, Any]) -> Answer:
        """``sendMessage``."""
        try:
            await self._submit(fields["body"])
        except MessageRejected as error:
            code = "" if error.exit_code is None else f", exitcode={error.exit_code}"
            raise QueryError(0, f"cannot apply external message to current state : {error}{code}") from error
        return "sendMsgStatus", {"status": 1}

    async def transactions(self, fields: dict[str, Any]) -> Answer:
        """``getTransactions``: from the one named backwards."""
        lt, wanted = fields["lt"] & (2**64 - 1), bytes.fromhex(fields["hash"])
        count = max(min(fields["count"], MAX_TRANSACTIONS), 1)
        rows = self._store.transactions(f"0:{_account_key(fields):064x}", upto_lt=lt, limit=count)
        if not rows or rows[0].lt != lt or rows[0].hash != wanted:
            raise QueryError(ERROR_NOT_READY, "transaction is not known or no longer kept")
        ids = [_known(self.chain.at(row.seqno)).shard.to_tl() for row in rows]
        return "transactionList", {"ids": ids, "transactions": to_boc([self._ledger.parsed(row).cell for row in rows])}

    async def one_transaction(self, fields: dict[str, Any]) -> Answer:
        """``getOneTransaction``, in a shard block; nothing in the answer where there is none."""
        block, key, lt = self.block(fields["id"]), _account_key(fields), fields["lt"] & (2**64 - 1)
        workchain = fields["id"]["workchain"]
        rows = self._store.transactions(f"0:{key:064x}", upto_lt=lt, limit=1)
        found = workchain == BASECHAIN and bool(rows) and rows[0].lt == lt and rows[0].seqno == block.seqno
        return "transactionInfo", {
            "id": block.block(workchain)[0].to_tl(),
            "proof": to_boc([block_proofs.transactions_proof(block, workchain, key)]),
            "transaction": rows[0].boc if found else b"",
        }

    async def list_transactions(self, fields: dict[str, Any]) -> Answer:
        """``listBlockTransactions``."""
        block, rows, incomplete = self._listed(fields)
        ids = [
            {"mode": 7, "account": row.account[2:], "lt": row.lt, "hash": row.hash.hex()} for row in rows
        ]  # fmt: skip
        return "blockTransactions", self._list_answer(fields, block, incomplete) | {"ids": ids}

    async def list_transactions_ext(self, fields: dict[str, Any]) -> Answer:
        """``listBlockTransactionsExt``: with the transactions themselves."""
        block, rows, incomplete = self._listed(fields)
        cells = [self._ledger.parsed(row).cell for row in rows]
        return "blockTransactionsExt", self._list_answer(fields, block, incomplete) | {
            "transactions": to_boc(cells) if cells else b""
        }

    def _listed(self, fields: dict[str, Any]) -> tuple[SealedBlock, list[TransactionRow], bool]:
        block, mode = self.block(fields["id"]), fields["mode"]
        count = max(min(fields["count"], MAX_TRANSACTIONS_LISTED), 1)
        after = None
        if mode & 128:
            after = (f"0:{fields['after']['account']}", fields["after"]["lt"])
        rows = []
        if fields["id"]["workchain"] == BASECHAIN:
            rows = self._store.block_transactions(block.seqno, after=after, limit=count + 1, reverse=bool(mode & 64))
        return block, rows[:count], len(rows) > count

    def _list_answer(self, fields: dict[str, Any], block: SealedBlock, incomplete: bool) -> dict[str, Any]:
        workchain = fields["id"]["workchain"]
        proof = b""
        if fields["mode"] & 32:
            proof = to_boc([block_proofs.transactions_proof(block, workchain, None)])
        block_id = block.block(workchain)[0].to_tl()
        return {"id": block_id, "req_count": fields["count"], "incomplete": incomplete, "proof": proof}


Handler = Callable[[Queries, dict[str, Any]], Awaitable[Answer]]

HANDLERS: dict[str, Handler] = {
    "getMasterchainInfo": Queries.masterchain_info,
    "getMasterchainInfoExt": Queries.masterchain_info,
    "getTime": Queries.time,
    "getVersion": Queries.version,
    "getBlock": Queries.block_data,
    "getBlockHeader": Queries.block_header,
    "lookupBlock": Queries.lookup_block,
    "getAllShardsInfo": Queries.all_shards_info,
    "getShardInfo": Queries.shard_info,
    "getShardBlockProof": Queries.shard_block_proof,
    "getBlockProof": Queries.block_proof,
    "getConfigAll": Queries.config_all,
    "getConfigParams": Queries.config_all,
    "getLibraries": Queries.libraries,
    "getAccountState": Queries.account_state,
    "runSmcMethod": Queries.run_method,
    "sendMessage": Queries.send_message,
    "getTransactions": Queries.transactions,
    "getOneTransaction": Queries.one_transaction,
    "listBlockTransactions": Queries.list_transactions,
    "listBlockTransactionsExt": Queries.list_transactions_ext,
}
"""What this server answers, by the name of the request."""


def _known(block: SealedBlock | None) -> SealedBlock:
    if block is None:
        raise QueryError(ERROR_NOT_READY, "block is not known or no longer kept")
    return block


def _header(block: SealedBlock, workchain: int) -> Answer:
    proof = to_boc([header_proof(block, workchain)])
    return "blockHeader", {"id": block.block(workchain)[0].to_tl(), "mode": 0, "header_proof": proof}


def _some(dictionary: Any) -> bytes:
    """A ``HashmapE`` that is not empty, as a bag of cells."""
    return to_boc([begin_cell().store_bit(1).store_ref(dictionary).end_cell()])


def _account_key(fields: dict[str, Any]) -> int:
    if fields["account"]["workchain"] != 0:
        raise QueryError(ERROR_BAD_REQUEST, "the devnet keeps accounts in the basechain only")
    return int(fields["account"]["id"], 16)


def _state_in(block: SealedBlock, key: int) -> Any:
    if block.states is None:
        raise block_proofs.StateNotKept
    return accounts.state_in(block.states.accounts, key)


def _cell(boc: bytes) -> Any:
    try:
        cell = Cell.one_from_boc(boc)
    except Exception as error:  # pytoniq_core raises several unrelated types on bad input
        raise QueryError(ERROR_BAD_REQUEST, "not a bag of cells") from error
    if cell.get_depth(0) > MAX_CELL_DEPTH:
        raise QueryError(ERROR_BAD_REQUEST, f"cells deeper than {MAX_CELL_DEPTH}")
    return cell
