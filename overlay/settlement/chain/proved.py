"""Account states out of liteserver answers, believed only as far as their Merkle proofs go.

pytoniq checks that an account is in a state but takes the server's word that one is not; here absence is proved too.
The masterchain block itself is the server's word (trust level 1): ask several servers when that matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytoniq_core import Account, Cell
from pytoniq_core.proof.check_proof import ProofError, check_block_header_proof, check_shard_proof
from pytoniq_core.tl.block import BlockIdExt
from pytoniq_core.tlb.block import ShardStateUnsplit

from overlay.settlement.errors import ProofRejected

_PRUNED = 1


@dataclass(frozen=True)
class AccountState:
    """An account in one proved shard state. ``data`` and ``code_hash`` are ``None`` unless it is active.

    ``utime_s`` is that state's Unix time, ``last_lt`` and ``last_hash`` name the account's last transaction.
    """

    address: str
    balance_nanoton: int
    code_hash: bytes | None
    data: Any
    last_lt: int
    last_hash: bytes
    utime_s: int
    cell: Any = None
    """The whole account (TL-B ``Account``), as the TVM takes it."""


@dataclass(frozen=True)
class ProvedAnswer:
    """What ``getAccountState`` proved: the account or its absence, and the state's time and network."""

    account: AccountState | None
    utime_s: int
    network_id: int
    master_seqno: int


def check_account_answer(answer: dict[str, Any], master: BlockIdExt, address: str) -> ProvedAnswer:
    """Check every proof of a ``liteServer.accountState`` for ``address`` (raw) at ``master`` and read it.

    Raises :class:`ProofRejected` when anything does not fit.
    """
    try:
        return _check(answer, master, address)
    except ProofRejected:
        raise
    except (ProofError, AssertionError) as error:
        raise ProofRejected(f"a liteserver's proof does not hold: {error}") from error
    except Exception as error:  # pytoniq_core raises several unrelated types on malformed cells
        raise ProofRejected(f"a liteserver's proof is malformed: {error!r}") from error


def check_config_answer(answer: dict[str, Any], master: BlockIdExt, parameters: list[int]) -> dict[int, Any]:
    """Check a ``liteServer.configInfo`` at ``master``; returns the cells of those ``parameters`` that exist.

    Raises :class:`ProofRejected` when anything does not fit.
    """
    try:
        header, state = Cell.one_from_boc(answer["state_proof"]), Cell.one_from_boc(answer["config_proof"])
        if state[0].get_hash(0) != check_block_header_proof(header[0], master.root_hash, True):
            raise ProofRejected("the configuration is not the block's")
        config = ShardStateUnsplit.deserialize(state[0].begin_parse()).custom.config.config
        return {number: config[number].to_cell() for number in parameters if number in config}
    except ProofRejected:
        raise
    except Exception as error:  # pytoniq_core raises several unrelated types on malformed cells
        raise ProofRejected(f"a liteserver's configuration is malformed: {error!r}") from error


def _check(answer: dict[str, Any], master: BlockIdExt, address: str) -> ProvedAnswer:
    if BlockIdExt.from_dict(answer["id"]) != master:
        raise ProofRejected("the answer is about another block than the one asked for")
    shard_block = BlockIdExt.from_dict(answer["shardblk"])
    check_shard_proof(shard_proof=answer["shard_proof"], blk=master, shrd_blk=shard_block)
    proof = Cell.from_boc(answer["proof"])
    if len(proof) != 2:
        raise ProofRejected("an account proof has two roots")
    state_hash = check_block_header_proof(proof[0][0], shard_block.root_hash, True)
    state = proof[1][0]
    if state.get_hash(0) != state_hash:
        raise ProofRejected("the state is not the block's")
    key = int(address[2:], 16)
    header = state.begin_parse()
    if header.load_uint(32) != 0x9023AFE2:
        raise ProofRejected("not an unsplit shard state")
    network_id = header.load_int(32)
    _check_shard(header, key)
    header.skip_bits(64)  # seq_no, vert_seq_no
    utime = header.load_uint(32)
    leaf = _find(state.refs[1], key)
    account = None if leaf is None else _account(leaf, answer["state"], address, utime)
    if leaf is None and answer["state"]:
        raise ProofRejected("a state for an account that the proof shows to be absent")
    return ProvedAnswer(account, utime, network_id, master.seqno)


def _check_shard(header: Any, key: int) -> None:
    """``shard_ident$00``: the state must be of the basechain shard that holds this account."""
    if header.load_uint(2) != 0:
        raise ProofRejected("malformed shard identifier")
    prefix_bits = header.load_uint(6)
    workchain, prefix = header.load_int(32), header.load_uint(64)
    if workchain != 0 or (prefix_bits and (key >> (256 - prefix_bits)) != (prefix >> (64 - prefix_bits))):
        raise ProofRejected("the proof is of another shard than the account's")


def _find(dictionary: Any, key: int) -> Any:
    """The slice of the leaf for ``key`` in a partly pruned ``HashmapAugE 256``, ``None`` when it is proved absent."""
    if dictionary.type_ == _PRUNED:
        raise ProofRejected("the proof leaves out the dictionary of accounts")
    top = dictionary.begin_parse()
    if not top.load_bit():
        return None
    cell, remaining = top.load_ref(), 256
    while True:
        if cell.type_ == _PRUNED:
            raise ProofRejected("the proof stops short of the account")
        cursor = cell.begin_parse()
        length, value = _label(cursor, remaining)
        if length and (key >> (remaining - length)) & ((1 << length) - 1) != value:
            return None
        remaining -= length
        if remaining == 0:
            return cursor
        remaining -= 1
        cell = cell.refs[(key >> remaining) & 1]


def _label(cursor: Any, longest: int) -> tuple[int, int]:
    """Read an ``HmLabel`` (TL-B hashmap.tlb): its length and its bits as an integer."""
    if not cursor.load_bit():  # hml_short$0
        length = 0
        while cursor.load_bit():
            length += 1
        return length, cursor.load_uint(length) if length else 0
    width = longest.bit_length()
    if not cursor.load_bit():  # hml_long$10
        length = cursor.load_uint(width)
        return length, cursor.load_uint(length) if length else 0
    bit = cursor.load_bit()  # hml_same$11
    length = cursor.load_uint(width)
    return length, ((1 << length) - 1) if bit else 0


def _account(leaf: Any, state_boc: bytes, address: str, utime: int) -> AccountState | None:
    """Read ``DepthBalanceInfo`` and ``ShardAccount`` and hold the delivered account to their hash."""
    leaf.load_uint(5)
    leaf.load_coins()
    if leaf.load_bit():
        leaf.load_ref()
    proved, last_hash, last_lt = leaf.load_ref(), leaf.load_bytes(32), leaf.load_uint(64)
    if not state_boc:
        raise ProofRejected("the account exists, but the server did not deliver it")
    root = Cell.one_from_boc(state_boc)
    if root.get_hash(0) != proved.get_hash(0):
        raise ProofRejected("the account's state is not the proved one")
    account = Account.deserialize(root.begin_parse())
    if account is None:
        return None
    if f"{account.addr.wc}:{account.addr.hash_part.hex()}" != address:
        raise ProofRejected("the state of another account")
    storage = account.storage
    init = storage.state.state_init if storage.state.type_ == "account_active" else None
    return AccountState(
        address=address,
        balance_nanoton=storage.balance.grams or 0,
        code_hash=None if init is None or init.code is None else init.code.hash,
        data=None if init is None else init.data,
        last_lt=last_lt,
        last_hash=last_hash,
        utime_s=utime,
        cell=root,
    )
