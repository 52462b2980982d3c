"""The devnet's chain: seals blocks over the ledger, writes each down with all that it changes, finds old ones."""

from __future__ import annotations

import base64
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytoniq_core import Cell

from overlay.settlement.devnet import accounts, hashmap
from overlay.settlement.devnet.blocks import (
    BASECHAIN,
    EARLIER_BLOCKS,
    MASTERCHAIN,
    NO_BLOCK,
    BlockId,
    Header,
    SealedBlock,
    earlier_block,
    make_block,
    remake_states,
)
from overlay.settlement.devnet.hashmap import Node
from overlay.settlement.devnet.ledger import Ledger, Sealing
from overlay.settlement.devnet.limits import LT_STEP, MAX_BLOCKS_KEPT, MAX_BLOCKS_PARSED, MAX_STATES_KEPT
from overlay.settlement.devnet.proofs import to_boc
from overlay.settlement.devnet.store import BlockRow, Commit, Progress, Store, TransactionRow
from overlay.settlement.devnet.validators import ValidatorSet
from overlay.settlement.errors import DevnetError


class Chain:
    """Blocks over a ledger. ``config_of`` makes the configuration dictionary that puts a validator set in office."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        *,
        network_id: int,
        validator_seed: bytes,
        config_of: Callable[[ValidatorSet], Any],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._network_id = network_id
        self._seed = validator_seed
        self._config_of = config_of
        self._states: deque[SealedBlock] = deque(maxlen=MAX_STATES_KEPT)
        self._by_root: dict[bytes, SealedBlock] = {}
        self._parsed: OrderedDict[int, SealedBlock] = OrderedDict()
        self._tree: Node | None = None
        self.validators = ValidatorSet(validator_seed, 0, ledger.now)
        self.config: Any = None
        """The configuration dictionary's root cell."""

    @property
    def last(self) -> SealedBlock:
        """The newest block."""
        return self._states[-1]

    @property
    def network_id(self) -> int:
        """The chain's ``global_id``."""
        return self._network_id

    def begin(self) -> None:
        """Seal the first block, a key block, of a new chain, and one after it, for clients that prove the way from
        the first to the newest.
        """
        self.config = self._config_of(self.validators)
        self._seal(is_key=True)
        self._seal()

    def resume(self, tree: Node | None) -> None:
        """Go on from the newest stored block, over the ledger's dictionary of accounts."""
        progress = self._store.progress()
        assert progress is not None
        block = self.at(progress.seqno)
        before = self.at(progress.seqno - 1)
        assert block is not None
        self.config = Cell.one_from_boc(progress.config)
        if block.is_key and before is not None:
            self.validators = ValidatorSet(self._seed, block.epoch + 1, block.utime)
        else:
            self.validators = ValidatorSet(self._seed, block.epoch, progress.epoch_since)
        items = [
            (seqno, *earlier_block(BlockId(MASTERCHAIN, seqno, root, file, end_lt), is_key))
            for seqno, root, file, end_lt, is_key in self._store.block_ids(block.seqno - MAX_BLOCKS_KEPT, block.seqno)
        ]
        try:
            states = remake_states(
                block, self._header(block), before=before.master if before else NO_BLOCK, accounts=tree,
                earlier=hashmap.build(EARLIER_BLOCKS, items), config=self.config,
            )  # fmt: skip
        except ValueError as error:
            raise DevnetError(f"the devnet's database is damaged ({error}); start a new one") from error
        self._tree = tree
        self._keep(replace(block, states=states))
        if before is None:  # killed between the first two blocks
            self._seal()

    def seal(self) -> SealedBlock:
        """Seal what has changed in the ledger since the last block, and have it on disk."""
        return self._seal()

    def rotate_validators(self) -> SealedBlock:
        """Seal a key block, still signed by the validators in office, that puts new ones there from the next on."""
        epoch = self.validators.epoch + 1
        self.config = self._config_of(ValidatorSet(self._seed, epoch, self._ledger.now))
        return self._seal(is_key=True)

    def _seal(self, *, is_key: bool = False) -> SealedBlock:
        ledger = self._ledger
        previous = self._states[-1] if self._states else None
        start_lt = previous.end_lt + 1 if previous else ledger.lt
        ledger.lt += LT_STEP
        sealing = ledger.take_work()
        before = self._tree.extra if self._tree else 0
        self._update_accounts(sealing)
        work, after = sealing.work, self._tree.extra if self._tree else 0
        came, went = work.imported_nanoton + work.minted_nanoton, work.exported_nanoton + work.fees_nanoton
        assert before + came == after + went, "a block's money does not add up"
        header = Header(
            self._network_id, previous.seqno + 1 if previous else 1, ledger.now, start_lt, ledger.lt,
            self.validators.epoch, is_key,
        )  # fmt: skip
        block = make_block(
            previous, header, accounts=self._tree, earlier=self._earlier(previous), work=sealing.work,
            config=self.config,
        )  # fmt: skip
        self._store.commit(self._commit(block, sealing))
        self._keep(block)
        if is_key and previous is not None:  # the first block's validators sign it themselves, and stay
            self.validators = ValidatorSet(self._seed, block.epoch + 1, block.utime)
        return block

    def _update_accounts(self, sealing: Sealing) -> None:
        everyone = self._ledger.accounts
        if len(sealing.changed) * len(everyone).bit_length() > 2 * len(everyone):  # then all anew is less work
            items = [(accounts.key_of(each.address), each.cell, each.balance_nanoton) for each in everyone.values()]
            self._tree = hashmap.build(accounts.ACCOUNTS, items)
            return
        for address, account in sealing.changed.items():
            key = accounts.key_of(address)
            if account is None:
                self._tree = accounts.remove(self._tree, key)
            else:
                self._tree = accounts.put(self._tree, key, account.cell, account.balance_nanoton)

    def _earlier(self, previous: SealedBlock | None) -> Node | None:
        if previous is None:
            return None
        assert previous.states is not None
        value, extra = earlier_block(previous.master, previous.is_key)
        tree: Node | None = hashmap.put(EARLIER_BLOCKS, previous.states.earlier_blocks, previous.seqno, value, extra)
        old = hashmap.find(EARLIER_BLOCKS, tree, previous.seqno - MAX_BLOCKS_KEPT)
        if old is not None and not old.extra[0]:
            tree = hashmap.remove(EARLIER_BLOCKS, tree, old.key)
        return tree

    def _commit(self, block: SealedBlock, sealing: Sealing) -> Commit:
        ledger = self._ledger
        row = BlockRow(
            block.seqno, block.utime, block.start_lt, block.end_lt, block.is_key, block.epoch,
            block.last_key.seqno if block.last_key else None, block.master.root_hash, block.master.file_hash,
            block.shard.root_hash, block.shard.file_hash, to_boc([block.master_block]), to_boc([block.shard_block]),
            block.key_link,
        )  # fmt: skip
        progress = Progress(
            block.seqno, ledger.now, ledger.lt, ledger.minted_nanoton, ledger.fees_nanoton, self.validators.since,
            to_boc([self.config]),
        )  # fmt: skip
        changed = {
            address: None if account is None else (account.balance_nanoton, base64.b64decode(account.encoded))
            for address, account in sealing.changed.items()
        }
        transactions = [
            TransactionRow(each.account, each.lt, each.hash, block.seqno, to_boc([each.cell]))
            for each in sealing.work.transactions
        ]
        queued = [to_boc([message.cell]) for message in sealing.queued]
        return Commit(row, progress, changed, transactions, sealing.delivered, queued)

    def _keep(self, block: SealedBlock) -> None:
        if len(self._states) == MAX_STATES_KEPT:
            oldest = self._states[0]
            del self._by_root[oldest.master.root_hash], self._by_root[oldest.shard.root_hash]
        self._states.append(block)
        self._by_root[block.master.root_hash] = self._by_root[block.shard.root_hash] = block

    # ---- finding blocks ----

    def by_root(self, workchain: int, root_hash: bytes) -> SealedBlock | None:
        """The block of this root hash in this workchain."""
        found = self._by_root.get(root_hash)
        if found is None:
            row = self._store.block("master_root" if workchain == MASTERCHAIN else "shard_root", root_hash)
            found = self._read(row)
        if found is None or found.block(workchain)[0].root_hash != root_hash:
            return None
        return found

    def at(self, seqno: int) -> SealedBlock | None:
        """The block of this number."""
        return self._recent(seqno) or self._read(self._store.block("seqno", seqno))

    def at_lt(self, lt: int) -> SealedBlock | None:
        """The first kept block that ends at this logical time or later."""
        return self._read(self._store.first_block_from("end_lt", min(lt, 2**63 - 1)))

    def at_utime(self, utime: int) -> SealedBlock | None:
        """The first kept block of this Unix time or later."""
        return self._read(self._store.first_block_from("utime", utime))

    def next_key_block(self, seqno: int) -> SealedBlock | None:
        """The first key block after ``seqno``."""
        found = self._store.first_key_after(seqno)
        return None if found is None else self.at(found)

    def signers(self, block: SealedBlock) -> ValidatorSet:
        """The validators that sign a block."""
        return ValidatorSet(self._seed, block.epoch, 0)

    def _recent(self, seqno: int) -> SealedBlock | None:
        if not self._states:
            return None
        index = seqno - self._states[0].seqno
        return self._states[index] if 0 <= index < len(self._states) else None

    def _read(self, row: BlockRow | None) -> SealedBlock | None:
        if row is None:
            return None
        found = self._recent(row.seqno) or self._parsed.get(row.seqno)
        if found is not None:
            return found
        master, shard = (
            BlockId(workchain, row.seqno, root, file, row.end_lt)
            for workchain, root, file in (
                (MASTERCHAIN, row.master_root, row.master_file),
                (BASECHAIN, row.shard_root, row.shard_file),
            )
        )
        key = None if row.last_key is None else self._store.block("seqno", row.last_key)
        last_key = (
            None if key is None else BlockId(MASTERCHAIN, key.seqno, key.master_root, key.master_file, key.end_lt)
        )
        found = SealedBlock(
            master, shard, Cell.one_from_boc(row.master), Cell.one_from_boc(row.shard), row.utime, row.start_lt,
            bool(row.is_key), row.epoch, last_key, row.key_link,
        )  # fmt: skip
        self._parsed[row.seqno] = found
        if len(self._parsed) > MAX_BLOCKS_PARSED:
            self._parsed.popitem(last=False)
        return found

    def _header(self, block: SealedBlock) -> Header:
        return Header(
            self._network_id, block.seqno, block.utime, block.start_lt, block.end_lt, block.epoch, block.is_key
        )
