"""Blocks and states of the devnet as cells (TL-B block.tlb): one masterchain, one basechain shard, sealed together.

Pure: everything that a block says is an argument. The cells have the structure that clients of a liteserver read:
headers, state updates, value flow, account blocks with their transactions, shard states with the dictionary of
accounts, the masterchain's shard hashes, configuration and earlier blocks. Message descriptions (``InMsgDescr``,
``OutMsgDescr``) and the queue of outbound messages are empty: no liteserver client reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytoniq_core import begin_cell

from overlay.settlement.devnet import hashmap
from overlay.settlement.devnet.accounts import ACCOUNTS, key_of, state_in, store_currency
from overlay.settlement.devnet.hashmap import Node, Shape, label_bits
from overlay.settlement.devnet.proofs import keep, merkle_proof, merkle_update, to_boc
from overlay.settlement.transactions import AccountTransaction

FULL_SHARD = 1 << 63
MASTERCHAIN = -1
BASECHAIN = 0

_EMPTY = begin_cell().end_cell()
_NOBODY_HASH: bytes = begin_cell().store_bit(0).end_cell().hash
"""The hash of ``account_none$0``."""


@dataclass(frozen=True)
class BlockId:
    """``tonNode.blockIdExt``, with the block's last logical time."""

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


NO_BLOCK = BlockId(MASTERCHAIN, 0, bytes(32), bytes(32), 0)


@dataclass
class Work:
    """What has happened since the last block. Amounts in nanoTON.

    ``touched`` has, for each account that changed, the hash of its ``Account`` cell before. ``imported`` and
    ``exported`` are what messages carried that came from earlier blocks, or wait for later ones.
    """

    transactions: list[AccountTransaction] = field(default_factory=list)
    touched: dict[str, bytes] = field(default_factory=dict)
    fees_nanoton: int = 0
    imported_nanoton: int = 0
    exported_nanoton: int = 0
    minted_nanoton: int = 0


@dataclass(frozen=True)
class States:
    """Both states after a block, and the dictionaries in them."""

    master: Any
    shard: Any
    accounts: Node | None
    earlier_blocks: Node | None


@dataclass(frozen=True)
class SealedBlock:
    """A masterchain block and the shard block that it commits to. ``states`` is ``None`` where they are not kept.

    ``epoch`` names the validators that sign it, ``last_key`` the key block before it (``None`` for the first block).
    """

    master: BlockId
    shard: BlockId
    master_block: Any
    shard_block: Any
    utime: int
    start_lt: int
    is_key: bool
    epoch: int
    last_key: BlockId | None
    key_link: bytes
    """A bag with the proof of the masterchain state's tail, where the last key block stands: for links backwards."""
    states: States | None = None

    @property
    def seqno(self) -> int:
        """The number of both blocks."""
        return self.master.seqno

    @property
    def end_lt(self) -> int:
        """The last logical time of both blocks."""
        return self.master.end_lt

    def block(self, workchain: int) -> tuple[BlockId, Any]:
        """Id and root cell of the block in this workchain."""
        return (self.master, self.master_block) if workchain == MASTERCHAIN else (self.shard, self.shard_block)

    @property
    def config(self) -> Any:
        """The configuration dictionary that a key block announces."""
        return self.master_block.refs[3].refs[3].refs[2]


@dataclass(frozen=True)
class Header:
    """What both blocks of a pair have in common, but for their place in the chain."""

    network_id: int
    seqno: int
    utime: int
    start_lt: int
    end_lt: int
    epoch: int
    is_key: bool


# ---- dictionaries ----


def _fees(builder: Any, nanoton: int) -> Any:
    return store_currency(builder, nanoton)


def _add(left: int, right: int) -> int:
    return left + right


_TRANSACTIONS = Shape(64, _fees, _add)
"""``HashmapAug 64 ^Transaction CurrencyCollection``: by logical time, with their fees."""

_ACCOUNT_BLOCKS = Shape(256, _fees, _add)
"""``HashmapAugE 256 AccountBlock CurrencyCollection``."""


def _store_key_max_lt(builder: Any, extra: tuple[bool, int]) -> Any:
    return builder.store_bit(int(extra[0])).store_uint(extra[1], 64)


