"""Blocks and states of the devnet: one masterchain, one basechain shard, sealed together (TL-B, block.tlb).

The cells have the structure that liteserver clients check: block headers, state updates, shard states with the
dictionary of accounts, the masterchain's shard hashes and configuration. Value flow and block extra are present as
empty cells, as no client of a liteserver reads them; validators' signatures do not exist, so trust level 0 has
nothing to check.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytoniq_core import begin_cell

from overlay.settlement.devnet import accounts
from overlay.settlement.devnet.accounts import label_bits, store_currency, store_depth_balance
from overlay.settlement.devnet.ledger import Ledger
from overlay.settlement.devnet.limits import MAX_BLOCKS_KEPT
from overlay.settlement.devnet.proofs import keep, merkle_proof, merkle_update, pruned, to_boc, with_refs

FULL_SHARD = 1 << 63
MASTERCHAIN = -1
BASECHAIN = 0

_EMPTY = begin_cell().end_cell()
_HEADER = {0: True, 2: True}
"""The parts of a block that its header proof shows: its info and the hashes of its state update."""


@dataclass(frozen=True)
class BlockId:
    """``tonNode.blockIdExt``."""

    workchain: int
    seqno: int
    root_hash: bytes
    file_hash: bytes
    end_lt: int

    def to_tl(self) -> dict[str, Any]:
        """The fields as pytoniq_core's TL serializer takes them."""
        return {
            "workchain": self.workchain, "shard": -FULL_SHARD, "seqno": self.seqno,
            "root_hash": self.root_hash.hex(), "file_hash": self.file_hash.hex(),
        }  # fmt: skip

    def store_ext_ref(self, builder: Any) -> Any:
        """``ExtBlkRef``."""
        builder.store_uint(self.end_lt, 64).store_uint(self.seqno, 32)
        return builder.store_bytes(self.root_hash).store_bytes(self.file_hash)


@dataclass(frozen=True)
class SealedBlock:
    """A masterchain block and the shard block that it commits to, with both states."""

    master: BlockId
    shard: BlockId
    master_block: Any
    shard_block: Any
    master_state: Any
    shard_state: Any
    shard_hashes: Any
    tree: accounts.Node | None
    utime: int
    lt: int

    def block(self, workchain: int) -> tuple[BlockId, Any]:
        """Id and root cell of the block in this workchain."""
        return (self.master, self.master_block) if workchain == MASTERCHAIN else (self.shard, self.shard_block)

    def header_proof(self, workchain: int) -> Any:
        """A Merkle proof of the block's header and state hashes."""
        return merkle_proof(keep(self.block(workchain)[1], _HEADER))

    def shard_proof(self) -> bytes:
        """That the masterchain block commits to the shard block: header proof, then state proof."""
        state = keep(self.master_state, {1: True, 2: True, 3: {0: True, 2: True}})
        return to_boc([self.header_proof(MASTERCHAIN), merkle_proof(state)])

    def config_proof(self) -> bytes:
        """The configuration inside the masterchain state."""
        state = keep(self.master_state, {2: True, 3: {0: True, 1: True, 2: True}})
        proof: bytes = merkle_proof(state).to_boc()
        return proof

    def account_proof(self, key: int) -> bytes:
        """That an account (its 256-bit address) is in the shard state, or that it is not."""
        dictionary = self.shard_state.refs[1]
        if self.tree is not None:
            dictionary = with_refs(dictionary, [accounts.prove(self.tree, key)])
        state = with_refs(self.shard_state, [pruned(self.shard_state.refs[0]), dictionary, self.shard_state.refs[2]])
        return to_boc([self.header_proof(BASECHAIN), merkle_proof(state)])


_NO_BLOCK = BlockId(MASTERCHAIN, 0, bytes(32), bytes(32), 0)


