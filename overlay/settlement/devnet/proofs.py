"""Exotic cells and bags of cells: pruned branches, Merkle proofs and updates, BoCs with several roots.

TVM §3.1.7 (exotic cells) and crypto/tl/boc.tlb (``serialized_boc``). pytoniq_core reads all of these and writes
none but single-root BoCs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitarray import bitarray
from pytoniq_core import Cell

PRUNED_BRANCH = 1
MERKLE_PROOF = 3
MERKLE_UPDATE = 4

Paths = Mapping[int, Any]
"""Which references of a cell to keep: index -> ``True`` (whole) or the same for the cell there."""


def _exotic(data: bytes, refs: list[Any], kind: int) -> Any:
    bits = bitarray()
    bits.frombytes(data)
    return Cell(bits, refs, kind)


def _depth(cell: Any) -> bytes:
    value: bytes = cell.get_depth(0).to_bytes(2, "big")
    return value


def pruned(cell: Any) -> Any:
    """A pruned branch that stands for ``cell`` (level 1)."""
    return _exotic(bytes((PRUNED_BRANCH, 1)) + cell.get_hash(0) + _depth(cell), [], PRUNED_BRANCH)


def merkle_proof(cell: Any) -> Any:
    """A Merkle proof cell around ``cell``, some of whose branches are pruned."""
    return _exotic(bytes((MERKLE_PROOF,)) + cell.get_hash(0) + _depth(cell), [cell], MERKLE_PROOF)


def merkle_update(old: Any, new: Any) -> Any:
    """A Merkle update from ``old`` to ``new`` that shows neither of them."""
    data = bytes((MERKLE_UPDATE,)) + old.get_hash(0) + new.get_hash(0) + _depth(old) + _depth(new)
    return _exotic(data, [pruned(old), pruned(new)], MERKLE_UPDATE)


def with_refs(cell: Any, refs: list[Any]) -> Any:
    """``cell`` with other references."""
    return Cell(cell.bits, refs, cell.type_)


def keep(cell: Any, paths: Paths) -> Any:
    """``cell`` with every reference pruned that ``paths`` does not keep."""
    refs = []
    for index, ref in enumerate(cell.refs):
        wanted = paths.get(index)
        refs.append(ref if wanted is True else pruned(ref) if wanted is None else keep(ref, wanted))
    return with_refs(cell, refs)


def _topological(roots: Sequence[Any]) -> list[Any]:
    """Every distinct cell once, each before the cells it refers to."""
    children_first: list[Any] = []
    seen: set[bytes] = set()
    for root in roots:
        stack = [(root, 0)]
        while stack:
            cell, index = stack.pop()
            if cell.hash in seen:
                continue
            if index < len(cell.refs):
                stack.append((cell, index + 1))
                stack.append((cell.refs[index], 0))
            else:
                seen.add(cell.hash)
                children_first.append(cell)
    return children_first[::-1]


def to_boc(roots: Sequence[Any]) -> bytes:
    """A bag of cells with these roots, without index or checksum."""
    cells = _topological(roots)
    position = {cell.hash: index for index, cell in enumerate(cells)}
    size = max((len(cells).bit_length() + 7) // 8, 1)

    def number(value: int) -> bytes:
        return value.to_bytes(size, "big")

    payload = b"".join(
        cell._descriptors + cell._data_bytes + b"".join(number(position[ref.hash]) for ref in cell.refs)
        for cell in cells
    )
    offset_size = max((len(payload).bit_length() + 7) // 8, 1)
    head = b"\xb5\xee\x9c\x72" + bytes((size, offset_size)) + number(len(cells)) + number(len(roots)) + number(0)
    return (
        head + len(payload).to_bytes(offset_size, "big") + b"".join(number(position[r.hash]) for r in roots) + payload
    )