def _latest(left: tuple[bool, int], right: tuple[bool, int]) -> tuple[bool, int]:
    return left[0] or right[0], max(left[1], right[1])


EARLIER_BLOCKS = Shape(32, _store_key_max_lt, _latest)
"""``OldMcBlocksInfo``: ``HashmapAugE 32 KeyExtBlkRef KeyMaxLt``, by number."""


def earlier_block(block: BlockId, is_key: bool) -> tuple[Any, tuple[bool, int]]:
    """``KeyExtBlkRef`` and ``KeyMaxLt`` of a masterchain block."""
    return block.store_ext_ref(begin_cell().store_bit(int(is_key))).end_cell(), (is_key, block.end_lt)


def account_blocks(work: Work, after: Mapping[str, bytes]) -> Node | None:
    """The transactions of a block by account. ``after`` has each account's hash at the end of the block."""
    by_account: dict[str, list[AccountTransaction]] = {}
    for transaction in work.transactions:
        by_account.setdefault(transaction.account, []).append(transaction)
    items = []
    for address in sorted(by_account):
        listed = [
            (each.lt, begin_cell().store_ref(each.cell).end_cell(), each.fee_nanoton) for each in by_account[address]
        ]
        tree = hashmap.build(_TRANSACTIONS, listed)
        assert tree is not None
        update = begin_cell().store_uint(0x72, 8).store_bytes(work.touched[address]).store_bytes(after[address])
        block = begin_cell().store_uint(5, 4).store_bytes(bytes.fromhex(address[2:])).store_cell(tree.cell)
        items.append((key_of(address), block.store_ref(update.end_cell()).end_cell(), tree.extra))
    return hashmap.build(_ACCOUNT_BLOCKS, items)


# ---- blocks ----


def make_block(
    previous: SealedBlock | None,
    header: Header,
    *,
    accounts: Node | None,
    earlier: Node | None,
    work: Work,
    config: Any,
) -> SealedBlock:
    """The pair of blocks that leads from ``previous`` to the state with these accounts.

    ``earlier`` is the dictionary of masterchain blocks before it, ``config`` the root cell of the configuration
    dictionary in force after it; a key block announces it.
    """
    shard_state = _shard_state(header, accounts, previous.master if previous else NO_BLOCK)
    shard_cell = _shard_block(previous, header, work, accounts, shard_state)
    shard = _identify(BASECHAIN, header, shard_cell)
    shard_hashes = _shard_hashes(header, shard, work.fees_nanoton)
    last_key = _last_key(previous)
    master_state = _master_state(header, shard_hashes, config, earlier, last_key)
    extra = _master_extra(header, shard_hashes, config)
    old = previous.states.master if previous and previous.states else _EMPTY
    master_cell = _block(
        MASTERCHAIN, header, previous.master if previous else None, None, _value_flow(0, 0, Work()),
        merkle_update(old, master_state), _extra(None, extra), last_key,
    )  # fmt: skip
    return SealedBlock(
        master=_identify(MASTERCHAIN, header, master_cell), shard=shard, master_block=master_cell,
        shard_block=shard_cell, utime=header.utime, start_lt=header.start_lt, is_key=header.is_key,
        epoch=header.epoch, last_key=last_key, key_link=_key_link(master_state),
        states=States(master_state, shard_state, accounts, earlier),
    )  # fmt: skip


def _shard_block(previous: SealedBlock | None, header: Header, work: Work, tree: Node | None, new: Any) -> Any:
    states = previous.states if previous else None
    before = states.accounts if states else None
    after = {
        address: _NOBODY_HASH if state is None else state.hash
        for address in work.touched
        for state in [state_in(tree, key_of(address))]
    }
    flow = _value_flow(before.extra if before else 0, tree.extra if tree else 0, work)
    return _block(
        BASECHAIN, header, previous.shard if previous else None, previous.master if previous else NO_BLOCK, flow,
        merkle_update(states.shard if states else _EMPTY, new), _extra(account_blocks(work, after), None),
        _last_key(previous),
    )  # fmt: skip