class Chain:
    """Seals blocks over a ledger and keeps the latest. ``config`` is the configuration dictionary's root cell."""

    def __init__(self, ledger: Ledger, config: Any, network_id: int) -> None:
        self._ledger = ledger
        self._config = config
        self._network_id = network_id
        self._tree: accounts.Node | None = None
        self._blocks: deque[SealedBlock] = deque(maxlen=MAX_BLOCKS_KEPT)
        self._seqno = 0
        self.seal()

    @property
    def last(self) -> SealedBlock:
        """The newest block."""
        return self._blocks[-1]

    @property
    def first(self) -> SealedBlock:
        """The oldest block that is kept."""
        return self._blocks[0]

    def find(self, matches: Callable[[SealedBlock], bool], *, newest: bool = True) -> SealedBlock | None:
        """The newest (or oldest) kept block that matches."""
        blocks = reversed(self._blocks) if newest else iter(self._blocks)
        return next((block for block in blocks if matches(block)), None)

    def seal(self) -> SealedBlock:
        """Seal what has changed in the ledger since the last block."""
        ledger = self._ledger
        self._seqno += 1
        self._update_accounts()
        before = self._blocks[-1] if self._blocks else None
        master_ref = before.master if before else _NO_BLOCK
        shard_state = self._shard_state(master_ref)
        shard_block = self._block(
            BASECHAIN,
            before.shard_state if before else _EMPTY,
            shard_state,
            before.shard if before else None,
            master_ref,
        )
        shard = self._identify(BASECHAIN, shard_block)
        shard_hashes = begin_cell().store_bit(1).store_ref(self._shard_descriptor(shard)).end_cell()
        master_state = self._master_state(shard_hashes)
        master_block = self._block(
            MASTERCHAIN,
            before.master_state if before else _EMPTY,
            master_state,
            before.master if before else None,
            None,
        )
        block = SealedBlock(
            master=self._identify(MASTERCHAIN, master_block), shard=shard, master_block=master_block,
            shard_block=shard_block, master_state=master_state, shard_state=shard_state, shard_hashes=shard_hashes,
            tree=self._tree, utime=ledger.now, lt=ledger.lt,
        )  # fmt: skip
        self._blocks.append(block)
        return block

    def _update_accounts(self) -> None:
        for address in self._ledger.changed:
            if not address.startswith("0:"):
                continue
            key = int(address[2:], 16)
            account = self._ledger.account(address)
            if account.exists:
                self._tree = accounts.put(self._tree, key, account.cell, account.balance_nanoton)
            else:
                self._tree = accounts.remove(self._tree, key)
        self._ledger.changed.clear()

    def _identify(self, workchain: int, block: Any) -> BlockId:
        file_hash = hashlib.sha256(block.to_boc()).digest()
        return BlockId(workchain, self._seqno, block.hash, file_hash, self._ledger.lt)

    def _shard_ident(self, builder: Any, workchain: int) -> Any:
        """``shard_ident$00`` with an empty prefix: the whole workchain."""
        return builder.store_uint(0, 8).store_int(workchain, 32).store_uint(0, 64)

    def _state(self, workchain: int, dictionary: Any, total: int, custom: Any, master: BlockId | None) -> Any:
        """``shard_state#9023afe2``."""
        rest = begin_cell().store_uint(0, 128)  # overload and underload history
        store_currency(store_currency(rest, total), 0).store_bit(0)  # total balance, validator fees, libraries
        if master is None:
            rest.store_bit(0)
        else:
            master.store_ext_ref(rest.store_bit(1))
        state = begin_cell().store_uint(0x9023AFE2, 32).store_int(self._network_id, 32)
        self._shard_ident(state, workchain).store_uint(self._seqno, 32).store_uint(0, 32)
        state.store_uint(self._ledger.now, 32).store_uint(self._ledger.lt, 64).store_uint(self._seqno, 32)
        state.store_ref(_EMPTY).store_bit(0).store_ref(dictionary).store_ref(rest.end_cell())
        state.store_bit(0 if custom is None else 1)
        if custom is not None:
            state.store_ref(custom)
        return state.end_cell()

    def _shard_state(self, master: BlockId) -> Any:
        tree = self._tree
        total = tree.balance_nanoton if tree else 0
        builder = begin_cell().store_bit(1 if tree else 0)
        if tree:
            builder.store_ref(tree.cell)
        return self._state(BASECHAIN, store_depth_balance(builder, total).end_cell(), total, None, master)

    def _master_state(self, shard_hashes: Any) -> Any:
        """The masterchain has no accounts here: only ``masterchain_state_extra#cc26``."""
        tail = begin_cell().store_uint(0, 16).store_uint(0, 64).store_bit(0).store_bit(0).store_uint(0, 65)
        tail.store_bit(0).store_bit(0)
        extra = begin_cell().store_uint(0xCC26, 16).store_bit(1).store_ref(shard_hashes.refs[0])
        extra.store_bytes(b"\x55" * 32).store_ref(self._config).store_ref(tail.end_cell())
        nobody = store_depth_balance(begin_cell().store_bit(0), 0).end_cell()
        return self._state(MASTERCHAIN, nobody, 0, store_currency(extra, 0).end_cell(), None)

    def _shard_descriptor(self, shard: BlockId) -> Any:
        """The one leaf of ``ShardHashes``: a dictionary of workchains holding a tree with one ``shard_descr#b``."""
        ledger = self._ledger
        descriptor = begin_cell().store_bit(0).store_uint(0xB, 4)  # bt_leaf$0
        descriptor.store_uint(shard.seqno, 32).store_uint(self._seqno, 32)
        descriptor.store_uint(max(ledger.lt - 1, 0), 64).store_uint(ledger.lt, 64)
        descriptor.store_bytes(shard.root_hash).store_bytes(shard.file_hash).store_uint(0, 8).store_uint(0, 32)
        descriptor.store_uint(FULL_SHARD, 64).store_uint(self._seqno, 32).store_uint(ledger.now, 32).store_bit(0)
        store_currency(store_currency(descriptor, 0), 0)
        leaf = begin_cell().store_bits(label_bits("0" * 32, 32))
        return leaf.store_ref(descriptor.end_cell()).end_cell()

    def _block(self, workchain: int, old: Any, new: Any, previous: BlockId | None, master: BlockId | None) -> Any:
        """``block#11ef55aa`` with ``block_info#9bc7a987``."""
        ledger = self._ledger
        info = begin_cell().store_uint(0x9BC7A987, 32).store_uint(0, 32)
        info.store_bit(0 if workchain == MASTERCHAIN else 1).store_uint(0, 15)  # not_master, then flags all clear
        info.store_uint(self._seqno, 32).store_uint(0, 32)
        self._shard_ident(info, workchain).store_uint(ledger.now, 32)
        info.store_uint(max(ledger.lt - 1, 0), 64).store_uint(ledger.lt, 64).store_uint(0, 64)
        info.store_uint(max(self._seqno - 1, 0), 32).store_uint(0, 32)
        if master is not None:
            info.store_ref(master.store_ext_ref(begin_cell()).end_cell())
        info.store_ref((previous or _NO_BLOCK).store_ext_ref(begin_cell()).end_cell())
        value_flow = begin_cell().store_uint(0, 8).end_cell()
        extra = begin_cell().store_uint(0, 32).end_cell()
        block = begin_cell().store_uint(0x11EF55AA, 32).store_int(self._network_id, 32).store_ref(info.end_cell())
        return block.store_ref(value_flow).store_ref(merkle_update(old, new)).store_ref(extra).end_cell()
