"""The shard's dictionary of accounts: ``HashmapAugE 256 ShardAccount DepthBalanceInfo`` (TL-B, block.tlb).

A persistent radix tree: an update makes new nodes on one path and shares the rest, so that sealing a block costs the
accounts that changed, and old blocks keep their own state for proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytoniq_core import begin_cell

from overlay.settlement.devnet.proofs import pruned, with_refs

KEY_BITS = 256


def label_bits(bits: str, longest: int) -> str:
    """The shortest ``HmLabel`` of ``bits`` ("0"/"1" text) where ``longest`` bits could stand (TL-B hashmap.tlb)."""
    length = len(bits)
    width = longest.bit_length()
    number = format(length, f"0{width}b") if width else ""
    best = "0" + "1" * length + "0" + bits  # hml_short$0, unary length
    long = "10" + number + bits  # hml_long$10
    if len(long) < len(best):
        best = long
    if length and bits in ("0" * length, "1" * length):
        same = "11" + bits[0] + number  # hml_same$11
        if len(same) < len(best):
            best = same
    return best


def store_currency(builder: Any, nanoton: int) -> Any:
    """``CurrencyCollection`` without extra currencies."""
    return builder.store_coins(nanoton).store_bit(0)


def store_depth_balance(builder: Any, nanoton: int) -> Any:
    """``DepthBalanceInfo``: split depth 0 and the money beneath."""
    return store_currency(builder.store_uint(0, 5), nanoton)


@dataclass(frozen=True, slots=True)
class Node:
    """A leaf (``fork`` is 256) or a fork at bit ``fork``; its cell's label begins at bit ``start`` of the key."""

    key: int
    start: int
    fork: int
    balance_nanoton: int
    cell: Any
    children: tuple[Node, Node] | None


def _text(key: int, start: int, end: int) -> str:
    return format(key, f"0{KEY_BITS}b")[start:end]


def _leaf(key: int, start: int, shard_account: Any, balance_nanoton: int) -> Node:
    builder = begin_cell().store_bits(label_bits(_text(key, start, KEY_BITS), KEY_BITS - start))
    store_depth_balance(builder, balance_nanoton)
    builder.store_cell(shard_account)
    return Node(key, start, KEY_BITS, balance_nanoton, builder.end_cell(), None)


def _fork(start: int, fork: int, left: Node, right: Node) -> Node:
    balance = left.balance_nanoton + right.balance_nanoton
    builder = begin_cell().store_bits(label_bits(_text(left.key, start, fork), KEY_BITS - start))
    builder.store_ref(left.cell).store_ref(right.cell)
    return Node(left.key, start, fork, balance, store_depth_balance(builder, balance).end_cell(), (left, right))


def _moved(node: Node, start: int) -> Node:
    """The same subtree hung at another depth: only the label of its top changes."""
    if node.start == start:
        return node
    if node.children is not None:
        return _fork(start, node.fork, *node.children)
    shard_account = _value(node)
    return _leaf(node.key, start, shard_account, node.balance_nanoton)


def _value(node: Node) -> Any:
    """The ``ShardAccount`` bits and reference of a leaf: always the last 320 bits of its cell."""
    builder = begin_cell().store_bits(node.cell.bits[-320:].to01())
    return builder.store_ref(node.cell.refs[0]).end_cell()


def put(node: Node | None, key: int, shard_account: Any, balance_nanoton: int, start: int = 0) -> Node:
    """The tree with ``key`` (256 bits) set to a ``ShardAccount`` cell of ``balance_nanoton``."""
    if node is None:
        return _leaf(key, start, shard_account, balance_nanoton)
    differs = KEY_BITS - (key ^ node.key).bit_length()
    if differs < node.fork:
        new, old = _leaf(key, differs + 1, shard_account, balance_nanoton), _moved(node, differs + 1)
        left, right = (old, new) if _bit(key, differs) else (new, old)
        return _fork(start, differs, left, right)
    if node.children is None:
        return _leaf(key, start, shard_account, balance_nanoton)
    left, right = node.children
    if _bit(key, node.fork):
        right = put(right, key, shard_account, balance_nanoton, node.fork + 1)
    else:
        left = put(left, key, shard_account, balance_nanoton, node.fork + 1)
    return _fork(start, node.fork, left, right)


def remove(node: Node | None, key: int, start: int = 0) -> Node | None:
    """The tree without ``key``; the same tree when it is not there."""
    if node is None or KEY_BITS - (key ^ node.key).bit_length() < node.fork:
        return node
    if node.children is None:
        return None
    left, right = node.children
    if _bit(key, node.fork):
        kept = remove(right, key, node.fork + 1)
        return _moved(left, start) if kept is None else _fork(start, node.fork, left, kept)
    kept = remove(left, key, node.fork + 1)
    return _moved(right, start) if kept is None else _fork(start, node.fork, kept, right)


def prove(node: Node, key: int) -> Any:
    """The dictionary's cells on the way to ``key``, everything else pruned.

    For a key that is not there, the way ends at the edge whose label differs: that proves absence.
    """
    refs = list(node.cell.refs)
    differs = KEY_BITS - (key ^ node.key).bit_length()
    if node.children is None or differs < node.fork:
        return with_refs(node.cell, [pruned(ref) for ref in refs])
    side = _bit(key, node.fork)
    kept = prove(node.children[side], key)
    return with_refs(node.cell, [kept if index == side else pruned(ref) for index, ref in enumerate(refs)])


def _bit(key: int, index: int) -> int:
    return (key >> (KEY_BITS - 1 - index)) & 1