def remake_states(
    block: SealedBlock,
    header: Header,
    *,
    before: BlockId,
    accounts: Node | None,
    earlier: Node | None,
    config: Any,
) -> States:
    """The states after a block that was read back, from what they were made of; ``before`` is the block before it.

    Raises ``ValueError`` when they are not the states that the block commits to.
    """
    shard = _shard_state(header, accounts, before)
    shard_hashes = block.master_block.refs[3].refs[3].refs[0]
    master = _master_state(header, shard_hashes, config, earlier, block.last_key)
    for state, cell in ((shard, block.shard_block), (master, block.master_block)):
        if cell.refs[2].refs[1].get_hash(0) != state.hash:
            raise ValueError(f"block {block.seqno} commits to another state")
    return States(master, shard, accounts, earlier)


def _last_key(previous: SealedBlock | None) -> BlockId | None:
    return None if previous is None else previous.master if previous.is_key else previous.last_key


def _key_link(master_state: Any) -> bytes:
    """A proof of where the state names the last key block."""
    return to_boc([merkle_proof(keep(master_state, {2: True, 3: {0: True, 2: {}}}))])


def _identify(workchain: int, header: Header, block: Any) -> BlockId:
    return BlockId(workchain, header.seqno, block.hash, hashlib.sha256(to_boc([block])).digest(), header.end_lt)


def _shard_ident(builder: Any, workchain: int) -> Any:
    """``shard_ident$00`` with an empty prefix: the whole workchain."""
    return builder.store_uint(0, 8).store_int(workchain, 32).store_uint(0, 64)


def _block(
    workchain: int,
    header: Header,
    previous: BlockId | None,
    master: BlockId | None,
    value_flow: Any,
    state_update: Any,
    extra: Any,
    last_key: BlockId | None,
) -> Any:
    """``block#11ef55aa`` with ``block_info#9bc7a987``."""
    is_key = header.is_key and workchain == MASTERCHAIN
    info = begin_cell().store_uint(0x9BC7A987, 32).store_uint(0, 32)
    info.store_bit(0 if workchain == MASTERCHAIN else 1).store_uint(0, 5)  # not_master; nothing splits or merges
    info.store_bit(int(is_key)).store_uint(0, 9)
    info.store_uint(header.seqno, 32).store_uint(0, 32)
    _shard_ident(info, workchain).store_uint(header.utime, 32)
    info.store_uint(header.start_lt, 64).store_uint(header.end_lt, 64)
    info.store_uint(0, 32).store_uint(header.epoch, 32)  # validators' list hash, catchain number
    info.store_uint(max(header.seqno - 1, 0), 32).store_uint(last_key.seqno if last_key else 0, 32)
    if master is not None:
        info.store_ref(master.store_ext_ref(begin_cell()).end_cell())
    info.store_ref((previous or NO_BLOCK).store_ext_ref(begin_cell()).end_cell())
    block = begin_cell().store_uint(0x11EF55AA, 32).store_int(header.network_id, 32).store_ref(info.end_cell())
    return block.store_ref(value_flow).store_ref(state_update).store_ref(extra).end_cell()


def _value_flow(before: int, after: int, work: Work) -> Any:
    """``value_flow#b8e48dfb``: before + imported + minted = after + exported + fees."""
    moved = begin_cell()
    for amount in (before, after, work.imported_nanoton, work.exported_nanoton):
        store_currency(moved, amount)
    made = begin_cell()
    for amount in (0, 0, 0, work.minted_nanoton):  # fees imported, recovered, created, minted
        store_currency(made, amount)
    flow = begin_cell().store_uint(0xB8E48DFB, 32).store_ref(moved.end_cell())
    return store_currency(flow, work.fees_nanoton).store_ref(made.end_cell()).end_cell()


def _extra(transactions: Node | None, custom: Any) -> Any:
    """``block_extra#4a33f6fd``; ``custom`` is the masterchain's ``McBlockExtra``."""
    no_imports = begin_cell().store_bit(0).store_coins(0)
    extra = begin_cell().store_uint(0x4A33F6FD, 32).store_ref(store_currency(no_imports, 0).end_cell())
    extra.store_ref(store_currency(begin_cell().store_bit(0), 0).end_cell())
    extra.store_ref(hashmap.store(_ACCOUNT_BLOCKS, begin_cell(), transactions, 0).end_cell())
    extra.store_uint(0, 512)  # random seed and creator
    extra.store_bit(0 if custom is None else 1)
    if custom is not None:
        extra.store_ref(custom)
    return extra.end_cell()


