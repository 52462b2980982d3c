"""Where the newest proved key block is remembered, so that trust level 0 need not walk years of key blocks again.

One small JSON file in the data directory (pytoniq writes ``.blockstore`` into whatever directory the process runs in).
It is as trusted as the keys beside it: who can write there owns the node anyway.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement.chain.network import FULL_SHARD, MASTERCHAIN


class BlockStore(Protocol):
    """Remembers one proved key block for each block that trust began with (``anchor``: its root hash, hexadecimal)."""

    def load(self, anchor: str) -> Any:
        """The remembered block id, or ``None``."""

    def save(self, anchor: str, block: Any) -> None:
        """Remember ``block`` (a pytoniq ``BlockIdExt``)."""


class FileBlockStore:
    """A :class:`BlockStore` in one file. A damaged file counts as an empty one: what it held can be proved again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, anchor: str) -> Any:
        """The remembered block id, or ``None``."""
        entry = self._read().get(anchor)
        try:
            return None if entry is None else BlockIdExt(MASTERCHAIN, FULL_SHARD, int(entry[0]), entry[1], entry[2])
        except (ValueError, TypeError, IndexError):
            return None

    def save(self, anchor: str, block: Any) -> None:
        """Remember ``block``, atomically."""
        entries = self._read()
        entries[anchor] = [block.seqno, block.root_hash.hex(), block.file_hash.hex()]
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(entries, file)
        temporary.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}
