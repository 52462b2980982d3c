"""Augmented dictionaries of cells, ``HashmapAug n X Y`` (TL-B hashmap.tlb): built, updated, proved.

A persistent radix tree: an update makes new nodes on one path and shares the rest. So sealing a block costs what has
changed, however large the dictionary is, and old blocks keep their own for proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytoniq_core import begin_cell

from overlay.settlement.devnet.proofs import pruned, with_refs


@dataclass(frozen=True)
class Shape:
    """What kind of dictionary: how long its keys are, and what stands beside each value and fork (the ``Y``)."""

    key_bits: int
    store_extra: Callable[[Any, Any], Any]
    """``(builder, extra) -> builder``."""
    combine: Callable[[Any, Any], Any]
    """The extra of a fork from those of its children."""


@dataclass(frozen=True, slots=True)
class Node:
    """A leaf (``fork`` is the key's length) or a fork at bit ``fork``; its cell's label begins at bit ``start``."""

    key: int
    start: int
    fork: int
    extra: Any
    value: Any
    """A leaf's ``X`` as a cell whose bits and references are stored in the leaf; ``None`` for a fork."""
    cell: Any
    children: tuple[Node, Node] | None


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


def read_label(bits: str, longest: int) -> tuple[str, int]:
    """The label that a cell's bits begin with: the key bits that it stands for, and how many bits it takes."""
    width = longest.bit_length()
    if bits.startswith("0"):
        length = bits.index("0", 1) - 1
        start = length + 2
        return bits[start : start + length], start + length
    if bits.startswith("10"):
        length = int(bits[2 : 2 + width] or "0", 2)
        return bits[2 + width : 2 + width + length], 2 + width + length
    length = int(bits[3 : 3 + width] or "0", 2)
    return bits[2] * length, 3 + width


def put(shape: Shape, node: Node | None, key: int, value: Any, extra: Any, start: int = 0) -> Node:
    """The tree with ``key`` set to ``value``."""
    if node is None:
        return _leaf(shape, key, start, value, extra)
    differs = _first_difference(shape, key, node.key)
    if differs < node.fork:
        new, old = _leaf(shape, key, differs + 1, value, extra), _moved(shape, node, differs + 1)
        left, right = (old, new) if _bit(shape, key, differs) else (new, old)
        return _fork(shape, start, differs, left, right)
    if node.children is None:
        return _leaf(shape, key, start, value, extra)
    left, right = node.children
    if _bit(shape, key, node.fork):
        right = put(shape, right, key, value, extra, node.fork + 1)
    else:
        left = put(shape, left, key, value, extra, node.fork + 1)
    return _fork(shape, start, node.fork, left, right)


def remove(shape: Shape, node: Node | None, key: int, start: int = 0) -> Node | None:
    """The tree without ``key``; the same tree when it is not there."""
    if node is None or _first_difference(shape, key, node.key) < node.fork:
        return node
    if node.children is None:
        return None
    left, right = node.children
    if _bit(shape, key, node.fork):
        kept = remove(shape, right, key, node.fork + 1)
        return _moved(shape, left, start) if kept is None else _fork(shape, start, node.fork, left, kept)
    kept = remove(shape, left, key, node.fork + 1)
    return _moved(shape, right, start) if kept is None else _fork(shape, start, node.fork, kept, right)


def build(shape: Shape, items: Sequence[tuple[int, Any, Any]]) -> Node | None:
    """The tree of many ``(key, value, extra)`` with different keys: each node is made once, unlike by :func:`put`."""
    ordered = sorted(items, key=lambda item: item[0])
    return _build(shape, ordered, 0) if ordered else None


def _build(shape: Shape, items: Sequence[tuple[int, Any, Any]], start: int) -> Node:
    if len(items) == 1:
        key, value, extra = items[0]
        return _leaf(shape, key, start, value, extra)
    fork = _first_difference(shape, items[0][0], items[-1][0])
    low, high = 0, len(items)
    while low < high:  # the first key with the fork's bit set
        middle = (low + high) // 2
        if _bit(shape, items[middle][0], fork):
            high = middle
        else:
            low = middle + 1
    left, right = _build(shape, items[:low], fork + 1), _build(shape, items[low:], fork + 1)
    return _fork(shape, start, fork, left, right)


def find(shape: Shape, node: Node | None, key: int) -> Node | None:
    """The leaf of ``key``, ``None`` when it is not there."""
    while node is not None and node.children is not None:
        node = node.children[_bit(shape, key, node.fork)]
    return node if node is not None and node.key == key else None


def store(shape: Shape, builder: Any, node: Node | None, nothing: Any) -> Any:
    """Append the tree as ``HashmapAugE``: a bit, the reference, the whole's extra (``nothing`` when it is empty)."""
    builder.store_bit(0 if node is None else 1)
    if node is not None:
        builder.store_ref(node.cell)
    return shape.store_extra(builder, nothing if node is None else node.extra)


def prove(cell: Any, key_bits: int, key: int | None, keep_leaf: Callable[[Any], Any]) -> Any:
    """The dictionary under ``cell`` with everything pruned that is not on the way to ``key`` (``None``: all leaves).

    ``keep_leaf`` turns a leaf's cell into the one to show. For a key that is not there, the way ends at the edge whose
    label differs: that proves absence.
    """
    label, _ = read_label(cell.bits.to01(), key_bits)
    remaining = key_bits - len(label)
    if key is not None and label and (key >> remaining) & ((1 << len(label)) - 1) != int(label, 2):
        return with_refs(cell, [pruned(ref) for ref in cell.refs])
    if remaining == 0:
        return keep_leaf(cell)
    remaining -= 1
    side = None if key is None else (key >> remaining) & 1
    rest = None if key is None else key & ((1 << remaining) - 1)
    refs = [
        prove(ref, remaining, rest, keep_leaf) if side is None or index == side else pruned(ref)
        for index, ref in enumerate(cell.refs)
    ]
    return with_refs(cell, refs)


def _leaf(shape: Shape, key: int, start: int, value: Any, extra: Any) -> Node:
    bits = shape.key_bits
    builder = begin_cell().store_bits(label_bits(_text(shape, key, start, bits), bits - start))
    shape.store_extra(builder, extra).store_cell(value)
    return Node(key, start, bits, extra, value, builder.end_cell(), None)


def _fork(shape: Shape, start: int, fork: int, left: Node, right: Node) -> Node:
    extra = shape.combine(left.extra, right.extra)
    builder = begin_cell().store_bits(label_bits(_text(shape, left.key, start, fork), shape.key_bits - start))
    builder.store_ref(left.cell).store_ref(right.cell)
    return Node(left.key, start, fork, extra, None, shape.store_extra(builder, extra).end_cell(), (left, right))


def _moved(shape: Shape, node: Node, start: int) -> Node:
    """The same subtree hung at another depth: only the label of its top changes."""
    if node.start == start:
        return node
    if node.children is not None:
        return _fork(shape, start, node.fork, *node.children)
    return _leaf(shape, node.key, start, node.value, node.extra)


def _text(shape: Shape, key: int, start: int, end: int) -> str:
    return format(key, f"0{shape.key_bits}b")[start:end]


def _first_difference(shape: Shape, key: int, other: int) -> int:
    return shape.key_bits - (key ^ other).bit_length()


def _bit(shape: Shape, key: int, index: int) -> int:
    return (key >> (shape.key_bits - 1 - index)) & 1