def _master_extra(header: Header, shard_hashes: Any, config: Any) -> Any:
    """``masterchain_block_extra#cca5``."""
    extra = begin_cell().store_uint(0xCCA5, 16).store_bit(int(header.is_key)).store_bit(1).store_ref(shard_hashes)
    store_currency(store_currency(extra.store_bit(0), 0), 0)  # no shard fees: collected and created
    extra.store_ref(begin_cell().store_uint(0, 3).end_cell())  # no signatures, no recovery, no minting messages
    if header.is_key:
        extra.store_bytes(CONFIG_ADDRESS).store_ref(config)
    return extra.end_cell()


CONFIG_ADDRESS = b"\x55" * 32
"""Where mainnet keeps its configuration contract; the devnet has none and changes its configuration by decree."""


# ---- states ----


def _state(workchain: int, header: Header, dictionary: Any, total: int, custom: Any, master: BlockId | None) -> Any:
    """``shard_state#9023afe2``."""
    rest = begin_cell().store_uint(0, 128)  # overload and underload history
    store_currency(store_currency(rest, total), 0).store_bit(0)  # total balance, validator fees, libraries
    if master is None:
        rest.store_bit(0)
    else:
        master.store_ext_ref(rest.store_bit(1))
    state = begin_cell().store_uint(0x9023AFE2, 32).store_int(header.network_id, 32)
    _shard_ident(state, workchain).store_uint(header.seqno, 32).store_uint(0, 32)
    state.store_uint(header.utime, 32).store_uint(header.end_lt, 64).store_uint(header.seqno, 32)
    state.store_ref(_EMPTY).store_bit(0).store_ref(dictionary).store_ref(rest.end_cell())
    state.store_bit(0 if custom is None else 1)
    if custom is not None:
        state.store_ref(custom)
    return state.end_cell()


def _shard_state(header: Header, accounts: Node | None, master: BlockId) -> Any:
    total = accounts.extra if accounts else 0
    dictionary = hashmap.store(ACCOUNTS, begin_cell(), accounts, 0).end_cell()
    return _state(BASECHAIN, header, dictionary, total, None, master)


def _master_state(
    header: Header, shard_hashes: Any, config: Any, earlier: Node | None, last_key: BlockId | None
) -> Any:
    """The masterchain has no accounts here: only ``masterchain_state_extra#cc26``."""
    tail = begin_cell().store_uint(0, 16).store_uint(0, 32).store_uint(header.epoch, 32).store_bit(0)
    hashmap.store(EARLIER_BLOCKS, tail, earlier, (False, 0)).store_bit(int(header.is_key))
    tail.store_bit(0 if last_key is None else 1)
    if last_key is not None:
        last_key.store_ext_ref(tail)
    extra = begin_cell().store_uint(0xCC26, 16).store_bit(1).store_ref(shard_hashes)
    extra.store_bytes(CONFIG_ADDRESS).store_ref(config).store_ref(tail.end_cell())
    nobody = hashmap.store(ACCOUNTS, begin_cell(), None, 0).end_cell()
    return _state(MASTERCHAIN, header, nobody, 0, store_currency(extra, 0).end_cell(), None)


def _shard_hashes(header: Header, shard: BlockId, fees_nanoton: int) -> Any:
    """The dictionary of ``ShardHashes``: one workchain, whose tree has one leaf ``shard_descr#b``."""
    descriptor = begin_cell().store_bit(0).store_uint(0xB, 4)  # bt_leaf$0
    descriptor.store_uint(shard.seqno, 32).store_uint(header.seqno, 32)
    descriptor.store_uint(header.start_lt, 64).store_uint(header.end_lt, 64)
    descriptor.store_bytes(shard.root_hash).store_bytes(shard.file_hash).store_uint(0, 8).store_uint(header.epoch, 32)
    descriptor.store_uint(FULL_SHARD, 64).store_uint(header.seqno, 32).store_uint(header.utime, 32).store_bit(0)
    store_currency(store_currency(descriptor, fees_nanoton), 0)
    leaf = begin_cell().store_bits(label_bits("0" * 32, 32))
    return leaf.store_ref(descriptor.end_cell()).end_cell()
